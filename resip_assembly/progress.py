"""One live progress line with the time left; every twentieth step when the output is not a terminal."""

from __future__ import annotations

import sys
import time


class Progress:
    """``stage 12/300  loss 0.031  41 s left``; use it as a context manager.

    Args:
        stage: first word of the line.
        total: last step.
        first: steps done before this process (a resumed run), so that the time left is right.
    """

    def __init__(self, stage: str, total: int, first: int = 0) -> None:
        self.stage, self.total, self.first = stage, total, first
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stdout.isatty():
            print()

    def show(self, step: int, words: str = "") -> None:
        """Show that `step` steps are done."""
        now, last = time.monotonic(), step == self.total
        left = (now - self._started) * (self.total - step) / max(step - self.first, 1)
        line = f"{self.stage} {step}/{self.total}  {words}  {left:.0f} s left"
        if sys.stdout.isatty():
            if last or now - self._shown > 0.1:
                self._shown = now
                print(f"\r\x1b[K{line}", end="", flush=True)
        elif last or step % max(1, self.total // 20) == 0:
            print(line, flush=True)
