"""The trainer: prompt order, dynamic sampling with refill, whole-group advantages, non-finite losses.

Groups are made up with chosen correctness, so no sampling is needed; the model is a random tiny Llama.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from adactrl import chains, trainer
from adactrl.callbacks import NonFiniteLoss, RunCallback
from adactrl.config import PRESETS, Config, to_grpo_config
from adactrl.data import rl_dataset
from adactrl.rewards import group_advantages, group_rewards
from adactrl.tags import parse_tag
from adactrl.trainer import (
    PART_NAMES,
    STATE_FILE,
    DifficultyAwareGRPO,
    Group,
    NoInformativeGroups,
    PromptStream,
)
from shared import tiny
from shared.runs import Run

# ---- the order of prompts

NUMBERS = Dataset.from_dict({"n": list(range(10))})


def stream(seed: int = 0, rank: int = 0, world_size: int = 1) -> PromptStream:
    return PromptStream(NUMBERS, seed, rank, world_size)


def taken(of: PromptStream, *counts: int) -> list[int]:
    return [row["n"] for count in counts for row in of.take(count)]


def test_every_epoch_is_a_new_permutation() -> None:
    found = taken(stream(), 30)
    epochs = [found[:10], found[10:20], found[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_is_a_function_of_seed_and_position() -> None:
    whole = taken(stream(), 40)
    assert taken(stream(), 3, 9, 1, 27) == whole
    assert taken(stream(seed=1), 40) != whole
    resumed = stream()
    resumed.position = 17  # all that a checkpoint keeps
    assert taken(resumed, 23) == whole[17:]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_interleave_to_the_order_of_one(world_size: int) -> None:
    whole = taken(stream(), 12 * world_size)
    streams = [stream(rank=rank, world_size=world_size) for rank in range(world_size)]
    parts = [taken(s, 4, 4, 4) for s in streams]
    assert [n for together in zip(*parts, strict=True) for n in together] == whole
    assert {s.position for s in streams} == {12 * world_size}
    for first in range(0, 12, 4):  # also batch by batch, whatever the batch size
        batch = sorted(n for part in parts for n in part[first : first + 4])
        assert batch == sorted(whole[first * world_size : (first + 4) * world_size])


# ---- a trainer whose groups have the correctness we choose

G = 4
Pattern = list[bool | None]
CONSTANT_RIGHT, CONSTANT_WRONG = [True] * G, [False] * G
MIXED = [True, True, True, False]


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    smoke = PRESETS["smoke"]
    return replace(
        smoke,
        model=replace(smoke.model, hidden=8, layers=1, heads=1),
        algo=replace(
            smoke.algo,
            filter="acc",
            group_size=G,
            prompts_per_generation=3,
            prompts_per_step=2,
            updates_per_step=1,
        ),
        data=replace(smoke.data, rl_problems=40),
    )


def make(
    cfg: Config, folder: Path, pattern: Callable[[int], Pattern], callbacks: Any = None
) -> DifficultyAwareGRPO:
    """`pattern(i)` is the correctness of the i-th generated group; text, tag and length follow from it."""
    tokenizer = tiny.word_tokenizer(chains.WORDS)
    size = cfg.model.hidden
    model = tiny.tiny_causal_lm(tokenizer, hidden=size, layers=1, heads=1, intermediate=2 * size, seed=0)
    made = DifficultyAwareGRPO(
        model=model,
        args=to_grpo_config(cfg, folder),
        train_dataset=rl_dataset(cfg),
        processing_class=tokenizer,
        algo=cfg.algo,
        callbacks=callbacks,
    )
    made.generated = []  # every group made, in order

    def generate_groups(rows: list[dict]) -> list[Group]:
        groups = []
        for row in rows:
            correct = pattern(len(made.generated))
            texts = [f"{('[Easy]', '[Hard]')[j % 2]} " + "start 1 2 3 4 ; " * (j + 1) for j in range(G)]
            ids = tokenizer([t + " <eos>" for t in texts], add_special_tokens=False)["input_ids"]
            prompt = tokenizer.apply_chat_template(
                row["prompt"], add_generation_prompt=True, return_dict=False
            )
            tags = [parse_tag(t) for t in texts]
            groups.append(Group(row, [prompt] * G, ids, texts, [[-1.0] * len(i) for i in ids], correct, tags))
            made.generated.append(groups[-1])
        return groups

    made.generate_groups = generate_groups  # type: ignore[method-assign]
    return made


def logged(made: DifficultyAwareGRPO) -> dict[str, list[float]]:
    return made._pending_metrics


def test_constant_groups_are_dropped_and_the_batch_is_refilled(cfg: Config, tmp_path: Path) -> None:
    patterns = [CONSTANT_RIGHT, CONSTANT_WRONG, MIXED, CONSTANT_RIGHT, CONSTANT_WRONG, CONSTANT_RIGHT, MIXED]
    made = make(cfg, tmp_path, lambda i: patterns[i] if i < len(patterns) else MIXED)
    kept = made.sample_groups()
    assert kept == [made.generated[2], made.generated[6]]  # 3 generation batches of 3 prompts
    assert len(made.generated) == 9  # the surplus of the last batch is thrown away
    assert made.stream.position == 9
    assert logged(made)["sampling/generation_batches"] == [3]
    assert logged(made)["sampling/kept_share"] == pytest.approx([1 / 3, 0, 1])
    assert made.sample_groups()[0] is made.generated[9]  # the next step starts with fresh prompts


def test_every_group_has_its_own_prompt_and_answer(cfg: Config, tmp_path: Path) -> None:
    made = make(cfg, tmp_path, lambda i: MIXED)
    made.sample_groups()
    questions = [group.row["prompt"][0]["content"] for group in made.generated]
    assert len(set(questions)) == 3
    expected = PromptStream(made.train_dataset, cfg.run.seed).take(3)
    assert [group.row for group in made.generated] == expected


def test_filter_none_keeps_constant_groups(cfg: Config, tmp_path: Path) -> None:
    cfg = replace(cfg, algo=replace(cfg.algo, filter="none"))
    made = make(cfg, tmp_path, lambda i: [CONSTANT_RIGHT, CONSTANT_WRONG, MIXED][i % 3])
    assert made.sample_groups() == made.generated[:2]


@pytest.mark.parametrize("filtering", ["acc", "none"])
def test_a_group_with_a_grader_failure_is_left_out(cfg: Config, tmp_path: Path, filtering: str) -> None:
    cfg = replace(cfg, algo=replace(cfg.algo, filter=filtering))
    made = make(cfg, tmp_path, lambda i: [True, None, False, True] if i in (0, 1) else MIXED)
    kept = made.sample_groups()
    assert kept == [made.generated[2], made.generated[3]]
    assert logged(made)["sampling/grader_failures"] == [2, 0]


def test_no_informative_groups_is_a_clear_error_after_the_allowed_batches(
    cfg: Config, tmp_path: Path
) -> None:
    cfg = replace(cfg, algo=replace(cfg.algo, max_generation_batches=4))
    made = make(cfg, tmp_path, lambda i: MIXED if i == 5 else CONSTANT_WRONG)
    with pytest.raises(NoInformativeGroups) as error:
        made.sample_groups()
    assert len(made.generated) == 12
    for part in ("1 of the 2 groups needed", "4 generation batches (12 prompts)", "too easy or too hard"):
        assert part in str(error.value)
    assert "--algo.max-generation-batches" in str(error.value)
    assert "--algo.filter none" in str(error.value)


def test_the_paper_allows_ten_batches(cfg: Config, tmp_path: Path) -> None:
    made = make(cfg, tmp_path, lambda i: CONSTANT_RIGHT)
    with pytest.raises(NoInformativeGroups, match="10 generation batches"):
        made.sample_groups()
    assert len(made.generated) == 30


def test_output_advantages_are_those_of_whole_groups(cfg: Config, tmp_path: Path) -> None:
    patterns = [MIXED, CONSTANT_RIGHT, [True, False, False, False]]
    made = make(cfg, tmp_path, lambda i: patterns[i])
    output = made._generate_and_score_completions([{"prompt": []}])
    expected, rewards = [], []
    for group in (made.generated[0], made.generated[2]):
        rewards += group_rewards(
            group.correct,
            group.tags,
            group.lengths,
            max_length=cfg.algo.max_completion_tokens,
            overlong_buffer=cfg.algo.overlong_buffer,
        )
        expected += group_advantages(rewards[-G:])
    assert output["advantages"].tolist() == pytest.approx(expected, rel=1e-6)
    deviation = torch.tensor(rewards[:G], dtype=torch.float64).std(unbiased=True)
    first = (rewards[0] - sum(rewards[:G]) / G) / (deviation.item() + 1e-6)
    assert output["advantages"][0].item() == pytest.approx(first, rel=1e-5)
    rows = [ids for group in (made.generated[0], made.generated[2]) for ids in group.completion_ids]
    masks = output["completion_mask"].bool()
    assert [ids[m].tolist() for ids, m in zip(output["completion_ids"], masks, strict=True)] == rows


def test_small_reward_differences_keep_the_authors_epsilon(cfg: Config, tmp_path: Path) -> None:
    """With std + 1e-4, TRL's, advantages of nearly equal rewards would be far smaller."""
    cfg = replace(cfg, algo=replace(cfg.algo, filter="none", alpha=0.0, beta=1e-4, overlong_buffer=0))
    made = make(cfg, tmp_path, lambda i: CONSTANT_RIGHT)
    output = made._generate_and_score_completions([{"prompt": []}])
    (group, *_) = made.generated
    rewards = [part.total for part in made.reward_parts(group)]
    assert 1e-5 < max(rewards) - min(rewards) < 1e-4
    assert output["advantages"][:G].tolist() == pytest.approx(group_advantages(rewards), rel=1e-4)
    assert output["advantages"][:G].abs().max() > 1


