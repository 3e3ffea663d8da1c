"""A word-level language for tiny models whose decoded text is real Hermes text (sheet §7.4).

Every name, word and piece of JSON is one token, and the tokens of one call decode to

    <tool_call>{"name":"city_index","arguments":{"city":"Muraton","relation":"mayor"}}</tool_call>

so that the production parser, reward and sandbox read it as they read a pretrained model's. Tool documents
get a compact rendering by the chat template, about nine tokens each (names only, no descriptions):

    city_index city relation mayor districts | limit filters ;

required parameters, then those that choose among relations or operations with their values, then the rest.
The template leaves the authors' preamble out: 50 of the 256 tokens that a prompt may have (D7).
"""

from __future__ import annotations

import re
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shared.tiny import BOS, EOS, PAD, SPECIALS, UNK
from tool_env_rl.build_env.integrate import GENERAL_NAMES
from tool_env_rl.build_env.scale import OPTIONAL
from tool_env_rl.knowledge_base import ENDINGS, NUMBERS, OPERATIONS, RELATION_TABLE, procedural
from tool_env_rl.protocol import CALL_END, CALL_START

# Pieces of a call between its words, longest first: a shorter one may be part of a longer one.
JOINERS = ('","arguments":{"', '","arguments":{', '{"name":"', '":"', '":', '","', ',"', '"}}', "}}")
PUNCTUATION = ("?", ",", ":", ".", "|", ";", "+")
OPAQUE_TOOLS = tuple(f"tool_{letter}" for letter in "abcdefgh")
OPAQUE_KEYS = tuple(f"key_{letter}" for letter in "abcdefgh")
_WORDS = (
    "What is the of and are Which number larger or "  # questions
    "No matching record found Error must be one a non-empty string an integer from result out range "
    "known occured when call I can not find it "
    "copy reverse add "
    "<think> </think>"
)
_SELECTORS = ("relation", "operation")

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- if tools -%}<system>{%- for tool in tools -%}{%- set f = tool.function -%}"
    "{%- set p = f.parameters.properties -%}{%- set required = f.parameters.required -%}"
    "{%- set ns = namespace(chosen=[], rest=[]) -%}"
    "{{- ' ' + f.name -}}"
    "{%- for key, schema in p.items() -%}"
    "{%- if schema.enum is defined and schema.description.startswith('What to') -%}"
    "{%- set ns.chosen = ns.chosen + [key] -%}"
    "{%- elif key in required -%}{{- ' ' + key -}}"
    "{%- else -%}{%- set ns.rest = ns.rest + [key] -%}{%- endif -%}{%- endfor -%}"
    "{%- for key in ns.chosen -%}{{- ' ' + key + ' ' + p[key].enum | join(' ') -}}{%- endfor -%}"
    "{%- if ns.rest -%}{{- ' | ' + ns.rest | join(' ') -}}{%- endif -%}"
    "{{- ' ;' -}}{%- endfor -%}{%- endif -%}"
    "{%- for message in messages -%}{{- ' <' + message.role + '> ' -}}"
    "{%- if message.role == 'assistant' -%}"
    "{{- message.content -}}"
    "{%- for call in message.tool_calls or [] -%}"
    '{{- \' <tool_call>{"name":"\' + call.function.name + \'","arguments":\' -}}'
    "{{- call.function.arguments | tojson(separators=(',', ':')) + '}</tool_call>' -}}{%- endfor -%}"
    "{{- ' ' + eos_token -}}"
    "{%- else -%}{{- message.content.split('\\nQuestion: ') | last -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- ' <assistant> ' -}}{%- endif -%}"
)


def variant(name: str) -> str:
    """A character-level variant of a name (RoTBench's slight noise): its first inner vowel is lost."""
    return re.sub(r"(?<=.)[aeiou]", "", name, count=1)


@cache
def words() -> tuple[str, ...]:
    """All words but the specials, in a fixed order: names, relations, tools, parameters, messages, digits."""
    kb = procedural()
    general = [f"{kind}_{ending}" for kind in ENDINGS for ending in GENERAL_NAMES]
    general += [f"{kind}_{GENERAL_NAMES[0]}_v2" for kind in ENDINGS]
    tools = [*general, *(f"{row[0]}_finder" for row in RELATION_TABLE)]
    tools += [f"{operation}_calculator" for operation in (*OPERATIONS, "number")]
    keys = [*ENDINGS, *_SELECTORS, "first", "second", *OPTIONAL]
    found = [CALL_START, CALL_END, *JOINERS, *PUNCTUATION, *_WORDS.split(), *"0123456789"]
    found += [name for kind in ENDINGS for name in kb.entities[kind]] + list(NUMBERS)
    found += [row[0] for row in RELATION_TABLE] + list(OPERATIONS) + tools + keys
    found += [variant(name) for name in (*tools, *keys)] + [*OPAQUE_TOOLS, *OPAQUE_KEYS]
    return tuple(dict.fromkeys(found))


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template; words outside the language become <unk>."""
    vocabulary = {word: index for index, word in enumerate((*SPECIALS, "<tool>", *words()))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    pieces = [CALL_START, CALL_END, *JOINERS]
    pattern = "|".join(map(re.escape, pieces)) + "|<[a-z]+>|[?,:.|;+]"
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(pattern), "isolated")]
    )
    # Words are joined by one space, which then goes wherever a quotation or punctuation mark stands.
    glue = [(' "', '"'), ('" ', '"'), (" }}", "}}"), (f"{{ {CALL_END}", f"{{{CALL_END}"), ('": ', '":')]
    glue += [(f"{CALL_START} {{", f"{CALL_START}{{"), (f"}} {CALL_END}", f"}}{CALL_END}"), (" ,", ",")]
    glue += [(" ?", "?"), (" .", ".")]
    backend.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.WordPiece(prefix="\x00", cleanup=False), decoders.Fuse()]
        + [decoders.Replace(pattern, text) for pattern, text in glue]
    )
    named = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=[*(t for t in SPECIALS if t not in named.values()), "<tool>"],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **named,
    )
