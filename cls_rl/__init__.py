"""Think or Not Think: Explicit Thinking in Rule-Based Visual Reinforcement Fine-Tuning (arXiv 2503.16188).

Claim: rule-based RL (CLS-RL) beats supervised fine-tuning in few-shot image classification, and leaving out
the thinking part is as good or better.
"""
