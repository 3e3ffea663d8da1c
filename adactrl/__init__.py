"""AdaCtrl: Towards Adaptive and Controllable Reasoning via Difficulty-Aware Budgeting (arXiv 2505.18822).

Claim: a model that tags each problem [Easy] or [Hard] before answering, trained by a cold start and RL with a
difficulty-calibration and a length reward, spends few tokens on easy problems without losing accuracy.
"""
