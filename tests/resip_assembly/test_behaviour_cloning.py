"""Behaviour cloning: windows, the MLP baselines, learning, resume, checkpoints."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from resip_assembly import behaviour_cloning as bc
from resip_assembly.behaviour_cloning import BaseConfig, CloneConfig, MlpPolicy
from resip_assembly.checkpoints import Identity
from resip_assembly.diffusion_policy import ChunkAgent, DiffusionPolicy
from resip_assembly.evaluation import evaluate
from resip_assembly.normalization import Normalizer

MLP = BaseConfig(kind="mlp", predict=4, execute=4, widths=(64,), layers=2, dropout=0.0)
DENOISER = BaseConfig(
    kind="mlp_denoiser", predict=8, execute=4, prediction="sample", loss="l1", widths=(128,), layers=2,
    warm_start=False,
)  # fmt: skip
SHORT = CloneConfig(updates=400, batch_size=64, lr=3e-3, warmup=20, pad_after=7, test_every=200)


def fitted(episodes, cfg: BaseConfig):
    torch.manual_seed(0)
    obs, actions = (np.concatenate(parts) for parts in zip(*episodes, strict=True))
    return bc.build_policy(cfg, Normalizer.fit(obs, actions))


def vector(policy: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in policy.state_dict().values()])


def test_windows_pad_the_tail_with_the_last_action() -> None:
    obs, actions = np.arange(6.0)[:, None], 10 * np.arange(6.0)[:, None]
    o, chunks = bc.windows([(obs, actions)], predict=4, pad_after=1)  # T_a = 2
    assert o.flatten().tolist() == [0, 1, 2, 3]
    assert chunks[0].flatten().tolist() == [0, 10, 20, 30]
    assert chunks[-1].flatten().tolist() == [30, 40, 50, 50]
    assert len(bc.windows([(obs, actions)], 4, pad_after=0)[0]) == 3
    everywhere, chunks = bc.windows([(obs, actions)], 4, pad_after=3)
    assert everywhere.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert chunks[-1].flatten().tolist() == [50] * 4
    assert len(bc.windows([(obs, actions)], 4, pad_after=99)[0]) == 6  # never a window without its start


def test_windows_never_cross_episodes_and_skip_short_ones() -> None:
    one, two, short = (np.full((n, 1), float(n)) for n in (5, 7, 2))
    _, chunks = bc.windows([(one, one), (short, short), (two, two)], predict=4, pad_after=0)
    assert chunks[:, :, 0].tolist() == [[5.0] * 4] * 2 + [[7.0] * 4] * 4
    with pytest.raises(ValueError, match="longest of 1 episodes has 2 steps: too short for predict=4"):
        bc.windows([(short, short)], 4, 0)
    with pytest.raises(ValueError, match="5 observations and 7 actions"):
        bc.windows([(one, two)], 4, 0)


def test_mlp_c_has_the_papers_size() -> None:
    with torch.device("meta"):
        policy = MlpPolicy(Normalizer.empty(58, 10))
        assert sum(p.numel() for p in policy.parameters()) / 1e6 == pytest.approx(10.6, abs=0.05)
        assert policy.predict_chunk(torch.zeros(3, 58)).shape == (3, 8, 10)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    factors = [bc.warmup_cosine(step, 100, 10) for step in range(101)]
    assert factors[0] == 0
    assert factors[5] == 0.5
    assert max(factors) == factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert bc.warmup_cosine(0, 100) == 1


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [MLP, dataclasses.replace(MLP, predict=1, execute=1), DENOISER])
def test_cloning_reaches_the_goal(toy, cfg: BaseConfig) -> None:
    episodes = toy.demonstrations(60)
    policy = fitted(episodes, cfg)
    env = toy.PointReach(64, "disabled")
    before = evaluate(env, ChunkAgent(policy.eval(), 64), 64).rate
    updates = 1000 if cfg.kind == "mlp_denoiser" else 500
    ema = 0.99 if cfg.kind == "mlp_denoiser" else None
    train_cfg = dataclasses.replace(SHORT, updates=updates, ema_decay=ema, obs_noise=0.01)
    result = bc.train(policy, episodes, train_cfg)
    assert evaluate(env, ChunkAgent(policy, 64), 64).rate > before + (
        0.5 if cfg.kind == "mlp" and cfg.predict > 1 else 0.3
    )
    assert not policy.training
    assert result.test_loss < 0.2
    assert result.kept_update == updates


def test_the_average_is_kept_and_follows_the_weights(toy) -> None:
    episodes = toy.demonstrations(20)
    plain, averaged = fitted(episodes, MLP), fitted(episodes, MLP)
    cfg = dataclasses.replace(SHORT, updates=60, warmup=0)
    bc.train(plain, episodes, cfg)
    bc.train(averaged, episodes, dataclasses.replace(cfg, ema_decay=0.9995))
    difference = (vector(plain) - vector(averaged)).norm() / vector(plain).norm()
    assert 1e-4 < difference < 0.3  # without its warm-up the average would still be the initial weights


@pytest.mark.parametrize("cfg", [dataclasses.replace(MLP, dropout=0.2), DENOISER])
def test_kill_and_resume_is_bit_identical(toy, tmp_path: Path, cfg: BaseConfig) -> None:
    episodes = toy.demonstrations(10)
    options = {"identity": Identity("toy"), "seed": 3, "select": lambda policy: 0.5}
    train_cfg = dataclasses.replace(SHORT, updates=60, ema_decay=0.99, test_every=20, save_every=20)
    whole = fitted(episodes, cfg)
    result = bc.train(whole, episodes, train_cfg, folder=tmp_path / "whole", **options)

    def kill(metrics, update):
        if update == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bc.train(fitted(episodes, cfg), episodes, train_cfg, folder=tmp_path / "cut", on_log=kill, **options)
    resumed = fitted(episodes, cfg)
    torch.manual_seed(1234)
    last = tmp_path / "cut" / "checkpoint-40"
    again = bc.train(resumed, episodes, train_cfg, folder=tmp_path / "cut", resume_from=last, **options)
    assert torch.equal(vector(whole), vector(resumed))
    assert result == again
    done = fitted(episodes, cfg)  # a finished training does nothing more
    bc.train(done, episodes, train_cfg, resume_from=tmp_path / "cut" / "checkpoint-60", **options)
    assert torch.equal(vector(whole), vector(done))


def test_selection_keeps_the_best_not_the_last(toy) -> None:
    episodes = toy.demonstrations(10)
    scores, seen = iter([0.1, 0.9, 0.4]), []

    def select(policy):
        seen.append(vector(policy))
        return next(scores)

    policy = fitted(episodes, MLP)
    result = bc.train(policy, episodes, dataclasses.replace(SHORT, updates=30, test_every=10), select=select)
    assert result.kept_update == 20
    assert torch.equal(vector(policy), seen[1])


def test_non_finite_loss_says_what_is_kept(toy, tmp_path: Path) -> None:
    episodes = toy.demonstrations(5)
    policy = fitted(episodes, MLP)
    cfg = dataclasses.replace(SHORT, updates=50, save_every=10)
    bc.train(policy, episodes, dataclasses.replace(cfg, updates=20), folder=tmp_path / "base")
    losses, loss = itertools.count(), policy.loss
    policy.loss = lambda obs, chunk: loss(obs, chunk) * (1 if next(losses) < 15 else torch.nan)
    where = {"folder": tmp_path / "base", "resume_from": tmp_path / "base" / "checkpoint-20"}
    with pytest.raises(FloatingPointError, match=r"loss=nan in update 36; .*base/checkpoint-30 is kept"):
        bc.train(policy, episodes, cfg, **where)
    with pytest.raises(FloatingPointError, match="no checkpoint had been saved yet"):
        bc.train(policy, episodes, cfg, folder=tmp_path / "empty")


def test_non_finite_loss_stops(toy) -> None:
    episodes = toy.demonstrations(5)
    policy = fitted(episodes, MLP)
    cfg = dataclasses.replace(SHORT, updates=50, lr=1e30, warmup=0, test_every=10)
    with pytest.raises(FloatingPointError, match="lower lr=1e\\+30"):
        bc.train(policy, episodes, cfg)


@pytest.mark.parametrize("cfg", [MLP, DENOISER, BaseConfig(predict=8, execute=4, widths=(16, 32))])
def test_checkpoint_round_trip_and_refusals(toy, tmp_path: Path, cfg: BaseConfig) -> None:
    policy = fitted(toy.demonstrations(5), cfg)
    identity = Identity("one_leg", "absolute", "floating", "ee 16, parts 7x5, obstacle 7")
    bc.save_policy(policy, cfg, tmp_path / "base", identity)
    loaded = bc.load_policy(tmp_path / "base", identity)
    assert isinstance(loaded, DiffusionPolicy) == (cfg.kind != "mlp")
    assert torch.equal(vector(policy), vector(loaded))
    obs = torch.randn(3, 4)
    chunks = []
    for p in (policy.eval(), loaded.eval()):
        torch.manual_seed(0)
        chunks.append(p.predict_chunk(obs))
    assert torch.equal(*chunks)
    for other, message in [
        (dataclasses.replace(identity, task="lamp"), "task 'one_leg', this run 'lamp'"),
        (dataclasses.replace(identity, action_mode="delta"), "action mode 'absolute', this run 'delta'"),
        (dataclasses.replace(identity, robot="panda"), "robot 'floating', this run 'panda'"),
    ]:
        with pytest.raises(ValueError, match=message):
            bc.load_policy(tmp_path / "base", other)
    (tmp_path / "base" / "policy.pt").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"checkpoint base cannot be used: policy\.pt has 3 bytes"):
        bc.load_policy(tmp_path / "base", identity)
