"""Feedback-Driven Tool-Use Improvements in LLMs via Automated Build Environments (arXiv 2508.08791).

Claim: RL in automatically built local tool environments, with a reward that balances the precision and the
completeness of tool calls, raises tool use without costing general ability.
"""

__path__ += [f"{__path__[0]}/commands"]  # python -m tool_env_rl.inspect; see commands/inspect.py
