"""Every odd image file: handled, or refused in one sentence."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cls_rl import images
from cls_rl.images import difference_hash, digest, fixed_size, image_tokens, load_rgb, smart_size

RED, BLUE = (255, 0, 0), (0, 0, 255)


def saved(folder: Path, name: str, image: Image.Image, **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


def two_halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def near(pixel, colour: tuple[int, int, int], off: int = 12) -> bool:
    return all(abs(a - b) <= off for a, b in zip(pixel, colour, strict=True))


def test_plain_png_is_unchanged_and_without_notes(tmp_path: Path) -> None:
    got = load_rgb(saved(tmp_path, "a.png", two_halves()))
    assert (got.image.mode, got.image.size, got.notes) == ("RGB", (40, 20), ())
    assert digest(got.image) == digest(two_halves())


def test_animated_gif_gives_its_first_frame_and_says_so(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, BLUE, (0, 255, 0))]
    path = saved(tmp_path, "a.gif", frames[0], save_all=True, append_images=frames[1:])
    got = load_rgb(path)
    assert near(got.image.getpixel((4, 4)), RED)
    assert any("first of 3 frames" in note for note in got.notes)


def test_one_pixel_is_read_and_enlarged_by_the_limits(tmp_path: Path) -> None:
    got = load_rgb(saved(tmp_path, "a.png", Image.new("RGB", (1, 1), RED)))
    assert got.image.getpixel((0, 0)) == RED
    assert smart_size(1, 1) == (56, 56)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    got = load_rgb(saved(tmp_path, "a.jpg", Image.new("RGB", (16, 16), RED).convert("CMYK"), quality=95))
    assert got.image.mode == "RGB"
    assert near(got.image.getpixel((8, 8)), RED)


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    palette = two_halves().convert("P", palette=Image.Palette.ADAPTIVE)
    assert near(load_rgb(saved(tmp_path, "a.png", palette)).image.getpixel((2, 2)), RED)
    clear = saved(tmp_path, "b.png", palette, transparency=palette.getpixel((2, 2)))
    got = load_rgb(clear)
    assert got.image.getpixel((2, 2)) == (255, 255, 255)
    assert near(got.image.getpixel((38, 2)), BLUE)
    assert got.notes == ("transparency put on white",)


def test_alpha_goes_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*RED, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    got = load_rgb(saved(tmp_path, "a.png", image)).image
    assert [got.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), RED]
    assert near(got.getpixel((2, 0)), (127, 127, 127), 2)
    grey = load_rgb(saved(tmp_path, "b.png", Image.new("LA", (2, 2), (0, 0)))).image
    assert grey.getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned 90 degrees clockwise
    got = load_rgb(saved(tmp_path, "a.jpg", two_halves((80, 40)), exif=exif, quality=95, subsampling=0))
    assert got.image.size == (40, 80)
    assert near(got.image.getpixel((20, 10)), RED, 20)
    assert near(got.image.getpixel((20, 70)), BLUE, 20)
    assert got.notes == ("turned upright by its EXIF tag",)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.array([[0, 16_384, 32_768, 65_535]], dtype=np.uint16)
    got = load_rgb(saved(tmp_path, "a.png", Image.fromarray(ramp)))
    assert [got.image.getpixel((x, 0))[0] for x in range(4)] == [0, 63, 127, 255]  # type: ignore[index]
    assert got.notes


def test_bilevel_and_grey(tmp_path: Path) -> None:
    for mode in ("1", "L"):
        assert load_rgb(saved(tmp_path, f"{mode}.png", Image.new(mode, (3, 3), 255))).image.mode == "RGB"


def test_large_jpeg_is_decoded_smaller_and_huge_files_are_refused(tmp_path: Path, monkeypatch) -> None:
    path = saved(tmp_path, "a.jpg", Image.new("RGB", (1600, 800), RED))
    assert load_rgb(path).image.size == (1600, 800)
    assert load_rgb(path, target_side=200).image.size == (400, 200)
    monkeypatch.setattr(images, "MAX_FILE_PIXELS", 1_000_000)
    with pytest.raises(ValueError, match=r"1600 x 800 is more than 1,000,000 pixels; make it smaller"):
        load_rgb(path)


def test_header_that_claims_a_giant_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ppm"
    path.write_bytes(b"P6 60000 60000 255\n" + bytes(100))
    with pytest.raises(ValueError, match="more than 200,000,000 pixels"):
        load_rgb(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_file(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, f"a.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"damaged or truncated image .* fetch the file again") as caught:
        load_rgb(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"]
)
def test_unreadable_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: (not an image|damaged)"):
        load_rgb(tmp_path / "a.png")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ValueError, match="no such image file"):
            load_rgb(path)


def test_sizes_are_those_of_the_paper() -> None:
    assert smart_size(384, 384) == (392, 392)
    assert image_tokens(392, 392) == 196
    assert smart_size(328, 328) == (336, 336)
    assert image_tokens(336, 336) == 144
    assert fixed_size(two_halves(), 384).size == (384, 384)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10, 300), (4000, 3000), (5000, 30), (641, 479)])
def test_smart_size_keeps_its_limits(width: int, height: int) -> None:
    w, h = smart_size(width, height)
    assert w % 28 == h % 28 == 0
    assert images.MIN_PIXELS <= w * h <= images.MAX_PIXELS


def test_smart_size_asks_qwen_vl_utils_where_it_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    vision = types.ModuleType("qwen_vl_utils.vision_process")
    vision.smart_resize = lambda height, width, factor, low, high: (height, width + factor + low + high)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "qwen_vl_utils", types.ModuleType("qwen_vl_utils"))
    monkeypatch.setitem(sys.modules, "qwen_vl_utils.vision_process", vision)
    assert smart_size(100, 50, 28, 784, 1000) == (100 + 28 + 784 + 1000, 50)


def test_smart_size_errors() -> None:
    with pytest.raises(ValueError, match="longer than 200 times its width"):
        smart_size(2010, 10)
    with pytest.raises(ValueError, match="min_pixels=10"):
        smart_size(10, 10, min_pixels=10)
    with pytest.raises(ValueError, match="not a multiple of 28"):
        image_tokens(30, 28)


def test_hashes_tell_content_and_not_format(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    png, bmp = (load_rgb(saved(tmp_path, f"a.{s}", noise)).image for s in ("png", "bmp"))
    assert digest(png) == digest(bmp)
    jpg = load_rgb(saved(tmp_path, "a.jpg", noise, quality=90)).image
    assert digest(jpg) != digest(png)
    assert (difference_hash(jpg) ^ difference_hash(png)).bit_count() <= 3
    other = Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert (difference_hash(other) ^ difference_hash(png)).bit_count() > 10
    assert 0 <= difference_hash(two_halves()) < 2**64


def test_pages_are_no_animation_and_an_opaque_alpha_hides_nothing(tmp_path: Path) -> None:
    picture = Image.new("RGB", (6, 4), "red")
    picture.save(tmp_path / "scan.tiff", save_all=True, append_images=[picture])
    assert load_rgb(tmp_path / "scan.tiff").notes == ("several pictures: the first of 2 frames is used",)
    picture.convert("RGBA").save(tmp_path / "opaque.png")
    assert load_rgb(tmp_path / "opaque.png").notes == ()
    tag = Image.Exif()
    tag[0x0112] = 9
    picture.save(tmp_path / "odd.jpg", exif=tag)
    assert load_rgb(tmp_path / "odd.jpg").notes == ()


def test_what_pillow_says_without_the_file_is_said_with_it(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 3_000_000, zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "wordy.png", pnginfo=info)
    with pytest.raises(ValueError, match=r"wordy\.png: damaged or truncated image"):
        load_rgb(tmp_path / "wordy.png")
    (tmp_path / "fuzzed.ppm").write_bytes(b"P6\n4 x4 255\n" + bytes(48))
    with pytest.raises(ValueError, match=r"fuzzed\.ppm: "):
        load_rgb(tmp_path / "fuzzed.ppm")
