"""Few-shot, base-to-new and cross-data-set splits, all from `split`; option lists by the authors' rule.

Sources: authors' `few-shot-data.ipynb` (lists, shots), CoOp's `subsample_classes` (halves), paper section 4.
A split is a function of its items and the seed; its lists are drawn once per image and stay for all epochs.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from rich.progress import track

from cls_rl.grading import normalise
from shared.seeding import derive_seed

Setting = Literal["few_shot", "base_to_new", "cross"]
SETTINGS: tuple[Setting, ...] = ("few_shot", "base_to_new", "cross")
FEW_SHOT_SHARE, BASE_NEW_SHARE = 0.4, 0.8  # list length over number of classes: paper, appendix
NEAR_BITS = 3  # of a 64-bit difference hash: at most so many differ between two near-duplicates


class Shuffler(Protocol):
    """`random.Random` or `numpy.random.Generator`."""

    def shuffle(self, x: list[str], /) -> None: ...


@dataclass(frozen=True)
class Item:
    """One labelled image; `side` says where its source puts it, "" leaves that to the split."""

    image: str  # a path, or the key of a drawing (cls_rl.drawings)
    label: str
    digest: str  # SHA-256 of the pixels
    look: int  # 64-bit difference hash
    family: str = ""  # whose drawing it is; a family is on one side only
    side: Literal["", "train", "test"] = ""


@dataclass(frozen=True)
class Example:
    """An item with the option list of its prompt."""

    item: Item
    options: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """`tests` holds the tuned set's name (few_shot), "base" and "new" (base_to_new), or every set (cross)."""

    train: list[Example]
    tests: dict[str, list[Example]]
    seed: int
    near_duplicates: dict[str, int] = field(
        default_factory=dict
    )  # test images that look like a training image


def base_new(class_names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Sorted distinct names, cut after the first ceil(C/2): base and new; of one class, new is empty."""
    names = sorted(set(class_names))
    if not names:
        raise ValueError("base_new got no class names; give at least one")
    half = math.ceil(len(names) / 2)
    return names[:half], names[half:]


def list_size(
    num_classes: int, share: float = FEW_SHOT_SHARE, below_30: Literal["thirty", "all"] = "thirty"
) -> int:
    """Length of an option list: min(C, max(30, min(100, int(share * C)))).

    Args:
        share: 0.4 (few-shot, over all classes) or 0.8 (base-to-new, over the half's classes).
        below_30: "all" lists every class where int(share * C) < 30, as the paper says and the notebook does;
            the printed prompts have 30. Only DTD (30 or 47) and OxfordPets (30 or 37) differ (D4).
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} is below 1; a list needs at least one class")
    if not 0 < share <= 1:
        raise ValueError(f"share={share} is outside (0, 1]; use {FEW_SHOT_SHARE} or {BASE_NEW_SHARE}")
    wanted = int(share * num_classes)
    if wanted < 30 and below_30 == "all":
        return num_classes
    return min(num_classes, max(30, min(100, wanted)))


def option_list(label: str, class_names: Sequence[str], n: int, rng: Shuffler) -> list[str]:
    """`n` distinct names in random order, `label` among them exactly once (all names where n >= C).

    Shuffle all names, take the first n, put the label in place of the last if it is missing, shuffle again.
    Names that occur twice (ImageNet has some) count once. ValueError if n < 1 or the label is no class name.
    """
    names = list(dict.fromkeys(class_names))
    if n < 1:
        raise ValueError(f"n={n} options leave no room for the label; use n >= 1")
    if label not in names:
        raise ValueError(
            f"label {label!r} is not among the {len(names)} class names; add it or drop its images"
        )
    rng.shuffle(names)
    chosen = names[:n]
    if label not in chosen:
        chosen[-1] = label
    rng.shuffle(chosen)
    return chosen


def check_names(class_names: Iterable[str]) -> None:
    """ValueError if a name is empty or two names differ only in case, space, underscore or punctuation.

    Marks of a script, symbols ("C++", an emoji), "#" and what makes a number another one ("-1", "1.5") count
    as different.
    """
    seen: dict[str, str] = {}
    for name in dict.fromkeys(class_names):
        if not name.strip():
            raise ValueError(f"class name {name!r} is empty; give every class a visible name")
        letters = _PUNCTUATION.sub(_kept, normalise(name)) or normalise(name)
        if letters in seen:
            raise ValueError(
                f"class names {seen[letters]!r} and {name!r} are near-duplicates; merge or rename one of them"
            )
        seen[letters] = name


_PUNCTUATION = re.compile(r"(?P<number>(?<=\d)[.,](?=\d)|(?<!\w)-(?=\d))|[^\w]|_")


def _kept(found: re.Match[str]) -> str:
    character = found.group()
    said = found["number"] or character == "#" or unicodedata.category(character)[0] in "MS"
    return character if said else ""


def split(
    sets: Mapping[str, Sequence[Item]], tuned_on: str, setting: Setting, shots: int = 4, seed: int = 0
) -> Split:
    """Training examples of `tuned_on` and the test examples of one setting.

    few_shot: `shots` training images of every class; its test images. base_to_new: `shots` of every base
    class; the test images of base and new, each with its own candidate names. cross: as few_shot, tested on
    every set.

    Raises ValueError, one sentence, for unknown names, too few images, unclear class names, one image under
    two labels, or a leak: an image or a drawing family in both training and a test set.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting={setting!r} is not one of {', '.join(SETTINGS)}")
    if tuned_on not in sets:
        raise ValueError(f"tuned_on={tuned_on!r} is not one of {', '.join(sets)}")
    if shots < 1:
        raise ValueError(f"shots={shots} is below 1; few-shot needs at least one image per class")
    used = {name: items for name, items in sets.items() if setting == "cross" or name == tuned_on}
    for items in used.values():
        _check_items(items)
    names = {item.label for item in used[tuned_on]}
    base, new = base_new(names) if setting == "base_to_new" else (sorted(names), [])
    if setting == "base_to_new" and not new:
        raise ValueError(f"{tuned_on} has {len(base)} class and so no new half; base_to_new needs 2 or more")
    sides = {name: _sides(i, shots, seed, base if name == tuned_on else []) for name, i in used.items()}
    train = _shots(sides[tuned_on][0], base, shots, seed)
    share = BASE_NEW_SHARE if setting == "base_to_new" else FEW_SHOT_SHARE
    if setting == "base_to_new":
        pools = {"base": (base, sides[tuned_on][1]), "new": (new, sides[tuned_on][1])}
    else:
        pools = {name: (sorted({i.label for i in used[name]}), sides[name][1]) for name in used}
    tests = {}
    for name, (half, pool) in pools.items():
        wanted = set(half)
        tests[name] = _with_lists([item for item in pool if item.label in wanted], half, share, seed)
    result = Split(_with_lists(train, base, share, seed), tests, seed)
    check_leakage(result)
    result.near_duplicates.update(
        {name: _near(train, [e.item for e in test]) for name, test in tests.items()}
    )
    return result


def check_leakage(result: Split) -> None:
    """ValueError if a training digest or drawing family is in a test set, or a test set is empty."""
    digests = {e.item.digest: e.item.image for e in result.train}
    families = {e.item.family for e in result.train} - {""}
    for name, test in result.tests.items():
        if not test:
            raise ValueError(f"test set {name} has no images; keep more images per class than shots")
        for example in test:
            item = example.item
            if item.digest in digests:
                raise ValueError(
                    f"{item.image} of test set {name} is also the training image {digests[item.digest]}"
                )
            if item.family in families:
                raise ValueError(f"drawing family {item.family!r} is in training and in test set {name}")


def _check_items(items: Sequence[Item]) -> None:
    check_names(item.label for item in items)
    labels: dict[str, Item] = {}
    for item in items:
        other = labels.setdefault(item.digest, item)
        if other.label != item.label:
            raise ValueError(
                f"{other.image} ({other.label!r}) and {item.image} ({item.label!r}) are one image with two"
                " labels; remove one"
            )


def _sides(
    items: Sequence[Item], shots: int, seed: int, tuned: Sequence[str]
) -> tuple[list[Item], list[Item]]:
    """Training and test pools. Where the source gives no side, `shots` images of each tuned class, and all
    that have their pixels, are for training and the others for testing; an untuned class is for testing."""
    train = [item for item in items if item.side == "train"]
    test = [item for item in items if item.side == "test"]
    tuned_names = set(tuned)
    for label, group in _by_label([item for item in items if not item.side]).items():
        if label not in tuned_names:
            test += group
            continue
        distinct = _shuffled(sorted({item.digest for item in group}), seed, "side", label)
        if len(distinct) <= shots:
            raise ValueError(
                f"class {label!r} has {len(distinct)} different images, but shots={shots} and a test image"
                f" need {shots + 1}; add images or use fewer shots"
            )
        chosen = set(distinct[:shots])
        train += [item for item in group if item.digest in chosen]
        test += [item for item in group if item.digest not in chosen]
    return train, test


def _shots(pool: Sequence[Item], names: Sequence[str], shots: int, seed: int) -> list[Item]:
    groups = _by_label(pool)
    chosen: list[Item] = []
    for label in names:
        ordered = {item.image: item for item in groups.get(label, [])}
        if len(ordered) < shots:
            raise ValueError(
                f"class {label!r} has {len(ordered)} training images, fewer than shots={shots}; add images or"
                f" use {len(ordered)} shots"
            )
        drawn = [ordered[image] for image in _shuffled(sorted(ordered), seed, "shots", label)]
        # Different pixels first: two renderings of one drawing come only after every drawing has been used.
        turn: dict[str, int] = defaultdict(int)
        ranked: list[tuple[int, Item]] = []
        for item in drawn:
            ranked.append((turn[item.digest], item))
            turn[item.digest] += 1
        chosen += [item for _, item in sorted(ranked, key=lambda pair: pair[0])[:shots]]
    return chosen


def _with_lists(items: Sequence[Item], names: Sequence[str], share: float, seed: int) -> list[Example]:
    n = list_size(len(names), share)
    return [
        Example(i, tuple(option_list(i.label, names, n, random.Random(derive_seed(seed, "list", i.image)))))
        for i in track(items, "drawing lists of names", disable=len(items) * len(names) < 10_000_000)
    ]


def _by_label(items: Iterable[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.label].append(item)
    return dict(sorted(groups.items()))


def _shuffled(names: list[str], *seed: str | int) -> list[str]:
    random.Random(derive_seed(*seed)).shuffle(names)
    return names


def _near(train: Sequence[Item], test: Sequence[Item]) -> int:
    looks = np.array(sorted({item.look for item in train}), dtype=np.uint64)
    return sum(bool((np.bitwise_count(looks ^ np.uint64(i.look)) <= NEAR_BITS).any()) for i in test)
