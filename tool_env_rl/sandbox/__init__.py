"""Run model-written tool code outside the training process: `worker.py` says how, `jail.py` what it loses.

with Sandbox() as sandbox:
    result = sandbox.call(source, "city_lookup", {"city": "Lyon"})   # ToolResult(output, status)
    print(sandbox.protections, sandbox.counts)
"""

from tool_env_rl.sandbox.pool import Sandbox, SandboxUnavailable, ToolResult
from tool_env_rl.sandbox.static_gate import GateReport, check

__all__ = ["GateReport", "Sandbox", "SandboxUnavailable", "ToolResult", "check"]
