"""Prompts, labels and their order: what the models really see."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from adactrl import chains, cold_start
from adactrl.config import PRESETS, Config, Data
from adactrl.data import (
    SYSTEM_PROMPT,
    SftProblem,
    chain_sft_problems,
    eval_sets,
    messages,
    prompt_text,
    rl_dataset,
    tokenized,
)
from adactrl.tags import MODES, forced_prefix
from shared import tiny

CHAINS = Data(task="chains")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.word_tokenizer(chains.WORDS)


@pytest.fixture(scope="module")
def cfg() -> Config:
    smoke = PRESETS["smoke"]
    return replace(smoke, sft=replace(smoke.sft, examples=60, batch_size=16))


def test_system_prompt_is_the_baseline_one_and_only_for_mathematics() -> None:
    assert "step by step" in SYSTEM_PROMPT
    assert "\\boxed{}" in SYSTEM_PROMPT
    assert messages("1+1?", Data(task="deepmath")) == [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": "1+1?"},
    ]
    assert messages("1+1?", CHAINS) == [{"role": "user", "content": "1+1?"}]


@pytest.mark.parametrize("mode", MODES)
def test_forced_prompt_ends_with_exactly_the_tag(tokenizer, mode: str) -> None:
    question = "3 1 4 1 : rev +2 x7"
    plain = prompt_text(tokenizer, question, CHAINS)
    forced = prompt_text(tokenizer, question, CHAINS, forced_prefix(mode))
    assert forced == plain + {"adaptive": "", "easy": "[Easy]", "hard": "[Hard]"}[mode]
    assert plain.endswith("<assistant> ")
    ids = tokenizer(forced, add_special_tokens=False)["input_ids"]
    tag = [] if mode == "adaptive" else tokenizer.convert_tokens_to_ids([forced_prefix(mode)])
    assert ids == tokenizer(plain, add_special_tokens=False)["input_ids"] + tag


def test_every_prompt_and_solution_is_in_the_vocabulary(tokenizer) -> None:
    drawn = [c for tier in chains.TIERS for c in chains.tier_problems(tier, 40, "train", 0)]
    drawn += islice(chains.cold_start_problems(0), 100)
    for chain in drawn:
        for text in (chain.short, chain.long, prompt_text(tokenizer, chain.question, CHAINS, "[Hard]")):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=False).split() == text.split()


def test_each_tag_is_one_token(tokenizer) -> None:
    for tag in ("[Easy]", "[Hard]"):
        assert len(tokenizer(tag, add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("response", ["[Easy] 1 2 3 4 \\boxed{ 1 2 3 4 }", "start 1 2 3 4 ;"])
def test_labels_mask_exactly_the_prompt_and_hold_the_end_token(tokenizer, response: str) -> None:
    prompt = prompt_text(tokenizer, "1 2 3 4 : rev", CHAINS)
    columns = tokenized(tokenizer, [prompt], [response], cut=128)
    (ids,), (labels,) = columns["input_ids"], columns["labels"]
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert ids[: len(prompt_ids)] == prompt_ids
    assert labels[: len(prompt_ids)] == [-100] * len(prompt_ids)
    assert labels[len(prompt_ids) :] == ids[len(prompt_ids) :]
    assert tokenizer.convert_ids_to_tokens(ids[len(prompt_ids) :]) == [*response.split(), "<eos>"]
    assert tokenizer.unk_token_id not in ids


def test_training_sees_what_inference_will_see(tokenizer) -> None:
    """The prompt with the tag forced and the SFT row begin with the same ids."""
    prompt = prompt_text(tokenizer, "1 2 3 4 : rev", CHAINS)
    row = tokenized(tokenizer, [prompt], ["[Easy] \\boxed{ 4 3 2 1 }"], cut=128)["input_ids"][0]
    forced = tokenizer(prompt + "[Easy]", add_special_tokens=False)["input_ids"]
    assert row[: len(forced)] == forced


def test_cut_bounds_both_columns(tokenizer) -> None:
    prompt = prompt_text(tokenizer, "1 2 3 4 : rev", CHAINS)
    columns = tokenized(tokenizer, [prompt], ["start " * 50], cut=20)
    assert [len(columns[name][0]) for name in ("input_ids", "labels")] == [20, 20]


@pytest.mark.parametrize("style", ["adactrl", "r1"])
def test_sft_order_is_a_permutation_within_each_update(tokenizer, cfg: Config, style: str) -> None:
    cfg = replace(cfg, sft=replace(cfg.sft, style=style))
    problems = chain_sft_problems(cfg)
    dataset = cold_start.sft_dataset(tokenizer, problems, cfg)
    prompts = [prompt_text(tokenizer, p.question, cfg.data) for p in problems]
    plain = tokenized(tokenizer, prompts, cold_start.responses(problems, cfg), cfg.sft.max_length)
    assert len(dataset) == len(problems) == 60
    for first in range(0, 60, 16):  # the last update is a short one
        update = slice(first, min(first + 16, 60))
        assert sorted(dataset[update]["input_ids"]) == sorted(plain["input_ids"][update])
        lengths = [len(ids) for ids in dataset[update]["input_ids"]]
        assert lengths == sorted(lengths)
        pairs = list(zip(plain["input_ids"][update], plain["labels"][update], strict=True))
        for row in zip(dataset[update]["input_ids"], dataset[update]["labels"], strict=True):
            assert row in pairs


def test_nothing_of_a_preset_is_cut(tokenizer) -> None:
    """The longest chain fits the SFT cut and the response limit of the default run."""
    cfg = PRESETS["small"]
    longest = max(chains.tier_problems("T3", 40, "train", 0), key=lambda c: len(c.ops))
    prompt = tokenizer(prompt_text(tokenizer, longest.question, cfg.data), add_special_tokens=False)[
        "input_ids"
    ]
    response = tokenizer(f"[Hard] {longest.long} <eos>", add_special_tokens=False)["input_ids"]
    assert len(prompt) + len(response) <= cfg.sft.max_length
    # a full-length correct answer must not be hit by the over-long penalty
    assert len(response) <= cfg.algo.max_completion_tokens - cfg.algo.overlong_buffer


def test_rl_rows(cfg: Config) -> None:
    rows = rl_dataset(cfg)
    assert len(rows) == cfg.data.rl_problems
    assert rows.column_names == ["prompt", "answer", "tier"]
    expected = chains.rl_problems(cfg.data.rl_problems, cfg.run.seed)
    assert [row["answer"] for row in rows] == [c.answer for _, c in expected]
    assert [row["prompt"] for row in rows] == [[{"role": "user", "content": c.question}] for _, c in expected]


def test_evaluation_problems_do_not_depend_on_the_training_seed(cfg: Config) -> None:
    other = replace(cfg, run=replace(cfg.run, seed=7), sft=replace(cfg.sft, style="r1"))
    assert eval_sets(cfg) == eval_sets(other)
    assert {name: len(problems) for name, problems in eval_sets(cfg).items()} == {"T1": 6, "T2": 6, "T3": 6}
    assert eval_sets(cfg) != eval_sets(cfg, "validation")
    assert rl_dataset(cfg)[:]["answer"] != rl_dataset(other)[:]["answer"]


def test_sft_problem_holds_both_styles(cfg: Config) -> None:
    first = next(chains.cold_start_problems(0))
    assert chain_sft_problems(cfg)[0] == SftProblem(
        first.question, first.answer, first.difficulty, first.short, first.long, first.verbose
    )
