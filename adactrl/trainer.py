"""GRPO with AdaCtrl's difficulty-aware rewards and dynamic sampling, on TRL (arXiv 2505.18822).

One subclass. TRL samples, pads, computes log-probabilities, the clipped loss and the update; AdaCtrl adds
what the authors changed in `RayPPOTrainer.fit`, in the order of one step:

    generate -> outcome -> drop constant-accuracy groups -> refill until full (<= 10 batches)
             -> label and longest length per whole group -> rewards -> advantages -> updates

Notation: P prompts kept per step, G samples per prompt; rows are prompt-major, so the G samples of a prompt
are neighbours and a group never straddles two processes: each keeps its own P / world_size whole groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from adactrl.callbacks import FiniteLossMixin
from adactrl.config import Algo
from adactrl.rewards import (
    RewardParts,
    difficulty_label,
    group_advantages,
    group_reward_parts,
    is_informative,
)
from adactrl.tags import Difficulty, parse_tag
from shared import answers, checkpoint
from shared.seeding import derive_seed

PART_NAMES = ("outcome", "overlong", "calibration", "length")
STATE_FILE = "prompt_stream.json"


@dataclass
class Group:
    """One prompt's G samples, graded."""

    row: dict[str, Any]
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    texts: list[str]
    logprobs: list[list[float]] | None
    correct: list[bool | None]
    tags: list[Difficulty | None]

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.completion_ids]

    @property
    def informative(self) -> bool:
        """Whole group graded and its correctness not constant. A grader failure is not a score: the group is
        left out."""
        return None not in self.correct and is_informative([bool(c) for c in self.correct])


class PromptStream:
    """Endless prompts in an order that is a function of (seed, epoch); `position` is its whole state.

    Process r of w takes every w-th prompt, so that two processes together see what one process would see.
    """

    def __init__(self, dataset: Dataset, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.dataset, self.seed, self.rank, self.world_size = dataset, seed, rank, world_size
        self.position = 0

    def take(self, count: int) -> list[dict[str, Any]]:
        """The next `count` prompts of this process; advances the common position by count x world_size."""
        first = self.position + self.rank
        self.position += count * self.world_size
        return [self._at(index) for index in range(first, self.position, self.world_size)]

    def _at(self, index: int) -> dict[str, Any]:
        epoch, offset = divmod(index, len(self.dataset))
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "prompts", epoch))
            self._order, self._epoch = torch.randperm(len(self.dataset), generator=generator).tolist(), epoch
        return self.dataset[self._order[offset]]


class NoInformativeGroups(RuntimeError):
    """Dynamic sampling gave up: too few groups with both right and wrong answers in the allowed batches."""


