"""The small scale's data sets of real images, by name.

    python -m cls_rl.data_sets fetch              # once: packages into FIVE_RL_CACHE
    python -m cls_rl.data_sets list               # classes, drawings per side, near-duplicates between sides
    python -m cls_rl.data_sets show animals sheet.png   # contact sheet

Eleven sets mirror the paper's eleven: ten groups of Unicode concepts and the flags. Pretraining, few-shot
training and testing use different families of drawings (`cls_rl.drawings`); a class is kept if it has all
three, and the 24 classes with the most downstream drawings are. `digits` is a far domain (8 x 8 scans).
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cls_rl import drawings, far_sets, images
from cls_rl.drawings import Drawing
from cls_rl.splits import NEAR_BITS, Item

SETS: dict[str, tuple[str, ...]] = {  # data set -> prefixes of Unicode's subgroups
    "animals": ("animal-",),
    "food": ("food-", "drink", "dishware"),
    "faces": ("face-", "cat-face", "monkey-face"),
    "objects": (
        "tool",
        "household",
        "computer",
        "phone",
        "light & video",
        "lock",
        "science",
        "medical",
        "other-o",
    ),
    "office": ("office", "writing", "book-paper", "mail", "money"),
    "activities": ("sport", "game", "event", "award-medal", "arts & crafts", "music", "sound"),
    "transport": ("transport-",),
    "places": ("place-", "hotel"),
    "clothing": ("clothing",),
    "nature": ("sky & weather", "plant-"),
    "flags": ("country-flag",),
}
FAR: tuple[str, ...] = ("digits",)
ALL = (*SETS, *FAR)
QUESTIONS = {"flags": "Which flag is in the photo?", "faces": "What type of face is in the photo?"}
COPIES = 4  # renderings per drawing
CLASSES = 24  # per set at most; the paper's small sets have 10 to 47


def load(name: str, copies: int = COPIES) -> list[Item]:
    """Items of one set with their side: `copies` renderings of each training and test drawing.

    Renderings of one drawing share its digest, so that no split can part them. ValueError for another name,
    RuntimeError with the command to run if the cache is empty.
    """
    if copies < 1:
        raise ValueError(f"copies={copies} is below 1; every drawing needs one rendering")
    if name in FAR:
        return far_sets.items(name)
    items: list[Item] = []
    for drawing, digest, look in _kept(name, str(drawings.store_path())):
        if drawing.use != "pretrain":
            keys = [f"{drawing.key}#{copy}" for copy in range(copies)]
            items += [Item(k, drawing.name, digest, look, drawing.family, drawing.use) for k in keys]
    return items


def pretraining(name: str) -> list[Drawing]:
    """The drawings of one set's classes that pretraining may see; families that no downstream split has."""
    return [d for d, _, _ in _kept(name, str(drawings.store_path())) if d.use == "pretrain"]


def class_names(name: str) -> list[str]:
    """Sorted names of a set's classes; the same for pretraining and downstream."""
    return sorted({item.label for item in load(name, copies=1)})


def picture(image: str, side: int = 64) -> Image.Image:
    """RGB pixels, `side` x `side`, of an item of `load`, or of any image file by its path."""
    if image.startswith("digits/"):
        return images.fixed_size(far_sets.picture(image), side)
    key, mark, copy = image.rpartition("#")
    if mark and key.partition("/")[0] in drawings.VENDORS:
        return drawings.rendering(drawings.pixels(key), key, int(copy), side)
    return images.fixed_size(images.load_rgb(image, side).image, side)


def near_duplicates(name: str) -> dict[str, int]:
    """Drawings of a later side that look like one of an earlier side *of their class*, per pair of sides."""
    kept = _kept(name, str(drawings.store_path()))
    pairs = [("pretrain", "train"), ("pretrain", "test"), ("train", "test")]
    counts: dict[str, int] = {}
    for first, second in pairs:
        seen = {(d.name, look) for d, _, look in kept if d.use == first}
        later = [(d.name, look) for d, _, look in kept if d.use == second]
        counts[f"{first}/{second}"] = sum(
            any(label == other and (look ^ known).bit_count() <= NEAR_BITS for other, known in seen)
            for label, look in later
        )
    return counts


