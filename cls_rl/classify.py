"""Classify any image files among names you give.

    python -m cls_rl.classify shipped photo.jpg drawing.png --names cat,dog,"red apple"
    python -m cls_rl.classify runs/small-seed0/model *.png --names-file names.txt       # one name per line
    python -m cls_rl.classify --model Qwen/Qwen2.5-VL-3B-Instruct photo.jpg --names cat,dog     # on a GPU

Prints one line per image: file, answer, and what the reader should know: an answer outside the list, what was
done to the file. A file that cannot be read gets its sentence on stderr, the others are still classified.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import transformers
from PIL import Image

from cls_rl import encoding, images, rollouts
from cls_rl.grading import extract_answer, extract_thought, in_list
from cls_rl.model import SHIPPED, Bundle, load
from cls_rl.prompts import QUESTION, user_text
from cls_rl.rewards import METHODS, Method
from cls_rl.splits import check_names
from shared import gpu
from shared.rollouts import Sampling

BATCH = 32  # images at once


@dataclass(frozen=True)
class Answer:
    """A reply to one image: the name it gives, whether that is one of the names, and its thought, if any.

    `truncated`: the reply was cut before it ended, so that the name may be a fragment.
    """

    name: str
    in_list: bool
    thought: str | None
    text: str
    truncated: bool


def check_options(names: Sequence[str]) -> list[str]:
    """The names, stripped; ValueError, one sentence: none, one, empty, twice, or differing in case alone."""
    stripped = [name.strip() for name in names]
    if len(stripped) < 2:
        raise ValueError(
            f"{len(stripped)} class names are no choice; give two or more (--names, --names-file)"
        )
    if twice := sorted({name for name in stripped if stripped.count(name) > 1}):
        raise ValueError(f"class names occur twice: {', '.join(twice[:5])}; remove one of each")
    check_names(stripped)
    return stripped


def classify(
    bundle: Bundle,
    pictures: Sequence[Image.Image],
    names: Sequence[str],
    method: Method = "no_thinking",
    question: str = QUESTION,
    max_new_tokens: int | None = None,
) -> list[Answer]:
    """Greedy answers; every picture is asked with the names in the order given. `max_new_tokens` None: 64 for
    a bare name, the paper's 1024 where the reply holds a thought.

    ValueError as `check_options`, and where the list is longer than the model can read.
    """
    options = check_options(names)
    max_new_tokens = max_new_tokens or (64 if method == "no_thinking" else 1024)
    limit = int(bundle.model.config.get_text_config().max_position_embeddings) - max_new_tokens
    text = encoding.render(bundle.processor, user_text(method, options, question))
    answers: list[Answer] = []
    for first in range(0, len(pictures), BATCH):
        part = [images.fixed_size(picture, bundle.side) for picture in pictures[first : first + BATCH]]
        try:
            prompts = encoding.encode(bundle.processor, [text] * len(part), part, limit)
        except ValueError as error:
            raise ValueError(f"{len(options)} class names: {error}") from None
        greedy = Sampling(max_new_tokens, temperature=0)
        drawn = rollouts.generate(bundle.model, bundle.tokenizer, prompts, sampling=greedy)
        replies = bundle.tokenizer.batch_decode(drawn.completion_ids, skip_special_tokens=True)
        for reply, ended in zip(replies, drawn.finished, strict=True):
            name = extract_answer(reply)
            answers.append(Answer(name, in_list(name, options), extract_thought(reply), reply, not ended))
    return answers


def read_names(names: str | None, file: Path | None) -> list[str]:
    """`--names a,b,"c, d"` or a file with one name per line, which may hold commas."""
    if (names is None) == (file is None):
        raise ValueError("give the class names by --names a,b,c or by --names-file FILE, one of the two")
    if file is None:
        return [name for name in next(csv.reader([str(names)], skipinitialspace=True), []) if name.strip()]
    if not file.is_file():
        raise ValueError(f"{file}: no such file of names; write one name per line")
    return [line for line in images.read_text(file).splitlines() if line.strip()]


def _readable(paths: Sequence[Path], side: int) -> Iterator[tuple[Path, images.Loaded]]:
    for path in paths:
        try:
            yield path, images.load_rgb(path, side)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code is 1 where an image could not be read."""
    parser = argparse.ArgumentParser(
        prog="python -m cls_rl.classify", description="Classify image files among names you give."
    )
    parser.add_argument(
        "words", nargs="+", metavar="[CHECKPOINT] IMAGE", help="'shipped' or a folder, then images"
    )
    parser.add_argument("--model", help="hub id of a Qwen2-VL or Qwen2.5-VL instead of CHECKPOINT")
    parser.add_argument("--names", help="comma-separated class names; one with a comma in double quotes")
    parser.add_argument("--names-file", type=Path, help="class names, one per line")
    parser.add_argument("--method", choices=METHODS, default="no_thinking", help="whose prompt to use")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument(
        "--max-new-tokens", type=int, help="tokens of a reply (default 64; 1024 where it holds a thought)"
    )
    args = parser.parse_intermixed_args(argv)
    try:
        options = check_options(read_names(args.names, args.names_file))
        checkpoint, paths = (args.model, args.words) if args.model else (args.words[0], args.words[1:])
        if not paths:
            raise ValueError(f"no image after the checkpoint {checkpoint}; name at least one file")
        transformers.utils.logging.disable_progress_bar()  # one per file
        bundle = load(SHIPPED if checkpoint == "shipped" else checkpoint)
        bundle = replace(bundle, model=bundle.model.to(gpu.device()))
        found = list(_readable([Path(path) for path in paths], bundle.side))
        pictures = [loaded.image for _, loaded in found]
        if args.max_new_tokens is not None and args.max_new_tokens < 1:
            raise ValueError(f"--max-new-tokens={args.max_new_tokens} must be at least 1")
        answers = classify(bundle, pictures, options, args.method, args.question, args.max_new_tokens)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    for (path, loaded), answer in zip(found, answers, strict=True):
        notes = [*loaded.notes, *(() if answer.in_list else ("not one of the names",))]
        notes += ["the reply was cut: raise --max-new-tokens"] if answer.truncated else []
        print(f"{path}: {' '.join(answer.name.split())}" + (f" ({'; '.join(notes)})" if notes else ""))
        if answer.thought:
            print(f"  thought: {' '.join(answer.thought.split())}")
    return int(len(found) < len(paths))


if __name__ == "__main__":
    sys.exit(main())
