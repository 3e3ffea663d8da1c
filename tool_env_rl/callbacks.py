"""What TRL's loop lacks: progress, metrics, checkpoints, a clean stop on Ctrl-C, non-finite losses."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shared import checkpoint
from shared.runs import Run


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the batch was saved and training stopped."""


class FiniteLossMixin:
    """A trainer that stops at the first non-finite loss, with the batch that made it on disk. Put it
    first."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        result = super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]
        loss = result[0] if isinstance(result, tuple) else result
        if not torch.isfinite(loss).all():
            step, arguments = self.state.global_step, self.args  # type: ignore[attr-defined]
            path = Path(arguments.output_dir) / f"nonfinite_batch_rank{arguments.process_index}.pt"
            torch.save({"step": step, "loss": loss.detach(), "inputs": inputs}, path)
            raise NonFiniteLoss(
                f"loss={loss.item()} after update {step}; the batch is in {path}. "
                "The last checkpoint is untouched: resume from it with a smaller learning rate"
            )
        return result


class RunCallback(TrainerCallback):
    """Metrics to the run folder, one live progress line, a marker on each checkpoint, a clean stop on Ctrl-C.

    Args:
        run: the run folder.
        stage: first words of the progress line.
        updates_per_step: optimizer updates per reported step (one sampled batch); a stop only happens between
            steps, so that no batch is lost half used.
        offset: steps of the iterations before, which the logged step counts on from.
    """

    def __init__(self, run: Run, stage: str, updates_per_step: int, offset: int) -> None:
        self.run, self.stage, self.updates_per_step, self.offset = run, stage, updates_per_step, offset
        self.interrupted = False
        self._shown = ""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._started, self._first = time.monotonic(), state.global_step
        self._previous = signal.signal(signal.SIGINT, self._on_interrupt)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        signal.signal(signal.SIGINT, self._previous)
        if sys.stdout.isatty() and self.run.main:
            print()

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if self.interrupted:  # the second Ctrl-C does not wait for the step to end
            raise KeyboardInterrupt
        self.interrupted = True
        print("\nCtrl-C: saving at the end of this step (again: stop at once)", flush=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.updates_per_step:
            return
        if self.interrupted:
            control.should_save = control.should_training_stop = True
        self._progress(state)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "train_runtime" in logs:
            return
        step = self.offset + state.global_step // self.updates_per_step
        self.run.log({name: value for name, value in logs.items() if name != "epoch"}, step)
        words = [("reward", "reward", "{:.2f}"), ("turn/calls", "calls", "{:.2f}"), ("kl", "kl", "{:.4f}")]
        self._shown = "  ".join(
            f"{word} {form.format(logs[key])}" for key, word, form in words if key in logs
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.should_save:
            checkpoint.mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def _progress(self, state: TrainerState) -> None:
        step, total = state.global_step // self.updates_per_step, state.max_steps // self.updates_per_step
        if not self.run.main:
            return
        done = (state.global_step - self._first) / max(state.max_steps - self._first, 1)
        left = (time.monotonic() - self._started) * (1 - done) / done
        line = f"{self.stage} {step}/{total}  {self._shown}  {left:.0f} s left"
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif step % max(1, total // 20) == 0:
            print(line, flush=True)
