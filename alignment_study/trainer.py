"""GRPO with the study's rewards, sample signs and dynamic sampling, on TRL (arXiv 2508.21188).

One subclass. Dynamic sampling runs inside the `rollout_func` that TRL calls once per step; it returns the
groups to train on, and with them each response's reward and advantage:

    sample -> reward per whole group -> keep groups with std > 0, at most 2 batches (`dynamic_sampling.fill`)
           -> A = (R - mean) / (std + 1e-6), masked by sign (`signed_samples`) -> 2 updates, clipped

TRL pads, and computes the clipped loss and the updates. `OBJECTIVE` is the loss.

P groups per step, G responses per group. With several processes each trains on its share of the P groups, all
of them whole; which P they are is decided by all processes together, as one would.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from alignment_study import dynamic_sampling, rewards
from alignment_study.dynamic_sampling import Group
from alignment_study.signed_samples import signed_advantages
from shared import checkpoint, rollouts
from shared.seeding import derive_seed

Samples = Literal["all", "one_shot", "negative", "positive"]
MODES = {"all": "both", "one_shot": "both", "negative": "negative", "positive": "positive"}
STATE_FILE = "sampling_state.json"
HISTORY_FILE = "history.json"

# Sheet §2.4 (authors' scripts) as GRPOConfig's options; sizes, optimizer and sampling are the run's.
OBJECTIVE: dict[str, Any] = {
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "delta": 10.0,  # their dual clip c: bounds the loss where the advantage is negative
    "beta": 0.0,  # no KL term, no reference model
    # Token mean per micro-batch, as verl; TRL's "dapo" divides both updates by their common token count.
    "loss_type": "bnpo",
    "importance_sampling_level": "token",
    "num_iterations": 1,
    "mask_truncated_completions": False,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "disable_dropout": True,
}


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; training stopped."""


