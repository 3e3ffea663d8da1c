"""GRPO and Reinforce++ on tool-use states, on TRL (arXiv 2508.08791, §2.5-2.7).

One iteration = one trainer: its KL reference is the model it starts from. A response is one assistant turn;
its calls are executed in the sandbox inside the reward function. TRL samples, pads, and computes the clipped
loss with dual clip, the low-variance KL and the entropy bonus; what it lacks is here: the authors' advantages
(`advantages.py`), put in after all processes' rewards are gathered.

Not as in the authors' verl (D5): the KL term is not clamped at 10, and old log-probabilities are those our
engine sampled with, without a second forward pass.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from shared import rollouts
from shared.seeding import derive_seed
from tool_env_rl import multi_turn
from tool_env_rl.advantages import group_advantages, whitened_advantages
from tool_env_rl.callbacks import FiniteLossMixin
from tool_env_rl.config import Algo
from tool_env_rl.episodes import run_calls, stop_ids
from tool_env_rl.protocol import parse_response
from tool_env_rl.records import EnvRecord
from tool_env_rl.rewards import turn_reward
from tool_env_rl.sandbox import Sandbox


@dataclass(frozen=True)
class ScoredTurn:
    """One response's reward, and what the log shows of it."""

    reward: float
    calls: int
    malformed: bool
    failed_calls: int  # timeout or killed


def score_turns(
    responses: Sequence[str], states: Sequence[EnvRecord], sandbox: Sandbox, algo: Algo
) -> list[ScoredTurn]:
    """Execute each response's calls and reward it against its state."""
    turns = [parse_response(text, drop_thoughts=algo.drop_thoughts) for text in responses]
    results = run_calls([(s.codes, turn.calls) for s, turn in zip(states, turns, strict=True)], sandbox)
    scored = []
    for text, state, turn, outputs in zip(responses, states, turns, results, strict=True):
        reward = turn_reward(
            text,
            executed=[result.output for result in outputs],
            unsolved=state.unsolved_set,
            solve_rate=state.solve_rate,
            answer=state.answer,
            kind=algo.reward,
            strict=algo.strict,
            echo_guard=algo.echo_guard,
            drop_thoughts=algo.drop_thoughts,
        )
        failed = sum(result.status in ("timeout", "killed") for result in outputs)
        scored.append(ScoredTurn(reward, len(turn.calls), turn.malformed, failed))
    return scored


class ToolGRPO(FiniteLossMixin, GRPOTrainer):
    """TRL's GRPO on states.

    Args:
        states, prompts: the iteration's states and their rendered prompts (`states.prompts`).
        sandbox: an open one.
        algo: the run's settings; build `args` with `config.to_grpo_config`.
        thinking: `enable_thinking` of the chat template, for the multi-turn mode.
        Everything else goes to `trl.GRPOTrainer`. Load the model from a folder: TRL reads the KL reference
        from the same place.
    """

    # What TRL and transformers set, typed as what it is here.
    args: GRPOConfig
    accelerator: Any
    processing_class: Any
    model_wrapped: Any
    num_generations: int

    def __init__(
        self,
        *args: Any,
        states: Sequence[EnvRecord],
        prompts: Sequence[str],
        sandbox: Sandbox,
        algo: Algo,
        thinking: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.states, self.sandbox, self.algo, self.thinking = list(states), sandbox, algo, thinking
        self.rows: list[int] = []  # the states of the batch that is being sampled, one per response
        self._rewards: list[float] = []
        rollout: Any = multi_turn.rollout if algo.mode == "multi_turn" else _rollout
        super().__init__(
            *args,
            reward_funcs=self._reward_function(),
            train_dataset=Dataset.from_dict({"prompt": list(prompts), "state": list(range(len(prompts)))}),
            rollout_func=None if algo.vllm else rollout,
            **kwargs,
        )
        self.remove_callback(PrinterCallback)  # RunCallback prints the progress

    def _reward_function(self) -> Any:
        def turn_reward(completions: list[str], state: list[int], **columns: Any) -> list[float]:
            self._rewards = self._score(completions, state, columns)
            return self._rewards

        return turn_reward

    def _score(self, completions: list[str], rows: list[int], columns: dict[str, Any]) -> list[float]:
        if self.algo.random_reward:
            rng = random.Random(derive_seed(self.args.seed, "coin", self.state.global_step, *rows[:1]))
            return [float(rng.random() < 0.5) for _ in completions]
        if "reward" in columns:  # the multi-turn rollout has executed and rewarded its turns
            return columns["reward"]
        scored = score_turns(completions, [self.states[i] for i in rows], self.sandbox, self.algo)
        self._log_metric("turn/calls", fmean(turn.calls for turn in scored))
        self._log_metric("turn/no_call", fmean(turn.calls == 0 for turn in scored))
        self._log_metric("turn/malformed", fmean(turn.malformed for turn in scored))
        self._log_metric("sandbox/failed_calls", float(sum(turn.failed_calls for turn in scored)))
        return [turn.reward for turn in scored]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.rows = [row["state"] for row in inputs]
        output = super()._generate_and_score_completions(inputs)
        output["advantages"] = self._advantages(output)
        if not self.use_vllm:
            output["old_per_token_logps"] = output.pop("sampling_per_token_logps")
        return output

    def _advantages(self, output: dict[str, Any]) -> torch.Tensor:
        """This process's advantages, (B,) for GRPO and (B, T) for Reinforce++, from everybody's rewards."""
        accelerator, size = self.accelerator, len(self._rewards)
        rewards_N = torch.tensor(self._rewards, dtype=torch.float32, device=accelerator.device)
        rewards_N = accelerator.gather(rewards_N)
        rewards_PG = rewards_N.view(-1, self.num_generations)
        mine = slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)
        if self.algo.algorithm == "grpo":
            return group_advantages(rewards_PG).view(-1)[mine]
        mask_BT = output["completion_mask"] * output.get("tool_mask", 1)
        width = mask_BT.shape[1]
        mask_NT = accelerator.gather(accelerator.pad_across_processes(mask_BT, dim=1))
        return whitened_advantages(rewards_N, mask_NT)[mine, :width]

    def _get_per_token_logps_and_entropies(
        self, model: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
        """Our engine kept the old policy's log-probabilities when it sampled: no forward pass for them.

        TRL asks for the old policy's and the reference's without gradients, for the current one's with.
        """
        if not torch.is_grad_enabled() and not self.use_vllm and model is not self.ref_model:
            return None, None, None
        return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)


def _rollout(prompts: list[str], trainer: ToolGRPO) -> dict[str, list[Any]]:
    """TRL's `rollout_func`: one turn per prompt by our engine; prompts hold all their special tokens."""
    args = trainer.args
    sampled = rollouts.generate(
        trainer.model_wrapped,
        trainer.processing_class(prompts, add_special_tokens=False)["input_ids"],
        sampling=rollouts.Sampling(int(args.max_completion_length or 0), args.temperature),
        stop_ids=stop_ids(trainer.model, trainer.processing_class),
    )
    return {
        "prompt_ids": sampled.prompt_ids,
        "completion_ids": sampled.completion_ids,
        "logprobs": sampled.logprobs,
    }