def test_old_log_probabilities_are_the_ones_it_sampled_with(cfg: Config, tmp_path: Path) -> None:
    cfg = replace(cfg, algo=replace(cfg.algo, updates_per_step=2))  # with one update TRL needs none
    made = make(cfg, tmp_path, lambda i: MIXED)
    for number, group in enumerate(made.generate_groups(made.stream.take(3))):
        group.logprobs = [[-number - j - t / 100 for t in range(n)] for j, n in enumerate(group.lengths)]
    made.sample_groups = lambda: made.generated[:2]
    output = made._generate_and_score_completions([{"prompt": []}])
    rows = [row for group in made.generated[:2] for row in group.logprobs or []]
    old = output["old_per_token_logps"]
    for got, mask, expected in zip(old, output["completion_mask"].bool(), rows, strict=True):
        assert got[mask].tolist() == pytest.approx(expected)


def test_longest_length_counts_wrong_and_hard_responses(cfg: Config, tmp_path: Path) -> None:
    cfg = replace(cfg, algo=replace(cfg.algo, overlong_buffer=0))
    made = make(cfg, tmp_path, lambda i: [True, False, False, False])
    (group, *_) = made.generate_groups(made.stream.take(1))
    assert group.lengths == [8, 14, 20, 26]  # the longest is [Hard] and wrong
    part = made.reward_parts(group)[0]
    assert part.length == pytest.approx((1 + math.cos(math.pi * 8 / 26)) / 2)
    assert [p.length for p in made.reward_parts(group)[1:]] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        ({}, [1 + 0.5 + 0.5, 1.0, -0.5, 1.0]),
        ({"beta": 0.0}, [1.5, 1.0, -0.5, 1.0]),
        ({"calibrate": False}, [1.5, 1.0, -1.0, 1.0]),
        ({"alpha": 0.0, "beta": 0.0}, [1.0, 1.0, -1.0, 1.0]),
        ({"length_gate": "tag"}, [2.0, 1.0, -0.25, 1.0]),
        ({"threshold": 0.75}, [1.5, 1.5, -1.0, 1.5]),
    ],
)
def test_arm_switches_reach_the_rewards(
    cfg: Config, tmp_path: Path, switch: dict, expected: list[float]
) -> None:
    cfg = replace(cfg, algo=replace(cfg.algo, overlong_buffer=0, **switch))
    made = make(cfg, tmp_path, lambda i: MIXED)
    group = made.generate_groups(made.stream.take(1))[0]
    group = replace(group, correct=[True, True, False, True], completion_ids=[[], [1] * 8, [1] * 4, [1] * 8])
    assert [p.total for p in made.reward_parts(group)] == pytest.approx(expected)


