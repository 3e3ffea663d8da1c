"""What RL and SFT share around TRL's loop: progress, metrics, checkpoints, Ctrl-C, non-finite losses."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shared import checkpoint
from shared.decoding import unwrap
from shared.runs import Run

SHOWN = (
    ("loss", "loss", "{:.3f}"),
    ("reward/total", "reward", "{:.2f}"),
    ("kl", "KL", "{:.4f}"),
    ("rollout/length", "len", "{:.0f}"),
    ("step_time", "s/update", "{:.1f}"),
)


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the batch was saved and training stopped."""


class FiniteLossMixin:
    """A trainer that stops at the first non-finite loss, with its batch on disk. Put it first."""

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


class ResumeMixin:
    """A trainer whose resumed run has its checkpoint's weights. Put it before TRL's trainer.

    `save_pretrained` writes a Qwen model under its published names, and transformers' own trainer reads them
    back without renaming: it would go on from the start weights, with no more than a warning.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        policy = unwrap(self.model)  # type: ignore[attr-defined]
        adapter = Path(resume_from_checkpoint, "adapter_config.json").is_file()
        if adapter or self.is_fsdp_enabled:  # type: ignore[attr-defined]
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        saved = type(policy).from_pretrained(resume_from_checkpoint, dtype=policy.dtype)
        policy.load_state_dict(saved.state_dict())


class RunCallback(TrainerCallback):
    """Metrics to the run folder, one live progress line, a marker on each checkpoint, a clean stop on Ctrl-C.

    Args:
        run: the run folder.
        stage: first word of the progress line.
    """

    def __init__(self, run: Run, stage: str) -> None:
        self.run, self.stage = run, stage
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
        if self.interrupted:  # the second Ctrl-C does not wait for the update to end
            raise KeyboardInterrupt
        self.interrupted = True
        print("\nCtrl-C: saving at the end of this update (again: stop at once)", flush=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.interrupted:
            control.should_save = control.should_training_stop = True
        if self.run.main:
            self._progress(state.global_step, state.max_steps)

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
        self.run.log({name: value for name, value in logs.items() if name != "epoch"}, state.global_step)
        self._shown = "  ".join(
            f"{word} {form.format(logs[key])}" for key, word, form in SHOWN if key in logs
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.should_save:
            checkpoint.mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def _progress(self, step: int, total: int) -> None:
        done = (step - self._first) / max(total - self._first, 1)
        left = (time.monotonic() - self._started) * (1 - done) / done
        line = f"{self.stage} {step}/{total}  {self._shown}  {left:.0f} s left"
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif step % max(1, total // 20) == 0:
            print(line, flush=True)


class CurveCallback(TrainerCallback):
    """Held-out metrics every `every` updates, the first before any (claim 9: which arm converges faster)."""

    def __init__(self, run: Run, every: int, measure: Callable[[], dict[str, float]]) -> None:
        self.run, self.every, self.measure = run, every, measure

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.every and state.global_step == 0:
            self.run.log(self.measure(), 0)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.every and state.global_step % self.every == 0:
            self.run.log(self.measure(), state.global_step)
