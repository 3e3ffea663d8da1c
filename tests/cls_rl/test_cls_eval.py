"""Evaluation: records, matchers side by side, harmonic mean, and the files it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cls_rl import eval, report
from cls_rl.config import PRESETS
from cls_rl.data import Query, Task, evenly
from cls_rl.eval import Record, load_records, save_records, summary


def record(test: str, answer: str, label: str, **more: Any) -> Record:
    same = answer == label
    values: dict[str, Any] = {"exact": same, "substring": label in answer, "in_list": same}
    values |= {"lists_all": False, "consistency": "none", "length": 4, "truncated": False}
    return Record(test, "a.png", label, answer, **{**values, **more}, text=answer)


def task(tiny: Any, count: int = 5) -> Task:
    rows = [Query(f"{i}", tiny.names[i % 7], tiny.names, "What is it?") for i in range(count)]
    tests = {"base": rows, "new": rows[:3]}
    return Task("toy", rows, tests, lambda image, side: tiny.picture(int(image), side))


def config_of(**algo: Any) -> Any:
    smoke = PRESETS["smoke"]
    return replace(
        smoke,
        algo=replace(smoke.algo, max_completion_tokens=5, **algo),
        eval=replace(smoke.eval, images=None),
    )


def test_every_image_of_every_test_set_is_a_record_and_repeats_are_equal(tiny: Any) -> None:
    first = eval.evaluate(tiny.bundle, task(tiny), config_of())
    assert [(r.test, r.image) for r in first] == [("base", f"{i}") for i in range(5)] + [
        ("new", f"{i}") for i in range(3)
    ]
    assert all(1 <= r.length <= 5 for r in first)
    again = eval.evaluate(tiny.bundle, task(tiny), config_of())
    assert [r.text for r in again] == [r.text for r in first]
    assert [r.text for r in first[:3]] == [r.text for r in first[5:]]  # the same images


def test_an_empty_thought_starts_the_graded_reply(tiny: Any) -> None:
    cfg = config_of(method="thinking")
    cfg = replace(cfg, eval=replace(cfg.eval, empty_thought=True))
    found = eval.evaluate(tiny.bundle, task(tiny), cfg)
    assert all(r.consistency == "none" for r in found)
    plain = eval.evaluate(tiny.bundle, task(tiny), config_of(method="thinking"))
    assert [r.text for r in found] != [r.text for r in plain]


def test_summary_has_every_matcher_and_h_of_base_and_new() -> None:
    rows = [
        record("base", "owl", "owl"),
        record("base", "owl, cat", "cat"),
        record("base", "x", "cat"),
        record("base", "cat", "cat"),
    ]
    rows += [record("new", "dog", "dog"), record("new", "a", "dog")]
    found = summary(rows)
    assert (found["base/exact"], found["base/substring"], found["base/n"]) == (0.5, 0.75, 4)
    assert (found["new/exact"], found["new/in_list"]) == (0.5, 0.5)
    assert found["H/exact"] == pytest.approx(0.5)
    assert found["H/substring"] == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert found["base/exact_low"] < 0.5 < found["base/exact_high"]
    assert found["base/length"] == 4
    assert "H/exact" not in summary(rows[:4])


def test_a_reply_that_lists_every_option_is_counted_and_wrong_under_exact(tiny: Any, capsys: Any) -> None:
    rows = [record("few", "cat, dog", "cat", lists_all=True), record("few", "cat", "cat")]
    found = summary(rows)
    assert (found["few/lists_all"], found["few/substring"], found["few/exact"]) == (0.5, 1.0, 0.5)
    eval.print_table(None, rows)
    assert "replies that list every option: 1 of 2" in capsys.readouterr().out


def test_records_are_read_back_equal_and_their_file_is_deterministic(tmp_path: Path) -> None:
    rows = [
        record("base", 'a "quoted", one\nline', "owl"),
        record("new", "東京", "東京", truncated=True, length=9),
        record("new", "bare\rreturn", "owl"),
    ]
    one, other = tmp_path / "one.csv.gz", tmp_path / "other.csv.gz"
    save_records(rows, one)
    save_records(rows, other)
    assert load_records(one) == rows
    assert one.read_bytes() == other.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2  # no part files


def test_evenly_takes_from_the_whole_set(tiny: Any) -> None:
    rows = task(tiny, 100).tests["base"]
    assert [q.image for q in evenly(rows, 4)] == ["0", "33", "66", "99"]
    assert evenly(rows, None) == evenly(rows, 1000) == rows


def test_contact_sheet_and_curves(tiny: Any, tmp_path: Path) -> None:
    from PIL import Image

    rows = [record("base", "owl", "owl"), record("base", "cat", "dog")]
    toy = replace(task(tiny), picture=lambda image, side: tiny.picture(0, side))
    sheet = Image.open(report.write_sheet(toy, rows, tmp_path / "sheet.png"))
    assert sheet.size == (8 * (96 + 8), 96 + 36)
    assert report.draw_curves(tmp_path) is None
    lines = '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null, "test/base/exact": 0.3}\n{"st'
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert report.read_metrics(tmp_path / "metrics.jsonl")["loss"] == {1: 0.5}
    drawn = report.draw_curves(tmp_path)
    assert drawn is not None
    assert Image.open(drawn).size[0] > 500
