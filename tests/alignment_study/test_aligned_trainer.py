"""The trainer on TRL's real path: dynamic sampling, signed advantages, two clipped updates, history, resume.

Completions are made up where their rewards matter, and sampled from a random tiny Llama where they do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOConfig

from alignment_study import one_shot, trainer
from alignment_study.dynamic_sampling import Group, fill, prompt_at
from alignment_study.rewards import TAGS
from alignment_study.signed_samples import signed_advantages
from alignment_study.trainer import (
    HISTORY_FILE,
    OBJECTIVE,
    STATE_FILE,
    AlignmentGRPO,
    NonFiniteLoss,
    to_dataset,
)
from shared import tiny

G, P = 4, 4  # responses per group, groups per step
pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")

# ---- which groups: the pure function

Pattern = list[float]
MIXED, WRONG, RIGHT, FAILED = [1.0, 0, 0, 0], [0.0] * G, [1.0] * G, [1.0, math.nan, 0, 0]


def group(position: int, rewards: Pattern) -> Group:
    return Group(position, {}, [1], [[1]] * G, [[0.0]] * G, ["x"] * G, rewards, [None] * G)


def filled(*batches: list[Pattern]) -> tuple[list[int], int]:
    """Positions of the groups trained on, and how many batches were sampled."""
    made = [
        [group(10 * i + j, rewards) for j, rewards in enumerate(batch)] for i, batch in enumerate(batches)
    ]
    pending = list(made)
    return [g.position for g in fill(lambda: pending.pop(0), P)], len(made) - len(pending)


@pytest.mark.parametrize(
    ("batches", "positions", "sampled"),
    [
        ([[MIXED] * 4], [0, 1, 2, 3], 1),  # enough at once
        ([[MIXED, WRONG, RIGHT, MIXED], [WRONG, MIXED, MIXED, MIXED]], [0, 3, 11, 12], 2),  # (a) cut
        ([[WRONG, MIXED, WRONG, MIXED], [WRONG, WRONG, RIGHT, MIXED]], [1, 3, 13, 1], 2),  # (b) cyclic
        ([[WRONG] * 4, [WRONG, WRONG, MIXED, RIGHT]], [12] * 4, 2),  # (b) one group, four times
        ([[WRONG] * 4, [RIGHT, WRONG, RIGHT, WRONG]], [10, 11, 12, 13], 2),  # (c) the last batch
        (
            [[FAILED, MIXED, MIXED, MIXED], [FAILED] * 4],
            [1, 2, 3, 1],
            2,
        ),  # a failure is not an effective group
    ],
)
def test_fill(batches: list[list[Pattern]], positions: list[int], sampled: int) -> None:
    assert filled(*batches) == (positions, sampled)


def test_every_epoch_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    epochs = [[prompt_at(10 * epoch + i, 10, seed=0) for i in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert [prompt_at(i, 10, seed=1) for i in range(10)] not in epochs
    assert [prompt_at(i, 10, seed=0) for i in range(10)] == epochs[0]


# ---- a trainer

LETTERS = "abcdefgh"
PROBLEMS = [
    SimpleNamespace(id=f"p{i}", prompt=f"rev {a} {b} =", answer=f"{b} {a}", gold=f"{b} {a}", subtask="rev")
    for i, (a, b) in enumerate((a, b) for a in LETTERS[:3] for b in LETTERS[3:7])
]  # 12
TOKENIZER = tiny.word_tokenizer([*TAGS, "rev", "=", *LETTERS])
RIGHT_TEXT, WRONG_TEXT, NO_THINK = (
    "<think> a </think> <answer> {} </answer>",
    "<answer> h </answer>",
    "<answer> {} </answer>",
)


def make(
    folder: Path, problems: list[Any] = PROBLEMS, *, config: dict | None = None, **kwargs: Any
) -> AlignmentGRPO:
    model = tiny.tiny_causal_lm(TOKENIZER, hidden=16, layers=1, heads=2, intermediate=32, seed=0)
    options: dict[str, Any] = {
        **OBJECTIVE,
        "output_dir": str(folder),
        "num_generations": G,
        "per_device_train_batch_size": P * G // 2,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 2,
        "max_steps": 4,
        "max_completion_length": 8,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_steps": 2,
        "temperature": 1.0,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,  # TRL's defaults are True: a noisy ratio here,
        "gradient_checkpointing": False,  # and a hook that slows the sampler down
        "seed": 3,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **(config or {}),
    }
    return AlignmentGRPO(
        model=model,
        args=GRPOConfig(**options),
        train_dataset=to_dataset(problems, chat=False),
        processing_class=TOKENIZER,
        **kwargs,
    )


def scripted(made: AlignmentGRPO, texts_of: Callable[[int, str], list[str]]) -> list[str]:
    """Replaces the sampler: group n (over all batches) with gold g answers `texts_of(n, g)`.

    Returns the prompts that it is asked, as they come.
    """
    asked: list[str] = []
    golds = {problem.prompt: problem.gold for problem in PROBLEMS}

    def engine(prompts: list[str], owner: Any) -> dict[str, list]:
        texts = []
        for prompt in prompts[::G]:
            texts += texts_of(len(asked), golds[prompt])
            asked.append(prompt)
        completions = TOKENIZER([f"{text} <eos>" for text in texts])["input_ids"]
        return {
            "prompt_ids": TOKENIZER(prompts)["input_ids"],
            "completion_ids": completions,
            "logprobs": [[-1.0] * len(ids) for ids in completions],
        }

    made.engine = engine
    return asked


def texts(pattern: Pattern) -> Callable[[str], list[str]]:
    return lambda gold: [RIGHT_TEXT.format(gold) if right else WRONG_TEXT for right in pattern]


def step(made: AlignmentGRPO) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """One generation through TRL: the training batch and the metrics of this step."""
    made._metrics["train"].clear()
    made.model.train()
    made.current_gradient_accumulation_steps = 1  # as in the training loop
    return made._generate_and_score_completions([{"prompt": ""} for _ in range(P * G)]), made._metrics[
        "train"
    ]


def prompts_of(output: dict[str, Any]) -> list[str]:
    return TOKENIZER.batch_decode(output["prompt_ids"], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("patterns", "rows", "distinct"),
    [
        ([MIXED] * 4, [0, 1, 2, 3], 1.0),
        ([MIXED, WRONG, RIGHT, MIXED, WRONG, MIXED, MIXED, MIXED], [0, 3, 5, 6], 1.0),  # (a)
        ([WRONG, MIXED, WRONG, WRONG, WRONG, WRONG, RIGHT, MIXED], [1, 7, 1, 7], 0.5),  # (b)
        ([WRONG] * 4 + [RIGHT, WRONG, RIGHT, WRONG], [4, 5, 6, 7], 0.0),  # (c)
    ],
)
def test_cases_a_b_c_reach_the_batch(
    tmp_path: Path, patterns: list[Pattern], rows: list[int], distinct: float
) -> None:
    made = make(tmp_path)
    asked = scripted(made, lambda n, gold: texts(patterns[n])(gold))
    output, metrics = step(made)
    assert len(asked) == made.position == len(patterns)
    assert prompts_of(output) == [asked[row] for row in rows for _ in range(G)]  # whole groups, in order
    expected = [a for row in rows for a in signed_advantages(patterns[row])]
    assert output["advantages"].tolist() == pytest.approx(expected, rel=1e-6)
    if distinct == 0:
        assert not output["advantages"].any()
    assert metrics["sampling/distinct_share"] == [distinct]
    effective = [len(set(pattern)) > 1 for pattern in patterns]
    assert metrics["sampling/effective_groups"] == pytest.approx([sum(effective) / len(effective)])


def test_without_dynamic_sampling_every_group_stays(tmp_path: Path) -> None:
    made = make(tmp_path, dynamic_sampling=False)
    asked = scripted(made, lambda n, gold: texts([WRONG, MIXED, RIGHT, MIXED][n])(gold))
    output, _ = step(made)
    assert prompts_of(output) == [prompt for prompt in asked for _ in range(G)]
    assert output["advantages"].tolist() == pytest.approx(
        ([0.0] * G + signed_advantages(MIXED)) * 2, rel=1e-6
    )


@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_a_failed_grader_moves_no_weight(tmp_path: Path, dynamic_sampling: bool) -> None:
    def verify(answer: str, gold: str) -> bool | None:
        if gold == failing[0]:
            raise TimeoutError
        return answer == gold

    made = make(tmp_path, verify=verify, dynamic_sampling=dynamic_sampling)
    failing = [made.train_dataset[prompt_at(0, len(PROBLEMS), 3)]["gold"]]
    assert failing == [PROBLEMS[0].gold]
    asked = scripted(made, lambda n, gold: texts(MIXED)(gold))
    output, metrics = step(made)
    failed = [prompt == asked[0] for prompt in prompts_of(output)]
    assert any(failed) != dynamic_sampling  # dropped, or kept with advantages of zero
    assert not output["advantages"][torch.tensor(failed)].any()
    assert output["advantages"].isfinite().all()
    assert sum(metrics["sampling/grader_failures"]) > 0
    assert "p0" not in made.history  # nothing known is nothing recorded
    assert len(made.history) == made.position - 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"samples": "all"}, [1.5, -0.5, -0.5, -0.5]),
        ({"samples": "negative"}, [0, -0.5, -0.5, -0.5]),
        ({"samples": "positive"}, [1.5, 0, 0, 0]),
        ({"positive_weight": 0.1}, [0.15, -0.5, -0.5, -0.5]),
        ({"reward": "incorrect"}, [-1.5, 0.5, 0.5, 0.5]),
    ],
)
def test_sample_signs_reach_the_batch(tmp_path: Path, options: dict, expected: list[float]) -> None:
    made = make(tmp_path, **options)
    wrong = RIGHT_TEXT.format("h h")
    scripted(made, lambda n, gold: [RIGHT_TEXT.format(gold), wrong, wrong, wrong])
    output, _ = step(made)
    assert output["advantages"].tolist() == pytest.approx(expected * P, rel=1e-5)
    assert output["completion_mask"].sum() == sum(len(TOKENIZER(t)["input_ids"]) + 1 for t in [wrong]) * P * G


def test_masked_responses_stay_in_the_token_mean(tmp_path: Path) -> None:
    made = make(tmp_path, samples="negative")
    scripted(made, lambda n, gold: texts(MIXED)(gold))
    output, _ = step(made)
    lengths = output["completion_mask"].sum(1)
    output["old_per_token_logps"] = None  # ratio 1: the loss is -A per token
    loss = made.compute_loss(made.model, output)
    expected = -(output["advantages"] * lengths).sum() / lengths.sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_random_rewards_belong_to_seed_and_position(tmp_path: Path) -> None:
    def advantages(**config: Any) -> list[float]:
        made = make(tmp_path, reward="random", dynamic_sampling=False, config=config)
        scripted(made, lambda n, gold: texts(RIGHT)(gold))
        return [a for _ in range(2) for a in step(made)[0]["advantages"].tolist()]

    first = advantages()
    assert advantages() == first
    assert advantages(seed=4) != first
    assert first[: P * G] != first[P * G :]


def test_two_processes_train_on_what_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(rank: int, processes: int) -> AlignmentGRPO:
        made = make(tmp_path, reward="random")
        scripted(made, lambda n, gold: texts(RIGHT if gold < "e" else WRONG)(gold))
        made.accelerator = SimpleNamespace(process_index=rank, num_processes=processes)
        return made

    alone = started(0, 1)
    expected = alone.sample_step()
    assert alone.position == 2 * P  # half of the prompts have constant rewards
    shares = []
    for rank in range(2):
        made = started(rank, 2)

        def gather(mine: list[Group], made: AlignmentGRPO = made, rank: int = rank) -> list[Group]:
            others = made._sample(range(made.position - P + 1 - rank, made.position, 2))
            return [*mine, *others] if rank == 0 else [*others, *mine]

        monkeypatch.setattr(trainer, "gather_object", gather)
        shares.append(made.sample_step())
        assert (made.position, made.history) == (alone.position, alone.history)
    assert [len(share) for share in shares] == [P // 2, P // 2]
    assert [*shares[0], *shares[1]] == expected


def test_vllm_tokens_without_a_log_probability_are_unknown() -> None:
    """Through a stand-in: vLLM needs a GPU."""
    backend = SimpleNamespace(
        num_generations=G,
        _tokenize_prompts=lambda prompts: ([[1]] * len(prompts), None, {}),
        _generate_single_turn=lambda ids, images, fields, size: (
            [[2, 3]] * len(ids),
            [[-1.0, None]] * len(ids),
        ),
    )
    out = trainer._vllm(["a"] * G, backend)
    assert (out["prompt_ids"], out["completion_ids"]) == ([[1]] * G, [[2, 3]] * G)
    assert out["logprobs"][0][0] == -1.0
    assert math.isnan(out["logprobs"][0][1])


def test_a_tokenizer_that_hides_the_tags_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hiding = tiny.word_tokenizer(["rev", "=", *LETTERS], specials=(*tiny.SPECIALS, *TAGS))
    monkeypatch.setitem(globals(), "TOKENIZER", hiding)
    with pytest.raises(ValueError, match=r"the tokenizer leaves out .*<think>.* make them words"):
        make(tmp_path)


def test_one_shot_trains_on_copies_in_groups_of_their_own(tmp_path: Path) -> None:
    made = make(tmp_path, one_shot.copies(PROBLEMS[5], P), samples="one_shot")
    patterns = [MIXED, [1.0, 1, 0, 0], [1.0, 1, 1, 0], MIXED]
    scripted(made, lambda n, gold: texts(patterns[n])(gold))
    output, _ = step(made)
    assert set(prompts_of(output)) == {PROBLEMS[5].prompt}
    expected = [a for pattern in patterns for a in signed_advantages(pattern)]  # a baseline for each copy
    assert output["advantages"].tolist() == pytest.approx(expected, rel=1e-6)
    assert made.history == {"p5": [0.25, 0.5, 0.75, 0.25]}


def test_metrics_are_of_all_responses_before_the_filter(tmp_path: Path) -> None:
    made = make(tmp_path)
    right, bare = RIGHT_TEXT, "<answer> {} </answer>"
    groups = [[right, right, WRONG_TEXT, bare], ["h"] * 4, [right] * 4, [WRONG_TEXT] * 3 + [right]]
    scripted(made, lambda n, gold: [text.format(gold) for text in groups[n % 4]])
    _, metrics = step(made)
    assert metrics["rollout/accuracy"] == pytest.approx([(3 + 0 + 4 + 1) / 16])  # no think tag needed
    assert metrics["rollout/format"] == pytest.approx([(2 + 0 + 4 + 1) / 16])
    assert metrics["rollout/majority_accuracy"] == pytest.approx([2 / 4])  # right, nobody, right, wrong
    assert metrics["rollout/entropy"] == pytest.approx([1.0])  # every sampled token had log-probability -1
    lengths = [len(TOKENIZER(text.format("a b"))["input_ids"]) + 1 for g in groups for text in g]
    assert metrics["rollout/length"] == pytest.approx([sum(lengths) / 16])
    assert metrics["sampling/effective_groups"] == [0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "truth"}, "reward='truth' is not one of ground_truth, random"),
        ({"samples": "some"}, "samples='some' is not one of all, one_shot, negative, positive"),
        ({"samples": "one_shot"}, "one_shot trains on 1 problem, not 12"),
        ({"problems": PROBLEMS[:3]}, "3 problems are fewer than the 4 groups of a step"),
        ({"config": {"save_steps": 3}}, "save_steps=3 is not a multiple of the 2 updates per step"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **options)


# ---- the objective


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_old_log_probabilities_are_the_samplers_and_right(tmp_path: Path, temperature: float) -> None:
    made = make(tmp_path, reward="random_ungated", config={"temperature": temperature})
    output, _ = step(made)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    logps, *_ = made._get_per_token_logps_and_entropies(
        made.model, ids, mask, output["completion_ids"].shape[1]
    )
    sampled = output["completion_mask"].bool()
    assert sampled.sum() > 50
    assert (logps - output["old_per_token_logps"])[sampled].abs().max() < 1e-4


@pytest.mark.parametrize(
    ("ratio", "advantage", "per_token"),
    [
        (1.0, 1.0, -1.0),
        (1.2, 1.0, -1.2),
        (1.5, 1.0, -1.28),  # upper clip
        (0.5, 1.0, -0.5),
        (1.5, -1.0, 1.5),
        (0.5, -1.0, 0.8),  # lower clip
        (50.0, -1.0, 10.0),  # dual clip
        (50.0, 1.0, -1.28),  # which positive advantages do not have
    ],
)
def test_loss_by_hand(tmp_path: Path, ratio: float, advantage: float, per_token: float) -> None:
    made = make(tmp_path, reward="random_ungated")
    output, _ = step(made)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    logps, *_ = made._get_per_token_logps_and_entropies(
        made.model, ids, mask, output["completion_ids"].shape[1]
    )
    output["old_per_token_logps"] = logps.detach() - math.log(ratio)
    output["advantages"] = torch.full_like(output["advantages"], advantage)
    assert made.compute_loss(made.model, output).item() == pytest.approx(per_token, rel=1e-4)


@pytest.mark.slow
def test_the_second_update_is_clipped_and_the_first_is_not(tmp_path: Path) -> None:
    made = make(tmp_path, reward="random_ungated", config={"learning_rate": 0.1, "save_strategy": "no"})
    made.train()
    clipped = [
        log["clip_ratio/region_mean"] for log in made.state.log_history if "clip_ratio/region_mean" in log
    ]
    assert len(clipped) == 4
    assert clipped[0] == clipped[2] == 0
    assert min(clipped[1], clipped[3]) > 0.01


@pytest.mark.slow
def test_training_raises_the_probability_of_rewarded_responses(tmp_path: Path) -> None:
    made = make(tmp_path, config={"max_steps": 8, "save_strategy": "no"})
    scripted(made, lambda n, gold: texts(MIXED)(gold))
    output, _ = step(made)
    good = output["advantages"] > 0

    @torch.no_grad()
    def gap() -> float:
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
        logits = made.model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        logps = logits.gather(-1, ids[:, 1:, None])[:, -output["completion_ids"].shape[1] :, 0]
        mask = output["completion_mask"]
        means = (logps * mask).sum(1) / mask.sum(1)
        return (means[good].mean() - means[~good].mean()).item()

    before = gap()
    made.train()
    assert gap() > before + 0.1


@pytest.mark.slow
def test_a_non_finite_loss_stops_training(tmp_path: Path) -> None:
    made = make(tmp_path, reward="random_ungated")
    with torch.no_grad():
        next(made.model.parameters())[10:] = math.nan
    scripted(made, lambda n, gold: texts(MIXED)(gold))
    with pytest.raises(NonFiniteLoss, match="loss=nan after update 0 is not finite; resume from the last"):
        made.train()


# ---- history and resume


@pytest.mark.slow
def test_resumed_training_is_bit_identical(tmp_path: Path) -> None:
    """Across the end of an epoch (12 problems, 4 or 8 a step), with rewards that draw random numbers."""

    def weights(made: AlignmentGRPO) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in made.model.named_parameters()}

    config = {"max_steps": 8}
    whole = make(tmp_path / "whole", reward="random_ungated", config=config)
    whole.train()
    state = json.loads((tmp_path / "whole/checkpoint-4" / STATE_FILE).read_text())
    assert 8 <= state["position"] < whole.position
    resumed = make(tmp_path / "resumed", reward="random_ungated", config=config)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert resumed.position == whole.position > len(PROBLEMS)
    assert resumed.history == whole.history
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    fresh = weights(make(tmp_path / "fresh"))
    assert not any(torch.equal(value, fresh[name]) for name, value in expected.items())


@pytest.mark.slow
def test_the_history_is_written_for_one_shot_selection(tmp_path: Path) -> None:
    made = make(tmp_path, PROBLEMS[:P], dynamic_sampling=False)
    accuracies = {"p0": [0.0, 1.0], "p1": [0.5, 0.5], "p2": [1.0, 0.75], "p3": [0.25, 0.25]}

    def answers(n: int, gold: str) -> list[str]:
        name = next(problem.id for problem in PROBLEMS if problem.gold == gold)
        right = int(G * accuracies[name][n // P])
        return [RIGHT_TEXT.format(gold)] * right + [WRONG_TEXT] * (G - right)

    scripted(made, answers)
    made.train()
    history = json.loads((tmp_path / HISTORY_FILE).read_text())
    assert history == made.history == accuracies
    assert (one_shot.select(history), one_shot.select(history, "near_half")) == ("p0", "p1")
