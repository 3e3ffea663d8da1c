"""Data sets from a small made-up store, fetching errors, and, with a filled cache, the real drawings."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cls_rl import data_sets, drawings, far_sets, hub_sets
from cls_rl.drawings import VENDORS, Drawing
from cls_rl.splits import split
from shared.pretrained import cache_root

REAL = drawings.store_path()
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]
DRAWN_BY = ("noto", "twemoji", "emojione", "openmoji", "noto-v1", "fxemoji")


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 96, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six animals by six vendors; the vixen is the fox's drawing, and nobody drew the gnu for testing."""
    monkeypatch.setenv("FIVE_RL_CACHE", str(tmp_path))
    path = drawings.store_path()
    path.parent.mkdir(parents=True)
    rows: list[Drawing] = []
    with zipfile.ZipFile(path, "w") as made:
        for i, name in enumerate([*NAMES, "gnu", "vixen"]):
            for j, vendor in enumerate(DRAWN_BY):
                if name == "gnu" and VENDORS[vendor].use == "test":
                    continue
                drawing = Drawing(f"{vendor}/{name}.png", name, "animal-mammal", vendor)
                out = io.BytesIO()
                noise(100 * (NAMES.index("fox") if name == "vixen" else i) + j).save(out, "PNG")
                made.writestr(drawing.key, out.getvalue())
                rows.append(drawing)
        made.writestr("index.json", json.dumps([asdict(row) for row in rows]))
    return path


def test_sets_mirror_the_papers_count() -> None:
    assert len(data_sets.SETS) == len(hub_sets.SETS) == 11
    assert not set(data_sets.SETS) & set(data_sets.FAR)


def test_every_family_has_one_use() -> None:
    uses: dict[str, set[str]] = {}
    for vendor in VENDORS.values():
        uses.setdefault(vendor.family, set()).add(vendor.use)
        assert len(vendor.sha256) == 64
        assert vendor.licence in ("MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0")
    assert all(len(use) == 1 for use in uses.values())
    assert len(drawings.licences().splitlines()) == len(VENDORS) + 1


def test_load_drops_shared_drawings_and_classes_without_all_uses(store: Path) -> None:
    assert data_sets.class_names("animals") == NAMES
    items = data_sets.load("animals", copies=3)
    assert len(items) == 6 * 4 * 3
    assert {i.side for i in items if i.family in ("emojione", "openmoji")} == {"train"}
    assert {i.side for i in items if i.family in ("google-blob", "firefox")} == {"test"}
    pretraining = data_sets.pretraining("animals")
    assert {d.vendor for d in pretraining} == {"noto", "twemoji"}
    assert not {d.family for d in pretraining} & {i.family for i in items}
    assert data_sets.near_duplicates("animals") == {"pretrain/train": 0, "pretrain/test": 0, "train/test": 0}


def test_the_classes_with_most_downstream_drawings_are_kept(store: Path, monkeypatch) -> None:
    monkeypatch.setattr(data_sets, "CLASSES", 2)
    data_sets._kept.cache_clear()
    assert data_sets.class_names("animals") == ["ant", "bee"]  # all have four: by name
    assert {d.name for d in data_sets.pretraining("animals")} == {"ant", "bee"}
    data_sets._kept.cache_clear()


def test_splits_of_a_set_have_no_leak(store: Path) -> None:
    sets = {"animals": data_sets.load("animals")}
    got = split(sets, "animals", "base_to_new", shots=4)
    assert len(got.train) == 3 * 4
    assert {e.item.family for e in got.train} == {"emojione", "openmoji"}
    assert {e.item.label for e in got.tests["new"]} == {"dog", "eel", "fox"}


def test_pictures_are_a_function_of_drawing_and_copy(store: Path, tmp_path: Path) -> None:
    key = "openmoji/ant.png"
    first, again, other = (data_sets.picture(f"{key}#{c}") for c in (1, 1, 2))
    assert (first.mode, first.size) == ("RGB", (64, 64))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert data_sets.picture(f"{key}#0", side=32).size == (32, 32)
    noise(1).convert("RGB").save(tmp_path / "a#1.png")
    assert data_sets.picture(str(tmp_path / "a#1.png")).size == (64, 64)


def test_transparent_parts_become_paper() -> None:
    clear = Image.new("RGBA", (96, 96))
    assert drawings.rendering(clear, "k", 0).getpixel((0, 0)) == (255, 255, 255)
    assert min(drawings.rendering(clear, "k", 3).getpixel((5, 5))) >= 0.8 * 160 - 1  # type: ignore[type-var]


def test_show_writes_a_contact_sheet(store: Path, tmp_path: Path, capsys) -> None:
    data_sets.main(["show", "animals", str(tmp_path / "sheet.png")])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 104, 2 * 132)  # 6 classes x 2 sides in rows of 8
    with pytest.raises(ValueError, match="needs pictures"):
        data_sets.contact_sheet([])


