"""Mirage or Method? How Model-Task Alignment Induces Divergent RL Conclusions (arXiv 2508.21188).

Claim: spurious rewards, one-shot RL and negative-only training work only where the model already masters
the task (pass@k before RL); elsewhere only RL with a correct reward learns.
"""
