"""Playing environments: control policies, bookkeeping, limits, and a model that has learnt nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared import tiny
from shared.rollouts import Sampling
from tool_env_rl import controls, name_noise, toy_language
from tool_env_rl.build_env.backends import DeterministicBackend
from tool_env_rl.build_env.pipeline import BuildSettings, build
from tool_env_rl.episodes import ModelPolicy, Transcript, of_environments, play, run_calls
from tool_env_rl.metrics import summarize
from tool_env_rl.protocol import ToolCall
from tool_env_rl.records import Environment
from tool_env_rl.sandbox import Sandbox


def scores(environments: list[Environment], name: str, sandbox: Sandbox) -> dict[str, float]:
    played = play(of_environments(environments), controls.CONTROLS[name], sandbox, max_turns=8)
    return summarize([transcript.score for transcript in played])["all"]


def test_oracle_is_perfect(toy_environments: list[Environment], tools_sandbox: Sandbox) -> None:
    found = scores(toy_environments, "oracle", tools_sandbox)
    for key in ("solve_p", "solve_r", "solve_f1", "solve_f1_strict", "answer_accuracy"):
        assert found[key] == 1.0
    assert found["malformed_turn_rate"] == 0.0


def test_silent_has_precision_one_and_nothing_else(
    toy_environments: list[Environment], tools_sandbox: Sandbox
) -> None:
    found = scores(toy_environments, "silent", tools_sandbox)
    assert (found["solve_p"], found["solve_r"], found["solve_f1"]) == (1.0, 0.0, 0.0)
    assert found["answer_accuracy"] == 0.0


def test_shotgun_is_below_the_oracle(toy_environments: list[Environment], tools_sandbox: Sandbox) -> None:
    large = [env for env in toy_environments if env.level == 4]
    found = scores(large, "shotgun", tools_sandbox)
    assert 0 < found["solve_f1"] < 0.6
    assert found["solve_p"] < 0.5


def test_echo_attack_earns_only_without_the_guard(tmp_path: Path, tools_sandbox: Sandbox) -> None:
    settings = BuildSettings(n=2, seed=9, levels=(0,), scenarios=("single_hop",), echo_arguments=True)
    leaky = build(settings, tmp_path / "leaky", DeterministicBackend(), tools_sandbox).environments
    found = scores(leaky, "echo", tools_sandbox)
    assert found["solve_f1"] == 0.0
    assert found["solve_f1_unguarded"] > 0.0


def test_an_answer_as_the_name_of_an_argument_earns_only_without_the_guard(
    toy_environments: list[Environment], tools_sandbox: Sandbox
) -> None:
    found = scores(toy_environments, "echo", tools_sandbox)  # tools that repeat no value
    assert found["solve_f1"] == found["solve_f1_strict"] == 0.0
    assert found["solve_p_unguarded"] == 0.5


def test_books_of_one_episode(toy_environments: list[Environment], tools_sandbox: Sandbox) -> None:
    env = next(e for e in toy_environments if e.record.scenario == "multi_hop")
    (played,) = play(of_environments([env]), controls.oracle, tools_sandbox, max_turns=8)
    hops = len(env.steps)
    assert len(played.responses) == hops + 1
    assert [output for turn in played.outputs for output in turn] == [s.answer for s in env.steps]
    rates = [snapshot.solve_rate for snapshot in played.snapshots]
    assert rates == pytest.approx([(i + 1) / hops for i in range(hops)])
    assert [message["role"] for message in played.messages] == ["user"] + ["assistant", "tool"] * hops
    assert len(env.record.messages) == 1, "the record must not be changed"
    ids = [m["tool_call_id"] for m in played.messages if m["role"] == "tool"]
    assert len(set(ids)) == hops


def test_turn_limit_truncates(toy_environments: list[Environment], tools_sandbox: Sandbox) -> None:
    env = next(e for e in toy_environments if e.record.scenario == "multi_hop")
    (played,) = play(of_environments([env]), controls.oracle, tools_sandbox, max_turns=1)
    assert played.truncated
    assert len(played.responses) == 1
    assert played.score.answer_correct is False


def test_unknown_tool_gets_the_authors_message(
    toy_environments: list[Environment], tools_sandbox: Sandbox
) -> None:
    env = toy_environments[0]
    step = env.steps[0]
    calls = [ToolCall("nothing_like_it", {}), ToolCall(step.tool, step.arguments)]
    ((first, second),) = run_calls([(env.record.codes, calls)], tools_sandbox)
    assert first.status == "error"
    assert first.output.startswith("an error occured when call nothing_like_it: ")
    assert second.output == step.answer


def test_controls_need_gold(toy_environments: list[Environment], tools_sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="no gold calls"):
        play([Transcript(toy_environments[0].record, "x")], controls.oracle, tools_sandbox, max_turns=2)


def test_a_model_that_knows_nothing_is_scored(
    toy_environments: list[Environment], tools_sandbox: Sandbox
) -> None:
    tokenizer = toy_language.tokenizer()
    model = tiny.tiny_causal_lm(tokenizer, hidden=16, layers=1, heads=2, intermediate=32, seed=0)
    policy = ModelPolicy(model, tokenizer, Sampling(6, 1.0), seed=3)
    played = play(of_environments(toy_environments), policy, tools_sandbox, max_turns=2)
    assert all(transcript.responses for transcript in played)
    again = ModelPolicy(model, tokenizer, Sampling(6, 1.0), seed=3)
    repeated = play(of_environments(toy_environments), again, tools_sandbox, max_turns=2)
    assert [t.responses for t in played] == [t.responses for t in repeated]


def test_a_prompt_that_does_not_fit_ends_the_episode(
    toy_environments: list[Environment], tools_sandbox: Sandbox
) -> None:
    tokenizer = toy_language.tokenizer()
    model = tiny.tiny_causal_lm(tokenizer, hidden=16, layers=1, heads=2, intermediate=32, seed=0)
    policy = ModelPolicy(model, tokenizer, Sampling(2, 0.0), max_prompt_tokens=5)
    (played,) = play(of_environments(toy_environments[:1]), policy, tools_sandbox, max_turns=2)
    assert played.truncated
    assert played.score.turns == 0


@pytest.mark.parametrize("level", name_noise.LEVELS)
def test_name_noise_renames_documents_and_gold_alike(toy_environments: list[Environment], level: str) -> None:
    for env in toy_environments:
        record, gold = name_noise.perturb(env, level, seed=0)
        assert len(set(record.tool_names)) == len(record.tools)
        documents = {tool["function"]["name"]: tool["function"]["parameters"] for tool in record.tools}
        for name, arguments in gold:
            assert set(documents[name]["required"]) <= set(arguments) <= set(documents[name]["properties"])
        same = record.tool_names == env.record.tool_names
        if level == "clean":
            assert same
        elif level != "union" and len(record.tools) > 1:
            assert not same


def test_name_noise_scores_the_gold_call(toy_environments: list[Environment]) -> None:
    def knows(transcripts):
        levels = [level for level in name_noise.LEVELS for _ in toy_environments]
        texts = []
        for level, env, _ in zip(levels, list(toy_environments) * 5, transcripts, strict=True):
            _, gold = name_noise.perturb(env, level, 0)
            texts.append(controls.call_text(*gold[0]))
        return texts

    found = name_noise.evaluate(knows, toy_environments)
    assert all(flags == {"TS": 1.0, "PI": 1.0, "CF": 1.0} for _, flags in found)
    with pytest.raises(ValueError, match="level='loud'"):
        name_noise.perturb(toy_environments[0], "loud", 0)


def test_transcripts_do_not_share_state(toy_environments: list[Environment], tools_sandbox: Sandbox) -> None:
    env = replace(toy_environments[0])
    first, second = play(of_environments([env, env]), controls.oracle, tools_sandbox, max_turns=8)
    assert first.score == second.score
    assert env.record.unsolved_count == sum(len(v) for v in env.record.unsolved_set.values()) > 0
