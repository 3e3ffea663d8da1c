"""Pretraining's pieces against transformers' own, its texts against the graders, and a short run resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cls_rl import data_sets, drawings, gate, pretrain, pretrain_images, pretrain_language, pretrain_text
from cls_rl.data import Query
from cls_rl.drawings import Drawing
from cls_rl.grading import extract_answer, extract_thought, in_list
from cls_rl.model import ModelConfig, build_model, load
from cls_rl.pretrain_text import Concept
from cls_rl.pretrain_vision import NameHead, image_features
from cls_rl.processor import build_processor, build_tokenizer
from cls_rl.rewards import METHODS, REWARDS, accuracy_reward, equality_reward
from cls_rl.splits import Item

TINY = ModelConfig(
    hidden=32, layers=2, heads=2, kv_heads=1, intermediate=48, vision_hidden=32, vision_layers=2,
    vision_heads=2, vision_intermediate=48, vocabulary=700,
)  # fmt: skip
NAMES = [f"{colour} {thing}" for colour in ("red", "blue", "old") for thing in ("rose", "boat", "hat", "fox")]
ROSE = Concept("red rose", "object", "What type of object is in the photo?", tuple(NAMES[:8]))


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    tokenizer = build_tokenizer(pretrain_text.tokenizer_texts(NAMES, NAMES), TINY.vocabulary)
    return build_model(TINY, tokenizer).eval(), build_processor(tokenizer, 16, 2, 64)


def pictures(count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((count, 3, 64, 64), dtype=np.float32))


def corpus(features: torch.Tensor) -> pretrain_language.Corpus:
    found = [Concept(name, "object", ROSE.question, tuple(NAMES)) for name in NAMES]
    colours = [[("red", "white")] * len(NAMES)] * len(features)
    weights = [float(i + 1) for i in range(len(NAMES))]
    return pretrain_language.Corpus(found, colours, features, weights, NAMES)


def test_patches_and_features_are_those_of_transformers(small: tuple[Any, Any]) -> None:
    model, processor = small
    images = (pictures(3) * 255).round() / 255
    arrays = [(image.permute(1, 2, 0) * 255).round().byte().numpy() for image in images]
    made = processor.image_processor(images=arrays, return_tensors="pt")
    patches = pretrain_images.patches(images, 16, 2)
    twice = patches.reshape(3 * 16, 3, 1, 256).expand(-1, -1, 2, -1).flatten(1)
    torch.testing.assert_close(twice, made["pixel_values"], atol=1e-5, rtol=0)
    with torch.no_grad():
        expected = model.model.visual(made["pixel_values"], made["image_grid_thw"]).pooler_output
        ours = image_features(model.model.visual, patches)
    assert ours.shape == (3, 4, TINY.hidden)
    torch.testing.assert_close(ours.flatten(0, 1), expected, atol=1e-5, rtol=1e-4)


def test_reply_loss_is_that_of_the_whole_model(small: tuple[Any, Any]) -> None:
    """Against a plain forward with padding mask, Qwen's own positions, and a loop over reply tokens."""
    model, processor = small
    arrays = [(image.permute(1, 2, 0) * 255).byte().numpy() for image in pictures(2)]
    chats = pretrain_language.chat_texts(processor, ["Which? [ red rose, old hat].", "Say it."], 4)
    prompts = processor.tokenizer(chats)["input_ids"]
    replies = processor.tokenizer(["old hat<|im_end|>", "<think>red</think> <answer>fox</answer><|im_end|>"])
    made = processor.image_processor(images=arrays, return_tensors="pt")
    with torch.no_grad():
        features = model.model.visual(made["pixel_values"], made["image_grid_thw"]).pooler_output
        pairs = list(zip(prompts, replies["input_ids"], strict=True))
        batch = pretrain_language.collate(pairs, 0, features.view(2, 4, -1))
        loss, accuracy = pretrain_language.reply_loss(model, batch)
        total, weight, hits, count = 0.0, 0.0, 0, 0
        for row, (prompt, reply) in enumerate(pairs):
            ids = torch.tensor([prompt + reply])
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == processor.image_token_id).int(),
                pixel_values=made["pixel_values"][16 * row : 16 * row + 16],
                image_grid_thw=made["image_grid_thw"][row : row + 1],
            ).logits[0]
            for place, token in enumerate(reply):
                scores = logits[len(prompt) + place - 1]
                total += F.cross_entropy(scores, torch.tensor(token)).item() / len(reply) ** 0.5
                weight += 1 / len(reply) ** 0.5
                hits += int(scores.argmax()) == token
                count += 1
    assert loss.item() == pytest.approx(total / weight, rel=1e-4)
    assert accuracy.item() == pytest.approx(hits / count)


