"""Who writes what the stages ask for: rules, an OpenAI-compatible endpoint, or a local transformers model.

All three answer `generate(stage, payload, schema) -> dict`. What a model writes is checked against the
schema here, by the stage that asked, and by the validator; each time the model hears what was wrong.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from shared import checkpoint
from shared.seeding import derive_seed
from tool_env_rl.build_env import decompose, deploy, document, integrate, scale
from tool_env_rl.build_env.stage import Json, Rejected, Stopped
from tool_env_rl.texts import well_formed

_STAGES: dict[str, Any] = {module.NAME: module for module in (decompose, document, integrate, scale, deploy)}
Message = dict[str, str]
FORM = "Answer with one JSON object and nothing else. It must fulfil this JSON Schema:\n"


class DeterministicBackend:
    """The stages' own rules: offline, instant, the same for the same seed."""

    rounds = 1

    def generate(self, stage: str, payload: Json, schema: Json) -> Json:
        """The stage's rule applied to `payload`; `schema` is fulfilled by construction."""
        return _STAGES[stage].write(payload)


class _ModelBackend(ABC):
    """Asks a chat model, reads JSON, and asks again with what was wrong."""

    rounds = 3  # of a stage, each with up to `attempts` answers
    attempts = 3

    def generate(self, stage: str, payload: Json, schema: Json) -> Json:
        """An object that fulfils `schema`; Rejected after `attempts` answers, Stopped if none can be had."""
        visible = {key: value for key, value in payload.items() if key != "seed"}
        form = FORM + json.dumps(schema, ensure_ascii=False)
        messages: list[Message] = [
            {"role": "system", "content": f"{_STAGES[stage].INSTRUCTIONS}\n\n{form}"},
            {"role": "user", "content": well_formed(json.dumps(visible, ensure_ascii=False))},
        ]
        problem = ""
        for attempt in range(self.attempts):
            text = self.complete(messages, attempt)
            value, problem = read_object(text, schema)
            if value is not None:
                return value
            messages += [
                {"role": "assistant", "content": well_formed(text)},
                {"role": "user", "content": well_formed(f"{problem} Write the whole JSON object again.")},
            ]
        raise Rejected([("format", f"{stage}: {self.attempts} answers, the last: {problem}")])

    @abstractmethod
    def complete(self, messages: list[Message], attempt: int) -> str:
        """The model's answer, as text."""


def read_object(text: str, schema: Json) -> tuple[Json | None, str]:
    """(the first JSON object in `text`, "") if it fulfils `schema`, else (None, what is wrong)."""
    start = text.find("{")
    if start < 0:
        return None, "There is no JSON object in the answer."
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        return None, f"The answer is not valid JSON: {error}."
    error = best_match(Draft202012Validator(schema).iter_errors(value))
    if error is not None:
        place = ".".join(map(str, error.absolute_path)) or "the top"
        return None, f"At {place}: {error.message[:500]}."
    return value, ""


class OpenAIBackend(_ModelBackend):
    """Any endpoint that speaks the OpenAI chat API in JSON mode.

    Every answer is kept in `cache`, one file per request, so that a repeated build asks nothing twice.
    Stopped is raised where the endpoint fails for good (after the client's own retries) and where the
    budget is spent.

    Args:
        max_calls, max_tokens: budget of this process; cached answers cost nothing. Tokens are those that the
            endpoint reports, else a quarter of the characters.
    """

    def __init__(
        self,
        model: str,
        cache: Path | str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        max_calls: int = 10_000,
        max_tokens: int = 20_000_000,
        temperature: float = 0.7,
        timeout_s: float = 120.0,
        max_retries: int = 3,
    ) -> None:
        try:
            import openai
        except ImportError:
            raise ImportError("the openai backend needs the client: pip install openai") from None
        self._openai = openai
        try:
            self._client = openai.OpenAI(
                base_url=base_url, api_key=api_key, timeout=timeout_s, max_retries=max_retries
            )
        except openai.OpenAIError as error:
            raise ValueError(f"{error} (or put any word there if your endpoint needs no key)") from None
        self.model, self.temperature, self.cache = model, temperature, Path(cache)
        self.max_calls, self.max_tokens = max_calls, max_tokens
        self.calls = self.tokens = self.cached = 0
        self.cache.mkdir(parents=True, exist_ok=True)

    def complete(self, messages: list[Message], attempt: int) -> str:
        request: Json = {"model": self.model, "messages": messages, "temperature": self.temperature}
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        kept = self.cache / f"{key}.json"
        if kept.is_file():
            self.cached += 1
            return json.loads(kept.read_text(encoding="utf-8"))["text"]
        if self.calls >= self.max_calls or self.tokens >= self.max_tokens:
            spent = f"{self.calls} of {self.max_calls} calls, {self.tokens} of {self.max_tokens} tokens"
            raise Stopped(f"the budget is spent ({spent})")
        try:
            reply = self._client.chat.completions.create(**request, response_format={"type": "json_object"})
        except self._openai.OpenAIError as error:
            raise Stopped(
                f"the endpoint {self._client.base_url} failed: {error or type(error).__name__}"
            ) from None
        self.calls += 1
        text = (reply.choices[0].message.content or "") if reply.choices else ""
        used = reply.usage.total_tokens if reply.usage else (len(str(messages)) + len(text)) // 4
        self.tokens += used
        checkpoint.write_json_atomic(kept, {"request": request, "text": text, "tokens": used})
        return text


class HFBackend(_ModelBackend):
    """A local chat model; JSON by asking, reading and asking again."""

    def __init__(
        self, model: str, *, device: str | None = None, max_new_tokens: int = 2048, seed: int = 0
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch, self.seed, self.max_new_tokens = torch, seed, max_new_tokens
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
        self._model: Any = loaded.to(device).eval()

    def complete(self, messages: list[Message], attempt: int) -> str:
        """Greedy first, then sampled at temperature 0.7 with a seed that the conversation decides."""
        torch = self._torch
        encoded = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        how: dict[str, Any] = {"do_sample": False}
        if attempt:
            torch.manual_seed(derive_seed(self.seed, json.dumps(messages), attempt))
            how = {"do_sample": True, "temperature": 0.7}
        with torch.inference_mode():
            ids = self._model.generate(**encoded, max_new_tokens=self.max_new_tokens, **how)
        return self._tokenizer.decode(ids[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)


def open_backend(name: str, **options: Any) -> Any:
    """The backend called deterministic, openai or hf."""
    kinds: dict[str, Callable[..., Any]] = {
        "deterministic": DeterministicBackend,
        "openai": OpenAIBackend,
        "hf": HFBackend,
    }
    return kinds[name](**options)
