"""Tasks and verifiers: every name, every kind of answer, and golds that a verifier does not accept."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from alignment_study import families, verifiers
from alignment_study.tasks import INSTRUCTION, Problem, Task, check_golds, load_task

DATA = Path(__file__).parents[3] / "shared" / "data" / "math"


def data_dir(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"no {DATA / name}: the local data sets are not here")
    return DATA


@pytest.mark.parametrize("name", families.FAMILIES)
def test_generated_families(name: str) -> None:
    task = load_task(name, split="test", n=40, seed=1)
    assert len(task.problems) == 40
    check_golds(task)
    assert task == load_task(name, split="test", n=40, seed=1)
    p = task.problems[0]
    assert p.prompt == f"{p.question} ="
    assert p.subtask == p.prompt.split()[0]
    assert task.grade([p.answer, f" {p.answer}  ", "a", None, ""], [p.gold] * 5) == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_more_problems_than_there_are_give_all() -> None:
    task = load_task("perm", n=10_000)
    assert 700 < len(task.problems) <= 800
    assert len({p.id for p in task.problems}) == len(task.problems)


@pytest.mark.parametrize("name", ["nosuch", "rg:nosuch", "rg:composite"])
def test_unknown_tasks_list_the_known(name: str) -> None:
    with pytest.raises(ValueError, match="choose") as error:
        load_task(name)
    assert ("chain_sum" if name.startswith("rg:") else "caesar") in str(error.value)


def test_bad_numbers_and_splits() -> None:
    with pytest.raises(ValueError, match="n=0"):
        load_task("perm", n=0)
    with pytest.raises(ValueError, match="math500 has no train split, only test"):
        load_task("math500", split="train")
    with pytest.raises(FileNotFoundError, match="--data-dir"):
        load_task("svamp")


# ---- reasoning-gym


@pytest.mark.parametrize(
    "dataset", ["chain_sum", "spell_backward", "countdown", "n_queens", "propositional_logic"]
)
def test_reasoning_gym_scores_with_its_own_verifier(dataset: str) -> None:
    task = load_task(f"rg:{dataset}", n=6, seed=2)
    assert task.problems == load_task(f"rg:{dataset}", n=6, seed=2).problems
    assert task.problems != load_task(f"rg:{dataset}", n=6, seed=3).problems
    assert task.problems != load_task(f"rg:{dataset}", n=6, seed=2, split="train").problems
    check_golds(task)
    p = task.problems[0]
    assert p.prompt == f"{INSTRUCTION}\n\n{p.question}"
    assert task.grade(["no such answer"], [p.gold]) == [False]


def test_a_second_right_answer_is_right() -> None:
    task = load_task("rg:countdown", n=3, seed=0)
    p = task.problems[0]
    assert task.grade([f"({p.answer})", f"{p.answer} + 1"], [p.gold] * 2) == [True, False]


def test_partial_credit_is_not_right() -> None:
    task = load_task("rg:n_queens", n=1, seed=0)
    rows = [row.split() for row in task.problems[0].answer.split("\n")]
    assert task.grade([str(rows)], [task.problems[0].gold]) == [False]  # reasoning-gym gives it 0.5


@pytest.mark.parametrize("dataset", sorted(verifiers.EVALUATED | verifiers.PARSED))
def test_no_answer_is_evaluated(dataset: str, tmp_path: Path) -> None:
    """Code in an answer does not run, and a tower of powers does not hang the verifier."""
    task = load_task(f"rg:{dataset}", n=1, seed=0)
    check_golds(task)
    (tmp_path / "there").touch()
    code = f"__import__('os').remove({str(tmp_path / 'there')!r})"
    start = time.monotonic()
    answers = [
        code,
        f"[{code}]",
        "9**9**9**9",
        "(((9**99)**99)**99)**99",
        "[1]*10**9",
        "1" * 5000,
        "\\frac{1}{2}",
    ]
    assert task.grade(answers, [task.problems[0].gold] * len(answers)) == [False] * len(answers)
    assert (tmp_path / "there").exists()
    assert time.monotonic() - start < 20


def test_readable_takes_linear_time() -> None:
    start = time.process_time()
    assert not verifiers.readable("countdown", "1" * 299 + "!")
    assert time.process_time() - start < 1


# ---- mathematics and JSONL


@pytest.mark.parametrize("name", ["gsm8k", "aime24", "aime25", "svamp", "mawps"])
def test_local_mathematics(name: str) -> None:
    task = load_task(name, n=30, data_dir=data_dir("gsm8k_test.jsonl"))
    assert len(task.problems) == 30
    check_golds(task)
    assert "####" not in "".join(p.answer for p in task.problems)
    assert not any(p.answer.endswith(".0") for p in task.problems)
    p = task.problems[3]
    wrong = str(int(float(p.answer)) + 1)
    graded = task.grade([p.answer, f"\\boxed{{{p.answer}}}", f"${p.answer}$", wrong, None], [p.gold] * 5)
    assert graded == [True, True, True, False, False]


def test_gsm8k_train_and_test_differ_and_svamp_tells_its_story() -> None:
    folder = data_dir("gsm8k_train.jsonl")
    train = load_task("gsm8k", split="train", n=20, data_dir=folder)
    assert not {p.question for p in train.problems} & {
        p.question for p in load_task("gsm8k", n=2000, data_dir=folder).problems
    }
    assert all(len(p.question) > 60 for p in load_task("svamp", n=20, data_dir=folder).problems)


@pytest.mark.slow
def test_math500_golds() -> None:
    check_golds(load_task("math500", n=60, data_dir=data_dir("math500_test.jsonl")))


def test_missing_local_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no gsm8k_test\.jsonl in"):
        load_task("gsm8k", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="give a JSONL file"):
        load_task(str(tmp_path / "none.jsonl"))


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", r"own\.jsonl line 2 is not JSON"),
        ({"question": "1+1?"}, r"own\.jsonl line 2: no value for the field 'answer'.*the row has question"),
        ({"answer": "2"}, r"own\.jsonl line 2: no value for the field 'question'"),
        ({"question": "1+1?", "answer": "  "}, r"line 2: no value for the field 'answer'"),
        ([1], r"line 2: '\[1\]' is no JSON object"),
    ],
)
def test_bad_rows_name_file_line_and_field(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "own.jsonl", {"question": "1+1?", "answer": "2"}, row)
    with pytest.raises(ValueError, match=message):
        load_task(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        load_task(write(tmp_path / "own.jsonl", ""))


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (2, ["2", " 2 ", "2.0", "\\boxed{2}"], ["3", "", "two"]),
        ("1/2", ["1/2", "\\frac{1}{2}", "0.5"], ["1/3", "2/1"]),
        (
            "[1, 2, 'a b']",
            ["[1,2,'a b']", "(1, 2, 'a  b')", "[1.0, 2, 'a b']"],
            ["[2, 1, 'a b']", "1, 2", "[["],
        ),
        ([[1], [2]], ["[[1], [2]]"], ["[[1, 2]]", "__import__('os')"]),
        ("{'a': 1}", ["{'a': 1}", "{'a':1.0}"], ["{'a': 2}", "[1]"]),
        ("New  York", ["New York", "New\nYork"], ["new york", "York"]),
        ("café", ["cafe\u0301", "café"], ["cafe"]),
        ("東京", ["東京"], ["京都"]),
        ("x\\ge 2", ["x \\ge 2"], ["5} junk {"]),
    ],
)
def test_every_kind_of_answer(tmp_path: Path, gold: object, right: list[str], wrong: list[str]) -> None:
    task = load_task(write(tmp_path / "own.jsonl", {"question": "What?", "answer": gold}))
    check_golds(task)
    golds = [task.problems[0].gold] * (len(right) + len(wrong))
    assert task.grade([*right, *wrong], golds) == [True] * len(right) + [False] * len(wrong)


def test_an_answer_with_a_right_part_in_unbalanced_braces_is_wrong() -> None:
    assert verifiers.mathematics("5} or {6", "5") is False
    assert verifiers.mathematics("5", "5") is True


def test_a_verifier_that_fails_gives_none() -> None:
    def verify(answer: str, gold: str) -> bool | None:
        raise RecursionError

    task = replace(load_task("perm", n=1), verify=verify)
    assert task.grade(["a b c", None], ["a b c"] * 2) == [None, False]


def test_golds_that_the_verifier_rejects_are_listed() -> None:
    rows = [Problem(f"row {i}", "q", "q", str(i), str(i), "own") for i in range(10)]
    task = Task("own", "test", tuple(rows), lambda answer, gold: int(gold) < 3 or None, "x", 8)
    with pytest.raises(
        ValueError, match=r"own: .* 7 of 10 golds \(row 3 gold '3': verifier failed.*and 2 more"
    ):
        check_golds(task)
    task = replace(task, verify=lambda answer, gold: gold != "4")
    with pytest.raises(ValueError, match=r"1 of 10 golds \(row 4 gold '4': rejected\); correct or remove"):
        check_golds(task)


def test_equal_pairs_are_verified_once() -> None:
    calls = []
    task = replace(load_task("perm", n=1), verify=lambda a, g: bool(calls.append((a, g))) or a == g)
    assert task.grade(["a", "a", "b"], ["a", "a", "a"]) == [True, True, False]
    assert calls == [("a", "a"), ("b", "a")]


def test_few_different_golds_are_an_answer_space(tmp_path: Path) -> None:
    rows = [{"question": f"is {i} even?", "answer": "yes" if i % 2 else "no"} for i in range(20)]
    assert load_task(write(tmp_path / "own.jsonl", *rows)).answer_space == 2
    rows = [{"question": f"{i}?", "answer": i} for i in range(20)]
    assert load_task(write(tmp_path / "own.jsonl", *rows)).answer_space is None
    assert load_task("caesar", n=5).answer_space == 1000
