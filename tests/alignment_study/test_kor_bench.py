"""KOR-Bench: how the answers of each rule are compared, on answers of ours, and its files in their format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment_study import data, kor_bench, rewards
from alignment_study.config import PRESETS, Data
from alignment_study.kor_bench import grade, inner
from alignment_study.tasks import INSTRUCTION, check_golds, load_task


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[[24]]", "24"),
        ("It is [[ a b ]], not [[c]].", "a b"),
        ("[[p&q];[~p]]", "p&q];[~p"),
        ("[[[a]b]]", "[a]b"),
        ("[[[a;b]]]", "[a;b]"),
        ("[[two\nlines]]", "two\nlines"),
        ("[24]", None),
        (r"\boxed{24}", None),
        ("[[24]", None),
        ("", None),
        ("[[1]]" + " " * 20_000, None),
    ],
)
def test_the_answer_stands_in_double_brackets(text: str, found: str | None) -> None:
    assert inner(text) == found


@pytest.mark.parametrize(
    ("category", "rule", "idx", "gold", "right", "wrong"),
    [
        (
            "cipher",
            1,
            1,
            "[[AB#C]]",
            ["[[AB#C]]", '[["A B#C"]]', "so [[AB#C]]."],
            ["[[ABC]]", "[[ab#c]]", "AB#C"],
        ),
        ("counterfactual", 1, 1, "[[C]]", ["[[C]]"], ["[[A]]", "[[C, D]]", "C"]),
        ("logic", 1, 1, "[[p1&p2];[~p3]]", ["[[p1 & p2]; [~p3]]"], ["[[~p3];[p1&p2]]", "[[p1&p2]]"]),
        (
            "logic",
            5,
            41,
            "[[I,O];[+,-];[-,+]]",
            ["[[I,O];[-,+];[+,-]]"],
            ["[[I,O];[+,-]]", "[[I,O];[+,-];[+,+]]"],
        ),
        ("operation", 1, 1, "[[10/3]]", ["[[10/3]]", "[[ 10 / 3 ]]"], ["[[3.33]]", "[[10/4]]"]),
        (
            "operation",
            2,
            15,
            "[[4or-12]]",
            ["[[-12 or 4]]", r"[[4 \text{or} -12]]"],
            ["[[4]]", "[[4 or 12]]"],
        ),
        (
            "operation",
            18,
            171,
            "[[{1,2,12}]]",
            ["[[{12, 1, 2}]]", r"[[\{1,2,12\}]]"],
            ["[[{1,2,21}]]", "[[{1,2,1,2}]]"],
        ),
        (
            "operation",
            18,
            178,
            "[[{x∣x≤-1 or x≥2}]]",
            [r"[[x \geq 2 or x \leq -1]]"],
            ["[[x≥2]]", "[[x≤1 or x≥2]]"],
        ),
        (
            "operation",
            23,
            221,
            "[[((1,-2),(3,4))]]",
            ["[[(1, -2), (3, 4)]]"],
            ["[[((1,2),(3,4))]]", "[[((1,-2),(3))]]"],
        ),
        (
            "operation",
            8,
            73,
            r"[[2\sqrt{11}]]",
            [r"[[\sqrt{44}]]", r"[[x = 2\sqrt{11}]]"],
            [r"[[\sqrt{11}]]"],
        ),
        ("operation", 2, 18, r"[[1+\sqrt{2}or3]]", [r"[[3 or \sqrt{2}+1]]"], ["[[3]]", r"[[3 or \sqrt{2}]]"]),
        ("puzzle", 1, 1, "[[nine ten]]", ["[[Nine, ten]]"], ["[[ten nine]]"]),
        ("puzzle", 2, 11, "[[able,ible]]", ["[[-able]]", "[[ible]]"], ["[[ab]]", "[[able,ible]]", "[[ ]]"]),
        ("puzzle", 3, 21, "[[tea ate]]", ["[[ATE, tea]]"], ["[[tea]]", "[[tea ate eat]]"]),
        ("puzzle", 4, 31, "[[pale leap]]", ["[[Leap]]", "[[pale]]"], ["[[ale]]", "[[]]", "[[paleleap]]"]),
        ("puzzle", 5, 41, "[[A=1,B=9]]", ["[[B=9, A=1]]"], ["[[A=1]]", "[[A=9,B=1]]"]),
        (
            "puzzle",
            9,
            81,
            "[[6+2*3=12]]",
            ["[[6 + 2 × 3 = 12]]"],
            ["[[5+3*2=11]]", "[[3+3*3=12]]", "[[6+2*3]]"],
        ),
        (
            "puzzle",
            10,
            93,
            "[[(7*5-9)-2 \n7*5-(9+2)]]",
            ["[[7*5-9-2]]", "[[7×5−(2+9)=24]]"],
            ["[[7*5-11]]", "[[12*2]]"],
        ),
        ("puzzle", 10, 91, "[[(9+5-2)×2]]", ["[[2*(9+5-2)]]"], ["[[9+5*2]]", "[[__import__('os')]]", "[[]]"]),
        ("puzzle", 18, 171, "[[← 9 →,↑ ↓ ↑]]", ["[[←9→, ↑↓↑]]"], ["[[→ 9 ←,↑ ↓ ↑]]"]),
        ("puzzle", 16, 151, "[[1 3\t2,2 1 3]]", ["[[1 3 2,2 1 3]]", "[[1 3 2\n2 1 3]]"], ["[[1 2 3,2 1 3]]"]),
    ],
)
def test_rules(category: str, rule: int, idx: int, gold: str, right: list[str], wrong: list[str]) -> None:
    for text in right:
        assert grade(category, text, gold, rule=str(rule), idx=idx) is True, text
    for text in wrong:
        assert grade(category, text, gold, rule=str(rule), idx=idx) is False, text


@given(
    st.one_of(st.text(max_size=40), st.text("[]{}()0129+-*/=,; or≤\\\n", max_size=40)),
    st.sampled_from(kor_bench.CATEGORIES),
    st.sampled_from(["1", "2", "4", "5", "9", "10", "18", "23"]),
)
def test_no_text_raises(text: str, category: str, rule: str) -> None:
    for idx in (1, 178):
        assert grade(category, f"[[{text}]]", "[[1,2]]", rule=rule, idx=idx) in (True, False)
        assert grade(category, text, "[[1,2]]", rule=rule, idx=idx) in (True, False)


# ---- files


def folder(tmp_path: Path, category: str, samples: list, rules: list | None = None) -> Path:
    where = tmp_path / "kor_bench" / category
    where.mkdir(parents=True)
    default = [{"idx": "2", "title": "※", "rule_content": "a※b = a+2b", "tag": "Basic Level"}]
    for name, rows in (("sample", samples), ("rule", default if rules is None else rules)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (where / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def sample(idx: int, question: str, answer: str, rule: str = "2") -> dict[str, Any]:
    return {"idx": str(idx), "question": question, "answer": answer, "rule_id": rule, "needle": ["a"]}


def test_a_category_becomes_a_task(tmp_path: Path) -> None:
    rows = [sample(i, f"Compute {i}※1. Answer like [[your answer]].", f"[[{i + 2}]]") for i in range(1, 31)]
    task = load_task("kor-operation", n=1000, data_dir=folder(tmp_path, "operation", rows))
    check_golds(task)
    problem = task.problems[4]
    assert (problem.id, problem.subtask, problem.answer) == ("kor-operation/5", "2 ※", "[[7]]")
    assert problem.prompt.startswith(INSTRUCTION)
    assert "a※b = a+2b" in problem.prompt
    assert problem.prompt.endswith("Compute 5※1. Answer like [[your answer]].")
    texts = ["<think>x</think><answer>[[7]]</answer>", "<think>x</think><answer>7</answer>", "[[7]]"]
    assert rewards.score_group("ground_truth", texts, problem.gold, verify=task.verify) == [1, 0, 0]
    assert len(load_task("kor-operation", n=7, data_dir=tmp_path).problems) == 7


def test_a_puzzle_with_several_answers_is_checked_with_one(tmp_path: Path) -> None:
    rows = [sample(1, "a suffix?", "[[able,ible]]"), sample(2, "24?", "[[6*4*1 \n6*4/1]]", "10")]
    rules = [{"idx": i, "rule_content": "words"} for i in ("2", "10")]
    task = load_task("kor-puzzle", data_dir=folder(tmp_path, "puzzle", rows, rules))
    assert [p.answer for p in task.problems] == ["[[able]]", "[[6*4*1]]"]
    check_golds(task)


def test_golds_without_brackets_are_refused(tmp_path: Path) -> None:
    where = folder(tmp_path, "cipher", [sample(1, "Encrypt A", "B"), sample(2, "Encrypt B", "[[C]]")])
    cfg = replace(PRESETS["paper-qwen-logic"], data=Data(data_dir=str(where)))
    cfg = replace(cfg, eval=replace(cfg.eval, tasks=("kor-cipher",)))
    with pytest.raises(ValueError, match=r"kor-cipher: .* 1 of 2 golds \(kor-cipher/1 gold 'B': rejected"):
        data.evaluation_tasks(cfg)


def test_bad_files(tmp_path: Path) -> None:
    folder(tmp_path, "logic", [sample(1, "?", "[[A]]", rule="9")])
    with pytest.raises(ValueError, match=r"sample\.jsonl line 1: no rule '9' in the logic rules"):
        load_task("kor-logic", data_dir=tmp_path)
    folder(tmp_path, "puzzle", [{"idx": "1", "question": "?"}])
    with pytest.raises(ValueError, match=r"line 1: needs idx, question, answer, rule_id"):
        load_task("kor-puzzle", data_dir=tmp_path)
    folder(tmp_path, "cipher", [])
    with pytest.raises(ValueError, match="kor-cipher holds no rows"):
        load_task("kor-cipher", data_dir=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no kor_bench/operation/rule\.jsonl in .* KOR-Bench/KOR-Bench"
    ):
        load_task("kor-operation", data_dir=tmp_path)
    with pytest.raises(ValueError, match="kor-cipher has no train split, only test"):
        load_task("kor-cipher", split="train", data_dir=tmp_path)


def test_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load_dataset(kind: str, data_files: str, split: str) -> list[dict]:
        asked.append(data_files)
        assert (kind, split) == ("json", "train")
        rules = [{"idx": "1", "title": "t", "rule_content": "r"}]
        return rules if "rule" in data_files else [sample(1, "?", "[[A]]", "1")]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    check_golds(load_task("kor-counterfactual"))
    base = f"https://raw.githubusercontent.com/KOR-Bench/KOR-Bench/{kor_bench.COMMIT}/data/counterfactual"
    assert asked == [f"{base}/rule.jsonl", f"{base}/sample.jsonl"]

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ConnectionError, match=r"no network.*--data-dir with kor_bench/cipher/rule\.jsonl"):
        load_task("kor-cipher")
