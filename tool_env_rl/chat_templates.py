"""A chat template with tools for ChatML models whose own template knows none (SmolLM2-135M-Instruct).

The Hermes form of Qwen2.5: tool documents in the system block, calls in <tool_call>, results in
<tool_response> blocks of a user turn.
"""

from __future__ import annotations

from typing import Any

MARKS = ("<|im_start|>", "<|im_end|>")
HERMES_CHATML = (
    "{%- if tools -%}"
    "{{- '<|im_start|>system\\nYou may call one or more functions. Their signatures:\\n<tools>' -}}"
    "{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}"
    "{{- '\\n</tools>\\nFor each call return a JSON object inside <tool_call></tool_call>:\\n<tool_call>' -}}"
    '{{- \'\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>\' -}}'
    "{{- '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'tool' -%}"
    "{%- if loop.previtem is not defined or loop.previtem.role != 'tool' -%}"
    "{{- '<|im_start|>user' -}}{%- endif -%}"
    "{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' -}}"
    "{%- if loop.nextitem is not defined or loop.nextitem.role != 'tool' -%}"
    "{{- '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- else -%}{{- '<|im_start|>' + message.role + '\\n' + message.content -}}"
    "{%- for call in message.tool_calls or [] -%}"
    "{{- '\\n<tool_call>\\n{\"name\": ' + (call.function.name | tojson) + ', \"arguments\": ' -}}"
    "{{- (call.function.arguments | tojson) + '}\\n</tool_call>' -}}{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def with_tools(tokenizer: Any) -> Any:
    """The tokenizer, with the Hermes template where its own ignores tools.

    Raises:
        ValueError: neither a template with tools nor the ChatML marks.
    """
    if "tools" in str(tokenizer.chat_template or ""):
        return tokenizer
    if any(tokenizer.convert_tokens_to_ids(mark) in (None, tokenizer.unk_token_id) for mark in MARKS):
        raise ValueError(
            f"{tokenizer.name_or_path} has neither a chat template with tools nor the tokens {MARKS}; choose "
            "an instruct model with tool use, such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    tokenizer.chat_template = HERMES_CHATML
    return tokenizer
