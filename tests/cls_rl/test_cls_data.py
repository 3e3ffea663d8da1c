"""A run's data from every source: drawings, a folder's split (test_cls_train), the authors' hub sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cls_rl import hub_sets
from cls_rl.config import PRESETS, Data
from cls_rl.data import Prompts, Query, load_task
from cls_rl.drawings import store_path
from cls_rl.encoding import render
from cls_rl.prompts import user_text


@pytest.fixture
def hub(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of "pets": training sets as the authors released them, and raw test images."""
    from datasets import Dataset, Features, Image, Value

    names = ["beagle", "pug", "sphynx"]
    features = Features({"image": Image(), "problem": Value("string"), "solution": Value("string")})

    def training_set(name: str, setting: str) -> Dataset:
        # the base half by label numbers, which here are not in the order of the names
        labels = names if setting == "few_shot" else ["sphynx", "beagle"]
        asked = "What type of object is in the photo?\n Please choose one from list [ {}]."
        rows = {
            "image": [tiny.picture(i, 20).convert("RGBA") for i in range(len(labels))],
            "problem": [asked.format(label) for label in labels],
            "solution": [f"<answer> {label} </answer>" for label in labels],
        }
        return Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(hub_sets, "training_set", training_set)
    folder = tmp_path / hub_sets.SETS["pets"].folder
    folder.mkdir(parents=True)
    lines = []
    for i, name in enumerate(names * 2):
        tiny.picture(10 + i, 24).save(folder / f"{i}.png")
        split = "train" if i == 5 else "test"
        lines.append(json.dumps({"image": f"{i}.png", "label": name, "split": split}))
    (tmp_path / "pets.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_hub_training_rows_keep_the_authors_problem_text(tiny: Any, hub: Path) -> None:
    task = load_task(Data(data_dir=str(hub)), seed=0)
    assert [(q.label, q.options) for q in task.train] == [("beagle", ()), ("pug", ()), ("sphynx", ())]
    prompts = Prompts(task.train, task.picture, tiny.bundle, "thinking")
    text = tiny.bundle.tokenizer.decode(prompts.encode([1])[0].ids)
    assert (
        "What type of object is in the photo?\n Please choose one from list [ pug].\n Please output" in text
    )
    assert task.picture("0", 64).size == (64, 64)
    assert task.picture("0", 64).mode == "RGB"


def test_hub_test_images_have_lists_of_their_own_half(hub: Path) -> None:
    few = load_task(Data(data_dir=str(hub)), seed=0)
    assert {name: len(rows) for name, rows in few.tests.items()} == {"pets": 5}
    assert all(sorted(q.options) == ["beagle", "pug", "sphynx"] for q in few.tests["pets"])
    task = load_task(Data(data_dir=str(hub), setting="base_to_new"), seed=0)
    halves = task.tests
    assert {name: len(rows) for name, rows in halves.items()} == {"base": 3, "new": 2}
    assert {q.label for q in task.train} == {q.label for q in halves["base"]} == {"beagle", "sphynx"}
    assert all(set(q.options) == {"beagle", "sphynx"} for q in halves["base"])
    assert all(q.options == ("pug",) for q in halves["new"])
    assert few.picture(few.tests["pets"][0].image, 64).size == (64, 64)


def test_hub_halves_that_do_not_fit_the_listing_are_refused(hub: Path) -> None:
    listing, cfg = hub / "pets.jsonl", Data(data_dir=str(hub), setting="base_to_new")
    lines = listing.read_text().splitlines()
    listing.write_text("\n".join(line for line in lines if "sphynx" not in line))
    with pytest.raises(ValueError, match="the listing of test images lacks the training classes sphynx"):
        load_task(cfg, seed=0)
    more = [json.dumps({"image": "0.png", "label": f"dog {i}", "split": "train"}) for i in range(2)]
    listing.write_text("\n".join([*lines, *more]))
    with pytest.raises(ValueError, match=r"2 training classes are not the base half \(3\) of 5 classes"):
        load_task(cfg, seed=0)


def test_hub_without_its_folder_or_listing_is_one_sentence(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.data_dir is not set"):
        load_task(Data(), seed=0)
    with pytest.raises(ValueError, match=r"eurosat\.jsonl: no such file"):
        load_task(Data(set="eurosat", data_dir=str(hub)), seed=0)


@pytest.mark.skipif(not store_path().is_file(), reason="no drawings: python -m cls_rl.data_sets fetch")
def test_drawings_give_lists_and_at_least_400_test_images_per_cell() -> None:
    cfg = replace(PRESETS["small"].data, set="food")
    task = load_task(cfg, seed=0)
    assert set(task.tests) == {"base", "new"}
    assert min(len(rows) for rows in task.tests.values()) >= 400
    base = {q.label for q in task.train}
    assert all(set(q.options) <= base for q in task.tests["base"])
    assert not base & {name for q in task.tests["new"] for name in q.options}
    assert {len(q.options) for rows in task.tests.values() for q in rows} == {len(base)}
    assert len(task.train) == 4 * len(base)
    assert load_task(cfg, seed=0).train == task.train != load_task(cfg, seed=1).train


def test_prompts_are_encoded_once_and_in_the_order_asked(tiny: Any) -> None:
    seen: list[str] = []

    def picture(image: str, side: int) -> Any:
        seen.append(image)
        return tiny.picture(int(image), side)

    rows = [Query(f"{i}", "owl", tiny.names[: 3 + i], "What is it?") for i in range(3)]
    prompts = Prompts(rows, picture, tiny.bundle, "no_thinking")
    first = prompts.encode([2, 0, 2])
    assert seen == ["2", "0"]
    assert first[0] is first[2]
    assert prompts.encode([0])[0] is first[1]
    assert seen == ["2", "0"]
    text = render(tiny.bundle.processor, user_text("no_thinking", rows[0].options, "What is it?"))
    decoded = tiny.bundle.tokenizer.decode(first[1].ids)
    assert decoded.replace("<|image_pad|>" * 4, "<|image_pad|>") == text


@pytest.mark.parametrize("name", ["cpu2", "ddp", "fsdp2", "zero2", "zero3"])
def test_accelerate_reads_its_configs(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    folder = Path(__file__).parents[2] / "cls_rl" / "accelerate"
    loaded = load_config_from_file(str(folder / f"{name}.yaml"))  # refuses unknown keys
    assert loaded.num_processes == (2 if name == "cpu2" else 8)