@cache
def _kept(name: str, store: str) -> tuple[tuple[Drawing, str, int], ...]:
    """(drawing, digest, look) of the set's classes: all three uses, most drawings, nothing two classes share.

    Some drawings are equal for two concepts (flags of Norway and Svalbard): the later name goes. A
    drawing that an earlier use has pixel by pixel goes from the later ones.
    """
    if name not in SETS:
        raise ValueError(f"data set {name!r} is not one of {', '.join(ALL)}")
    found: list[tuple[Drawing, str, int]] = []
    for drawing in drawings.drawings():
        if drawing.group.startswith(SETS[name]):
            plain = drawings.rendering(drawings.pixels(drawing.key), drawing.key, 0)
            found.append((drawing, images.digest(plain), images.difference_hash(plain)))
    owner: dict[str, str] = {}
    shared: set[str] = set()
    for drawing, digest, _ in sorted(found, key=lambda row: row[0].name):
        if owner.setdefault(digest, drawing.name) != drawing.name:
            shared.add(drawing.name)
    first_use: dict[str, str] = {}
    for use in ("pretrain", "train", "test"):
        for drawing, digest, _ in found:
            if drawing.use == use:
                first_use.setdefault(digest, use)
    unique = [row for row in found if row[0].name not in shared and first_use[row[1]] == row[0].use]
    uses: dict[str, set[str]] = {}
    for drawing, _, _ in unique:
        uses.setdefault(drawing.name, set()).add(drawing.use)
    downstream = Counter(drawing.name for drawing, _, _ in unique if drawing.use != "pretrain")
    complete = sorted((name for name in uses if len(uses[name]) == 3), key=lambda n: (-downstream[n], n))
    return tuple(row for row in unique if row[0].name in complete[:CLASSES])


def contact_sheet(
    pictures: Sequence[tuple[Image.Image, str]], columns: int = 8, side: int = 96
) -> Image.Image:
    """Pictures in rows with their captions below, on two lines at most (then cut); ValueError for none."""
    if not pictures or columns < 1:
        raise ValueError(f"a contact sheet needs pictures and columns; got {len(pictures)} and {columns}")
    rows = -(-len(pictures) // columns)
    width, height = side + 8, side + 36  # of a cell
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(pictures):
        x, y = i % columns * width + 4, i // columns * height + 4
        sheet.paste(image.resize((side, side)), (x, y))
        lines = textwrap.wrap(caption, side // 6, max_lines=2, placeholder="..") or [""]
        text = "\n".join(lines).encode("latin-1", "replace").decode("latin-1")
        draw.multiline_text((x, y + side + 2), text, "black", spacing=1)
    return sheet


def sample_sheet(name: str, count: int = 48) -> Image.Image:
    """Contact sheet of one training and one test picture per class, evenly over the classes."""
    items = load(name, copies=2)
    per_side: dict[tuple[str, str], Item] = {}
    for item in items:
        per_side.setdefault((item.label, item.side), item)
    rows = sorted(per_side.items())
    chosen = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(count, len(rows)))]
    return contact_sheet([(picture(item.image), f"{side[:2]} {label}") for (label, side), item in chosen])


def _list() -> None:
    print(f"{'set':<12}{'classes':>8}{'pretrain':>9}{'train':>7}{'test':>6}   near-duplicate drawings")
    for name in ALL:
        items = load(name, copies=1)
        train, test = ([i for i in items if i.side == side] for side in ("train", "test"))
        before = 0 if name in FAR else len(pretraining(name))
        near = {} if name in FAR else near_duplicates(name)
        counted = " ".join(f"{k} {v}" for k, v in near.items()) or "-"
        print(f"{name:<12}{len(class_names(name)):>8}{before:>9}{len(train):>7}{len(test):>6}   {counted}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m cls_rl.data_sets", description="Small-scale data sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="get the packages by name into the cache (27 MB)")
    commands.add_parser("list", help="classes and drawings per set and side")
    show = commands.add_parser("show", help="write a contact sheet")
    show.add_argument("name", choices=ALL)
    show.add_argument("png", type=Path)
    args = parser.parse_args(argv)
    try:
        if args.command == "fetch":
            print(drawings.fetch(), far_sets.fetch(), drawings.licences() + far_sets.LICENCE, sep="\n")
        elif args.command == "list":
            _list()
        else:
            sample_sheet(args.name).save(args.png)
            print(args.png)
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
