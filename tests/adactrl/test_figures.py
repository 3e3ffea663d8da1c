"""Figures and sample texts of a run folder, from synthetic metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.image import imread

from adactrl.eval import Sample, save_samples
from adactrl.figures import MODE_COLORS, SampleWriter, draw_run, learning_curves, modes, read_metrics
from adactrl.tags import MODES
from adactrl.trainer import Group

TIERS = ("T1", "T2", "T3")


def write_metrics(path: Path, names: list[str], steps: int = 24) -> None:
    lines = [json.dumps({"step": s, **dict.fromkeys(names, s / steps)}) for s in range(1, steps + 1)]
    path.write_text("\n".join(lines) + "\n")


def write_samples(run_dir: Path, stage: str, length: int, sets: tuple[str, ...] = TIERS) -> None:
    rows = [
        Sample(name, f"{name}/{i}", mode, "easy", i < 6, length * (x + 1), False, "[Easy] 1")
        for name in sets
        for x, mode in enumerate(MODES)
        for i in range(8)
    ]
    save_samples(rows, run_dir / f"samples-{stage}.jsonl")


def title(axis: Axes) -> str:
    return axis.get_title("left") or axis.get_title()


def group(tier: str, question: str) -> Group:
    return Group(
        row={"prompt": [{"role": "user", "content": question}], "answer": "4", "tier": tier},
        prompt_ids=[[1]] * 5,
        completion_ids=[[1, 2, 3]] * 5,
        texts=["[Easy] \\boxed{ 4 }", "[Hard] no", "???", "[Easy] 2", "the fifth"],
        logprobs=None,
        correct=[True, False, None, False, False],
        tags=["easy", "hard", None, "easy", None],
    )


def test_read_metrics_skips_null_and_a_half_written_line_and_keeps_the_later_value(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "a": 5}\n{"step": 1, "a": 1, "b": null}\n{"step": 2, "a": 3}\n{"step": 3, "a"'
    )
    series = read_metrics(path)
    assert list(series) == ["a"]
    assert series["a"][0].tolist() == [1, 2]
    assert series["a"][1].tolist() == [1, 3]
    assert read_metrics(tmp_path / "missing") == {}


def test_learning_curves_show_every_quantity_and_only_the_tiers(tmp_path: Path) -> None:
    shown = ("accuracy", "length", "easy_tag", "easy_label")
    names = [f"rollout/{tier}/{name}" for tier in (*TIERS, "all") for name in shown]
    names += [f"rewards/{part}/mean" for part in ("outcome", "overlong", "calibration", "length")]
    names += [f"probe/{tier}/{name}" for tier in TIERS for name in ("easy_label", "easy_tag")]
    write_metrics(tmp_path / "metrics.jsonl", [*names, "sampling/kept_share", "probe/auc"])
    figure = learning_curves(read_metrics(tmp_path / "metrics.jsonl"))
    axes = [axis for axis in figure.axes if title(axis)]
    assert len(axes) == 7
    assert all(axis.get_xlabel() == "RL step" and axis.get_ylabel() for axis in axes)
    legend = next(axis.get_legend() for axis in figure.axes if axis.get_legend())
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries[:3] == list(TIERS)
    assert entries[-1].endswith("mean of 3")
    thick = axes[0].get_lines()[1]  # of T1: thin, then thick
    assert thick.get_ydata()[5] == pytest.approx(6 / 24)  # a centred mean leaves a straight line as it is


@pytest.mark.parametrize(
    ("names", "panels"),
    [(["rollout/all/accuracy"], 1), (["loss"], 0), (["sampling/kept_share", "rollout/T2/length"], 2)],
)
def test_missing_metrics_leave_out_their_panel(names: list[str], panels: int, tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.jsonl", names, steps=1)
    axes = learning_curves(read_metrics(tmp_path / "metrics.jsonl")).axes
    assert sum(bool(title(axis)) for axis in axes) == panels


def test_modes_has_a_bar_per_set_mode_and_stage_with_the_right_heights(tmp_path: Path) -> None:
    write_samples(tmp_path, "before", 20)
    write_samples(tmp_path, "after", 10)
    figure = modes(tmp_path)
    assert [title(axis) for axis in figure.axes[:3]] == list(TIERS)
    accuracy, length = figure.axes[0], figure.axes[3]
    assert [bar.get_height() for bar in accuracy.patches] == [0.75] * 6
    assert [bar.get_height() for bar in length.patches] == [20, 40, 60, 10, 20, 30]
    solid = [colors.to_rgba(color) for color in MODE_COLORS.values()]
    assert [bar.get_facecolor() for bar in length.patches] == [(1, 1, 1, 1)] * 3 + solid
    assert length.get_ylim()[1] > 60  # shared by the row: no bar is cut off
    low, high = accuracy.collections[0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.4093, 0.9285), abs=1e-3)  # Wilson, 6 of 8


def test_draw_run_writes_what_there_is_data_for(tmp_path: Path) -> None:
    assert draw_run(tmp_path) == []
    write_samples(tmp_path, "after", 10, sets=("gsm8k",))
    assert [path.name for path in draw_run(tmp_path)] == ["modes.png"]
    write_metrics(tmp_path / "metrics.jsonl", ["rollout/T1/accuracy"])
    assert [path.name for path in draw_run(tmp_path)] == ["learning-curves.png", "modes.png"]
    image = imread(tmp_path / "learning-curves.png")
    assert image.shape[1] > 600
    assert np.ptp(image) > 0.5  # not a blank page


def test_sample_writer_names_files_by_rl_step_and_writes_the_first_batch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"algo": {"updates_per_step": 2}}')
    writer = SampleWriter(tmp_path)
    for updates in range(0, 42, 2):
        writer(updates, [group("T2", f"first at {updates}"), group("T1", "q"), group("T2", "second")])
        writer(updates, [group("T2", "a refill")])
    texts = {path.name: path.read_text() for path in sorted((tmp_path / "samples").iterdir())}
    assert list(texts) == ["step-00000.txt", "step-00010.txt", "step-00020.txt"]
    text = texts["step-00010.txt"]
    assert "first at 20" in text
    assert text.index("== T1 ==") < text.index("== T2 ==")
    assert "gold      4" in text
    assert "correct   1 of 5" in text
    for line in (
        "tag easy, correct, 3 tokens\n[Easy] \\boxed{ 4 }",
        "tag hard, wrong",
        "tag none, grader failed",
    ):
        assert line in text
    for absent in ("second", "a refill", "the fifth"):
        assert absent not in text


def test_sample_writer_overwrites_on_a_rerun_and_only_rank_zero_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    SampleWriter(tmp_path)(0, [group("T1", "rank one")])
    assert not (tmp_path / "samples").exists()
    monkeypatch.setenv("RANK", "0")
    for question in ("earlier", "later"):
        SampleWriter(tmp_path)(0, [group("T1", question)])
    assert "later" in (tmp_path / "samples" / "step-00000.txt").read_text()
    assert len(list((tmp_path / "samples").iterdir())) == 1


@pytest.mark.slow
def test_figures_import_neither_torch_nor_trl() -> None:
    code = "import sys, adactrl.figures; print(*({'torch', 'trl', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
