"""Layer-wise comparison: measures against hand-worked numbers, checkpoints of every layout, the command."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from shared.tiny import tiny_causal_lm, word_tokenizer
from tool_env_rl import layer_changes, layers
from tool_env_rl.layer_changes import bf16_ulp, compare, localization, locate, third
from tool_env_rl.weight_files import BadCheckpoint, Weights


def save(folder, **tensors):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name.replace("__", "."): tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def changes(before, after, control=None):
    with Weights(before) as old, Weights(after) as new:
        if control is None:
            return compare(old, new)
        with Weights(control) as ground:
            return compare(old, new, ground)


def test_measures_of_one_matrix_by_hand(tmp_path):
    old = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    new = old + torch.tensor([[0.0, 0.03], [0.04, 0.0], [0.0, 5e-6]])
    (change,) = changes(save(tmp_path / "a", w=old), save(tmp_path / "b", w=new))["changes"]
    assert change.rho == pytest.approx(0.05 / 5, rel=1e-5)
    assert change.mean_abs == pytest.approx((0.03 + 0.04 + 5e-6) / 6, rel=1e-5)
    assert change.above_1e5 == pytest.approx(2 / 6)
    assert change.above_bf16_ulp == pytest.approx(3 / 6)  # a zero has a tiny step
    p = torch.tensor([0.04, 0.03]) / 0.07
    assert change.effective_rank == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-4)
    assert change.top8_energy == pytest.approx(1.0)
    assert change.rho_normed is None


def test_spectrum_of_a_known_change(tmp_path):
    old = torch.ones(20, 16)
    low_rank = torch.outer(torch.arange(20.0), torch.ones(16))
    full = torch.zeros(20, 16)
    full[range(16), range(16)] = 0.5
    report = changes(
        save(tmp_path / "a", r=old, f=old.T.contiguous(), s=old),
        save(tmp_path / "b", r=old + low_rank, f=(old + full).T.contiguous(), s=old),
    )
    by_name = {change.name: change for change in report["changes"]}
    assert by_name["r"].effective_rank == pytest.approx(1, abs=1e-3)
    assert by_name["r"].top8_energy == pytest.approx(1)
    assert by_name["f"].effective_rank == pytest.approx(16, rel=1e-5)
    assert by_name["f"].top8_energy == pytest.approx(0.5)
    assert (by_name["s"].rho, by_name["s"].effective_rank, by_name["s"].top8_energy) == (0, 0, 0)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (2, 3, 4), (6, 1)])
def test_slices_do_not_change_a_result(tmp_path, monkeypatch, shape):
    torch.manual_seed(0)
    old, new = torch.randn(shape), torch.randn(shape)
    folders = save(tmp_path / "a", w=old), save(tmp_path / "b", w=new)
    (whole,) = changes(*folders)["changes"]
    monkeypatch.setattr(layer_changes, "SLICE_ELEMENTS", 6)
    (sliced,) = changes(*folders)["changes"]
    values = torch.linalg.svdvals((new - old).double().reshape(-1, shape[-1]))
    share = values / values.sum()
    for change in (whole, sliced):
        assert change.rho == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-5)
        assert change.mean_abs == pytest.approx((new - old).abs().mean().item(), rel=1e-5)
        assert change.effective_rank == pytest.approx(math.exp(-(share * share.log()).sum()), rel=1e-5)


def test_bf16_step():
    weights = torch.tensor([1.0, -1.5, 0.75, 2.0, 0.0])
    steps = bf16_ulp(weights)
    assert steps[:4].tolist() == [2**-7, 2**-7, 2**-8, 2**-6]
    assert steps[4] > 0
    assert (torch.tensor(1.0, dtype=torch.bfloat16) + steps[0]).item() == 1 + 2**-7


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.mlp.up_proj.weight", (3, "mlp")),
        ("model.layers.11.self_attn.q_proj.weight", (11, "attention")),
        ("transformer.h.0.attn.c_attn.weight", (0, "attention")),
        ("transformer.h.0.mlp.c_fc.weight", (0, "mlp")),
        ("model.layers.2.mlp.experts.5.gate_proj.weight", (2, "mlp")),
        ("bert.encoder.layer.1.attention.self.query.weight", (1, "attention")),
        ("model.embed_tokens.weight", (None, "other")),
        ("lm_head.weight", (None, "other")),
    ],
)
def test_names_are_placed(name, place):
    assert locate(name) == place


@pytest.mark.parametrize(
    ("layers_", "expected"),
    [
        (4, "low low high high"),
        (6, "low low mid mid high high"),
        (3, "low mid high"),
        (1, "low"),
        (2, "low high"),
    ],
)
def test_thirds(layers_, expected):
    assert [third(i, layers_) for i in range(layers_)] == expected.split()


def stack(tmp_path, name, factors):
    """Four layers of one attention and one MLP matrix plus an embedding, scaled by factors[(layer, kind)]."""
    tensors = {"model__embed_tokens__weight": torch.ones(3, 2) * factors.get("embed", 1)}
    for layer in range(4):
        tensors[f"model__layers__{layer}__self_attn__q_proj__weight"] = torch.ones(2, 2) * factors.get(
            (layer, "attention"), 1
        )
        tensors[f"model__layers__{layer}__mlp__up_proj__weight"] = torch.ones(2, 2) * factors.get(
            (layer, "mlp"), 1
        )
        tensors[f"model__layers__{layer}__input_layernorm__weight"] = torch.ones(2)
    return save(tmp_path / name, **tensors)


def test_localization_by_hand_with_and_without_a_control(tmp_path):
    before = stack(tmp_path, "before", {})
    after = stack(tmp_path, "after", {(0, "mlp"): 1.3, (1, "mlp"): 1.1, (3, "attention"): 1.4})
    report = changes(before, after)
    place = report["localization"]
    assert place["measure"] == "rho"
    assert place["groups"] == pytest.approx(
        {"low mlp": 0.2, "high attention": 0.2, "low attention": 0, "high mlp": 0}, abs=1e-6
    )
    assert place["s"] == pytest.approx(0.2 / (0.4 / 7), rel=1e-5)
    assert place["s_layers"] == pytest.approx(0.2 / (0.4 / 6), rel=1e-5)
    assert report["vectors"] == 4
    keys = [(layer, kind) for layer in range(4) for kind in ("attention", "mlp")]
    moves = dict.fromkeys(keys, 1.1) | {"embed": 1.1, (3, "attention"): 1.8}
    normed = changes(before, after, stack(tmp_path, "control", moves))["localization"]
    assert normed["measure"] == "rho_normed"
    assert normed["groups"]["low mlp"] == pytest.approx(2.0, rel=1e-4)
    assert normed["groups"]["high attention"] == pytest.approx(0.25, rel=1e-4)
    assert normed["low_mlp_rank"] == 1


def test_mismatches_are_named_and_the_rest_is_compared(tmp_path):
    before = save(tmp_path / "a", w=torch.ones(2, 2), x=torch.ones(2, 3), only_a=torch.ones(2, 2))
    after = save(tmp_path / "b", w=torch.ones(2, 2), x=torch.ones(3, 3), only_b=torch.ones(2, 2))
    report = changes(before, after)
    assert [change.name for change in report["changes"]] == ["w"]
    assert report["mismatches"] == [
        "only_a: not in AFTER",
        "only_b: not in BEFORE",
        "x: shapes differ, BEFORE (2, 3), AFTER (3, 3)",
    ]
    with pytest.raises(BadCheckpoint, match="no matrix in common; first difference: v: not in BEFORE"):
        changes(save(tmp_path / "c", w=torch.ones(2, 2)), save(tmp_path / "d", v=torch.ones(2, 2)))


def test_a_head_untied_by_training_is_compared_with_the_embedding(tmp_path):
    embedding = torch.ones(4, 2)
    before = save(tmp_path / "a", model__embed_tokens__weight=embedding)
    after = save(tmp_path / "b", model__embed_tokens__weight=embedding, lm_head__weight=embedding * 1.5)
    report = changes(before, after)
    assert report["mismatches"] == []
    assert {change.name: round(change.rho, 6) for change in report["changes"]} == {
        "lm_head.weight": 0.5,
        "model.embed_tokens.weight": 0,
    }


def test_bad_checkpoints_are_named(tmp_path):
    good = save(tmp_path / "a", w=torch.ones(2, 2))
    with pytest.raises(BadCheckpoint, match="w holds NaN or infinite weights"):
        changes(good, save(tmp_path / "b", w=torch.tensor([[math.nan, 1], [1, 1]])))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadCheckpoint, match=r"has 0 \.safetensors files"):
        Weights(tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(BadCheckpoint, match="not a readable safetensors file"):
        Weights(tmp_path / "broken")
    (tmp_path / "lora").mkdir()
    save_file({"w": torch.ones(1, 1)}, tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(BadCheckpoint, match="merge it"):
        Weights(tmp_path / "lora")
    (tmp_path / "shards").mkdir()
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadCheckpoint, match="lacks the shard model-00001"):
        Weights(tmp_path / "shards")


def tiny_pair(tmp_path, dtype, max_shard_size):
    tokenizer = word_tokenizer([f"w{i}" for i in range(20)])
    model = tiny_causal_lm(tokenizer, hidden=16, layers=3, heads=2, intermediate=24, seed=0).to(dtype)
    model.save_pretrained(tmp_path / "before", max_shard_size=max_shard_size)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    model.save_pretrained(tmp_path / "after", max_shard_size=max_shard_size)
    return model


@pytest.mark.parametrize(
    ("dtype", "max_shard_size"), [(torch.float32, "1GB"), (torch.bfloat16, "1GB"), (torch.float32, "10KB")]
)
def test_transformers_checkpoints_whole_bf16_and_sharded(tmp_path, dtype, max_shard_size):
    model = tiny_pair(tmp_path, dtype, max_shard_size)
    assert (tmp_path / "before" / "model.safetensors.index.json").exists() is (max_shard_size == "10KB")
    report = changes(tmp_path / "before", tmp_path / "after")
    moved = {change.name: change.rho for change in report["changes"] if change.rho > 0}
    assert moved == {"model.layers.0.mlp.up_proj.weight": pytest.approx(0.5, rel=5e-3)}
    stored = {name for name, p in model.named_parameters() if p.ndim == 2}
    assert {change.name for change in report["changes"]} == stored
    assert report["localization"]["low_mlp_rank"] == 1


def test_command_writes_table_figure_and_json(tmp_path, capsys):
    tiny_pair(tmp_path, torch.float32, "1GB")
    before, after, out = (str(tmp_path / name) for name in ("before", "after", "out"))
    assert layers.main([before, after, "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "low MLP over all other matrices: S =" in printed
    payload = json.loads((tmp_path / "out" / "layers.json").read_text())
    assert payload["sources"] == {"before": before, "after": after, "control": None}
    assert payload["changes"][0]["rho_normed"] is None
    assert (tmp_path / "out" / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_command_explains_a_missing_checkpoint(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        layers.main([str(tmp_path / "no" / "such" / "folder"), str(tmp_path)])
    assert stop.value.code == 2
    assert "neither a folder nor a hub id" in capsys.readouterr().err


def test_localization_without_layers_says_none():
    place = localization([])
    assert (place["s"], place["low_mlp_rank"], place["groups"]) == (None, None, {})
