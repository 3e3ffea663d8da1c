"""Word-level tokenizers and tiny Llama models: everything a language-model run needs, without a download."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIALS = (PAD, BOS, EOS, UNK, "<system>", "<user>", "<assistant>")

# `<bos> <system> ... <user> ... <assistant> ... <eos>`; the generation marks give TRL its assistant mask.
# The rendering of a conversation is a prefix of the rendering of any longer one.
CHAT_TEMPLATE = (
    "{{- bos_token -}}{%- for message in messages -%}{{- ' <' + message['role'] + '> ' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + ' ' + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- ' <assistant> ' -}}{%- endif -%}"
)


def word_tokenizer(words: Sequence[str], *, specials: Sequence[str] = SPECIALS) -> PreTrainedTokenizerFast:
    """A tokenizer that splits text at white space; one id per word, `decode` joins by one space.

    Ids 0, 1, ... are `specials`, then `words`; encoding adds none, padding goes left. ValueError: a word is
    empty, holds white space or occurs twice, or `specials` lacks one of `SPECIALS`.
    """
    vocabulary = [*specials, *words]
    if missing := [token for token in SPECIALS if token not in specials]:
        raise ValueError(f"specials lacks {missing}; pass specials=(*SPECIALS, ...)")
    if spaced := [word for word in vocabulary if word.split() != [word]]:
        raise ValueError(f"words {spaced[:5]} are empty or hold white space; split them first")
    if twice := [word for word, times in Counter(vocabulary).items() if times > 1]:
        raise ValueError(f"words occur more than once: {twice[:5]}; remove the duplicates")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=[token for token in specials if token not in named.values()],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **named,
    )


def tiny_causal_lm(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int, layers: int, heads: int, intermediate: int, seed: int
) -> LlamaForCausalLM:
    """A random float32 Llama with tied embeddings, fixed by `seed`; ValueError names the `heads` that fit."""
    if hidden % (2 * heads):  # rotary embeddings need pairs
        fits = [n for n in range(1, hidden // 2 + 1) if hidden % (2 * n) == 0]
        raise ValueError(f"{hidden=} does not split into {heads} heads of even size; heads may be {fits}")
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"intermediate_size": intermediate, "max_position_embeddings": 512, "vocab_size": len(tokenizer)}
    config = LlamaConfig(**sizes, **ids, tie_word_embeddings=True, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    return model