def test_name_head_prefers_the_name_its_features_point_at(small: tuple[Any, Any]) -> None:
    model, processor = small
    ids = processor.tokenizer(NAMES)["input_ids"]
    embedding = model.get_input_embeddings()
    head = NameHead(ids, embedding)
    wanted = embedding.weight[ids[5]].mean(0).expand(1, 4, -1)
    assert head(wanted).argmax().item() == 5
    right, wrong = (head.word_loss(wanted, torch.tensor([i])).item() for i in (5, 2))
    assert right < wrong


def test_augmentation_is_fixed_by_its_generator_and_stays_a_picture() -> None:
    rgba = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 4, 64, 64), dtype=np.uint8))
    first, again, other = (
        pretrain_images.augment(rgba, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert first.shape == (5, 3, 64, 64)
    assert first.min() >= 0
    assert first.max() <= 1
    clear = rgba.clone()
    clear[:, 3] = 0
    paper = pretrain_images.augment(clear, torch.Generator().manual_seed(1))
    torch.testing.assert_close(paper, paper[:, :, :1, :1].expand_as(paper))  # nothing is drawn on the paper


def test_colours_are_named_without_the_paper() -> None:
    picture = torch.ones(2, 3, 64, 64)
    picture[:, :, 16:48, 16:48] = torch.tensor([0.84, 0.19, 0.19]).view(3, 1, 1)
    picture[1, :, 16:48, 16:32] = torch.tensor([0.23, 0.47, 0.84]).view(3, 1, 1)
    one, two = pretrain_images.colours(picture)
    assert one == ("red",)
    assert set(two) == {"red", "blue"}


@pytest.mark.parametrize("method", METHODS)
def test_most_replies_earn_the_methods_rewards(method: Any) -> None:
    rng = Random(0)
    replies = [pretrain_text.reply(ROSE, NAMES[:6], ("red", "green"), method, rng) for _ in range(1000)]
    scores = np.array([[reward(r, ROSE.name) for reward in REWARDS[method]] for r in replies])
    share = scores[:, 0].mean()
    expected = 1 - pretrain_text.WRONG_FORMAT / (2 if method == "no_thinking" else 1)
    assert share == pytest.approx(expected, abs=0.035 if method != "adaptive" else 0.09)
    grade = equality_reward if method == "no_thinking" else accuracy_reward
    assert np.mean([grade(r, ROSE.name) for r in replies]) > 0.9


def test_thoughts_vary_and_some_settle_on_another_option() -> None:
    rng = Random(0)
    texts = [pretrain_text.reply(ROSE, NAMES[:6], ("red", "green"), "thinking", rng) for _ in range(2000)]
    thoughts = [thought for t in texts if (thought := extract_thought(t)) is not None]
    lengths = {len(thought.split()) for thought in thoughts}
    assert min(lengths) >= 3
    assert max(lengths) <= 20
    assert len(lengths) >= 8
    other = np.mean([ROSE.name not in t and any(n in t for n in NAMES[:6]) for t in thoughts])
    assert 0.02 < other < 0.15
    assert len({t.split('"')[0] for t in thoughts}) >= 6


def test_lists_hold_the_answer_once_and_mostly_near_names() -> None:
    rng = Random(0)
    near = 0
    for _ in range(400):
        size = rng.randint(1, 10)
        names = pretrain_text.options(ROSE, NAMES, size, rng)
        assert len(names) == len(set(names)) == size
        assert names.count(ROSE.name) == 1
        near += set(names) <= set(ROSE.near)
    assert near > 200
    assert len(pretrain_text.options(ROSE, NAMES, 99, rng)) == len(NAMES)


def test_reading_questions_are_answered_from_the_list() -> None:
    rng = Random(0)
    for _ in range(300):
        row = pretrain_text.reading_row(NAMES, NAMES[:4], 4, rng)
        names = row.user.split("[ ")[1].split("].")[0].split(", ")
        assert len(names) == 4
        if "third" in row.user:
            assert row.reply == names[2]
        elif "last" in row.user:
            assert row.reply == names[-1]
        elif "after" in row.user:
            asked = row.user.split('"')[1]
            assert row.reply == names[names.index(asked) + 1]
        elif "Which names" in row.user:
            assert row.reply.split(", ") == names
        else:
            assert in_list(row.reply, names)


def test_chunks_are_fixed_by_their_number_and_sorted_into_batches(small: tuple[Any, Any]) -> None:
    _, processor = small
    data = corpus(torch.randn(2, len(NAMES), 4, TINY.hidden))
    one, same, other = (pretrain_language.chunk(processor, data, 8, 0.5, 3, n) for n in (0, 0, 1))
    assert len(one) == pretrain_language.CHUNK
    for first, second in zip(one, same, strict=True):
        assert torch.equal(first.ids, second.ids)
        assert torch.equal(first.features, second.features)
    assert any(
        a.ids.shape != b.ids.shape or not torch.equal(a.ids, b.ids) for a, b in zip(one, other, strict=True)
    )
    used = sum((batch.ids != 0).sum().item() for batch in one)
    assert used > 0.85 * sum(batch.ids.numel() for batch in one), "padding"
    for batch in one:
        assert (batch.ids == processor.image_token_id).sum(1).tolist() == [4] * 8
        ends = batch.targets.eq(processor.tokenizer.eos_token_id).sum(1)
        assert ends.tolist() == [1] * 8


def test_answers_are_in_their_list(small: tuple[Any, Any]) -> None:
    rng = Random(1)
    for _ in range(200):
        names = pretrain_text.options(ROSE, NAMES, 5, rng)
        row = pretrain_text.list_row(ROSE, names, ("red",), "no_thinking", rng)
        assert f"[ {', '.join(names)}]." in row.user
        assert "red rose" in extract_answer(row.reply)


def test_the_last_stage_blends_in_near_names_that_the_list_lacks() -> None:
    data = corpus(torch.zeros(2, len(NAMES), 4, TINY.hidden))
    rng, lookalikes = Random(2), 0
    for _ in range(300):
        row, (_, index, other) = pretrain_language._draw_choice(data, 1.0, rng)
        listed = row.user.split("[ ")[-1].split("].")[0].split(", ")
        if other != index and len(listed) == 1 + (len(NAMES) - 1) // 2:
            lookalikes += 1
            assert NAMES[index] in listed
            assert NAMES[other] not in listed
    assert lookalikes > 150


def square(name: str, side: int = 96) -> Image.Image:
    """A made-up drawing: a square in the name's colour on nothing."""
    image = Image.new("RGBA", (side, side))
    hue = NAMES.index(name) * 20
    edge = side // 5
    image.paste((hue, 255 - hue, 90, 255), (edge, edge, side - edge, side - edge))
    return image


def made_up_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve concepts as coloured squares by two pretraining vendors, in place of the fetched store."""
    rows = [
        Drawing(f"{vendor}/{name}.png", name, "animal-mammal", vendor)
        for name in NAMES
        for vendor in ("noto", "twemoji")
    ]

    def pixels(key: str, cache_dir: Any = None) -> Image.Image:
        return square(key.split("/")[1].removesuffix(".png"))

    monkeypatch.setattr(drawings, "drawings", lambda cache_dir=None: rows)
    monkeypatch.setattr(drawings, "pixels", pixels)

    def shown(name: str, side: int = 64) -> Image.Image:
        return Image.alpha_composite(Image.new("RGBA", (side, side), "white"), square(name, side)).convert(
            "RGB"
        )

    items = [Item(name, name, name, 0, "emojione", "train") for name in NAMES[:8]]
    monkeypatch.setattr(data_sets, "class_names", lambda name: NAMES[:8])
    monkeypatch.setattr(data_sets, "load", lambda name, copies=2: items)
    monkeypatch.setattr(data_sets, "picture", shown)


SHORT = replace(
    pretrain.PRESETS["smoke"], vision_steps=60, vision_batch=16, language_steps=96, language_batch=8,
    save_every=50, sets=("animals",), model=TINY,
)  # fmt: skip


def test_loss_falls_and_a_killed_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up_store(monkeypatch)
    whole = pretrain.pretrain(SHORT, tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    shares = [line for line in capsys.readouterr().out.splitlines() if line.startswith("few-shot families")]
    assert len(shares) == 1
    assert 1 / 8 < float(shares[0].split()[-2]) <= 1, "chance is 1 / 8"
    assert {row["stage"] for row in rows} == {"vision", "language", "choosing"}
    for stage in ("vision", "language"):
        losses = [row["loss"] for row in rows if row["stage"] == stage]
        assert losses[-1] < losses[0]

    class KilledError(Exception):
        pass

    for stage, at in (("image_features", 55), ("reply_loss", 70)):
        module = pretrain if stage == "image_features" else pretrain_language
        original, calls = getattr(module, stage), [0]

        def dies(*args: Any, original: Any = original, calls: list[int] = calls, at: int = at) -> Any:
            calls[0] += 1
            if calls[0] == at:
                raise KilledError
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(module, stage, dies)
            with pytest.raises(KilledError):
                pretrain.pretrain(SHORT, tmp_path / "cut")
    again = pretrain.pretrain(SHORT, tmp_path / "cut")
    first, second = (load(folder).model.state_dict() for folder in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    resumed = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [{**row, "cpu_s": 0} for row in resumed] == [{**row, "cpu_s": 0} for row in rows]


def test_another_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_store(monkeypatch)
    pretrain._claim(tmp_path, SHORT)
    with pytest.raises(ValueError, match="another recipe"):
        pretrain.pretrain(replace(SHORT, seed=1), tmp_path)


def test_downstream_drawings_are_refused() -> None:
    late = Drawing("openmoji/1f339.png", "rose", "plant-flower", "openmoji")
    with pytest.raises(ValueError, match="downstream"):
        pretrain_images.load_pictures(64, [late])


@pytest.mark.slow
def test_a_short_recipe_learns_formats_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipe in about a minute of CPU time on made-up drawings, then sampled replies."""
    made_up_store(monkeypatch)
    recipe = replace(
        pretrain.PRESETS["smoke"], vision_steps=150, language_steps=1400, save_every=700, sets=("animals",)
    )
    policy = load(pretrain.pretrain(recipe, tmp_path))
    asked = {"animals": [Query(name, name, tuple(NAMES[:8]), ROSE.question) for name in NAMES[:8]] * 64}
    thinking, direct = (
        gate.describe(gate.answer(policy, method, asked, 1.0, 0)) for method in ("thinking", "no_thinking")
    )
    assert thinking["format"] > 0.5
    assert direct["in_list"] > 0.5
    assert direct["reward"] > 2 / 8, "chance is 1 / 8, with a standard error of 0.015"
