"""The RL seam: rewards of turns, advantages, old log-probabilities, KL reference, multi-turn mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from shared import gpu, tiny
from tool_env_rl import controls, multi_turn, states, toy_language
from tool_env_rl.advantages import group_advantages, whitened_advantages
from tool_env_rl.config import PRESETS, Config, to_grpo_config
from tool_env_rl.episodes import of_environments, play
from tool_env_rl.protocol import render_prompt, render_tool_results
from tool_env_rl.records import Environment, EnvRecord, user_message
from tool_env_rl.sandbox import Sandbox
from tool_env_rl.trainer import ToolGRPO, score_turns

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tokenizer = toy_language.tokenizer()
    model = tiny.tiny_causal_lm(tokenizer, hidden=16, layers=2, heads=2, intermediate=32, seed=0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def found(toy_environments: list[Environment], tools_sandbox: Sandbox) -> list[EnvRecord]:
    played = play(of_environments(toy_environments), controls.oracle, tools_sandbox, max_turns=8)
    return [state for transcript in played for state in states.states_of(transcript)][:8]


def config(**algo: Any) -> Config:
    return replace(SMOKE, algo=replace(SMOKE.algo, max_completion_tokens=6, **algo))


def trainer(
    cfg: Config, folder: Path, found: list[EnvRecord], sandbox: Sandbox, out: Path, monkeypatch: Any
) -> ToolGRPO:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    torch.manual_seed(0)
    model, tokenizer = gpu.load_causal_lm(folder)
    kept, texts, _ = states.prompts(found, tokenizer, thinking=None, max_prompt_tokens=192)
    args = to_grpo_config(cfg, out, len(kept))
    return ToolGRPO(
        model=model,
        args=args,
        processing_class=tokenizer,
        states=kept,
        prompts=texts,
        sandbox=sandbox,
        algo=cfg.algo,
    )


def batch_of(made: ToolGRPO) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    size = made.num_generations
    rows = [made.train_dataset[i] for i in range(4) for _ in range(size)]
    made.model.train()
    return rows, made._generate_and_score_completions(rows)


def test_turns_are_executed_and_rewarded(toy_environments: list[Environment], tools_sandbox: Sandbox) -> None:
    env = next(e for e in toy_environments if e.record.scenario == "single_hop")
    step = env.steps[0]
    gold = controls.call_text(step.tool, step.arguments)
    texts = [gold, gold + gold, gold[:-14], "", env.record.answer, "no"]
    scored = score_turns(texts, [env.record] * len(texts), tools_sandbox, SMOKE.algo)
    assert [turn.reward for turn in scored] == pytest.approx([1.0, 2 / 3, -0.3, -0.5, 0.5, 0.0])
    assert [turn.calls for turn in scored] == [1, 2, 0, 0, 0, 0]
    rate = score_turns([gold + gold], [env.record], tools_sandbox, replace(SMOKE.algo, reward="rate"))
    assert rate[0].reward == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "reinforce_pp"])
def test_advantages_old_logprobs_and_reference(
    algorithm: str,
    folder: Path,
    found: list[EnvRecord],
    tools_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = trainer(config(algorithm=algorithm), folder, found, tools_sandbox, tmp_path, monkeypatch)
    made._score = lambda completions, rows, columns: [float(i % 3) for i in range(len(rows))]  # type: ignore[method-assign]
    rows, output = batch_of(made)
    rewards = torch.tensor([float(i % 3) for i in range(len(rows))])
    mask = output["completion_mask"]
    if algorithm == "grpo":
        expected = group_advantages(rewards.view(-1, made.num_generations)).view(-1)
    else:
        expected = whitened_advantages(rewards, mask)
        assert (expected * mask).sum().abs() < 1e-4
    assert torch.allclose(output["advantages"], expected)

    # What the engine sampled with, at temperature 0.7, is what the model says of its own tokens.
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    attention = torch.cat([output["prompt_mask"], mask], 1)
    now, *_ = made._get_per_token_logps_and_entropies(made.model, ids, attention, mask.shape[1])
    assert torch.allclose(now * mask, output["old_per_token_logps"] * mask, atol=1e-4)
    # The reference is the start model.
    assert torch.allclose(output["ref_per_token_logps"] * mask, now * mask, atol=1e-4)


@pytest.mark.slow
def test_multi_turn_masks_what_tools_say(
    folder: Path,
    found: list[EnvRecord],
    tools_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toy_environments: list[Environment],
) -> None:
    made = trainer(config(mode="multi_turn"), folder, found, tools_sandbox, tmp_path, monkeypatch)
    tokenizer = made.processing_class
    env = next(e for e in toy_environments if e.record.scenario == "single_hop")
    step = env.steps[0]
    script = [controls.call_text(step.tool, step.arguments).replace(": ", ":").replace(", ", ",")]
    script.append(env.record.answer)

    class Scripted:
        """Says the script; keeps what it was made to read."""

        read: ClassVar[list[list[int]]] = []

        def __init__(self, model: Any, ids: list[list[int]], **kwargs: Any) -> None:
            self.turn, self.count = 0, len(ids)

        def generate(self) -> Any:
            ids = tokenizer(script[self.turn] + " <eos>", add_special_tokens=False)["input_ids"]
            self.turn += 1
            turn = type("Turn", (), {})()
            turn.completion_ids = [list(ids) for _ in range(self.count)]
            turn.logprobs = [[-1.0] * len(ids) for _ in range(self.count)]
            turn.finished = [True] * self.count
            return turn

        def keep(self, rows: list[int]) -> None:
            self.count = len(rows)

        def extend(self, tokens: list[list[int]]) -> None:
            Scripted.read = tokens

    monkeypatch.setattr(multi_turn, "Session", Scripted)
    made.states, made.rows = [env.record], [0, 0]
    prompt = render_prompt(tokenizer, env.record.messages, env.record.tools)
    output = multi_turn.rollout([prompt, prompt], made)
    (ids, mask, logprobs) = (output[key][0] for key in ("completion_ids", "env_mask", "logprobs"))
    assert len(ids) == len(mask) == len(logprobs)
    read = [token for token, mine in zip(ids, mask, strict=True) if not mine]
    assert read == Scripted.read[0]
    assert tokenizer.decode(read) == f"<tool> {step.answer} <assistant>"
    assert all(lp == -1.0 for lp, mine in zip(logprobs, mask, strict=True) if mine)
    assert output["reward"] == [2.0, 2.0]  # the call 1, the answer with nothing unsolved 1


def test_replies_are_what_the_template_would_write() -> None:
    tokenizer = toy_language.tokenizer()
    said = [user_message("What is the mayor of Muraton?"), {"role": "assistant", "content": "Dadoren"}]
    whole = render_prompt(tokenizer, [*said, *render_tool_results(["42", "Muraton"])], [])
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    reply = multi_turn.reply_ids(tokenizer, ["42", "Muraton"], None)
    assert ids[-len(reply) :] == reply
    assert tokenizer.decode(reply) == "<tool> 42 <tool> Muraton <assistant>"


def test_a_template_that_rewrites_turns_is_refused() -> None:
    tokenizer = toy_language.tokenizer()
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        multi_turn.reply_ids(tokenizer, ["42"], None)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["single_turn", "multi_turn"])
def test_two_updates_move_the_policy(
    mode: str,
    folder: Path,
    found: list[EnvRecord],
    tools_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = config(mode=mode, batches=1)
    made = trainer(cfg, folder, found, tools_sandbox, tmp_path, monkeypatch)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.train()
    assert made.state.global_step == cfg.algo.updates_per_batch
    moved = [name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert any("frac_reward_zero_std" in entry for entry in made.state.log_history)


@pytest.mark.slow
def test_random_reward_is_a_seeded_coin(
    folder: Path,
    found: list[EnvRecord],
    tools_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = trainer(config(random_reward=True), folder, found, tools_sandbox, tmp_path, monkeypatch)
    texts, rows = ["no"] * 64, [0] * 64
    first, again = (made._score(texts, rows, {}) for _ in range(2))
    assert first == again
    assert set(first) == {0.0, 1.0}
    assert 20 <= sum(first) <= 44
