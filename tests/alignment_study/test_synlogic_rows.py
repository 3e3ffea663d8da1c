"""SynLogic-Easy's rows in the hub's format: read, refused, graded, and written without the bad ones."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from alignment_study import data, plan, rewards, sampling
from alignment_study.config import PRESETS, Data
from alignment_study.synlogic import check
from alignment_study.tasks import LOGIC_ANSWER, check_golds, load_task

CFG = PRESETS["paper-qwen-logic"]


def row(task: str, answer: Any, metadata: dict | None = None, **extra: Any) -> dict[str, Any]:
    """As the hub's parquet files have it."""
    game = {"question": f"the {task} puzzle", "answer": answer, "difficulty": 1, "metadata": metadata or {}}
    return {
        "data_source": task,
        "prompt": [{"role": "user", "content": f"Think, then answer. The {task} puzzle"}],
        "ability": "logic",
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            "game_data_str": json.dumps(game),
            "index": 0,
            "original_question": None,
            "original_answer": None,
            "split": "train",
        }
        | extra,
    }


ROWS = [
    row("object_properties", "7"),
    row("val/space_reasoning", "lamp"),
    row("mathador", "", {"numbers": [2, 3, 4], "operators": ["*"], "result": 24}),
    row("dyck_language_errors", "4", {"is_valid": False, "first_error_pos": 4}),
    row(
        "zebra_puzzle",
        None,
        game_data_str=None,
        original_question="who?",
        original_answer=json.dumps({"House 1": "cat"}),
    ),
    row("math_path", "2 + 4 = 6", {"query_expr": "2 + ? = 6"}),
]


def folder(tmp_path: Path, rows: list, name: str = "train.jsonl") -> Path:
    path = tmp_path / "synlogic_easy" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return tmp_path


def test_rows_become_problems_with_a_verifier_each(tmp_path: Path) -> None:
    task = load_task("synlogic-easy", split="train", n=100, data_dir=folder(tmp_path, ROWS))
    check_golds(task)
    games = [p.subtask for p in task.problems]
    assert games == [
        "object_properties",
        "space_reasoning",
        "mathador",
        *(r["data_source"] for r in ROWS[3:]),
    ]
    assert task.problems[0].prompt == "Think, then answer. The object_properties puzzle"
    assert task.problems[0].question == "the object_properties puzzle"
    assert task.problems[4].question == "who?"
    assert task.problems[0].answer == r"\boxed{7}"
    assert task.problems[2].answer == ""  # its rows store no solution
    right = [r"\boxed{7}", r"\boxed{Lamp}", "```python\n2*3*4\n```", "4", '{"House 1": "cat"}', "[[2+4=6]]"]
    golds = [p.gold for p in task.problems]
    assert task.grade(right, golds) == [True] * 6
    assert task.grade([*right[1:], right[0]], golds) == [False] * 6
    assert task.grade([None] * 6, golds) == [False] * 6


def test_an_answer_of_another_form_is_wrong_not_a_failure(tmp_path: Path) -> None:
    """A failure would drop the prompt's whole group from the step."""
    task = load_task("synlogic-easy", split="train", data_dir=folder(tmp_path, ROWS))
    texts = [
        r"<think>a</think><answer>\boxed{7}</answer>",
        "<think>a</think><answer>7</answer>",
        r"<answer>\boxed{7}</answer>",
        "<think>a</think><answer></answer>",
    ]
    gold = task.problems[0].gold
    scores = {
        k: rewards.score_group(k, texts, gold, verify=task.verify) for k in ("ground_truth", "incorrect")
    }
    assert scores == {"ground_truth": [1, 0, 0, 0], "incorrect": [0, 1, 0, 1]}


def test_parquet_and_a_random_part(tmp_path: Path) -> None:
    path = tmp_path / "synlogic_easy" / "validation.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    task = load_task("synlogic-easy", n=4, seed=1, data_dir=tmp_path)
    check_golds(task)
    assert len(task.problems) == 4
    assert task.problems == load_task("synlogic-easy", n=4, seed=1, data_dir=tmp_path).problems
    assert {p.gold for p in task.problems} <= {f"validation.parquet row {i}" for i in range(1, 7)}


def without(field: str) -> dict[str, Any]:
    return {key: value for key, value in ROWS[0].items() if key != field}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            row("minesweeper", "1"),
            r"line 2: no verifier for data_source 'minesweeper'; .* has arc_agi, .*zebra",
        ),
        (row("bbeh_linguini", "1"), "no verifier for data_source 'bbeh_linguini'"),
        (without("data_source"), "no verifier for data_source ''"),
        (without("extra_info"), r"line 2 \(object_properties\): no extra_info"),
        (without("prompt"), "no prompt; give a list with one user message"),
        (
            row("sudoku", "x", {"grid": []}),
            "metadata lacks original_sudoku, which the rules need; it has grid",
        ),
        (row("numbrix", ""), "lacks grid, .*; it has nothing"),
        (row("survo", "", game_data_str="{broken"), "game_data_str is not an object .*JSONDecodeError"),
        (row("survo", "", game_data_str="[1]"), "game_data_str is not an object"),
        (row("survo", "", game_data_str='{"answer": 1, "metadata": [1]}'), "metadata is a list"),
        (row("zebra_puzzle", "", game_data_str=None), "neither game_data_str nor original_answer"),
        (["no row"], r"line 2: \"\['no row'\]\" is no row"),
    ],
)
def test_bad_rows_are_refused_with_their_place(tmp_path: Path, bad: Any, message: str) -> None:
    where = folder(tmp_path, [ROWS[0], bad])
    with pytest.raises(ValueError, match=message):
        load_task("synlogic-easy", split="train", data_dir=where)


