"""What runs around TRL's loop: metrics, one progress line, checkpoints, evaluations, Ctrl-C, lost weights."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment_study.config import UPDATES_PER_STEP
from alignment_study.trainer import NonFiniteLoss
from shared import checkpoint
from shared.runs import Run

SHOWN = (("rollout/accuracy", "acc"), ("rollout/format", "form"), ("sampling/effective_groups", "effective"))


class RunCallback(TrainerCallback):
    """One RL run's bookkeeping; all of it between steps, so that no generated batch is lost half used.

    Args:
        run: gets the metrics, and a marker on each checkpoint.
        title: first words of the progress line.
        every: steps between two calls of `evaluate`; 0 is never.
        evaluate: called with the model and `step`.
    """

    def __init__(self, run: Run, title: str, every: int, evaluate: Callable[..., object]) -> None:
        self.run, self.title, self.every, self.evaluate = run, title, every, evaluate
        self.interrupted = False
        self._shown = ""
        self._previous: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._started, self._first = time.monotonic(), state.global_step
        self._previous = signal.signal(signal.SIGINT, self._on_interrupt)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.restore()

    def restore(self) -> None:
        """Give Ctrl-C back; `on_train_end` is not called when training raises."""
        if self._previous is None:
            return
        signal.signal(signal.SIGINT, self._previous)
        self._previous = None
        if sys.stdout.isatty() and self.run.main:
            print()

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if self.interrupted:  # the second Ctrl-C does not wait for the step to end
            raise KeyboardInterrupt
        self.interrupted = True
        print("\nCtrl-C: saving at the end of this step (again: stop at once)", flush=True)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        step, rest = divmod(state.global_step, UPDATES_PER_STEP)
        if rest:
            return
        if self.interrupted:
            control.should_save = control.should_training_stop = True
        elif self.every and step % self.every == 0 and state.global_step < state.max_steps:
            self.evaluate(model, step=step)
        self._progress(step, state)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Runs before the checkpoint of the step is written."""
        if not logs or "train_runtime" in logs:
            return
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise NonFiniteLoss(
                f"grad_norm={logs['grad_norm']} in update {state.global_step} made the weights unusable; "
                f"resume from the last checkpoint with a learning rate below {args.learning_rate}"
            )
        step = state.global_step // UPDATES_PER_STEP
        self.run.log({name: value for name, value in logs.items() if name != "epoch"}, step)
        self._shown = "  ".join(f"{word} {logs[key]:.2f}" for key, word in SHOWN if key in logs)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            checkpoint.mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def _progress(self, step: int, state: TrainerState) -> None:
        if not self.run.main:
            return
        total = state.max_steps // UPDATES_PER_STEP
        done = (state.global_step - self._first) / max(state.max_steps - self._first, 1)
        left = (time.monotonic() - self._started) * (1 - done) / done
        line = f"{self.title} {step}/{total}  {self._shown}  {left:.0f} s left"
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif step % max(1, total // 10) == 0:
            print(line, flush=True)
