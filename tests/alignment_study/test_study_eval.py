"""Rows of an evaluation, the numbers made of them, the story, and the problems they are about."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from alignment_study import data, eval, story, verifiers
from alignment_study.base_models import example
from alignment_study.config import PRESETS, Config, Data
from alignment_study.eval import Row
from alignment_study.sampling import Sample
from alignment_study.tasks import Problem, load_task

SMALL = PRESETS["small"]


def sample(strict: bool | None, formatted: bool, lenient: bool | None) -> Sample:
    return Sample("p1", "rev", strict, lenient, formatted, 11, True, "")


def test_a_row_counts_graded_samples_only() -> None:
    group = [sample(True, True, True), sample(False, True, True), sample(None, True, None)]
    group += [sample(False, False, False)]
    assert eval.row_of(group) == Row("p1", "rev", 3, 1, 2, 2)


def test_rows_survive_the_file_and_the_file_is_the_same_every_time(tmp_path: Path) -> None:
    rows = [Row("rg:gcd/1, 2", "rev", 16, 3, 9, 4), Row("é", "rotl", 16, 0, 16, 0)]
    path = eval.path_of(tmp_path, "rg:gcd", 10)
    assert path == tmp_path / "evaluations" / "rg-gcd-step10.csv.gz"
    eval.write_rows(rows, path)
    first = path.read_bytes()
    eval.write_rows(rows, path)
    assert path.read_bytes() == first
    eval.write_rows(rows[:1], eval.path_of(tmp_path, "rg:gcd", 2))
    found = eval.read_all(tmp_path, ["rg:gcd"])
    assert list(found["rg:gcd"]) == [2, 10]
    assert found["rg:gcd"][10] == rows


def test_numbers_by_hand() -> None:
    rows = [Row("a", "", 16, 8, 16, 8), Row("b", "", 16, 0, 8, 4), Row("c", "", 0, 0, 0, 0)]
    assert eval.bounds(rows)[0] == 0.25
    assert eval.bounds(rows, "formatted")[0] == 0.75
    assert eval.bounds(rows, "pass16")[0] == 0.5  # one of two items is right in 16 tries; c has no samples
    numbers = eval.metrics({"perm": {0: rows}})
    assert numbers == {"perm": {"0": {"strict": 0.25, "format": 0.75, "lenient": 0.375, "pass16": 0.5}}}
    assert all(math.isnan(x) for x in eval.bounds([Row("a", "", 8, 4, 8, 4)], "pass16"))


def test_the_gain_pairs_items_whatever_their_order() -> None:
    before = [Row(str(i), "", 10, i, 10, i) for i in range(5)]
    after = [Row(str(i), "", 10, i + 4, 10, i) for i in reversed(range(5))]
    assert eval.gain(before, after) == pytest.approx((0.4, 0.4, 0.4))  # each rose by 0.4: no width
    assert eval.show(eval.gain(before, after), "+") == "+0.400 [+0.400, +0.400]"


# ---- the story


def found(aligned: int, weak: int) -> dict[str, eval.Evaluations]:
    """Successes of 16 after RL; before it is 5 on the aligned families and 0 on the weak one."""

    def rows(count: int) -> list[Row]:
        return [Row(str(i), "", 16, count, 16, count) for i in range(20)]

    def of(trained: str, after: int) -> eval.Evaluations:
        base = {"perm": 5, "perm_transfer": 5, "caesar": 0}
        return {task: {0: rows(n), 50: rows(after if task == trained else n)} for task, n in base.items()}

    return {"aligned": of("perm", aligned), "weak": of("caesar", weak)}


@pytest.mark.parametrize(
    ("reward", "aligned", "weak", "words"),
    [
        ("random", 9, 0, ("rose", "did not clearly change", "run agrees")),
        ("random", 2, 0, ("fell", "did not clearly change", "does not agree")),
        ("random", 9, 3, ("rose", "rose", "does not agree")),
        ("ground_truth", 9, 3, ("rose", "rose", "run agrees")),
        ("ground_truth", 9, 0, ("rose", "did not clearly change", "does not agree")),
    ],
)
def test_the_sentence_says_what_was_seen(reward, aligned: int, weak: int, words: tuple[str, ...]) -> None:
    cfg = replace(SMALL, algo=replace(SMALL.algo, reward=reward))
    text = story.sentence(cfg, found(aligned, weak))
    first, second = text.split("; ", 1)
    assert f"{reward} reward: trained on perm (aligned), its accuracy {words[0]}: " in first
    assert f"trained on caesar (weak), its accuracy {words[1]}: " in second
    assert words[2] in second


def test_both_stories_are_told_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = replace(SMALL, algo=replace(SMALL.algo, samples="negative"))
    for role, measured in found(9, 0).items():
        for task, steps in measured.items():
            for step, rows in steps.items():
                eval.write_rows(rows, eval.path_of(tmp_path / role, task, step))
    metrics = story.tell(cfg, tmp_path)
    assert metrics["aligned"]["perm"]["50"]["strict"] == 9 / 16
    assert (tmp_path / story.PICTURE).read_bytes().startswith(b"\x89PNG")
    text = capsys.readouterr().out
    for word in (
        "ground_truth reward, negative samples only",
        "trained on perm (aligned)",
        "trained on caesar",
    ):
        assert word in text
    for cell in (
        "0.312 [0.312, 0.312]",
        "1.000 [1.000, 1.000] strong",
        "0.000 [0.000, 0.000] weak",
        "+0.250 [",
    ):
        assert cell in text


def test_one_family_is_a_story_of_its_own(tmp_path: Path) -> None:
    cfg = replace(SMALL, families="weak")
    assert story.folders(cfg, tmp_path) == [tmp_path]
    assert "The paper reports" not in story.sentence(cfg, {"weak": found(9, 0)["weak"]})


# ---- problems


def questions(folder: Path, count: int = 60, **odd: str) -> Path:
    path = folder / "mine.jsonl"
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(count)] + [odd] * bool(odd)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trained_on(path: Path, **change: str) -> Config:
    return replace(SMALL, data=Data(aligned=path.name, weak="rg:gcd", data_dir=str(path.parent)), **change)


def test_a_file_without_splits_is_divided_and_never_meets_itself(tmp_path: Path) -> None:
    cfg = trained_on(questions(tmp_path))
    train = data.training_task(cfg, "mine.jsonl")
    test = data.evaluation_tasks(cfg)["mine.jsonl"]
    first, second = ({p.question for p in t.problems} for t in (train, test))
    assert not first & second
    assert len(first | second) == 60
    assert 4 <= len(second) <= 24  # 20 % of 60
    again = data.evaluation_tasks(replace(cfg, run=replace(cfg.run, seed=7), families="weak"))
    assert again["mine.jsonl"].problems == test.problems  # the same for every seed and arm


def test_families_are_split_by_the_generator() -> None:
    train, test = data.training_task(SMALL, "caesar"), data.evaluation_tasks(SMALL)["caesar"]
    assert not {p.id for p in train.problems} & {p.id for p in test.problems}
    assert len(test.problems) == 128
    assert train.max_new_tokens == 11


def test_rejected_golds_and_too_few_problems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only_this: .*|fewer than the algo.prompts_per_step=16"):
        data.training_task(trained_on(questions(tmp_path, 10)), "mine.jsonl")
    broken = replace(load_task("caesar", n=4), verify=lambda answer, gold: False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_task", lambda *args, **kwargs: broken)
        with pytest.raises(ValueError, match="does not accept 4 of 4 golds"):
            data.training_task(SMALL, "caesar")


def test_released_math_has_no_verifier() -> None:
    letters = load_task("perm", n=4)
    mathematics = replace(letters, verify=verifiers.mathematics)
    assert data.reward_verifier(mathematics, released=True) is None
    assert data.reward_verifier(mathematics, released=False) is verifiers.mathematics
    assert data.reward_verifier(letters, released=True) is letters.verify


def test_selection_by_variance_reads_the_history(tmp_path: Path) -> None:
    task = load_task("perm", split="train", n=8)
    names = [p.id for p in task.problems]
    past = tmp_path / "history.json"
    past.write_text(json.dumps({names[2]: [0.0, 1.0], names[3]: [0.5, 0.5], "gone": [0, 1, 0]}))
    algo = replace(SMALL.algo, samples="one_shot", selection="variance", history=str(past))
    cfg = replace(SMALL, algo=algo)
    copies = data.one_shot_copies(cfg, task, None, None, tmp_path)
    assert [p.id for p in copies] == [names[2]] * 16
    assert json.loads((tmp_path / data.EXAMPLE_FILE).read_text())["subtask"] == task.problems[2].subtask
    past.write_text("[")  # the choice is made once
    assert data.one_shot_copies(cfg, task, None, None, tmp_path) == copies
    with pytest.raises(ValueError, match=r"cannot read algo\.history"):
        data.one_shot_copies(cfg, task, None, None, tmp_path / "new")


def test_the_warm_up_teaches_form_and_the_right_answer() -> None:
    problem = Problem("1", "Ann has 3 eggs. How many?", "prompt", "3", "3", "")
    assert example(problem) == "<think> How many? </think> <answer> 3 </answer>"
