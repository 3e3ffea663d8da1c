"""The word tokenizer and the tiny model: ids, text, chat template, seeds, saving and loading."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.tiny import SPECIALS, tiny_causal_lm, word_tokenizer

WORDS = ["[Easy]", "[Hard]", "start", "+3", "mod", "7", "\\boxed{4}", "wait"]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(WORDS)


def build(tokenizer, **changes):
    return tiny_causal_lm(
        tokenizer, **{"hidden": 32, "layers": 2, "heads": 4, "intermediate": 48, "seed": 0} | changes
    )


def test_each_word_is_one_id_and_decoding_gives_the_text_back(tokenizer):
    text = "[Easy] start +3 mod 7 \\boxed{4}"
    ids = tokenizer(text).input_ids
    assert ids == [len(SPECIALS) + WORDS.index(word) for word in text.split()]
    assert tokenizer.decode(ids) == text
    assert (
        tokenizer.decode([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id], skip_special_tokens=True)
        == text
    )
    assert tokenizer("nonsense").input_ids == [tokenizer.unk_token_id]
    assert len(tokenizer) == len(SPECIALS) + len(WORDS)


def test_batches_are_padded_on_the_left(tokenizer):
    batch = tokenizer(["start", "start mod 7"], padding=True)
    assert batch["attention_mask"][0] == [0, 0, 1]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_chat_template_prompt_is_a_prefix_and_the_assistant_mask_covers_the_reply(tokenizer):
    prompt = [{"role": "system", "content": "mod 7"}, {"role": "user", "content": "start +3"}]
    reply = {"role": "assistant", "content": "[Easy] \\boxed{4}"}
    prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    whole = tokenizer.apply_chat_template(
        [*prompt, reply], return_dict=True, return_assistant_tokens_mask=True
    )
    assert tokenizer.decode(prompt_ids) == "<bos> <system> mod 7 <user> start +3 <assistant>"
    assert whole["input_ids"][: len(prompt_ids)] == prompt_ids
    assert tokenizer.decode(whole["input_ids"][len(prompt_ids) :]) == "[Easy] \\boxed{4} <eos>"
    assert whole["assistant_masks"] == [0] * len(prompt_ids) + [1, 1, 1]


@pytest.mark.parametrize("words", [["a", "a"], ["a b"], [""], ["<eos>"]])
def test_bad_words_are_refused(words):
    with pytest.raises(ValueError, match="words"):
        word_tokenizer(words)


def test_missing_specials_are_named():
    with pytest.raises(ValueError, match="<pad>"):
        word_tokenizer(["a"], specials=SPECIALS[1:])


def test_extra_specials_are_skipped_by_decode():
    tokenizer = word_tokenizer(["a"], specials=(*SPECIALS, "<tool>"))
    assert tokenizer.decode(tokenizer("<tool> a").input_ids, skip_special_tokens=True) == "a"


def test_seed_decides_the_weights_and_the_global_state_is_left_alone(tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = build(tokenizer), build(tokenizer), build(tokenizer, seed=1)
    assert torch.equal(torch.rand(3), expected)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_model_matches_the_tokenizer(tokenizer):
    model = build(tokenizer)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.shape == (len(tokenizer), 32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    for config in (model.config, model.generation_config):
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    assert model.generation_config.to_diff_dict().keys() <= {
        "pad_token_id", "bos_token_id", "eos_token_id", "transformers_version", "_from_model_config"
    }  # fmt: skip


def test_impossible_head_count_names_the_possible_ones(tokenizer):
    with pytest.raises(ValueError, match=r"\[1, 2, 4, 8, 16\]"):
        build(tokenizer, heads=5)


def test_saving_and_loading_gives_the_same_tokenizer_and_model(tokenizer, tmp_path):
    model = build(tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, tokenizer_2 = (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    messages = [{"role": "user", "content": "start +3 mod 7"}, {"role": "assistant", "content": "\\boxed{4}"}]
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert tokenizer_2.apply_chat_template(messages, return_dict=True)["input_ids"] == ids
    assert tokenizer_2.decode(ids, skip_special_tokens=True) == "start +3 mod 7 \\boxed{4}"
    assert (tokenizer_2.padding_side, tokenizer_2.pad_token) == ("left", "<pad>")
    inputs = torch.tensor([ids])
    assert torch.equal(loaded(inputs).logits, model(inputs).logits)