class AlignmentGRPO(GRPOTrainer):
    """TRL's GRPO for one cell of the study.

    Dataset rows hold `id`, `prompt` (text or messages) and `gold` (`to_dataset`). Rewards see whole groups.

    Args:
        reward: a kind of `rewards.KINDS`.
        samples: "all"; "one_shot", where the dataset is copies of one problem, each a group of its own; or
            "negative" or "positive", only these responses of every group.
        verify: (answer, gold) -> right or not, None where it cannot tell; default equality after strip.
        dynamic_sampling: False trains on every group sampled, those without a gradient included.
        released: the authors' format regex and math rewards, see `rewards.score_group`.
        chance: P(1) of the random rewards.
        positive_weight: weight of positive responses, see `signed_samples.signed_advantages`.
        Everything else goes to `trl.GRPOTrainer`; build `args` with **OBJECTIVE.

    Attributes:
        history: problem id -> share of right answers among its G responses, one entry per visit; what
            `one_shot.select` reads. Written to the output folder with every checkpoint and after `train`.

    Raises:
        ValueError: an unknown reward or samples, one_shot with several problems, fewer rows than groups, a
            tokenizer that hides the tags, groups that do not divide by processes, checkpoints within a step.
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
        reward: str = "ground_truth",
        samples: str = "all",
        verify: rewards.Verify | None = None,
        dynamic_sampling: bool = True,
        released: bool = False,
        chance: float = 0.5,
        positive_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, reward_funcs=group_reward, rollout_func=_rollout, **kwargs)
        rows = int(self.args.generation_batch_size or 0)  # TRL has filled it in
        self.groups_per_step = rows // self.num_generations
        self._check(reward, samples)
        self.reward, self.mode, self.verify = reward, MODES[samples], verify
        self.dynamic_sampling, self.positive_weight = dynamic_sampling, positive_weight
        self.released, self.chance = released, chance
        self.engine = _vllm if self.use_vllm else rollouts.trl_rollout_func()
        self.position = 0  # in the order of prompts
        self.history: dict[str, list[float]] = {}

    # ---- one step

    def sample_step(self) -> list[Group]:
        """This process's groups of the step; never a part of one."""
        if self.dynamic_sampling:
            groups = dynamic_sampling.fill(self.sample_batch, self.groups_per_step)
        else:
            groups = self.sample_batch()
        trained = {group.position for group in groups if group.effective}
        self._log_metric("sampling/distinct_share", len(trained) / len(groups))
        share = len(groups) // self.accelerator.num_processes
        return groups[share * self.accelerator.process_index :][:share]

    def sample_batch(self) -> list[Group]:
        """The next P prompts' groups, of all processes, in the order of prompts; nothing is filtered yet."""
        first, rank = self.position, self.accelerator.process_index
        self.position += self.groups_per_step
        mine = range(first + rank, self.position, self.accelerator.num_processes)
        groups = sorted(gather_object(self._sample(mine)), key=lambda group: group.position)
        self._record(groups)
        return groups

    def _sample(self, positions: Sequence[int]) -> list[Group]:
        size, count = self.num_generations, len(self.train_dataset)
        rows = [
            self.train_dataset[dynamic_sampling.prompt_at(position, count, self.args.seed)]
            for position in positions
        ]
        out = self.engine([row["prompt"] for row in rows for _ in range(size)], self)
        texts = self.processing_class.batch_decode(out["completion_ids"], skip_special_tokens=True)
        groups = []
        for number, (position, row) in enumerate(zip(positions, rows, strict=True)):
            part = slice(number * size, (number + 1) * size)
            prompt_ids, completion_ids = out["prompt_ids"][part][0], out["completion_ids"][part]
            scores, correct = self._score(position, row["gold"], texts[part], out["logprobs"][part])
            sampled = (prompt_ids, completion_ids, out["logprobs"][part], texts[part])
            groups.append(Group(position, row, *sampled, scores, correct))
        return groups

    def _score(
        self, position: int, gold: Any, texts: list[str], logprobs: list[list[float]]
    ) -> tuple[list[float], list[bool | None]]:
        """Rewards and right-or-wrong of one group; every different answer is graded once."""
        given = self.verify or rewards.same_text
        once = cache(lambda answer: rewards.verdict(given, answer, gold))
        scores = rewards.score_group(
            self.reward,
            texts,
            gold,
            verify=self.verify and (lambda answer, _: once(answer)),
            rng=Random(derive_seed(self.args.seed, "reward", position)),
            token_logprobs=logprobs,
            released=self.released,
            chance=self.chance,
        )
        answers = map(rewards.extract, texts)
        return scores, [answer is not None and once(answer) for answer in answers]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL calls this once per step; `inputs` only pace it. `_rollout` chooses the prompts and leaves the
        advantages in `inputs`."""
        output = super()._generate_and_score_completions(inputs)
        # TRL's own divide by std + 1e-4 and know no sign.
        advantages = [row["advantage"] for row in inputs]
        output["advantages"] = torch.tensor(advantages, dtype=torch.float32, device=self.accelerator.device)
        if not self.use_vllm:
            output["old_per_token_logps"] = output.pop("sampling_per_token_logps")
        return output

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        """Our engine kept the old policy's log-probabilities when it sampled: no forward pass for them (D3).

        TRL asks for the old policy's without gradients, for the current one's with.
        """
        if not torch.is_grad_enabled() and not self.use_vllm:
            return None, None, None
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss; raises NonFiniteLoss."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            raise NonFiniteLoss(
                f"loss={loss.item()} after update {self.state.global_step} is not finite; resume from the "
                f"last checkpoint with a learning rate below {self.args.learning_rate}"
            )
        return loss

    # ---- bookkeeping

    def _record(self, groups: list[Group]) -> None:
        """Metrics and accuracies of one generation batch, before the filter: the kept groups are a biased
        sample."""
        correct = [c for group in groups for c in group.correct]
        logprobs = [lp for group in groups for row in group.logprobs for lp in row]
        texts = [text for group in groups for text in group.texts]
        metrics = {
            "sampling/effective_groups": _mean(group.effective for group in groups),
            "sampling/grader_failures": float(correct.count(None)),
            "rollout/accuracy": _mean(correct),
            "rollout/format": _mean(rewards.is_formatted(text, released=self.released) for text in texts),
            "rollout/majority_accuracy": _mean(map(_label_is_right, groups)),
            "rollout/entropy": -_mean(logprobs),  # nats per token: the mean surprise of what was sampled
            "rollout/length": _mean(len(ids) for group in groups for ids in group.completion_ids),
        }
        for name, value in metrics.items():
            self._log_metric(name, value)
        for group in groups:
            if any(c is not None for c in group.correct):
                self.history.setdefault(str(group.row["id"]), []).append(_mean(group.correct))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's; afterwards the history is on disk."""
        result = super().train(*args, **kwargs)
        self._write_history()
        return result

    def _write_history(self) -> None:
        if self.args.should_save:
            checkpoint.write_json_atomic(Path(str(self.args.output_dir)) / HISTORY_FILE, self.history)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's checkpoint, plus the position in the order of prompts and the history."""
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            state = {"position": self.position, "history": self.history}
            checkpoint.write_json_atomic(folder / STATE_FILE, state)
            self._write_history()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = json.loads((Path(resume_from_checkpoint) / STATE_FILE).read_text())
        self.position, self.history = state["position"], state["history"]

    def _check(self, reward: str, samples: str) -> None:
        size, processes, problems = self.groups_per_step, self.accelerator.num_processes, self.train_dataset
        updates = max((self.args.steps_per_generation or 1) // self.args.gradient_accumulation_steps, 1)
        hidden = [tag for tag in rewards.TAGS if tag in self.processing_class.all_special_tokens]
        wrong = ""
        if reward not in rewards.KINDS:
            wrong = f"{reward=} is not one of {', '.join(rewards.KINDS)}; pick one of these"
        elif samples not in MODES:
            wrong = f"{samples=} is not one of {', '.join(MODES)}; pick one of these"
        elif samples == "one_shot" and len(distinct := set(problems["id"])) > 1:
            wrong = f"one_shot trains on 1 problem, not {len(distinct)}; see one_shot.select and .copies"
        elif len(problems) < size:
            wrong = f"{len(problems)} problems are fewer than the {size} groups of a step; repeat them"
        elif hidden:
            wrong = f"the tokenizer leaves out {hidden} when decoding; make them words, not special tokens"
        elif size % processes:
            wrong = f"{size} groups per step do not divide over {processes} processes; use a multiple"
        elif self.args.save_strategy == "steps" and self.args.save_steps % updates:
            wrong = f"save_steps={self.args.save_steps} is not a multiple of the {updates} updates per step"
        if wrong:
            raise ValueError(wrong)


def _rollout(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
    """TRL's `rollout_func`: the step's responses, with reward and advantage for `inputs`."""
    result: dict[str, list[Any]] = defaultdict(list)
    for group in trainer.sample_step():
        size = len(group.texts)
        result["prompt_ids"] += [group.prompt_ids] * size
        result["completion_ids"] += group.completion_ids
        result["logprobs"] += group.logprobs
        result["reward"] += group.rewards
        if group.failed:  # only where nothing could be filtered; a failure moves no weight
            result["advantage"] += [0.0] * size
        else:
            result["advantage"] += signed_advantages(
                group.rewards, trainer.mode, positive_weight=trainer.positive_weight
            )
    return dict(result)


def group_reward(reward: list[float | None], **columns: Any) -> list[float | None]:
    """TRL's reward function, for its log: what `_rollout` left; NaN is TRL's "could not be scored"."""
    return reward


def _vllm(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
    """TRL's vLLM backend with the results of `shared.rollouts.trl_rollout_func`."""
    prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
    completion_ids, logprobs = trainer._generate_single_turn(
        prompt_ids, images, fields, trainer.num_generations
    )
    known = [[math.nan if lp is None else lp for lp in row] for row in logprobs or []]
    return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": known}


def to_dataset(problems: Sequence[Any], *, chat: bool) -> Dataset:
    """The dataset of problems with `id`, `prompt`, `gold`, `subtask`; `chat` makes them user messages."""
    return Dataset.from_list(
        [
            {
                "id": problem.id,
                "prompt": [{"role": "user", "content": problem.prompt}] if chat else problem.prompt,
                "gold": problem.gold,
                "subtask": problem.subtask,
            }
            for problem in problems
        ]
    )


def _label_is_right(group: Group) -> bool | None:
    """Whether the group's majority answer is right; a group without any answer has none."""
    label = rewards.majority_label(group.texts)
    return label is not None and group.correct[list(map(rewards.ballot, group.texts)).index(label)]


def _mean(values: Iterable[float | None]) -> float:
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan
