"""Stage 1: styles, flips, the real-data path with its filter and mix, and where a policy may come from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from adactrl import cold_start, reproduce
from adactrl.config import PRESETS, Config
from adactrl.data import SftProblem, chain_sft_problems
from shared import config
from shared.runs import Run


@pytest.fixture
def cfg() -> Config:
    smoke = PRESETS["smoke"]
    return replace(smoke, sft=replace(smoke.sft, examples=400, flip=0.0, verbose=0.0))


def style(cfg: Config, name: str, flip: float = 0.0) -> Config:
    return replace(cfg, sft=replace(cfg.sft, style=name, flip=flip))


def test_easy_problems_get_the_easy_tag_and_the_short_answer(cfg: Config) -> None:
    problems = chain_sft_problems(cfg)
    for problem, text in zip(problems, cold_start.responses(problems, cfg), strict=True):
        easy = problem.difficulty <= 5.0
        assert text == (f"[Easy] {problem.short}" if easy else f"[Hard] {problem.long}")


def test_r1_style_has_no_tags_and_the_same_problems_in_the_same_order(cfg: Config) -> None:
    r1 = style(cfg, "r1", flip=0.15)
    problems = chain_sft_problems(cfg)
    assert chain_sft_problems(r1) == problems
    assert cold_start.responses(problems, r1) == [p.long for p in problems]
    assert not any("[Easy]" in t or "[Hard]" in t for t in cold_start.responses(problems, r1))


def test_flip_share_moves_tag_and_style_together(cfg: Config) -> None:
    problems = chain_sft_problems(cfg)
    straight = cold_start.responses(problems, cfg)
    flipped = cold_start.responses(problems, style(cfg, "adactrl", flip=0.15))
    changed = [i for i in range(len(problems)) if straight[i] != flipped[i]]
    assert len(changed) / len(problems) == pytest.approx(0.15, abs=0.05)
    for i in changed:
        p = problems[i]
        assert {straight[i], flipped[i]} == {f"[Easy] {p.short}", f"[Hard] {p.long}"}
    assert {problems[i].difficulty <= 5 for i in changed} == {True, False}  # on easy and hard problems
    assert flipped == cold_start.responses(problems, style(cfg, "adactrl", flip=0.15))
    other_seed = replace(style(cfg, "adactrl", flip=0.15), run=replace(cfg.run, seed=1))
    assert flipped != cold_start.responses(problems, other_seed)
    everything = cold_start.responses(problems, style(cfg, "adactrl", flip=1.0))
    assert all(a[:6] != b[:6] for a, b in zip(straight, everything, strict=True))


def test_verbose_share_makes_easy_answers_wordy_and_changes_no_tag(cfg: Config) -> None:
    problems = chain_sft_problems(cfg)
    straight = cold_start.responses(problems, replace(cfg, sft=replace(cfg.sft, verbose=0.0, flip=0.0)))
    verbose = cold_start.responses(problems, replace(cfg, sft=replace(cfg.sft, verbose=0.25, flip=0.0)))
    easy = [i for i in range(len(problems)) if straight[i].startswith("[Easy]")]
    longer = [i for i in easy if verbose[i] == f"[Easy] {problems[i].verbose}"]
    assert len(longer) / len(easy) == pytest.approx(0.25, abs=0.08)
    assert all(verbose[i] == straight[i] for i in range(len(problems)) if i not in longer)


def test_a_problem_without_a_short_answer_is_never_tagged_easy(cfg: Config) -> None:
    problems = [SftProblem(f"q{i}", "1", d, None, "long") for i, d in enumerate([2.0, 9.0] * 20)]
    texts = cold_start.responses(problems, style(cfg, "adactrl", flip=0.5))
    assert set(texts) == {"[Hard] long"}


# ---- DeepMath-like data from a local file


def long_answer(answer: str) -> str:
    return f"wait \\boxed{{{answer}}}"


def deepmath(folder: Path, easy: int, hard: int) -> Path:
    rows = [(f"easy {i}: {i} + 1?", str(i + 1), 1.0 + i % 5) for i in range(easy)]
    rows += [(f"hard {i}: {i} + 2?", str(i + 2), 5.5 + i % 4) for i in range(hard)]
    lines = [
        json.dumps({"question": q, "final_answer": a, "difficulty": d, "r1_solution_1": long_answer(a)})
        for q, a, d in rows
    ]
    (folder / "deepmath_103k.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def real(cfg: Config, folder: Path, **sft) -> Config:
    return replace(
        cfg,
        data=replace(cfg.data, task="deepmath", data_dir=str(folder), difficulty_cut=5.0),
        sft=replace(cfg.sft, **sft),
    )


@pytest.fixture
def instruct(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An instruct model that is right on questions with an even first number; returns what it was asked."""
    asked: list[str] = []

    def answer(model, tokenizer, questions: list[str], cfg: Config) -> list[str]:
        asked.extend(questions)
        numbers = [int(q.split()[1].rstrip(":")) for q in questions]
        return [f"short \\boxed{{{n + 1 if n % 2 == 0 else 'none'}}}" for n in numbers]

    monkeypatch.setattr(cold_start, "_instruct_answers", answer)
    return asked


def build(cfg: Config, cache: Path) -> list[SftProblem]:
    return cold_start.build_problems(None, None, cfg, cache)  # type: ignore[arg-type]


def test_wrong_concise_answers_are_left_out_and_the_mix_is_one_to_one(
    cfg: Config, tmp_path: Path, instruct: list[str]
) -> None:
    cfg = real(cfg, deepmath(tmp_path, easy=20, hard=30), examples=400)
    problems = build(cfg, tmp_path / "run" / "problems.jsonl")
    easy = [p for p in problems if p.question.startswith("easy")]
    hard = [p for p in problems if p.question.startswith("hard")]
    assert (len(easy), len(hard)) == (10, 10)
    assert all(int(p.question.split()[1].rstrip(":")) % 2 == 0 for p in easy)
    assert all(p.short == f"short \\boxed{{{p.answer}}}" for p in easy)
    assert all(p.short is None and p.long == f"wait \\boxed{{{p.answer}}}" for p in hard)
    assert all(q.startswith("easy") for q in instruct)  # the instruct model answers easy problems only
    order = [p.question[:4] for p in problems]
    assert order != sorted(order)  # easy and hard ones are mixed
    assert {t[:6] for t in cold_start.responses(easy, cfg)} == {"[Easy]"}
    assert {t[:6] for t in cold_start.responses(hard, cfg)} == {"[Hard]"}


def test_examples_bounds_the_mix(cfg: Config, tmp_path: Path, instruct: list[str]) -> None:
    problems = build(real(cfg, deepmath(tmp_path, 40, 40), examples=12), tmp_path / "problems.jsonl")
    assert sum(p.question.startswith("easy") for p in problems) == 6
    assert len(problems) == 12


def test_a_weak_model_gets_the_last_step_of_the_worked_solution(
    cfg: Config, tmp_path: Path, instruct: list[str]
) -> None:
    rows = [
        {
            "question": f"{steps} steps, {i}?",
            "answer": "".join(f"line {k} <<1+1=2>>2\n" for k in range(steps)) + f"#### {i}",
        }
        for i, steps in enumerate([1, 2, 3, 4] * 3)
    ]
    (tmp_path / "gsm8k_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = replace(cfg.data, task="gsm8k", data_dir=str(tmp_path), difficulty_cut=2.0)
    cfg = replace(cfg, data=data, sft=replace(cfg.sft, concise="solution", examples=8))
    problems = build(cfg, tmp_path / "run" / "problems.jsonl")
    assert not instruct  # nobody was asked
    easy = [p for p in problems if p.difficulty <= 2]
    assert len(easy) == len(problems) - len(easy) == 4
    for p in easy:
        assert p.short == f"line {p.difficulty - 1:g} 2\nThe answer is \\boxed{{{p.answer}}}."
        assert p.long.endswith(p.short)
    assert all(p.short is None for p in problems if p.difficulty > 2)
    with pytest.raises(ValueError, match=r"sft\.concise='solution' needs data\.task='gsm8k'.*'chains'"):
        replace(cfg, data=replace(data, task="chains"))


def test_both_styles_train_on_the_same_problems(cfg: Config, tmp_path: Path, instruct: list[str]) -> None:
    cfg = real(cfg, deepmath(tmp_path, 20, 20), examples=10)
    ours = build(cfg, tmp_path / "ours.jsonl")
    r1 = build(real(cfg, tmp_path, style="r1"), tmp_path / "r1.jsonl")
    assert ours == r1


def test_answers_are_cached(cfg: Config, tmp_path: Path, instruct: list[str]) -> None:
    cfg, cache = real(cfg, deepmath(tmp_path, 20, 20)), tmp_path / "run" / "problems.jsonl"
    first = build(cfg, cache)
    count = len(instruct)
    assert cache.exists()
    assert build(cfg, cache) == first
    assert len(instruct) == count


def test_a_cache_is_written_whole_or_not_at_all(
    cfg: Config, tmp_path: Path, instruct: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while writing: the next start must not read half a cache."""
    cfg, cache = real(cfg, deepmath(tmp_path, 20, 20)), tmp_path / "problems.jsonl"

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    def half(path: Path, text: str, *args, **kwargs) -> None:
        with open(path, "w") as file:
            file.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            build(cfg, cache)
    assert not cache.exists()
    assert len(build(cfg, cache)) == 20


@pytest.mark.parametrize(("easy", "hard"), [(0, 10), (10, 0)])
def test_nothing_left_is_a_clear_error(
    cfg: Config, tmp_path: Path, instruct: list[str], easy: int, hard: int
) -> None:
    cfg = real(cfg, deepmath(tmp_path, easy, hard))
    counts = rf"{easy // 2} easy problems answered correctly, {hard} hard"
    message = counts + r".*--data\.difficulty-cut \(now 5\)"
    with pytest.raises(ValueError, match=message):
        build(cfg, tmp_path / "problems.jsonl")
    assert not (tmp_path / "problems.jsonl").exists()


def test_a_missing_local_file_is_named(cfg: Config, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*deepmath_103k\.jsonl; put it there"):
        build(real(cfg, tmp_path), tmp_path / "problems.jsonl")


# ---- where RL starts from


def test_a_folder_without_a_marker_is_refused_with_the_fix(cfg: Config, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    run = Run(tmp_path, cfg, "adactrl", resumed=False, main=True)
    with pytest.raises(ValueError, match=r"no COMPLETE\.json.*--cold-start fresh"):
        cold_start.policy(replace(cfg, cold_start=str(tmp_path)), run)


def test_no_other_model_is_shipped(cfg: Config, tmp_path: Path) -> None:
    run = Run(tmp_path, cfg, "adactrl", resumed=False, main=True)
    other = replace(cfg, cold_start="shipped", model=replace(cfg.model, name="Qwen/Qwen2.5-7B-Instruct"))
    with pytest.raises(ValueError, match=r"no cold-started Qwen/Qwen2\.5-7B-Instruct is shipped"):
        cold_start.policy(other, run)


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_sft_update_has_the_same_rows_whatever_the_number_of_processes(
    cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    monkeypatch.setattr(cold_start, "SFTConfig", SimpleNamespace)  # SFTConfig would seek the other rank
    for preset in ("smoke", "small", "pretrained"):
        sft = PRESETS[preset].sft
        args = cold_start.to_sft_config(PRESETS[preset], tmp_path)
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * world_size
        assert rows == sft.batch_size, preset


def test_sft_settings(cfg: Config, tmp_path: Path) -> None:
    args = cold_start.to_sft_config(cfg, tmp_path)
    sft = cfg.sft
    assert (args.max_steps, args.learning_rate, args.warmup_steps) == (sft.steps, sft.lr, sft.warmup)
    assert (args.lr_scheduler_type, args.weight_decay, args.max_length) == ("cosine", 0.0, sft.max_length)
    assert (args.packing, args.completion_only_loss) == (False, False)
    assert args.train_sampling_strategy == "sequential"
    assert args.report_to == []
    assert sft.steps * sft.batch_size <= PRESETS["small"].sft.examples


# ---- arms


def arm(row: str, seed: int = 1) -> Config:
    job = next(j for j in reproduce.jobs("small") if j.arm.row == row and j.seed == seed)
    return job.config


def differences(a: Config, b: Config) -> set[str]:
    def flat(d: dict, at: str = "") -> dict:
        pairs = [flat(v, f"{at}{k}.") if isinstance(v, dict) else {f"{at}{k}": v} for k, v in d.items()]
        return {k: v for pair in pairs for k, v in pair.items()}

    left, right = flat(config.to_dict(a)), flat(config.to_dict(b))
    return {name for name in left if left[name] != right[name]}


def test_arms_b_and_d_differ_only_in_the_reward_switches_and_the_style() -> None:
    b, d = arm("B"), arm("D")
    rewards, start = {"algo.alpha", "algo.beta"}, {"sft.style", "cold_start", "run.output_dir"}
    assert differences(b, d) == rewards | start
    assert (b.algo.alpha, b.algo.beta, b.sft.style) == (0.0, 0.0, "r1")
    assert (d.algo.alpha, d.algo.beta, d.sft.style) == (0.5, 0.5, "adactrl")
    assert "A-seed1" in b.cold_start
    assert "C-seed1" in d.cold_start


@pytest.mark.parametrize(
    ("row", "field"),
    [("E", "algo.beta"), ("F", "algo.calibrate"), ("G", "algo.length_gate"), ("H", "algo.filter")],
)
def test_an_ablation_changes_one_switch(row: str, field: str) -> None:
    assert differences(arm(row), arm("D")) == {field, "run.output_dir"}


def test_cold_starts_differ_in_the_style_only() -> None:
    assert differences(arm("A"), arm("C")) <= {"sft.style", "gate", "run.output_dir"}
    assert arm("A").sft.style == "r1"
    assert arm("C").gate
    assert arm("A").algo.steps == arm("C").algo.steps == 0