class DifficultyAwareGRPO(FiniteLossMixin, GRPOTrainer):
    """TRL's GRPO with AdaCtrl's rewards. Dataset rows hold `prompt` (messages), `answer` and, optionally,
    `tier`.

    Args:
        algo: the paper's knobs (reward weights, threshold, gate, filter, generation batches).
        on_groups: called with the step and every generated group (kept or not), e.g. to write samples to a
        file. Everything else goes to `trl.GRPOTrainer`.
    """

    # What TRL and transformers set, typed as what it is here.
    args: GRPOConfig
    accelerator: Any
    processing_class: Any
    train_dataset: Any
    num_generations: int

    def __init__(
        self,
        *args: Any,
        algo: Algo,
        on_groups: Callable[[int, list[Group]], None] | None = None,
        **kwargs: Any,
    ) -> None:
        readers: list[Any] = [_part_reader(name) for name in PART_NAMES]
        super().__init__(*args, reward_funcs=readers, **kwargs)
        self.algo = algo
        self.on_groups = on_groups
        rows = int(self.args.generation_batch_size or 0)  # TRL has filled it in
        self.groups_per_step = rows // self.num_generations // self.accelerator.num_processes
        self.stream = PromptStream(
            self.train_dataset, self.args.seed, self.accelerator.process_index, self.accelerator.num_processes
        )
        self._kept: list[Group] = []
        self.remove_callback(PrinterCallback)  # RunCallback prints the progress

    # ---- one step: sample until the batch is full, then let TRL train on exactly these groups
    # ----------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL calls this once per generation; `inputs` only paces the loop, the prompts come from
        `self.stream`."""
        self._kept = self.sample_groups()
        rows = [self._scored_row(group, parts) for group in self._kept for parts in self.reward_parts(group)]
        output = super()._generate_and_score_completions(rows)
        # TRL divides by std + 1e-4; the authors by std + 1e-6.
        advantages = [
            a for group in self._kept for a in group_advantages([p.total for p in self.reward_parts(group)])
        ]
        output["advantages"] = torch.tensor(advantages, dtype=torch.float32, device=self.accelerator.device)
        return output

    def sample_groups(self) -> list[Group]:
        """Generation batches until every process holds its P informative groups (dynamic sampling with
        refill)."""
        kept: list[Group] = []
        seen = 0
        per_batch = self.algo.prompts_per_generation // self.accelerator.num_processes
        for batch in range(1, self.algo.max_generation_batches + 1):
            groups = self.generate_groups(self.stream.take(per_batch))
            seen += len(groups)
            informative = [
                g for g in groups if g.informative or (self.algo.filter == "none" and None not in g.correct)
            ]
            kept += informative
            self._log_groups(groups, len(informative))
            if self._all_processes(len(kept) >= self.groups_per_step):
                self._log_metric("sampling/generation_batches", batch)
                return kept[: self.groups_per_step]
        raise NoInformativeGroups(
            f"{len(kept)} of the {self.groups_per_step} groups needed had both right and wrong answers after "
            f"{self.algo.max_generation_batches} generation batches ({seen} prompts): the problems are too "
            "easy or too hard for this policy; mix in problems it solves sometimes, raise "
            "--algo.max-generation-batches, or train on all groups with --algo.filter none"
        )

    def generate_groups(self, rows: list[dict[str, Any]]) -> list[Group]:
        """Sample G completions for each row with TRL's backend (our CPU engine or vLLM) and grade them."""
        size = self.num_generations
        repeated = [row for row in rows for _ in range(size)]
        prompt_ids, completion_ids, _, _, logprobs, *_ = super()._generate(
            [row["prompt"] for row in repeated]
        )
        texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        graded = answers.grade_many(texts, [row["answer"] for row in repeated])
        groups = []
        for first, row in zip(range(0, len(repeated), size), rows, strict=True):
            part = slice(first, first + size)
            groups.append(
                Group(
                    row=row,
                    prompt_ids=prompt_ids[part],
                    completion_ids=completion_ids[part],
                    texts=texts[part],
                    logprobs=logprobs[part] if logprobs is not None else None,
                    correct=graded[part],
                    tags=[parse_tag(text) for text in texts[part]],
                )
            )
        if self.on_groups is not None:
            self.on_groups(self.state.global_step, groups)
        return groups

    def reward_parts(self, group: Group) -> list[RewardParts]:
        """All reward terms of one whole group with this run's switches."""
        algo = self.algo
        return group_reward_parts(
            [bool(c) for c in group.correct],
            group.tags,
            group.lengths,
            alpha=algo.alpha,
            beta=algo.beta,
            threshold=algo.threshold,
            length_gate=algo.length_gate,
            max_length=self.max_completion_length if algo.overlong_buffer else None,
            overlong_buffer=algo.overlong_buffer or None,
            overlong_factor=algo.overlong_factor,
            calibrate=algo.calibrate,
        )

    def _generate(self, prompts: list) -> tuple:
        """Hand TRL the kept completions instead of sampling again (it asks once per generation)."""
        kept = self._kept
        completion_ids = [ids for g in kept for ids in g.completion_ids]
        logprobs = [lp for g in kept for lp in g.logprobs or []] if kept[0].logprobs is not None else None
        texts = [[{"role": "assistant", "content": text}] for g in kept for text in g.texts]
        return (
            [ids for g in kept for ids in g.prompt_ids],
            completion_ids,
            None,
            texts,
            logprobs,
            {},
            None,
            [],
        )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Old log-probabilities are the ones our engine sampled with: no second forward pass (D4).

        TRL calls this without gradients for the old policy, with gradients for the current one.
        """
        sampled = [row for group in self._kept for row in group.logprobs or []]
        ours = len(sampled) == len(input_ids) and not self.use_vllm and self.temperature == 1.0
        if torch.is_grad_enabled() or not ours:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, **kwargs
            )
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in sampled], batch_first=True)
        padded = torch.nn.functional.pad(padded, (0, logits_to_keep - padded.shape[1]))
        return padded.to(input_ids.device), None, None

    # ---- bookkeeping
    # --------------------------------------------------------------------------------------------

    @staticmethod
    def _scored_row(group: Group, parts: RewardParts) -> dict[str, Any]:
        return {**group.row, **{name: getattr(parts, name) for name in PART_NAMES}}

    def _all_processes(self, flag: bool) -> bool:
        return bool(self.accelerator.gather(torch.tensor([flag], device=self.accelerator.device)).all())

    def _log_groups(self, groups: list[Group], kept: int) -> None:
        """Shares over all generated groups, before the filter (the kept ones are a biased sample)."""
        self._log_metric("sampling/kept_share", kept / len(groups))
        self._log_metric("sampling/grader_failures", sum(c is None for g in groups for c in g.correct))
        by_tier: dict[str, list[Group]] = {"all": groups}
        for group in groups:
            by_tier.setdefault(str(group.row.get("tier", "all")), []).append(group)
        for tier, members in by_tier.items():
            samples = [s for g in members for s in zip(g.correct, g.tags, g.lengths, strict=True)]
            labels = [difficulty_label([bool(c) for c in g.correct], self.algo.threshold) for g in members]
            self._log_metric(f"rollout/{tier}/accuracy", _share(bool(c) for c, _, _ in samples))
            self._log_metric(f"rollout/{tier}/easy_tag", _share(t == "easy" for _, t, _ in samples))
            self._log_metric(f"rollout/{tier}/no_tag", _share(t is None for _, t, _ in samples))
            self._log_metric(f"rollout/{tier}/length", sum(n for _, _, n in samples) / len(samples))
            self._log_metric(f"rollout/{tier}/kept", _share(g.informative for g in members))
            self._log_metric(f"rollout/{tier}/easy_label", _share(label == "easy" for label in labels))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's checkpoint plus the stream's position."""
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            checkpoint.write_json_atomic(folder / STATE_FILE, {"position": self.stream.position})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.stream.position = json.loads((Path(resume_from_checkpoint) / STATE_FILE).read_text())["position"]


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values)


def _part_reader(name: str) -> Callable[..., list[float]]:
    """A TRL reward function that reads one column our step has already computed on whole groups."""

    def read(**columns: Any) -> list[float]:
        return columns[name]

    read.__name__ = name
    return read
