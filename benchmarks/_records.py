"""What the benchmarks measured: records in results/runs.jsonl, and the README's table made from them.

    python benchmarks/_records.py    # render the table again (also part of `make tables`)

A benchmark run with --record appends its figures here; without it nothing is written.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared import runs, tables

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "runs.jsonl"
COLUMNS = ("benchmark", "ours", "stock", "ratio (rounds)", "goal", "commit")


def save(
    row: str,
    title: str,
    unit: str,
    ours: Sequence[float],
    stock: Sequence[float],
    ratios: Sequence[float],
    *,
    threads: int,
    wall_s: float,
    goal: float | None = None,
    memory_mib: tuple[float, float] | None = None,
) -> None:
    """Append one comparison: both sides' values per round in `unit`, and the rounds' ratios ours over stock.

    `memory_mib` is each side's peak. The ratio and the values in the table are medians over the rounds.
    """
    metrics = {"ours": list(ours), "stock": list(stock), "ratios": list(ratios), "goal": goal}
    metrics |= {"unit": unit, "title": title, "threads": threads, "memory_mib": memory_mib}
    runs.append_record(
        RESULTS, row=row, preset="small", scale="benchmark", seed=0, config_hash="", n=len(ratios),
        wall_s=round(wall_s, 1), metrics=metrics, command=runs.environment()["command"],
    )  # fmt: skip


def table(records: list[dict[str, Any]]) -> str:
    """The README's block: one table per machine and thread count."""
    machines: dict[str, list[tuple[Any, ...]]] = {}
    for record in records:
        m = record["metrics"]
        memory = m["memory_mib"] or (None, None)
        machine = f"{record['hardware']}, {m['threads']} threads"
        machines.setdefault(machine, []).append(
            (
                m["title"],
                _side(m["ours"], m["unit"], memory[0]),
                _side(m["stock"], m["unit"], memory[1]),
                f"{statistics.median(m['ratios']):.2f} ({min(m['ratios']):.2f} to {max(m['ratios']):.2f})",
                m["goal"],
                record["commit"][:10],
            )
        )
    blocks = [f"Measured on {name}:\n\n{tables.markdown(COLUMNS, rows)}" for name, rows in machines.items()]
    return "\n\n".join(blocks)


def _side(values: Sequence[float], unit: str, memory_mib: float | None) -> str:
    median = statistics.median(values)
    text = f"{median:,.0f} {unit}" if median >= 100 else f"{median:.2f} {unit}"
    return text if memory_mib is None else f"{text}, {memory_mib:,.0f} MiB"


def render() -> None:
    records = tables.load_records(RESULTS)
    tables.refuse_dirty(records)
    tables.replace_block(HERE.parent / "README.md", "benchmarks", table(tables.current(records)))


if __name__ == "__main__":
    render()
