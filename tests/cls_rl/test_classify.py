"""`python -m cls_rl.classify`: any image, any names, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cls_rl.classify import check_options, classify, main, read_names


@pytest.fixture
def photo(tiny: Any, tmp_path: Path) -> Path:
    tiny.picture(1).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_every_kind_of_file_gets_an_answer(tiny: Any, tmp_path: Path, photo: Path, capsys: Any) -> None:
    picture = tiny.picture(1, 30)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.convert("P").save(tmp_path / "palette.gif", save_all=True, append_images=[tiny.picture(2, 30)])
    picture.convert("RGBA").save(tmp_path / "alpha.png")
    picture.resize((1, 1)).save(tmp_path / "dot.png")
    tag = Image.Exif()
    tag[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=tag)
    names = ["photo.png", "cmyk.jpg", "palette.gif", "alpha.png", "dot.png", "turned.jpg"]
    code = main([str(tiny.folder), *(str(tmp_path / n) for n in names), "--names", "owl,sloth"])
    out = capsys.readouterr().out
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines] == names
    assert "animated: the first of 2 frames is used" in out
    assert "turned upright by its EXIF tag" in out
    assert "transparency put on white" in out or "alpha.png" in out
    assert "not one of the names" in out  # a random model obeys no list


def test_a_bad_file_is_a_sentence_and_the_others_are_classified(
    tiny: Any, tmp_path: Path, photo: Path, capsys: Any
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    words = [str(tiny.folder), str(tmp_path / "text.png"), str(tmp_path / "gone.png"), str(photo)]
    assert main([*words, "--names", "owl,sloth"]) == 1
    said = capsys.readouterr()
    assert said.err.count("error: ") == 2
    assert "not an image that Pillow can read" in said.err
    assert "no such image file" in said.err
    assert "photo.png: " in said.out


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["owl"], "1 class names are no choice"),
        ([], "0 class names are no choice"),
        (["owl", " owl "], "occur twice: owl"),
        (["owl", "Owl"], "near-duplicates"),
        (["owl", "  "], "is empty"),
    ],
)
def test_bad_names_are_one_sentence(names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_options(names)


def test_ten_thousand_names_are_refused_naming_the_bound(tiny: Any) -> None:
    names = [f"thing number {i}" for i in range(10_000)]
    with pytest.raises(
        ValueError, match=r"10000 class names: a prompt has \d+ tokens, more than the limit \d+"
    ):
        classify(tiny.bundle, [tiny.picture(0)], names)


def test_names_with_commas_come_from_a_file(tmp_path: Path, tiny: Any) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\ufeffbell, church\n\nowl\n", encoding="utf-8")
    assert read_names(None, file) == ["bell, church", "owl"]
    assert read_names("cat,dog,", None) == ["cat", "dog"]
    assert len(classify(tiny.bundle, [tiny.picture(0)], read_names(None, file))) == 1
    for both in ((None, None), ("a,b", file)):
        with pytest.raises(ValueError, match="one of the two"):
            read_names(*both)


def test_names_on_the_command_line_may_be_quoted_and_stand_before_the_images(
    tiny: Any, photo: Path, capsys: Any
) -> None:
    assert read_names('cat,"apple, red", dog', None) == ["cat", "apple, red", "dog"]
    assert main([str(tiny.folder), "--names", "owl,sloth", str(photo)]) == 0
    assert "photo.png: " in capsys.readouterr().out


def test_a_reply_that_was_cut_says_so(tiny: Any, photo: Path, capsys: Any) -> None:
    words = [str(tiny.folder), str(photo), "--names", "owl,sloth", "--max-new-tokens"]
    main([*words, "1"])
    assert "the reply was cut: raise --max-new-tokens" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--max-new-tokens=0 must be at least 1"):
        main([*words, "0"])


def test_the_placeholder_as_a_name_is_refused(tiny: Any) -> None:
    with pytest.raises(ValueError, match="not once"):
        classify(tiny.bundle, [tiny.picture(0)], ["owl", "<|image_pad|>"])


def test_a_missing_checkpoint_or_image_is_one_sentence(tiny: Any, tmp_path: Path, photo: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*holds no"):
        main([str(tmp_path), str(photo), "--names", "owl,sloth"])
    with pytest.raises(SystemExit, match="no image after the checkpoint"):
        main([str(tiny.folder), "--names", "owl,sloth"])


def test_order_of_pictures_is_kept_over_batches(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [tiny.picture(i) for i in range(5)]
    whole = [a.text for a in classify(tiny.bundle, pictures, tiny.names)]
    monkeypatch.setattr("cls_rl.classify.BATCH", 2)
    assert [a.text for a in classify(tiny.bundle, pictures, tiny.names)] == whole
