"""Tool calls per second of `tool_env_rl.sandbox`: first calls, each in its own process, and repeated ones.

The tool is a look-up as in the authors' data: it checks its arguments, then answers from a table. The bare
side is a loop in a small Python process that forks for each call, runs the same function in the child and
waits: no limits, no protection, no result. Repeated calls come from the cache. Prints `ratio: X` (the median
of the rounds' uncached sandbox calls over bare calls; the sandbox uses `--workers` processes, the loop one)
beside the package's goals: 300 uncached and 2,000 cached calls per second on two idle cores.

    python benchmarks/tool_calls.py [--rounds 7] [--calls 400] [--workers 2] [--record]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import _records

from shared import gpu
from tool_env_rl.sandbox import Sandbox

TOOL = '''
def city_facts(city, unit="people", year=None, detailed=False, sources=None):
    """Facts about one city."""
    import json
    from datetime import datetime

    if not isinstance(city, str) or not city.strip():
        return {"error": "city must be a non-empty string."}
    if unit not in ["people", "households"]:
        return {"error": "unit must be one of people, households."}
    if year is not None and not isinstance(year, int):
        return {"error": "year must be an integer."}
    lyon = {"people": 522250, "founded": "1320-01-01"}
    found = {"lyon": lyon, "oslo": {"people": 717710, "founded": "1040-01-01"}}.get(city.lower())
    if found is None:
        return f"No facts found for {city}."
    founded = datetime.strptime(found["founded"], "%Y-%m-%d").year
    answer = {"city": city, unit: found.get(unit, 0), "founded": founded, "year": year}
    return json.dumps(answer) if detailed else answer
'''
BARE = """
import datetime, json, os, sys, time
tool, calls = json.loads(sys.stdin.read())
namespace = {}
exec(compile(tool, "<tool>", "exec"), namespace)
start = time.perf_counter()
for arguments in calls:
    child = os.fork()
    if child == 0:
        namespace["city_facts"](**arguments)
        os._exit(0)
    os.waitpid(child, 0)
print(time.perf_counter() - start)
"""
Call = tuple[str, str, dict[str, object]]


def sandbox_side(sandbox: Sandbox, calls: list[Call]) -> float:
    """Calls per second; every result must be there."""
    start = time.perf_counter()
    results = sandbox.call_many(calls)
    elapsed = time.perf_counter() - start
    assert all(result.status == "ok" for result in results), results[0]
    return len(calls) / elapsed


def bare_side(calls: list[Call]) -> float:
    """Calls per second of the loop without protection."""
    program = [sys.executable, "-s", "-P", "-S", "-c", BARE]
    arguments = json.dumps([TOOL, [arguments for _, _, arguments in calls]])
    output = subprocess.run(program, input=arguments, stdout=subprocess.PIPE, text=True, check=True).stdout
    return len(calls) / float(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append the figures to benchmarks/results")
    options = parser.parse_args()
    print(f"{gpu.hardware()}, {options.workers} workers, load {os.getloadavg()[0]:.1f}")

    began = time.monotonic()
    uncached, bare, cached = [], [], []
    with Sandbox(options.workers) as sandbox:
        print("protections: " + ", ".join(sandbox.protections))
        for turn in range(options.rounds + 1):  # the first turn warms up
            years = range(turn * options.calls, (turn + 1) * options.calls)
            calls: list[Call] = [(TOOL, "city_facts", {"city": "Lyon", "year": year}) for year in years]
            measured = sandbox_side(sandbox, calls), bare_side(calls), sandbox_side(sandbox, calls)
            if turn:
                for values, value in zip((uncached, bare, cached), measured, strict=True):
                    values.append(value)
    ratios = [ours / stock for ours, stock in zip(uncached, bare, strict=True)]
    for name, values, goal in (
        ("uncached", uncached, 300),
        ("cached", cached, 2000),
        ("bare forks", bare, None),
    ):
        print(f"{name}: {statistics.median(values):,.0f} calls/s" + (f" (goal {goal:,})" if goal else ""))
    print(f"ratio: {statistics.median(ratios):.2f}   (rounds: {' '.join(f'{r:.2f}' for r in ratios)})")
    if options.record:
        title = f"`tool_calls.py`: uncached tool calls, {options.workers} workers (stock: bare forks)"
        _records.save(
            "tool_calls/uncached", title, "calls/s", uncached, bare, ratios,
            threads=options.workers, wall_s=time.monotonic() - began,
        )  # fmt: skip


if __name__ == "__main__":
    main()