def test_empty_cache_and_unknown_names(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FIVE_RL_CACHE", str(tmp_path))
    for name in ("animals", "digits"):
        with pytest.raises(RuntimeError, match=r"run python -m cls_rl\.data_sets fetch"):
            data_sets.load(name)
    with pytest.raises(ValueError, match="data set 'cars' is not one of animals"):
        data_sets.load("cars")
    with pytest.raises(ValueError, match="copies=0"):
        data_sets.load("animals", copies=0)
    with pytest.raises(SystemExit, match="error: no drawings at"):
        data_sets.main(["list"])


def test_fetch_without_npm_or_with_a_wrong_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    pytest.importorskip("resvg_py")
    with pytest.raises(RuntimeError, match=r"no npm to fetch emoji\.json@16\.0\.0; install Node"):
        drawings.fetch(tmp_path)
    (tmp_path / "cls_rl/packages/emoji.json-16.0.0.tgz").write_bytes(b"something else")
    with pytest.raises(RuntimeError, match=r"SHA-256 .* is not 71cc1f9a"):
        drawings.fetch(tmp_path)
    assert not drawings.store_path(tmp_path).exists()
    assert not list((tmp_path / "cls_rl").glob("*.part"))


def package(folder: Path, vendor: str, icons: dict, chars: dict) -> None:
    path = folder / f"iconify-json-{vendor}-{VENDORS[vendor].version}.tgz"
    add_members(path, {"icons.json": icons, "chars.json": chars})


def add_members(path: Path, members: dict[str, object]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_concepts_match_by_code_point_then_by_name_and_once(tmp_path: Path, monkeypatch) -> None:
    def entry(codes: str, name: str, group: str, subgroup: str) -> dict[str, str]:
        char = "".join(chr(int(c, 16)) for c in codes.split())
        return {"codes": codes, "char": char, "name": name, "group": group, "subgroup": subgroup}

    rows = [
        entry("1F336 FE0F", "hot pepper", "Food & Drink", "food-vegetable"),
        entry("1F336", "hot pepper", "Food & Drink", "food-vegetable"),  # listed twice, as in the package
        entry("1F9D1", "person", "People & Body", "person"),
        entry("1F1EF 1F1F5", "flag: Japan", "Flags", "country-flag"),
    ]
    add_members(tmp_path / "emoji.json-16.0.0.tgz", {"emoji.json": rows})
    for vendor in VENDORS:
        package(tmp_path, vendor, {"icons": {}, "width": 10, "height": 10}, {})
    package(tmp_path, "noto", {"icons": {"spicy": {"body": "<a/>"}}}, {"1f336": "spicy"})
    package(tmp_path, "fxemoji", {"icons": {"hotpepper": {"body": "<b/>", "width": 9}}}, {})
    aliased = {"icons": {"chili": {"body": "<c/>"}}, "aliases": {"spicy": {"parent": "chili"}}}
    package(tmp_path, "emojione", aliased, {})
    package(tmp_path, "cif", {"icons": {"jp": {"body": "<d/>"}}}, {})
    monkeypatch.setattr(drawings, "_package", lambda spec, sha, folder: folder / file_name(spec))
    found = {d.key: (d.name, svg) for d, svg in drawings.concepts(tmp_path)}
    assert set(found) == {"noto/1f336.png", "fxemoji/1f336.png", "emojione/1f336.png", "cif/1f1ef-1f1f5.png"}
    assert found["cif/1f1ef-1f1f5.png"][0] == "Japan"
    assert "<c/>" in found["emojione/1f336.png"][1]
    assert 'viewBox="0 0 9 16"' in found["fxemoji/1f336.png"][1]


def file_name(spec: str) -> str:
    name, _, version = spec.rpartition("@")
    return f"{name.replace('@', '').replace('/', '-')}-{version}.tgz"


def test_hub_ids_and_questions() -> None:
    assert hub_sets.hub_id("dtd", "few_shot") == "afdsafas/dtd-4shot-fewshot"
    assert hub_sets.hub_id("sun", "base_to_new") == "afdsafas/sun-4shot-b2n"
    assert "texture" in hub_sets.question("dtd")
    assert "object" in hub_sets.question("pets")
    assert hub_sets.SETS["cars"].max_prompt_tokens == 2048
    with pytest.raises(ValueError, match="'emoji' is not one of imagenet"):
        hub_sets.hub_id("emoji", "few_shot")


def test_hub_test_lists_are_recorded_by_seed(tmp_path: Path) -> None:
    names = [f"t{i}" for i in range(47)]
    folder = tmp_path / hub_sets.SETS["dtd"].folder
    folder.mkdir(parents=True)
    (folder / "a.jpg").touch()
    rows = [{"image": "a.jpg", "label": "t3", "split": s} for s in ("test", "train", "valid")]
    (tmp_path / "dtd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one, two = (hub_sets.evaluation_examples("dtd", tmp_path, names) for _ in range(2))
    assert one == two
    assert len(one) == 2
    assert len(one[0].options) == 30
    assert "t3" in one[0].options
    assert hub_sets.evaluation_examples("dtd", tmp_path, names[4:28], share=0.8) == []
    with pytest.raises(ValueError, match="no such file"):
        hub_sets.evaluation_examples("pets", tmp_path, names)
    (folder / "a.jpg").unlink()
    with pytest.raises(ValueError, match="missing; install dtd"):
        hub_sets.evaluation_examples("dtd", tmp_path, names)


@pytest.mark.skipif(not far_sets.path().is_file(), reason=f"no digits in {cache_root()}; data_sets fetch")
def test_real_digits() -> None:
    items = data_sets.load("digits")
    assert len({i.label for i in items}) == 10
    assert len(items) > 1700
    assert data_sets.picture(items[0].image).size == (64, 64)
    assert len(split({"digits": items}, "digits", "few_shot").train) == 40


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason=f"no drawings in {cache_root()}; run data_sets fetch")
def test_real_sets_split_without_leak() -> None:
    sets = {name: data_sets.load(name) for name in ("clothing", "places")}
    got = split(sets, "clothing", "cross", shots=4)
    assert len(got.train) == 4 * 24
    assert min(len(test) for test in got.tests.values()) >= 200
    assert all(n <= 4 * 3 for n in got.near_duplicates.values())