def test_trl_logs_the_parts_and_the_weighted_sum(cfg: Config, tmp_path: Path) -> None:
    made = make(cfg, tmp_path, lambda i: MIXED)
    made._generate_and_score_completions([{"prompt": []}])
    parts = [p for g in made.generated[:2] for p in made.reward_parts(g)]
    for name in PART_NAMES:
        mean = sum(getattr(p, name) for p in parts) / len(parts)
        assert made._metrics["train"][f"rewards/{name}/mean"] == pytest.approx([mean], abs=1e-6)
    assert made._metrics["train"]["reward"] == pytest.approx(
        [sum(p.total for p in parts) / len(parts)], abs=1e-6
    )


def test_shares_are_logged_before_the_filter(cfg: Config, tmp_path: Path) -> None:
    made = make(cfg, tmp_path, lambda i: [MIXED, MIXED, CONSTANT_WRONG][i % 3])
    made.sample_groups()
    metrics = logged(made)
    assert metrics["rollout/all/accuracy"] == pytest.approx([6 / 12])  # pitfall 6.8: the kept groups have 3/4
    assert metrics["rollout/all/easy_label"] == pytest.approx([2 / 3])
    assert metrics["rollout/all/easy_tag"] == pytest.approx([0.5])
    assert metrics["rollout/all/length"] == pytest.approx([17])
    tiers = {group.row["tier"] for group in made.generated}
    assert {f"rollout/{tier}/accuracy" for tier in tiers} <= set(metrics)


