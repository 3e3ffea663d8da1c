"""A few-shot split of a set of drawings with shorter option lists (claim 3: do long lists break SFT?).

    python list_lengths.py animals --names 5 --seed 1 --out runs/animals-5

Classes, shots and test pictures are those of the setting few_shot; only the lists are cut. The result is what
`python -m cls_rl.folders` writes: `train.py --data.source folder --data.set runs/animals-5` trains on it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track

from cls_rl import data_sets
from cls_rl.config import Data
from cls_rl.folders import write_split
from cls_rl.splits import Example, Split, option_list, split
from shared.seeding import derive_seed

COPIES = Data().copies


def shortened(example: Example, names: int, seed: int) -> Example:
    """The example with `names` of its options, its label among them."""
    rng = random.Random(derive_seed(seed, "short list", names, example.item.image))
    chosen = option_list(example.item.label, example.options, names, rng)
    return replace(example, options=tuple(chosen))


def short_split(name: str, names: int, seed: int, images: int, pictures: Path) -> Split:
    """The split, at most `images` test pictures; its pictures are written to the folder `pictures`."""
    whole = split({name: data_sets.load(name, COPIES)}, name, "few_shot", seed=seed)
    test = whole.tests[name]
    chosen = [test[int(i)] for i in np.linspace(0, len(test) - 1, min(images, len(test)))]  # as data.evenly
    cells = {"train": whole.train, name: chosen}
    found = {
        cell: [_on_disk(shortened(e, names, seed), pictures) for e in track(examples, f"{cell} pictures")]
        for cell, examples in cells.items()
    }
    return Split(found["train"], {name: found[name]}, seed, whole.near_duplicates)


def _on_disk(example: Example, pictures: Path) -> Example:
    """`noto-v1/1f41c.png#3` becomes the file noto-v1/1f41c.png#3.png, pixel for pixel."""
    path = pictures / f"{example.item.image}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    data_sets.picture(example.item.image).save(path)
    return replace(example, item=replace(example.item, image=str(path.resolve())))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Few-shot splits with short option lists.")
    parser.add_argument("name", choices=tuple(data_sets.SETS))
    parser.add_argument("--names", type=int, required=True, help="names per list, 2 or more")
    parser.add_argument("--images", type=int, default=480, help="test pictures, evenly over the drawings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="new folder for the split")
    args = parser.parse_args(argv)
    if args.names < 2:
        sys.exit(f"error: --names {args.names}: a list of one name holds the answer; use 2 or more")
    try:
        made = short_split(
            args.name, args.names, args.seed, args.images, args.out.with_name(f"{args.out.name}-pictures")
        )
        about = {"source": args.name, "setting": "few_shot", "shots": Data().shots, "names": args.names}
        write_split(made, args.out, about)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: {len(made.train)} training pictures, lists of {args.names} names")


if __name__ == "__main__":
    main()
