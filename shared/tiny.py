"""Word-level tokenizers and tiny Llama models: everything a language-model run needs, without a download."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
ROLES = ("system", "user", "assistant")
SPECIALS = (PAD, BOS, EOS, UNK, *(f"<{role}>" for role in ROLES))

# `<bos> <system> ... <user> ... <assistant> ... <eos>`; the generation marks give TRL its assistant mask.
# The rendering of a conversation is a prefix of the rendering of any longer one.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- ' <' + message['role'] + '> ' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + ' ' + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- ' <assistant> ' -}}{%- endif -%}"
)


def word_tokenizer(words: Sequence[str], *, specials: Sequence[str] = SPECIALS) -> PreTrainedTokenizerFast:
    """Makes a tokenizer that splits text at white space; one id per word, `decode` joins by one space.

    Args:
        words: the vocabulary; ids follow the order given, after the special tokens.
        specials: special tokens, ids 0, 1, ...; must contain those of `SPECIALS` (padding, ends, unknown, roles).
            They are skipped by `decode(..., skip_special_tokens=True)`. Encoding adds none on its own.

    Raises:
        ValueError: a word is empty, holds white space or occurs twice, or one of `SPECIALS` is missing.
    """
    vocabulary = [*specials, *words]
    if missing := [token for token in SPECIALS if token not in specials]:
        raise ValueError(f"specials lacks {missing}; pass specials=(*SPECIALS, ...)")
    if spaced := [word for word in vocabulary if word.split() != [word]]:
        raise ValueError(
            f"words must be non-empty and without white space, got {spaced[:5]}; split them first"
        )
    if len(set(vocabulary)) != len(vocabulary):
        twice = sorted({word for word in vocabulary if vocabulary.count(word) > 1})
        raise ValueError(f"words occur more than once: {twice[:5]}; remove the duplicates")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[token for token in specials if token not in (PAD, BOS, EOS, UNK)],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_causal_lm(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden: int,
    layers: int,
    heads: int,
    intermediate: int,
    seed: int,
    max_positions: int = 512,
) -> LlamaForCausalLM:
    """Makes a randomly initialised Llama with tied embeddings in float32; the same `seed` gives the same weights.

    The global random state is left as it was.

    Raises:
        ValueError: `heads` does not divide `hidden`, or the head size is odd (rotary embeddings need pairs).
    """
    if hidden % (2 * heads):
        fits = [n for n in range(1, hidden // 2 + 1) if hidden % (2 * n) == 0]
        raise ValueError(
            f"hidden={hidden} does not split into {heads} heads of even size; heads may be {fits}"
        )
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        dtype=torch.float32,
        **ids,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    return model
