"""GRPO for image classification, on TRL (CLS-RL, arXiv 2503.16188; authors' `grpo_trainer.py`).

One update per roll-out batch: P prompts, G samples each, rewards of the method (`rewards.REWARDS`), then

    A_i   = (r_i - mean_j r_j) / (std_j r_j + 1e-4)             over the G samples of one prompt
    KL_t  = exp(ref_t - lp_t) - (ref_t - lp_t) - 1              to the frozen starting checkpoint
    L     = mean_i 1/|o_i| sum_t [ -exp(lp_t - sg(lp_t)) A_i + beta KL_t ]

TRL has the loss, the reference model, the optimizer and the distributed side. Here is what it lacks: groups
stay whole, so that image features and prompts are computed once per group, in sampling (`rollouts`) and in
the log-probabilities (`group_logprobs`). Prompts' order and samples are functions of (seed, update).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from cls_rl import encoding, rollouts
from cls_rl.callbacks import FiniteLossMixin, ResumeMixin
from cls_rl.config import AccuracyRule, Algo
from cls_rl.data import Prompts, image_tokens
from cls_rl.encoding import Encoded
from cls_rl.grading import extract_answer, in_list
from cls_rl.group_logprobs import group_logprobs
from cls_rl.processor import vision_token_ids
from cls_rl.rewards import REWARDS, Method, accuracy_reward
from shared.decoding import unwrap
from shared.seeding import derive_seed


def group_advantages(rewards_PG: Tensor) -> Tensor:
    """(P, G) rewards to advantages; `std` is the unbiased one. Groups of one value give 0."""
    centred = rewards_PG - rewards_PG.mean(1, keepdim=True)
    return centred / (rewards_PG.std(1, keepdim=True) + 1e-4)


def prompt_at(position: int, count: int, seed: int) -> int:
    """Which of `count` prompts is at `position` of the endless order: a new permutation per epoch."""
    epoch, place = divmod(position, count)
    generator = torch.Generator().manual_seed(derive_seed(seed, "prompts", epoch))
    return int(torch.randperm(count, generator=generator)[place])


def reward_functions(method: Method, accuracy: AccuracyRule) -> list[Any]:
    """The method's rewards as TRL calls them; their names are the log's."""
    functions = []
    for reward in REWARDS[method]:
        rule = partial(accuracy_reward, rule=accuracy) if reward is accuracy_reward else reward
        name = getattr(reward, "__name__", "").removesuffix("_reward")
        functions.append(_trl_reward(rule, name if name.isidentifier() else "format"))
    return functions


def _trl_reward(reward: Callable[[str, str], float], name: str) -> Callable[..., list[float]]:
    def score(completions: list[str], label: list[str], **columns: Any) -> list[float]:
        return [reward(text, gold) for text, gold in zip(completions, label, strict=True)]

    score.__name__ = name
    return score


class ClassificationGRPO(FiniteLossMixin, ResumeMixin, GRPOTrainer):
    """TRL's GRPO on `prompts`.

    Args:
        prompts: the training prompts; `prompts.bundle` holds the policy. Load it from a folder or the hub:
            TRL reads the reference model from the same place.
        algo: the run's settings; build `args` with `config.to_grpo_config`.
        Everything else goes to `trl.GRPOTrainer`.
    """

    # What TRL and transformers set, typed as what it is here.
    args: GRPOConfig
    accelerator: Any
    processing_class: Any
    num_generations: int

    def __init__(self, prompts: Prompts, algo: Algo, args: GRPOConfig, **kwargs: Any) -> None:
        self.prompts, self.algo = prompts, algo
        if args.use_vllm:  # our engine does it by itself
            biases = dict.fromkeys(vision_token_ids(prompts.bundle.tokenizer), -100.0)
            args.generation_kwargs = {"logit_bias": biases}
        rows = max(len(prompts), algo.prompts_per_step)  # they only pace TRL's loop
        super().__init__(
            model=prompts.bundle.model,
            args=args,
            reward_funcs=reward_functions(algo.method, algo.accuracy),
            train_dataset=Dataset.from_dict({"prompt": [""] * rows}),
            processing_class=prompts.bundle.processor,
            **kwargs,
        )
        self.remove_callback(PrinterCallback)  # RunCallback prints the progress
        if self.is_fsdp_enabled and not self.use_vllm:
            raise ValueError("FSDP splits the weights our engine samples from; use --algo.vllm, or DeepSpeed")

    # ---- one step: sample, reward, advantages; then micro-batches of whole groups

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's, without its shuffling of rows, which would part the samples of a prompt."""
        batches = self.args.steps_per_generation or 1
        if self._step % batches == 0 or self._buffered_inputs is None:
            self._buffered_inputs = self._generate_and_score_completions(generation_batch)
        return self._buffered_inputs[self._step % batches]

    def _generate_and_score_completions(self, inputs: list[Any]) -> list[dict[str, Any]]:
        """The micro-batches of one update of this process; `inputs` only says how many rows it has."""
        began, size = time.perf_counter(), self.num_generations
        chosen = self._chosen(len(inputs) // size)
        prompts = self.prompts.encode(chosen)
        completion_ids = self._sample(prompts, chosen)
        sampled = time.perf_counter()
        texts = self.processing_class.tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        rows = [{"label": self.prompts.queries[row].label} for row in chosen for _ in range(size)]
        rewards_NF = self._calculate_rewards(rows, texts, texts, completion_ids)  # of all processes
        advantages = group_advantages(rewards_NF.sum(1).view(-1, size)).view(-1)
        mine = slice(
            len(rows) * self.accelerator.process_index, len(rows) * (self.accelerator.process_index + 1)
        )
        self._record(rewards_NF, completion_ids, texts, prompts, chosen)
        self._log_now("time/sample_s", sampled - began)
        groups = [completion_ids[i : i + size] for i in range(0, len(rows), size)]
        return self._micro_batches(prompts, groups, advantages[mine].view(-1, size))

    def _chosen(self, groups: int) -> list[int]:
        """This process's prompts of the current update; together the processes take consecutive ones."""
        processes = self.accelerator.num_processes
        first = (self.state.global_step * groups) * processes + self.accelerator.process_index * groups
        count = len(self.prompts)
        return [prompt_at(first + i, count, self.args.seed) for i in range(groups)]

    def _sample(self, prompts: Sequence[Encoded], chosen: Sequence[int]) -> list[list[int]]:
        """G completions per prompt, group-major, each up to and with its first stop token."""
        if self.use_vllm:
            queries = [self.prompts.queries[row] for row in chosen]
            pictures = [self.prompts.picture(query.image, self.prompts.bundle.side) for query in queries]
            repeated = [i for i in range(len(prompts)) for _ in range(self.num_generations)]
            ids, images = [prompts[i].ids for i in repeated], [[pictures[i]] for i in repeated]
            return self._generate_single_turn(ids, images, {}, self.num_generations)[0]
        seed = derive_seed(self.args.seed, "sample", self.state.global_step, self.accelerator.process_index)
        algo, device = self.algo, self.accelerator.device
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
            return rollouts.generate(
                model,
                self.processing_class.tokenizer,
                prompts,
                samples=self.num_generations,
                sampling=rollouts.Sampling(algo.max_completion_tokens, algo.temperature, top_k=algo.top_k),
                generator=torch.Generator(device=device).manual_seed(seed),
            ).completion_ids

    def _micro_batches(
        self, prompts: Sequence[Encoded], groups: Sequence[list[list[int]]], advantages_PG: Tensor
    ) -> list[dict[str, Any]]:
        step = self.args.per_device_train_batch_size // self.num_generations
        batches = []
        for first in range(0, len(prompts), step):
            part = slice(first, first + step)
            batch = self._batch(prompts[part], [ids for group in groups[part] for ids in group])
            batches.append({**batch, "advantages": advantages_PG[part].reshape(-1)})
        if self.beta:
            for batch in batches:
                batch["ref_per_token_logps"] = self._reference_logprobs(batch)
        return batches

    def _batch(self, prompts: Sequence[Encoded], completion_ids: list[list[int]]) -> dict[str, Any]:
        """What TRL's loss wants: a row per completion; but pixels once per prompt."""
        tokenizer, device = self.processing_class.tokenizer, self.accelerator.device
        inputs = encoding.collate(
            prompts, tokenizer.pad_token_id, self.processing_class.image_token_id, device
        )
        rows = [torch.tensor(ids, device=device) for ids in completion_ids]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        lengths = torch.tensor([[len(row)] for row in rows], device=device)
        size = self.num_generations
        return {
            "prompt_ids": inputs["input_ids"].repeat_interleave(size, 0),
            "prompt_mask": inputs["attention_mask"].repeat_interleave(size, 0),
            "completion_ids": ids,
            "completion_mask": (torch.arange(ids.shape[1], device=device) < lengths).long(),
            "pixel_values": inputs["pixel_values"],
            "image_grid_thw": inputs["image_grid_thw"],
        }

    @torch.no_grad()
    def _reference_logprobs(self, batch: dict[str, Any]) -> Tensor:
        """Of the starting checkpoint: a copy of its own, or the policy without its adapter."""
        policy = self.accelerator.unwrap_model(self.model)
        model = self.model if self.ref_model is None else self.ref_model
        with policy.disable_adapter() if self.ref_model is None else nullcontext():
            return self._get_per_token_logps_and_entropies(
                model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
                batch["completion_ids"].shape[1],
                image_grid_thw=batch["image_grid_thw"],
                pixel_values=batch["pixel_values"],
            )[0]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *,
        image_grid_thw: Tensor,
        pixel_values: Tensor,
        **unused: Any,
    ) -> tuple[Tensor, Tensor, None]:
        """TRL's loss asks for a row per completion; its rows are whole groups, one image each."""
        size = len(input_ids) // len(image_grid_thw)
        ids = input_ids[::size, :-logits_to_keep]
        prompts = {
            "input_ids": ids,
            "attention_mask": attention_mask[::size, :-logits_to_keep],
            "mm_token_type_ids": (ids == unwrap(model).config.image_token_id).int(),
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
        }
        completions = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
        with self.accelerator.autocast():
            logprobs, entropies = group_logprobs(model, prompts, *completions, temperature=self.temperature)
        return logprobs, entropies, None

    # ---- log

    def _record(
        self,
        rewards_NF: Tensor,
        completion_ids: list[list[int]],
        texts: list[str],
        prompts: Sequence[Encoded],
        chosen: Sequence[int],
    ) -> None:
        """Metrics of all processes' rewards and of this process's texts and token counts."""
        for name, column in zip(self.reward_func_names, rewards_NF.T, strict=True):
            self._log_now(f"reward/{name}", column.mean().item())
        total_PG = rewards_NF.sum(1).view(-1, self.num_generations)
        self._log_now("reward/total", total_PG.mean().item())
        self._log_now("reward/zero_std_share", (total_PG.std(1) == 0).float().mean().item())
        lengths = [len(ids) for ids in completion_ids]
        stops = set(encoding.stop_ids(unwrap(self.model), self.processing_class.tokenizer))
        self._log_now("rollout/length", sum(lengths) / len(lengths))
        self._log_now("rollout/truncated", sum(ids[-1] not in stops for ids in completion_ids) / len(lengths))
        options = [self.prompts.queries[row].options for row in chosen for _ in range(self.num_generations)]
        if all(options):  # the hub's training rows hold their list inside the problem text
            obeyed = [in_list(extract_answer(t), names) for t, names in zip(texts, options, strict=True)]
            self._log_now("rollout/in_list", sum(obeyed) / len(obeyed))
        self._log_now("tokens/prompt", sum(len(p.ids) for p in prompts) / len(prompts))
        self._log_now("tokens/image", image_tokens(prompts[0], self.processing_class))
        self._log_now("tokens/completion", float(sum(lengths)))

    def _log_now(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)