def test_golds_that_a_verifier_rejects_are_refused_before_training(tmp_path: Path) -> None:
    bad = [
        row("dyck_language_errors", "None", {"is_valid": False, "first_error_pos": None}),
        row("math_path", "2 + 4 = 7", {"query_expr": "2 + ? = 7"}),
    ]
    cfg = replace(CFG, data=Data(data_dir=str(folder(tmp_path, [*ROWS, *bad]))))
    with pytest.raises(
        ValueError, match=r"2 of 7 golds \(train\.jsonl line 7 gold 'None': rejected; train"
    ) as error:
        data.training_task(cfg, "synlogic-easy")
    assert "line 8 gold '[[2 + 4 = 7]]': rejected" in str(error.value)


def test_the_presets_task_trains_on_train_and_tests_on_validation(tmp_path: Path) -> None:
    folder(tmp_path, ROWS)
    folder(tmp_path, ROWS[:2], "validation.jsonl")
    cfg = replace(
        CFG,
        data=Data(data_dir=str(tmp_path)),
        algo=replace(CFG.algo, prompts_per_step=4),
        eval=replace(CFG.eval, tasks=("synlogic-easy",)),
    )
    assert cfg.cells == {"trained": "synlogic-easy"}
    assert len(data.training_task(cfg, "synlogic-easy").problems) == 6
    tested = data.evaluation_tasks(cfg)["synlogic-easy"]
    assert [p.gold for p in tested.problems] == ["validation.jsonl line 1", "validation.jsonl line 2"]
    assert tested.max_new_tokens == 8192
    assert data.reward_verifier(tested, released=True) is tested.verify


def test_a_missing_file_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no synlogic_easy/train\.\* in"):
        load_task("synlogic-easy", split="train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="has no validation split, only train, test"):
        load_task("synlogic-easy", split="validation")


def test_the_hubs_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []

    def load_dataset(*args: Any, split: str, revision: str | None) -> list[dict]:
        asked.append((*args, split))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_task("synlogic-easy", split="train").problems[0].id == "synlogic-easy/0"
    load_task("synlogic-easy")
    assert asked == [("MiniMaxAI/SynLogic", "easy", "train"), ("MiniMaxAI/SynLogic", "easy", "validation")]

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        ConnectionError, match=r"MiniMaxAI/SynLogic.*no network.*--data-dir with synlogic_easy/"
    ):
        load_task("synlogic-easy")


def test_the_plan_names_the_sources_and_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: pytest.fail("downloads"))
    found = plan.lines(CFG)
    assert "synlogic-easy (MiniMaxAI/SynLogic @ newest)" in found["training"]
    assert found["evaluation"].count("github.com/KOR-Bench/KOR-Bench @ ") == 5
    local = plan.lines(replace(CFG, data=Data(data_dir="rows")))
    assert "synlogic-easy in rows" in local["training"]
    assert "kor-cipher in rows" in local["evaluation"]
    assert CFG.eval.tasks == PRESETS["paper-llama-logic"].eval.tasks


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First.\n```python\n[[1, 2],\n [2, 1]]\n```", "```python\n[[1, 2],\n [2, 1]]\n```"),
        ("so\n[\n  [1, 2],\n  [2, 1],\n]", "[\n  [1, 2],\n  [2, 1],\n]"),
        ("it is\n[[1 2,2 1]]", "it is\n[[1 2,2 1]]".splitlines()[1]),
        ("one\ntwo", "two"),
        (r"it is \boxed{7}, I think", r"it is \boxed{7}, I think"),
    ],
)
def test_the_lenient_candidate(tmp_path: Path, text: str, answer: str) -> None:
    task = load_task("synlogic-easy", split="train", data_dir=folder(tmp_path, ROWS))
    assert task.candidate == LOGIC_ANSWER
    assert sampling.candidate(text, task) == answer
    boxed = "no tags, but it is \\boxed{7}."
    assert sampling.grade(task, task.problems[:1], [boxed]) == [(False, True)]
    start = time.process_time()
    for piece in ("[[", "[ ", "[[1],", "```", "[[1]\n", " ", "\\boxed{"):
        sampling.candidate(piece * (40_000 // len(piece)), task)
    assert time.process_time() - start < 3


def test_the_check_keeps_the_good_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [
        row("minesweeper", "1"),
        row("dyck_language_errors", "5", {"is_valid": True, "first_error_pos": 4}),
    ]
    folder(tmp_path, [*ROWS, *bad])
    folder(tmp_path, ROWS, "validation.jsonl")
    check.main(["--data-dir", str(tmp_path), "--out", str(tmp_path / "good")])
    text = capsys.readouterr().out
    assert "train: 8 rows, 2 refused" in text
    assert "validation: 6 rows, 0 refused" in text
    assert "line 8 (dyck_language_errors): gold '5' rejected" in text
    kept = load_task("synlogic-easy", split="train", data_dir=tmp_path / "good")
    check_golds(kept)
    assert len(kept.problems) == 6
    with pytest.raises(SystemExit):
        check.main(["--data-dir", str(tmp_path), "--out", str(tmp_path / "good" / "..")])
    with pytest.raises(SystemExit):
        check.main(["--data-dir", str(tmp_path / "none")])
    said = capsys.readouterr().err
    assert "is the folder that is read; name another" in said
    assert "no synlogic_easy/train.* in" in said
    folder(tmp_path, ROWS, "train.parquet")
    with pytest.raises(ValueError, match=r"train\.jsonl, train\.parquet in .*: keep one of them"):
        load_task("synlogic-easy", split="train", data_dir=tmp_path)
