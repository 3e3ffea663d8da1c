"""Own images: a folder per class or a CSV file to split files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cls_rl.folders import main, read_items, read_split, write_split
from cls_rl.splits import split


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four classes of six images each."""
    for c, name in enumerate(["cat", "dog", "bell, church", "東京"]):
        for i in range(6):
            draw(tmp_path / "photos" / name / f"{i}.png", 10 * c + i)
    return tmp_path / "photos"


def test_folder_to_base_to_new_in_one_command(photos: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "splits" / "mine"
    main([str(photos), "--out", str(out), "--setting", "base_to_new", "--shots", "4", "--seed", "3"])
    assert sorted(p.name for p in out.iterdir()) == ["base.jsonl", "new.jsonl", "split.json", "train.jsonl"]
    train, base, new = (read_split(out, name) for name in ("train", "base", "new"))
    assert {e.item.label for e in train} == {e.item.label for e in base} == {"bell, church", "cat"}
    assert {e.item.label for e in new} == {"dog", "東京"}
    assert (len(train), len(base), len(new)) == (8, 4, 12)
    assert all(Path(e.item.image).is_file() for e in [*train, *base, *new])
    card = json.loads((out / "split.json").read_text())
    assert (card["seed"], card["shots"], card["tests"]) == (3, 4, {"base": 4, "new": 12})
    assert "8 training images of 2 classes" in capsys.readouterr().out


def test_written_split_is_read_back_equal(photos: Path, tmp_path: Path) -> None:
    result = split({"test": read_items(photos)}, "test", "few_shot", shots=2)
    write_split(result, tmp_path / "out", {})
    assert read_split(tmp_path / "out", "train") == result.train
    assert read_split(tmp_path / "out", "test") == result.tests["test"]
    with pytest.raises(ValueError, match="is not empty"):
        write_split(result, tmp_path / "out", {})


def test_csv_gives_the_folders_items(photos: Path) -> None:
    rows = [f'"{p.relative_to(photos)}","{p.parent.name}"' for p in sorted(photos.rglob("*.png"))]
    table = photos / "labels.csv"
    table.write_text("\ufeffpath,label\n" + "\n".join(rows), encoding="utf-8")  # as spreadsheets save it
    assert sorted(read_items(table), key=repr) == sorted(read_items(photos), key=repr)


def test_csv_in_another_encoding_is_named(photos: Path) -> None:
    (photos / "labels.csv").write_bytes("path,label\ncat/0.png,chat tigré\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels\.csv: not UTF-8 at byte 30; save the file as UTF-8"):
        read_items(photos / "labels.csv")


def test_what_an_archive_leaves_beside_images_is_left_out(photos: Path) -> None:
    before = read_items(photos)
    for name in ("__MACOSX/cat/._0.png", "cat/._0.png", "cat/.thumbs/0.png", "cat/clip.mpg", "cat/notes.pdf"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"no picture")
    assert read_items(photos) == before


def csv_of(photos: Path, text: str) -> Path:
    (photos / "labels.csv").write_text(text)
    return photos / "labels.csv"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,label\ncat/0.png,cat\n", "lack path or label"),
        ("", "lack path or label"),
        ("path,label\n", "no images"),
        ("path,label\ncat/0.png,cat\ncat/9.png,cat\n", r"9\.png: no such image file"),
        ("path,label\ncat/0.png,\n", "line 2: path or label is empty"),
        ("path,label\ncat/0.png\n", "line 2: path or label is empty"),
        ("path,label\ncat/0.png,cat\ncat/1.png,Cat\n", "'cat' and 'Cat' are near-duplicates"),
        ("path,label\ncat/0.png,cat, domestic\n", "line 2: more columns .* in double quotes"),
    ],
)
def test_csv_errors(photos: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        read_items(csv_of(photos, text))
    assert "\n" not in str(caught.value)


def test_folder_errors(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder or CSV"):
        read_items(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images; put them"):
        read_items(tmp_path / "empty")
    (photos / "emu").mkdir()
    with pytest.raises(ValueError, match="emu has no images"):
        read_items(photos)
    (photos / "emu" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"bad\.png: not an image"):
        read_items(photos)


def test_command_ends_with_one_sentence(photos: Path, tmp_path: Path) -> None:
    draw(photos / "emu" / "0.png", 99)
    with pytest.raises(SystemExit, match="error: class 'emu' has 1 different images, but shots=4"):
        main([str(photos), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_notes_and_hidden_folders_are_left_out(photos: Path) -> None:
    before = read_items(photos)
    (photos / "cat" / "notes.txt").write_text("x")
    (photos / ".cache").mkdir()
    assert read_items(photos) == before
