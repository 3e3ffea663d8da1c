"""The README's figures from synthetic results."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from adactrl.claims import TIERS, Evidence
from adactrl.eval import Sample
from adactrl.figures import align, read_metrics
from adactrl.result_figures import curve_rows, draw_results, savings, training_curves, user_modes
from adactrl.tags import MODES

SEEDS = (1, 2, 3)
LENGTHS = {"A": (28, 44, 62), "B": (27, 42, 60), "C": (14, 30, 50), "D": (8, 18, 58)}
ACCURACIES = {
    "A": (0.97, 0.90, 0.33),
    "B": (0.99, 0.96, 0.37),
    "C": (0.95, 0.75, 0.25),
    "D": (0.98, 0.93, 0.35),
}
MODE_LENGTH, MODE_ACCURACY = (
    {"adaptive": 1, "easy": 0.6, "hard": 1.6},
    {"adaptive": 0, "easy": -0.2, "hard": 0.01},
)


def evidence(arms: str = "ABCD", problems: int = 40, samples: int = 2) -> Evidence:
    found = Evidence()
    for arm in arms:
        for seed in SEEDS:
            rng = np.random.default_rng([ord(arm), seed])
            rows = found.samples[arm, seed] = []
            for tier, length, accuracy in zip(TIERS, LENGTHS[arm], ACCURACIES[arm], strict=True):
                for mode in MODES if arm in "CD" else MODES[:1]:
                    for i in range(problems * samples):
                        tokens = max(3, int(rng.normal(length * MODE_LENGTH[mode], 0.15 * length)))
                        right = bool(rng.random() < accuracy + MODE_ACCURACY[mode])
                        problem = f"{tier}/{i // samples:03d}"
                        rows.append(Sample(tier, problem, mode, None, right, tokens, False, ""))
    return found


def write_metrics(path: Path, arm: str, seed: int, steps: int = 120) -> None:
    """A run's metrics.jsonl that moves from arm C's (or A's) values to the arm's own."""
    rng = np.random.default_rng([ord(arm), seed, 7])
    start, lines = {"D": "C", "B": "A"}[arm], []
    easy = ((0.85, 1.0), (0.5, 0.8), (0.2, 0.03)) if arm == "D" else ((0, 0),) * 3
    for step in range(steps + 1):
        done, line = 1 - np.exp(-4 * step / steps), {"step": step, "loss": 0.1}
        for x, tier in enumerate(TIERS):
            length, right = (v[start][x] + done * (v[arm][x] - v[start][x]) for v in (LENGTHS, ACCURACIES))
            tag = easy[x][0] + done * (easy[x][1] - easy[x][0])
            label = float(np.clip(1.6 * right - 0.6, 0, 1))
            if step:
                line[f"rollout/{tier}/length"] = length * rng.normal(1, 0.08)
                for name, share, n in (
                    ("accuracy", right, 60),
                    ("easy_tag", tag, 60),
                    ("easy_label", label, 4),
                ):
                    line[f"rollout/{tier}/{name}"] = rng.binomial(n, share) / n
            if step % 20 == 0:
                line |= {
                    f"probe/{tier}/easy_tag": tag,
                    f"probe/{tier}/easy_label": rng.binomial(20, label) / 20,
                }
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n")


def write_curves(results: Path, arms: str = "DB", steps: int = 120) -> None:
    (results / "curves").mkdir(parents=True)
    for arm in arms:
        for seed in SEEDS:
            metrics = results / "metrics.jsonl"
            write_metrics(metrics, arm, seed, steps)
            (results / "curves" / f"{arm}-seed{seed}.jsonl").write_text("\n".join(curve_rows(metrics)) + "\n")


def title(axis: Axes) -> str:
    return axis.get_title("left") or axis.get_title()


def test_the_same_results_give_the_same_bytes_whatever_the_users_style(tmp_path: Path) -> None:
    write_curves(tmp_path, steps=40)
    found = evidence(problems=10)
    first = draw_results(found, tmp_path, tmp_path / "one")
    assert [path.name for path in first] == ["savings.png", "modes.png", "curves.png"]
    reordered = Evidence(dict(reversed(found.samples.items())))
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        second = draw_results(reordered, tmp_path, tmp_path / "two")
        assert mpl.rcParams["font.size"] == 20
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert b"Software" not in one.read_bytes()
        image = imread(one)
        assert image.shape[1] == 1760
        assert np.ptp(image) > 0.5  # not a blank page


@pytest.mark.parametrize(("arms", "names"), [("BD", ["savings.png"]), ("CD", ["modes.png"]), ("A", [])])
def test_only_what_there_is_data_for_is_drawn(arms: str, names: list[str], tmp_path: Path) -> None:
    assert [path.name for path in draw_results(evidence(arms, 4), tmp_path, tmp_path / "out")] == names


def test_savings_shows_the_numbers_of_the_table() -> None:
    found = evidence("BD")
    left, right = savings(found).axes
    d, b = (found.matrix(arm, "T2", "adaptive", "length").mean() for arm in "DB")
    assert [bar.get_height() for bar in left.patches][2:4] == pytest.approx(
        [b, d]
    )  # tier by tier, B before D
    assert left.get_xticklabels()[1].get_text() == f"T2\n{1 - d / b:.0%} shorter"
    d, b = (found.matrix(arm, "T1", "adaptive", "correct").mean() for arm in "DB")
    points = right.get_xticklabels()[0].get_text().splitlines()[1].replace("−", "-")
    assert points == f"{100 * (d - b):+.1f} points"
    alone = Evidence({("D", 2): found.samples["D", 2]}).matrix("D", "T1", "adaptive", "length").mean()
    dots = next(line for line in left.lines[1:] if len(line.get_xdata()) == 3 and line.get_ydata().max() < 12)
    assert dots.get_ydata()[1] == pytest.approx(alone)


def test_a_longer_answer_is_called_longer() -> None:
    found = evidence("BD", 10)
    swapped = Evidence(
        {("D" if arm == "B" else "B", seed): rows for (arm, seed), rows in found.samples.items()}
    )
    assert savings(swapped).axes[0].get_xticklabels()[0].get_text().endswith("% longer")


def test_modes_pools_the_seeds() -> None:
    found = evidence("CD")
    axes = user_modes(found).axes
    assert [title(axis) for axis in axes[:3]] == list(TIERS)
    expected = [found.matrix(arm, "T3", mode, "length").mean() for arm in "CD" for mode in MODES]
    assert [bar.get_height() for bar in axes[5].patches] == pytest.approx(expected)
    assert axes[2].patches[4].get_height() == pytest.approx(found.matrix("D", "T3", "easy", "correct").mean())


def test_curve_rows_keep_tier_metrics_only_rounded_and_one_line_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "rollout/T1/length": 8.123456, "rollout/all/length": 9, "loss": 1}\n'
        '{"step": 0, "probe/T3/easy_label": 0.05, "probe/auc": 0.9, "probe/agreement": 0.8}\n'
        '{"step": 1, "grad_norm": 0.5}\n'
        '{"step": 2, "probe/T1/easy_tag": 0.123449, "rollout/T1/no_tag": 0, "rollout/T2/length": null}\n'
    )
    assert curve_rows(path) == [
        '{"step": 0, "probe/T3/easy_label": 0.05}',
        '{"step": 2, "probe/T1/easy_tag": 0.1234, "rollout/T1/length": 8.1235}',
    ]
    (tmp_path / "again.jsonl").write_text("\n".join(curve_rows(path)) + "\n")
    assert curve_rows(tmp_path / "again.jsonl") == curve_rows(path)


def test_curves_average_the_seeds_and_split_the_arms(tmp_path: Path) -> None:
    flat = {"rollout/T1/length": 10.0, "rollout/T1/easy_label": 0.5, "probe/T1/easy_label": 0.25}
    curves = {}
    for arm, shift in (("D", 0), ("B", 20)):
        curves[arm] = []
        for seed in (0, 3):
            lines = [
                json.dumps({"step": s, **{k: v + shift + seed for k, v in flat.items()}})
                for s in range(1, 31)
            ]
            (tmp_path / "curve.jsonl").write_text("\n".join(lines))
            curves[arm].append(read_metrics(tmp_path / "curve.jsonl"))
    figure = training_curves(curves)
    length, _, tags, labels = figure.axes
    thick = [line for line in length.lines if line.get_linewidth() == 2.2]
    assert [line.get_ydata()[7] for line in thick] == pytest.approx([11.5, 31.5])
    assert thick[0].get_linestyle() != thick[1].get_linestyle()
    assert sum(line.get_linewidth() == 0.8 for line in length.lines) == 4
    assert len(labels.lines) == 4  # arm D only: two seeds, their mean and the held-out problems
    assert labels.lines[3].get_ydata()[0] == pytest.approx(1.75)
    assert not tags.lines
    assert figure.get_supxlabel() == "RL step (lines: centred means of 3)"


def test_align_keeps_the_steps_all_seeds_have() -> None:
    seeds = [
        {"a": (np.array([1, 2, 3]), np.array([1.0, 2, 3]))},
        {"a": (np.array([2, 3, 4]), np.array([6.0, 7, 8]))},
    ]
    steps, values = align([*seeds, {}], "a")
    assert steps.tolist() == [2, 3]
    assert values.tolist() == [[2, 3], [6, 7]]
    assert align(seeds, "b")[0].size == 0
    assert align([], "a")[0].size == 0
