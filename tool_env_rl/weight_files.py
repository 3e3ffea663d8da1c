"""Tensors of a Hugging Face checkpoint, read lazily: a folder, one file or a hub id; sharded or not."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


class BadCheckpoint(ValueError):
    """A checkpoint that cannot be read or compared; the message says what to do."""


class Weights:
    """Tensors of one checkpoint by name, read lazily from one or several safetensors files."""

    def __init__(self, source: str | Path) -> None:
        self.source = str(source)
        self._stack = ExitStack()
        self._handles: dict[str, Any] = {}
        for path in _safetensors_files(str(source)):
            try:
                handle = self._stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise BadCheckpoint(
                    f"{path} is not a readable safetensors file ({error}); copy it again"
                ) from error
            self._handles.update(dict.fromkeys(handle.keys(), handle))
        self._tie_head()

    def _tie_head(self) -> None:
        # A tied head is not stored; if the other run unties it, compare with the embedding it started from.
        embeddings = [name for name in self._handles if name.endswith(("embed_tokens.weight", "wte.weight"))]
        if "lm_head.weight" not in self._handles and len(embeddings) == 1:
            self.tied_head: str | None = embeddings[0]
        else:
            self.tied_head = None

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def names(self) -> list[str]:
        return sorted(self._handles)

    def has(self, name: str) -> bool:
        return self._stored(name) in self._handles

    def _stored(self, name: str) -> str:
        return self.tied_head if name == "lm_head.weight" and self.tied_head else name

    def view(self, name: str) -> Any:
        """The tensor's safetensors slice: `.get_shape()`, `.get_dtype()` and indexing."""
        stored = self._stored(name)
        return self._handles[stored].get_slice(stored)


def _safetensors_files(source: str) -> list[Path]:
    folder = Path(source)
    if folder.is_file():
        return [folder]
    if not folder.exists():
        folder = _download(source)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise BadCheckpoint(
                f"{index} has no readable weight_map; download the checkpoint again"
            ) from error
        if missing := [name for name in names if not (folder / name).exists()]:
            raise BadCheckpoint(
                f"{folder} lacks the shard {missing[0]} that its index names; download it again"
            )
        return [folder / name for name in names]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if (folder / "adapter_model.safetensors").exists():
        raise BadCheckpoint(
            f"{folder} holds a LoRA adapter; merge it (merge_and_unload) and save the model first"
        )
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise BadCheckpoint(
            f"{folder} has {len(found)} .safetensors files and no model.safetensors or index; "
            "save the model with save_pretrained"
        )
    return found


def _download(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.safetensors.index.json"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadCheckpoint(
            f"{source} is neither a folder nor a hub id that can be fetched ({reason})"
        ) from error
