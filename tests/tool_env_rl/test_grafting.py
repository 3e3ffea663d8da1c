"""Claim 7's grafts: groups of weights, and what is exchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared import tiny
from tool_env_rl import grafting, toy_language
from tool_env_rl.config import PRESETS
from tool_env_rl.records import Environment
from tool_env_rl.sandbox import Sandbox


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.0.mlp.up_proj.weight", "low mlp"),
        ("model.layers.1.self_attn.q_proj.weight", "low attention"),
        ("model.layers.2.mlp.down_proj.weight", "high mlp"),
        ("model.layers.3.self_attn.o_proj.weight", "high attention"),
        ("model.layers.3.input_layernorm.weight", "rest"),
        ("model.embed_tokens.weight", "rest"),
        ("lm_head.weight", "rest"),
    ],
)
def test_groups_of_a_four_layer_model(name: str, group: str) -> None:
    assert grafting.group_of(name, 4) == group


def test_a_graft_takes_one_group_and_leaves_both_sources_alone() -> None:
    names = [
        f"model.layers.{i}.{part}.weight" for i in range(4) for part in ("mlp.up_proj", "self_attn.q_proj")
    ]
    names.append("model.embed_tokens.weight")
    base = {name: torch.zeros(2, 2) for name in names}
    trained = {name: torch.ones(2, 2) for name in names}
    only = grafting.graft(base, trained, "low mlp", 4)
    assert {name for name, value in only.items() if bool(value.all())} == {
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    }
    reset = grafting.graft(trained, base, "rest", 4)
    assert {name for name, value in reset.items() if not bool(value.any())} == {"model.embed_tokens.weight"}
    reset["model.layers.0.mlp.up_proj.weight"].zero_()
    assert bool(trained["model.layers.0.mlp.up_proj.weight"].all())


def test_all_groups_together_are_the_whole_model(
    toy_environments: list[Environment], tools_sandbox: Sandbox, tmp_path: Path
) -> None:
    tokenizer = toy_language.tokenizer()
    models = [
        tiny.tiny_causal_lm(tokenizer, hidden=16, layers=4, heads=2, intermediate=32, seed=s) for s in (0, 1)
    ]
    base, trained = (dict(model.state_dict()) for model in models)
    grafted = base
    groups = {grafting.group_of(name, 4) for name in base}
    assert groups == {"low mlp", "high mlp", "low attention", "high attention", "rest"}
    for group in groups:
        grafted = grafting.graft(grafted, trained, group, 4)
    assert all(torch.equal(grafted[name], trained[name]) for name in trained)
    models[0].load_state_dict(grafted)
    cfg = PRESETS["smoke"]
    scores = [grafting.test_f1(m, tokenizer, cfg, toy_environments[:2], tools_sandbox) for m in models]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 2
