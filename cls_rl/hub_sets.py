"""The paper's eleven data sets. From the authors' files, not run: needs the hub and the raw images.

Training: the authors' released few-shot sets, whose option lists are fixed in the column `problem`. Testing:
the raw images in CoOp's layout and a JSON Lines file of {image, label, split} rows per set (as the authors'
notebook reads them); the lists of the test images are drawn by `cls_rl.splits` with a recorded seed, since
theirs are not public.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cls_rl.prompts import QUESTION, QUESTIONS
from cls_rl.splits import BASE_NEW_SHARE, FEW_SHOT_SHARE, list_size, option_list
from shared.seeding import derive_seed

if TYPE_CHECKING:
    from datasets import Dataset

LIST_SEED = 100  # ours; the authors set none


@dataclass(frozen=True)
class HubSet:
    """One data set; classes and test images as in Table 8, folder as in the authors' evaluation."""

    classes: int
    test_images: int
    folder: str  # under data_dir
    epochs: int  # authors' scripts
    max_prompt_tokens: int = 1024


SETS: dict[str, HubSet] = {
    "imagenet": HubSet(1000, 50_000, "imagenet/val", 10),
    "caltech": HubSet(100, 2_465, "caltech-101", 50),
    "dtd": HubSet(47, 1_692, "dtd/images", 50),
    "eurosat": HubSet(10, 8_100, "EuroSAT/2750", 100),
    "food": HubSet(101, 30_300, "food-101/images", 50),
    "flowers": HubSet(102, 2_463, "oxford_flowers/jpg", 50),
    "pets": HubSet(37, 3_669, "oxford_pets/images", 50),
    "cars": HubSet(196, 8_041, "stanford_cars/cars_test", 50, max_prompt_tokens=2048),
    "sun": HubSet(397, 19_850, "SUN397", 25),
    "ucf": HubSet(101, 3_783, "UCF-101-midframes", 50),
    "fgvc": HubSet(100, 3_333, "fgvc-aircraft-2013b/data/images", 50),
}


@dataclass(frozen=True)
class HubExample:
    """One test image with the options of its prompt; the question is `question(name)`."""

    image: Path
    label: str
    options: tuple[str, ...]


def hub_id(name: str, setting: Literal["few_shot", "base_to_new"]) -> str:
    """`afdsafas/<name>-4shot-fewshot` or `...-b2n`; ValueError for a set that the paper does not have."""
    if name not in SETS:
        raise ValueError(f"data set {name!r} is not one of {', '.join(SETS)}")
    return f"afdsafas/{name}-4shot-{'fewshot' if setting == 'few_shot' else 'b2n'}"


def question(name: str) -> str:
    return QUESTIONS.get(name, QUESTION)


def training_set(
    name: str, setting: Literal["few_shot", "base_to_new"], revision: str | None = None
) -> Dataset:
    """The authors' training set: columns image, problem, solution (label in answer tags)."""
    from datasets import load_dataset

    return load_dataset(hub_id(name, setting), split="train", revision=revision)


def evaluation_examples(
    name: str, data_dir: str | Path, class_names: list[str], share: float = FEW_SHOT_SHARE
) -> list[HubExample]:
    """Rows of <data_dir>/<name>.jsonl whose split is test or valid and whose label is among `class_names`.

    Pass one half's names with share=BASE_NEW_SHARE for base-to-new. ValueError for a missing file or image.
    """
    if share not in (FEW_SHOT_SHARE, BASE_NEW_SHARE):
        raise ValueError(
            f"share={share} is neither {FEW_SHOT_SHARE} (few-shot) nor {BASE_NEW_SHARE} (halves)"
        )
    root = Path(data_dir)
    listing = root / f"{name}.jsonl"
    if not listing.is_file():
        raise ValueError(
            f"{listing}: no such file; it lists {{image, label, split}} per line, see the README"
        )
    names, n = set(class_names), list_size(len(set(class_names)), share)
    found: list[HubExample] = []
    with listing.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["split"] not in ("test", "valid") or row["label"] not in names:
                continue
            image = root / SETS[name].folder / row["image"]
            if not image.is_file():
                raise ValueError(f"{image}: named in {listing} but missing; install {name} as CoOp describes")
            rng = random.Random(derive_seed(LIST_SEED, name, share == BASE_NEW_SHARE, row["image"]))
            found.append(
                HubExample(image, row["label"], tuple(option_list(row["label"], class_names, n, rng)))
            )
    return found
