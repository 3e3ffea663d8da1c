"""Any image file to RGB pixels of a size that Qwen's processor takes; every refusal is one sentence.

The paper resizes to 328 x 328, the authors' code to 384 x 384 with Lanczos (`fixed_size`); the processor then
rounds both sides to multiples of patch * merge (28) inside the pixel limits, which is `smart_size` here.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FACTOR = 28  # Qwen2-VL and Qwen2.5-VL: patch 14 x merge 2
MIN_PIXELS, MAX_PIXELS = 3136, 401_408  # authors' launch scripts
MAX_FILE_PIXELS = 200_000_000  # 600 MB as RGB; beyond it a small file can fill the memory
MAX_ASPECT = 200  # qwen_vl_utils refuses more
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # in other formats several pictures are pages or a preview


class TooLarge(ValueError):
    """More pixels than MAX_FILE_PIXELS."""


@dataclass(frozen=True)
class Loaded:
    """An RGB picture and what was done to it that its owner may not expect."""

    image: Image.Image
    notes: tuple[str, ...] = ()


def load_rgb(path: str | Path, target_side: int | None = None) -> Loaded:
    """Read any file Pillow can: upright by its EXIF tag, first frame, alpha on white, 8-bit RGB.

    Args:
        target_side: pixels of the longer side wanted later; a large JPEG is then decoded smaller, for speed.

    Raises ValueError, one sentence, for a missing, unreadable, truncated or too large file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such image file; check the path")
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_FILE_PIXELS decides
            with Image.open(path) as file:
                width, height = file.size
                _check_size(path, width, height)
                if target_side and file.format == "JPEG":
                    file.draft(None, (target_side, target_side))
                if (frames := getattr(file, "n_frames", 1)) > 1:
                    what = "animated" if file.format in ANIMATED else "several pictures"
                    notes.append(f"{what}: the first of {frames} frames is used")
                    file.seek(0)
                file.load()
                turned = ImageOps.exif_transpose(file)
                if file.getexif().get(0x0112, 1) in range(2, 9):  # other numbers mean nothing
                    notes.append("turned upright by its EXIF tag")
                return Loaded(_to_rgb(turned, notes), tuple(notes))
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image that Pillow can read; convert it to PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: more than {MAX_FILE_PIXELS:,} pixels; make it smaller first") from None
    except TooLarge:
        raise
    except (OSError, SyntaxError, EOFError, ValueError, struct.error) as error:
        raise ValueError(f"{path}: damaged or truncated image ({error}); fetch the file again") from None


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_FILE_PIXELS:
        raise TooLarge(
            f"{path}: {width} x {height} is more than {MAX_FILE_PIXELS:,} pixels; make it smaller first"
        )


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        notes.append(f"{image.mode} samples scaled to 8 bits")
        image = _scaled_to_8_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):  # else an alpha channel that hides nothing
            notes.append("transparency put on white")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """16- and 32-bit grey: Pillow's own conversion would clip at 255, so all but black turns white."""
    samples = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = 65_535.0 if image.mode.startswith("I") and samples.max(initial=0) > 255 else 255.0
    if image.mode == "F" and samples.max(initial=0) <= 1:
        top = 1.0
    return Image.fromarray(np.clip(samples / top * 255, 0, 255).astype(np.uint8))


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without byte-order mark; ValueError, one sentence, for another encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None


def smart_size(
    width: int, height: int, factor: int = FACTOR, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """(width, height) for Qwen's processor: multiples of `factor`, area within the limits, ratio kept.

    This is `smart_resize` of qwen_vl_utils or, where that can not be imported for lack of a fitting
    torchvision, transformers' own. The two differ for a side below `factor` only, where qwen_vl_utils first
    raises it.
    """
    try:
        from qwen_vl_utils.vision_process import smart_resize
    except (ImportError, RuntimeError):
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"a {width} x {height} image is longer than {MAX_ASPECT} times its width; crop it before use"
        )
    if not factor**2 <= min_pixels <= max_pixels:
        raise ValueError(
            f"need factor**2 <= min_pixels <= max_pixels; got {factor=}, {min_pixels=}, {max_pixels=}"
        )
    new_height, new_width = smart_resize(height, width, factor, min_pixels, max_pixels)
    return int(new_width), int(new_height)


def image_tokens(width: int, height: int, factor: int = FACTOR) -> int:
    """Language-model tokens of an image whose sides are multiples of `factor` (384 -> 392: 196 tokens)."""
    if width % factor or height % factor:
        raise ValueError(f"{width} x {height} is not a multiple of {factor}; call smart_size first")
    return width // factor * (height // factor)


def fixed_size(image: Image.Image, side: int) -> Image.Image:
    """`side` x `side` pixels by Lanczos, ratio not kept (authors' code: 384)."""
    return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.LANCZOS)


def digest(image: Image.Image) -> str:
    """SHA-256 of size and pixels: equal for one picture stored in two formats without loss."""
    return hashlib.sha256(repr(image.size).encode() + image.mode.encode() + image.tobytes()).hexdigest()


def difference_hash(image: Image.Image) -> int:
    """64 bits, one per pixel of an 8 x 8 grey thumbnail: is it brighter than its right neighbour?"""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
