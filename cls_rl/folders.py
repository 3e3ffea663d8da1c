"""Anyone's own images become few-shot or base-to-new splits.

    python -m cls_rl.folders PATH --out splits/mine --setting base_to_new --shots 4 --seed 0

PATH is a directory with one folder per class, or a CSV file with the columns path,label (relative to it). The
output folder gets train.jsonl, one <test set>.jsonl each and split.json; the images stay where they are.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from rich.progress import track

from cls_rl import images
from cls_rl.splits import Example, Item, Split, check_names, split

UNREAD = (
    "MPEG",
    "PDF",
    "HDF5",
    "BUFR",
    "GRIB",
    "WMF",
    "EPS",
)  # Pillow knows their endings, no more
SUFFIXES = frozenset(
    ending
    for ending, kind in Image.registered_extensions().items()
    if kind in Image.OPEN and kind not in UNREAD
)
HIDDEN = (".", "__MACOSX")  # beginnings of what an archive or a desktop leaves beside images


def read_items(source: str | Path) -> list[Item]:
    """Items of a folder per class or of a CSV; every image is opened once, so a bad one is found here.

    Raises ValueError, one sentence naming the file or class: missing or unreadable images, no images, no
    labels, near-duplicate class names. Files without an image's ending are left out of a folder.
    """
    source = Path(source)
    if source.is_dir():
        rows = list(_folder_rows(source))
    elif source.is_file():
        rows = list(_csv_rows(source))
    else:
        raise ValueError(f"{source}: no such folder or CSV file; check the path")
    if not rows:
        raise ValueError(
            f"{source}: no images; put them into one folder per class, or rows into the CSV file"
        )
    check_names(label for _, label in rows)
    found: list[Item] = []
    for path, label in track(rows, "reading images", disable=len(rows) < 500):
        image = images.load_rgb(path).image
        found.append(Item(str(path), label, images.digest(image), images.difference_hash(image)))
    return found


def _folder_rows(folder: Path) -> Iterator[tuple[Path, str]]:
    for class_folder in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(HIDDEN)):
        paths = sorted(
            p
            for p in class_folder.rglob("*")
            if p.suffix.lower() in SUFFIXES
            and not any(part.startswith(HIDDEN) for part in p.relative_to(class_folder).parts)
        )
        if not paths:
            raise ValueError(f"class folder {class_folder} has no images; add some or remove the folder")
        yield from ((path.resolve(), class_folder.name) for path in paths)


def _csv_rows(file: Path) -> Iterator[tuple[Path, str]]:
    with io.StringIO(images.read_text(file), newline="") as lines:
        reader = csv.DictReader(lines)
        if not {"path", "label"} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{file}: columns {reader.fieldnames} lack path or label; the first line names both"
            )
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{file}, line {reader.line_num}: more columns than the first line; put a name that holds"
                    " a comma in double quotes"
                )
            path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
            if not path or not label:
                raise ValueError(f"{file}, line {reader.line_num}: path or label is empty; fill or remove it")
            yield (file.parent / path).resolve(), label


def write_split(result: Split, out: str | Path, about: dict[str, str | int]) -> Path:
    """Write `result` as JSON Lines into the folder `out` (new or empty), all of it or nothing; the folder."""
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; name a new folder with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".part-") as part:
        made = Path(part) / "split"
        made.mkdir()
        for name, examples in {"train": result.train, **result.tests}.items():
            (made / f"{name}.jsonl").write_text("".join(map(_line, examples)), encoding="utf-8")
        counts = {name: len(examples) for name, examples in result.tests.items()}
        card = {**about, "seed": result.seed, "train": len(result.train), "tests": counts}
        card["near_duplicates"] = result.near_duplicates
        (made / "split.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
        if out.exists():
            out.rmdir()
        os.rename(made, out)
    return out


def read_split(folder: str | Path, name: str) -> list[Example]:
    """The examples of `<name>.jsonl`, as they were written."""
    with (Path(folder) / f"{name}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Example(Item(**row["item"]), tuple(row["options"])) for row in rows]


def _line(example: Example) -> str:
    row = {"item": vars(example.item), "options": example.options}
    return json.dumps(row, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cls_rl.folders", description="Own images to few-shot or base-to-new splits."
    )
    parser.add_argument("source", type=Path, help="folder per class, or a CSV file of path,label")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the split")
    parser.add_argument("--setting", choices=("few_shot", "base_to_new"), default="few_shot")
    parser.add_argument("--shots", type=int, default=4, help="training images per class")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        items = read_items(args.source)
        result = split({"test": items}, "test", args.setting, args.shots, args.seed)
        about = {"source": str(args.source), "setting": args.setting, "shots": args.shots}
        write_split(result, args.out, about)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    classes = len({e.item.label for e in result.train})
    print(f"{args.out}: {len(result.train)} training images of {classes} classes")
    for name, test in result.tests.items():
        print(
            f"  {name}: {len(test)} images, lists of {len(test[0].options)} names,"
            f" {result.near_duplicates[name]} look like a training image"
        )


if __name__ == "__main__":
    main()
