"""One progress line for stages of unknown length: building, base model, episodes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class StageBar:
    """A rich bar where the output is a terminal, else one plain line per stage and quarter."""

    def __enter__(self) -> StageBar:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, disable=not sys.stdout.isatty(), transient=True)
        self._task = self._progress.add_task("", total=1.0)
        self._told: tuple[str, int] = ("", -1)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, stage: str, done: float) -> None:
        """Show `stage` at `done` in [0, 1]."""
        self._progress.update(self._task, description=stage, completed=done)
        key = (stage.split(",")[0], int(4 * done))  # "base model, loss 0.61" is one stage
        if self._progress.disable and key != self._told:
            self._told = key
            print(f"{stage}: {done:.0%}", flush=True)

    def turns(self, stage: str) -> Callable[[int, int], None]:
        """An `on_turn` for `episodes.play`."""
        first = 1

        def tell(turn: int, still_open: int) -> None:
            nonlocal first
            first = max(first, still_open) if turn > 1 else still_open
            self.update(f"{stage}, turn {turn}, {still_open} open", 1 - still_open / max(first, 1))

        return tell