def test_groups_come_from_the_sampler_in_prompt_order_and_are_graded(
    cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real `generate_groups` around a sampler: right, wrong, right without a tag, no answer."""
    made = make(cfg, tmp_path, lambda i: MIXED)
    del made.generate_groups  # back to the method
    tokenizer, seen = made.processing_class, []

    def answers_of(prompts: list, owner: Any) -> dict[str, Any]:
        rows = {row["prompt"][0]["content"]: row["answer"] for row in made.train_dataset}
        completions = []
        for i, prompt in enumerate(prompts):
            gold = rows[prompt[0]["content"]]
            wrong = " ".join(str((int(d) + 1) % 10) for d in gold.split())
            boxes = [
                f"[Easy] \\boxed{{ {gold} }}",
                f"[Hard] \\boxed{{ {wrong} }}",
                f"\\boxed{{ {gold} }}",
                "wait",
            ]
            completions.append(tokenizer(boxes[i % G] + " <eos>", add_special_tokens=False)["input_ids"])
        ids = [
            tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in prompts
        ]
        return {
            "prompt_ids": ids,
            "completion_ids": completions,
            "logprobs": [[0.0] * len(c) for c in completions],
        }

    made.rollout_func = answers_of
    made.on_groups = lambda step, groups: seen.append((step, groups))
    rows = made.stream.take(3)
    groups = made.generate_groups(rows)
    assert [group.row for group in groups] == rows
    for group in groups:
        assert group.correct == [True, False, True, False]
        assert group.tags == ["easy", "hard", None, None]
        assert len(group.prompt_ids) == len(group.logprobs) == G
        assert (
            group.lengths == [len(ids) for ids in group.completion_ids] == [8, 8, 7, 2]
        )  # end token included
        assert group.texts[0] == f"[Easy] \\boxed{{ {group.row['answer']} }}"
    assert seen == [(0, groups)]


# ---- training


def train(cfg: Config, folder: Path, **kwargs: Any) -> DifficultyAwareGRPO:
    run = Run(folder, cfg, "adactrl", resumed=False, main=True)
    made = make(cfg, folder, lambda i: MIXED, callbacks=[RunCallback(run, "RL", cfg.algo.updates_per_step)])
    made.train(**kwargs)
    return made


@pytest.fixture
def quiet(cfg: Config) -> Config:
    return replace(cfg, run=replace(cfg.run, trackers=()), algo=replace(cfg.algo, steps=2, lr=1e-3, warmup=0))


@pytest.mark.slow
def test_updates_raise_the_probability_of_rewarded_responses(quiet: Config, tmp_path: Path) -> None:
    made = make(quiet, tmp_path, lambda i: MIXED)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    inputs = made._generate_and_score_completions([{"prompt": []}])
    good, bad = inputs["advantages"].argmax().item(), inputs["advantages"].argmin().item()

    @torch.no_grad()
    def log_probability(row: int) -> float:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)[[row]]
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)[[row]]
        logits = made.model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
        values = logits.gather(-1, ids[:, 1:, None])[:, :, 0][:, -inputs["completion_ids"].shape[1] :]
        return values[inputs["completion_mask"][[row]].bool()].mean().item()

    gap = log_probability(good) - log_probability(bad)
    made._generate_and_score_completions = lambda rows: dict(inputs)  # the same batch in every step
    made.train()
    assert any((p != before[name]).any() for name, p in made.model.named_parameters())
    assert log_probability(good) - log_probability(bad) > gap


@pytest.mark.slow
def test_checkpoints_keep_the_prompt_position_and_are_complete(quiet: Config, tmp_path: Path) -> None:
    made = train(quiet, tmp_path)
    assert made.stream.position == 6  # 2 steps x 3 prompts
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        assert (folder / "COMPLETE.json").is_file()
        assert STATE_FILE in (folder / "COMPLETE.json").read_text()
        assert f'"position": {3 * step}' in (folder / STATE_FILE).read_text()
    resumed = make(quiet, tmp_path, lambda i: MIXED)
    resumed._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert taken_questions(resumed.stream.take(3)) == taken_questions([g.row for g in made.generated[3:6]])


def taken_questions(rows: list[dict]) -> list[str]:
    return [row["prompt"][0]["content"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_loss_stops_dumps_the_batch_and_keeps_the_last_checkpoint(
    quiet: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    compute = trainer.GRPOTrainer.compute_loss

    def broken(self, model, inputs, *args, **kwargs):
        loss = compute(self, model, inputs, *args, **kwargs)
        return loss * value if self.state.global_step == 1 else loss

    monkeypatch.setattr(trainer.GRPOTrainer, "compute_loss", broken)
    with pytest.raises(
        NonFiniteLoss, match=r"after update 1; the batch is in .*nonfinite_batch_rank0\.pt.*resume"
    ):
        train(quiet, tmp_path)
    dump = torch.load(tmp_path / "nonfinite_batch_rank0.pt", weights_only=True)
    assert dump["step"] == 1
    assert not torch.isfinite(dump["loss"])
    assert {"completion_ids", "advantages", "prompt_ids"} <= set(dump["inputs"])
    assert (tmp_path / "checkpoint-1" / "COMPLETE.json").is_file()
    assert not (tmp_path / "checkpoint-2").exists()
