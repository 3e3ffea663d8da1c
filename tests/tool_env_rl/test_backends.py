"""The model backends against a fake endpoint: what fails is asked again, counted, and never lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared import tiny
from tool_env_rl.build_env.backends import DeterministicBackend, HFBackend, OpenAIBackend, read_object
from tool_env_rl.build_env.pipeline import BuildSettings, build
from tool_env_rl.build_env.stage import Rejected, Stopped
from tool_env_rl.sandbox import Sandbox

SCHEMA = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
Answer = Callable[[list[dict[str, str]]], str | int]  # text of the reply, or an HTTP status


class Endpoint:
    """A fake of the OpenAI chat API; `answer` sees the messages."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer: Answer = lambda messages: '{"code": "x"}'
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(request)
                text = outer.answer(request["messages"])
                status = text if isinstance(text, int) else 200
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                usage = {"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100}
                reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
                body = json.dumps(reply | {"choices": [choice], "usage": usage}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


def backend(endpoint: Endpoint, cache: Path, **budget: int) -> OpenAIBackend:
    return OpenAIBackend("m", cache, base_url=endpoint.url, api_key="none", max_retries=0, **budget)


def in_turn(*answers: str | int) -> Answer:
    left = list(answers)
    return lambda messages: left.pop(0)


def test_a_valid_answer_comes_in_json_mode_and_is_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    made = backend(endpoint, tmp_path).generate("deploy", {"seed": 5, "tool": "t"}, SCHEMA)
    assert made == {"code": "x"}
    (request,) = endpoint.requests
    assert request["response_format"] == {"type": "json_object"}
    assert json.loads(request["messages"][1]["content"]) == {
        "tool": "t"
    }  # the seed is not the model's business
    assert json.dumps(SCHEMA) in request["messages"][0]["content"]
    again = backend(endpoint, tmp_path, max_calls=0)
    assert again.generate("deploy", {"seed": 6, "tool": "t"}, SCHEMA) == {"code": "x"}
    assert (len(endpoint.requests), again.calls, again.cached) == (1, 0, 1)


def test_wrong_answers_are_told_what_is_wrong(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = in_turn("Sure! {", '{"code": 3}', 'Here: {"code": "fine"} as asked')
    asked = backend(endpoint, tmp_path)
    assert asked.generate("deploy", {}, SCHEMA) == {"code": "fine"}
    said = [request["messages"][-1]["content"] for request in endpoint.requests]
    assert "not valid JSON" in said[1]
    assert "At code: 3 is not of type 'string'" in said[2]
    assert (asked.calls, asked.tokens) == (3, 300)


def test_three_wrong_answers_reject(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda messages: "no"
    with pytest.raises(Rejected, match="3 answers, the last: There is no JSON object"):
        backend(endpoint, tmp_path).generate("deploy", {}, SCHEMA)


def test_a_failing_endpoint_stops(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda messages: 500
    with pytest.raises(Stopped, match="the endpoint http://127"):
        backend(endpoint, tmp_path).generate("deploy", {}, SCHEMA)
    endpoint.server.shutdown()
    endpoint.server.server_close()
    with pytest.raises(Stopped, match="failed: Connection error"):
        backend(endpoint, tmp_path).generate("deploy", {}, SCHEMA)


def test_the_client_tries_again_after_a_500(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = in_turn(500, '{"code": "x"}')
    asked = OpenAIBackend("m", tmp_path, base_url=endpoint.url, api_key="none", max_retries=1)
    assert asked.generate("deploy", {}, SCHEMA) == {"code": "x"}
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("budget", [{"max_calls": 2}, {"max_tokens": 150}])
def test_a_spent_budget_stops(endpoint: Endpoint, tmp_path: Path, budget: dict[str, int]) -> None:
    asked = backend(endpoint, tmp_path, **budget)
    for i in range(2):
        asked.generate("deploy", {"i": i}, SCHEMA)
    with pytest.raises(Stopped, match=r"budget is spent \(2 of"):
        asked.generate("deploy", {"i": 2}, SCHEMA)
    assert len(endpoint.requests) == 2


def test_a_missing_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        OpenAIBackend("m", tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON object"),
        ("{" * 5000, "not valid JSON"),
        ("[1]", "no JSON object"),
        ('{"a": 1}', "'code'"),
    ],
)
def test_unreadable_answers_are_explained(text: str, says: str) -> None:
    assert read_object(text, SCHEMA)[0] is None
    assert says in read_object(text, SCHEMA)[1]


class Model:
    """Plays a model: applies the rules of the deterministic backend to the payload in the prompt."""

    def __init__(self) -> None:
        self.leaks = 0  # how many of the tools it writes tell their answer to everybody
        self.fed_back = 0

    def __call__(self, messages: list[dict[str, str]]) -> str | int:
        system = messages[0]["content"]
        payload = json.loads(messages[1]["content"]) | {"seed": 1}
        self.fed_back += "feedback" in payload
        verbs = {"Decompose": "decompose", "Design": "document", "Merge": "integrate", "Make": "scale"}
        stage = verbs.get(system.split()[0], "deploy")
        made = DeterministicBackend().generate(stage, payload, {})
        if stage == "deploy" and self.leaks and "feedback" not in payload:
            self.leaks -= 1
            answer = payload["facts"][0]["answer"]
            made["code"] = made["code"].replace("No matching record found.", answer)
        return json.dumps(made)


def test_a_model_builds_through_the_same_validator(endpoint: Endpoint, tmp_path: Path) -> None:
    """A leaking tool is written again with the validator's words; a spent budget loses nothing."""
    endpoint.answer = model = Model()
    model.leaks = 1
    settings, folder = BuildSettings(n=4, levels=(1,)), tmp_path / "build"
    with Sandbox(1) as sandbox:
        first = build(settings, folder, backend(endpoint, tmp_path / "cache", max_calls=9), sandbox)
        assert first.stopped is not None
        assert 1 <= len(first.environments) < 4
        second = build(settings, folder, backend(endpoint, tmp_path / "cache"), sandbox)
    assert second.stopped is None
    assert len(second.environments) == 4
    assert second.environments[: len(first.environments)] == first.environments
    assert model.fed_back == 1
    distinct = {json.dumps(request["messages"]) for request in endpoint.requests}
    assert len(distinct) == len(endpoint.requests)


def test_distractors_come_from_tools_of_other_questions(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = Model()
    settings = BuildSettings(n=5, scenarios=("single_hop",))
    with Sandbox(1) as sandbox:
        made = build(
            settings, tmp_path / "build", backend(endpoint, tmp_path / "cache"), sandbox
        ).environments
    gold = {env.record.codes[step.tool] for env in made[:-1] for step in env.steps}
    assert gold & set(made[-1].record.codes.values())


@pytest.mark.slow
def test_a_local_model_is_asked_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model writes no JSON: rejected with the reason; one that does is read."""
    tokenizer = tiny.word_tokenizer([f"w{i}" for i in range(20)])
    model = tiny.tiny_causal_lm(tokenizer, hidden=16, layers=1, heads=2, intermediate=16, seed=0)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    local = HFBackend(str(tmp_path / "model"), max_new_tokens=4)
    with pytest.raises(Rejected, match="3 answers, the last"):
        local.generate("deploy", {}, SCHEMA)
    replies = iter(["{", '{"code": "x"}'])
    monkeypatch.setattr(local, "complete", lambda messages, attempt: next(replies))
    assert local.generate("deploy", {}, SCHEMA) == {"code": "x"}
