"""Residual PPO: GAE, the zero start, both rollouts regimes, the gain on a biased base, guards and resume."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from resip_assembly import checkpoints, residual_ppo
from resip_assembly.checkpoints import Identity
from resip_assembly.diffusion_policy import ChunkAgent
from resip_assembly.evaluation import evaluate
from resip_assembly.normalization import MinMax, Normalizer
from resip_assembly.residual_ppo import PPOConfig, ResidualPolicy, gae
from resip_assembly.residual_rollouts import Collector, RewardScale

CPU = PPOConfig(
    rollout_steps=20,
    iterations=35,
    reset_every_iteration=False,
    keep_post_success=False,
    truncation_is_terminal=False,
    normalize_reward=False,
    gamma=0.99,
    epochs=8,
    minibatch_size=512,
    joint_clip=False,
    target_kl=0.075,
    critic_only_iterations=2,
    actor_lr=2e-3,
    critic_lr=2e-3,
    schedule="constant",
    eval_every=100,
    eval_episodes=64,
    save_every=100,
)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# ---- gae


def slow_gae(r, v, nv, terminated, truncated, gamma, lam):
    """Sum over the future, written as the definition."""
    advantages = np.zeros_like(r)
    for t, n in np.ndindex(r.shape):
        weight = 1.0
        for k in range(t, len(r)):
            bootstrap = 0.0 if terminated[k, n] else nv[k, n]
            advantages[t, n] += weight * (r[k, n] + gamma * bootstrap - v[k, n])
            weight *= gamma * lam
            if terminated[k, n] or truncated[k, n]:
                break
    return advantages, advantages + v


def test_gae_equals_its_definition_with_both_ends_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    r, v, nv = rng.normal(size=(3, 12, 7))
    terminated, truncated = rng.random((2, 12, 7)) < 0.2
    expected = slow_gae(r, v, nv, terminated, truncated, 0.97, 0.9)
    found = gae(r, v, nv, terminated, truncated, 0.97, 0.9)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    tensors = gae(*map(torch.from_numpy, (r, v, nv, terminated, truncated)), 0.97, 0.9)
    np.testing.assert_allclose(tensors[0].numpy(), expected[0])


def test_gae_takes_lists_views_and_read_only_arrays() -> None:
    rng = np.random.default_rng(1)
    arrays = [*rng.normal(size=(3, 5, 2)), *(rng.random((2, 5, 2)) < 0.2)]
    expected = gae(*arrays, 0.97, 0.9)
    backwards = [x[::-1].copy()[::-1] for x in arrays]
    frozen = [x.copy() for x in arrays]
    for x in frozen:
        x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (backwards, frozen, [x.tolist() for x in arrays], [list(x) for x in arrays]):
            for a, b in zip(gae(*given, 0.97, 0.9), expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_gae_bootstraps_a_truncation_and_not_a_termination() -> None:
    r, v, nv = np.zeros((2, 1)), np.zeros((2, 1)), np.full((2, 1), 10.0)
    no, yes = np.zeros((2, 1), bool), np.array([[True], [False]])
    assert gae(r, v, nv, no, yes, 0.5, 1.0)[0].tolist() == [[5.0], [5.0]]
    assert gae(r, v, nv, yes, no, 0.5, 1.0)[0].tolist() == [[0.0], [5.0]]
    assert gae(r, v, nv, yes, yes, 0.5, 1.0)[0].tolist() == [[0.0], [5.0]]
    assert gae(r, v, nv, no, no, 0.5, 1.0)[0].tolist() == [[7.5], [5.0]]


def test_gae_ignores_the_value_after_a_termination_even_if_nan() -> None:
    one = np.ones((1, 1))
    found, _ = gae(one, 0 * one, np.nan * one, one.astype(bool), one.astype(bool), 0.9, 0.9)
    assert found.tolist() == [[1.0]]


def test_gae_refuses_shapes() -> None:
    with pytest.raises(ValueError, match=r"values has shape \(2,\), rewards \(2, 1\)"):
        gae(np.zeros((2, 1)), np.zeros(2), *np.zeros((3, 2, 1)), 0.9, 0.9)


# ---- policy


def test_initialisation_of_the_sheet() -> None:
    policy = ResidualPolicy(58, 10)
    assert policy.residual_scale == 0.1
    assert policy.actor[-1].bias is None
    assert not policy.actor[-1].weight.any()
    assert policy.critic[-1].bias.item() == 0.25
    assert policy.critic[-1].weight.norm().item() == pytest.approx(0.25)
    assert [layer.weight.shape for layer in policy.actor[::2]] == [(256, 68), (256, 256), (10, 256)]
    assert policy.actor[0].weight.std().item() == pytest.approx(math.sqrt(2 / 68), rel=0.05)
    assert not policy.actor[0].bias.any()
    assert policy.logstd.tolist() == [-1.0] * 10
    assert not policy.logstd.requires_grad
    assert ResidualPolicy(3, 2, learn_std=True).logstd.requires_grad


@pytest.mark.parametrize("parametrisation", ["normalised", "delta6"])
def test_untrained_mean_equals_the_base_bit_for_bit(parametrisation: str) -> None:
    torch.manual_seed(0)
    action = MinMax(torch.randn(20), torch.rand(20) + 0.1)
    policy = ResidualPolicy(5, 20, parametrisation=parametrisation, action_range=action, residual_scale=1.0)
    base = torch.randn(64, 20)
    assert torch.equal(policy.act(torch.randn(64, 5), base, deterministic=True), base)
    assert not torch.equal(policy.act(torch.randn(64, 5), base), base)


def test_noise_is_scaled_and_its_logprob_is_of_u() -> None:
    torch.manual_seed(0)
    policy = ResidualPolicy(3, 4)
    base = torch.zeros(20_000, 4)
    action = policy.act(torch.zeros(20_000, 3), base)
    assert action.std().item() == pytest.approx(0.1 * math.exp(-1), rel=0.02)  # §2.1: 0.037
    u = torch.ones(1, 4)
    logprob = policy.distribution(torch.zeros(1, 7)).log_prob(u).sum()
    expected = 4 * (-0.5 * math.exp(2) + 1 - 0.5 * math.log(2 * math.pi))
    assert logprob.item() == pytest.approx(expected, rel=1e-5)


def test_delta6_composes_a_tool_frame_rotation_and_metres() -> None:
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(0)
    rotation = Rotation.random(1, random_state=1)
    raw = np.concatenate([rng.normal(size=3), rotation.as_matrix()[0][:2].ravel(), [0.7]])
    action = MinMax(torch.from_numpy(rng.normal(size=10)), torch.from_numpy(rng.uniform(0.05, 1, 10)))
    policy = ResidualPolicy(1, 10, parametrisation="delta6", residual_scale=1.0, action_range=action)
    assert policy.residual_dim == 6
    u = torch.tensor([[1.0, 0, -2, 0.5, -1, 2]])
    base = action.normalize(torch.from_numpy(raw).float())[None]
    found = action.denormalize(policy.combine(base, u))[0].numpy()
    expected = rotation.as_matrix()[0] @ Rotation.from_rotvec(0.05 * u[0, 3:].numpy()).as_matrix()
    np.testing.assert_allclose(found[:3], raw[:3] + np.array([0.008, 0, -0.016]), atol=1e-6)
    np.testing.assert_allclose(found[3:9], expected[:2].ravel(), atol=1e-6)
    assert found[9] == pytest.approx(0.7, abs=1e-6)


def test_max_units_clamps_what_is_executed() -> None:
    policy = ResidualPolicy(1, 2, max_units=2.0)
    assert policy.combine(torch.zeros(1, 2), torch.tensor([[5.0, -1.0]])).tolist() == [
        pytest.approx([0.2, -0.1])
    ]


def test_delta6_needs_ten_dimensions_per_arm() -> None:
    with pytest.raises(ValueError, match="action_dim=7: need 10 dimensions per arm"):
        ResidualPolicy(1, 7, parametrisation="delta6", action_range=MinMax(torch.zeros(7), torch.ones(7)))


def test_features_are_appended_and_clipped(toy) -> None:
    normalizer = toy.BiasedBase().normalizer
    obs = np.full((2, 4), 9.0, np.float32)
    found = residual_ppo.residual_features(obs, normalizer, lambda raw: raw[:, :1] - 8.5)
    assert found.tolist() == [[3.0] * 4 + [0.5]] * 2


# ---- rollouts


def test_rollout_bookkeeping_with_autoreset(toy) -> None:
    """next_values are of the state before the reset, queues restart, and the base replans once per T_a."""
    torch.manual_seed(0)
    env, base = toy.PointReach(16), toy.BiasedBase(bias=0.05)
    env.limit = 9
    collector = Collector(env, base, steps=30)
    collector.reset(3)
    policy = ResidualPolicy(4, 2)
    torch.nn.init.normal_(policy.critic[-1].weight)
    states, actions, real_step = [], [], env.step

    def recording_step(action):
        states.append(env.state())
        actions.append(action)
        return real_step(action)

    env.step = recording_step
    found = collector.collect(policy)
    assert found.terminated.any()
    assert found.truncated.any()
    assert found.valid.all()
    twin = toy.PointReach(16)
    twin.limit = 9
    for t in range(30):
        twin.set_state(states[t])
        obs = twin._obs()
        torch.testing.assert_close(found.z[t, :, :4], torch.from_numpy(obs))
        info = twin.step(actions[t])[-1]
        final = torch.from_numpy(info["final_obs"])
        cut = found.truncated[t]
        if cut.any():  # the base's plan goes on: its target is the goal at the last planning step
            z = torch.cat([final, found.z[t, :, 4:]], dim=1)[cut]
            torch.testing.assert_close(found.next_values[t][cut], policy.value(z).detach())
        running = ~(found.terminated[t] | cut)
        if t < 29:
            torch.testing.assert_close(found.next_values[t][running], found.values[t + 1][running])
    starts = 1 + (found.terminated | found.truncated)[:-1].sum().item() / 16
    assert sum(base.rows) <= 16 * (30 / 4 + starts + 1)


def test_rollout_without_autoreset_marks_the_steps_after_success(toy) -> None:
    torch.manual_seed(0)
    env, base = toy.PointReach(32, "disabled"), toy.BiasedBase(bias=0.05)
    env.limit = 12
    collector = Collector(env, base, steps=20)
    collector.reset(0)
    found = collector.collect(ResidualPolicy(4, 2))
    assert found.truncated.any()
    assert base.rows == [32] * 6  # lock-step: one batched inference per T_a = 4 steps, and the bootstrap
    assert (~found.valid).any()
    assert found.terminated[~found.valid].all()
    assert not found.rewards[~found.valid].any()
    assert found.rewards.sum() == (found.valid & found.terminated).sum()
    advantages, returns = gae(
        found.rewards, 0 * found.values, found.next_values, found.terminated, found.truncated, 0.99, 0.95
    )
    assert not returns[~found.valid].any()  # value target 0 after success (§2.8)
    assert advantages.isfinite().all()


BREAKS = {(2, 0): "nan", (2, 1): "blow-up", (3, 5): "nan", (4, 6): "nan action", (5, 7): "out of workspace"}
COUNTS = {"rollout/nan": 2, "rollout/blow_up": 1, "rollout/nan_action": 1, "rollout/out_of_workspace": 1}


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_what_the_simulator_breaks_is_counted(toy, autoreset: str) -> None:
    """Once per episode, and apart from the time limit."""
    env = toy.PointReach(8, autoreset)
    env.breaks, env.limit = BREAKS, 8
    collector = Collector(env, toy.BiasedBase(bias=0.3), steps=10)
    collector.reset(0)
    stats = collector.collect(ResidualPolicy(4, 2)).stats
    assert {name: stats[name] for name in COUNTS} == COUNTS
    assert stats["rollout/finished"] >= 5 + 3
    env.breaks = {}
    collector.reset(0)
    assert not any(collector.collect(ResidualPolicy(4, 2)).stats[name] for name in COUNTS)


@pytest.mark.slow
def test_held_residuals_are_drawn_once_per_chunk_and_learn_there(toy, tmp_path: Path) -> None:
    torch.manual_seed(0)
    collector = Collector(toy.PointReach(64), toy.BiasedBase(bias=0.0), steps=20, hold=True)
    collector.reset(0)
    policy = ResidualPolicy(4, 2)
    found = collector.collect(policy)
    new = torch.zeros(20, 64, dtype=torch.bool)
    age = torch.zeros(64)
    for t in range(20):
        new[t] = age == 0
        age = torch.where(found.terminated[t] | found.truncated[t], 0, (age + 1) % 4)
    assert torch.equal(found.decided, new)
    changed = (found.u[1:] != found.u[:-1]).any(-1)
    assert torch.equal(changed, new[1:])
    cfg = dataclasses.replace(CPU, hold_residual=True, iterations=25)
    _, _, result = train(toy, tmp_path, cfg, eval_env=toy.PointReach(64))
    assert result.evaluations[-1][1] > result.evaluations[0][1] + 0.3


def test_reward_scale_is_the_running_standard_deviation() -> None:
    rng = np.random.default_rng(0)
    rewards = (rng.random((3, 50, 4)) < 0.3).astype(np.float32)
    scale = RewardScale()
    for part in rewards:
        scaled = scale(torch.from_numpy(part))
    expected = rewards[-1] / rewards.std()
    np.testing.assert_allclose(scaled.numpy(), np.clip(expected, -5, 5), rtol=1e-4)
    assert RewardScale()(torch.eye(100)).max() == 5  # so sparse rewards become 5 (§2.8)


# ---- update and loop


def train(toy, folder: Path, cfg: PPOConfig, autoreset: str = "same_step", **options):
    torch.manual_seed(1)
    residual = options.pop("residual", None) or ResidualPolicy(4, 2, width=64)
    base = toy.BiasedBase()
    result = residual_ppo.train(
        toy.PointReach(64, autoreset), base, residual, cfg, seed=5, folder=folder, **options
    )
    return base, residual, result


@pytest.mark.slow
def test_residual_fixes_a_biased_base_and_starts_from_it(toy, tmp_path: Path) -> None:
    logged: list[dict] = []
    base, residual, result = train(
        toy,
        tmp_path,
        CPU,
        eval_env=toy.PointReach(64),
        on_log=lambda metrics, step: logged.append(metrics),
    )
    env = toy.PointReach(64)
    before = evaluate(env, ChunkAgent(base, 64), 128, seed=9)
    after = evaluate(env, residual_ppo.ResidualAgent(base, residual, 64), 128, seed=9)
    assert before.rate < 0.3
    assert after.rate > 0.9
    assert result.stopped is None
    assert result.env_steps == 35 * 20 * 64
    assert [steps for steps, _ in result.evaluations] == [0, result.env_steps]
    assert all(np.isfinite(v) for metrics in logged for v in metrics.values())
    best = residual_ppo.load_residual(tmp_path / "best", base.normalizer)
    assert torch.equal(weights(best.actor), weights(residual.actor))


def test_deterministic_iteration_zero_acts_as_the_base(toy) -> None:
    base, env = toy.BiasedBase(), toy.PointReach(8)
    agents = [ChunkAgent(base, 8), residual_ppo.ResidualAgent(base, ResidualPolicy(4, 2), 8)]
    obs, _ = env.reset(seed=0)
    for _ in range(10):
        actions = [agent.act(obs) for agent in agents]
        assert actions[0].tobytes() == actions[1].tobytes()
        obs, _, terminated, truncated, _ = env.step(actions[0])
        for agent in agents:
            agent.reset(terminated | truncated)


def test_hold_keeps_the_residual_for_a_chunk(toy) -> None:
    base = toy.BiasedBase()  # T_a = 4
    residual = ResidualPolicy(4, 2)
    torch.nn.init.normal_(residual.actor[-1].weight)
    agent = residual_ppo.ResidualAgent(base, residual, 3, hold=True)
    agent.reset(np.ones(3, bool))
    obs = np.random.default_rng(0).uniform(-1, 1, (8, 3, 4)).astype(np.float32)
    actions = [agent.act(o) for o in obs]
    for t in range(8):
        assert np.allclose(actions[t], actions[t // 4 * 4])
    assert not np.allclose(actions[0], actions[4])


def test_the_authors_switches_run(toy, tmp_path: Path) -> None:
    """Full reset, post-success steps kept, reward normalisation, cosine whose first iteration has lr 0."""
    cfg = PPOConfig(rollout_steps=20, iterations=3, epochs=3, eval_every=2, eval_episodes=64)
    env = toy.PointReach(64, "disabled")
    residual = ResidualPolicy(4, 2, width=32)
    start, lrs = weights(residual.actor), []

    def on_log(metrics, step):
        if "lr/actor" in metrics:
            lrs.append(metrics["lr/actor"])
        if step == 0 and "lr/actor" in metrics:
            assert torch.equal(weights(residual.actor), start)

    base = toy.BiasedBase()
    result = residual_ppo.train(
        env, base, residual, cfg, seed=0, folder=tmp_path, eval_env=env, on_log=on_log
    )
    assert lrs == pytest.approx([0.0, 3e-4 / 5, 3e-4 * 2 / 5])
    assert not torch.equal(weights(residual.actor), start)
    assert len(result.evaluations) == 3


def test_critic_only_iterations_leave_the_actor(toy, tmp_path: Path) -> None:
    cfg = dataclasses.replace(CPU, iterations=2)
    _, residual, _ = train(toy, tmp_path, cfg)
    assert not residual.actor[-1].weight.any()
    assert not torch.equal(residual.critic[-1].bias.detach(), torch.tensor([0.25]))


def test_kl_stop_ends_the_update(toy, tmp_path: Path) -> None:
    cfg = dataclasses.replace(
        CPU, iterations=1, critic_only_iterations=0, epochs=30, target_kl=2e-3, minibatch_size=None
    )
    epochs = []
    train(toy, tmp_path, cfg, on_log=lambda metrics, step: epochs.append(metrics["update/epochs"]))
    assert 1 < epochs[0] < 30


def test_collapse_keeps_the_last_good_residual(toy, tmp_path: Path) -> None:
    cfg = dataclasses.replace(CPU, critic_only_iterations=1, actor_lr=5.0, target_kl=1e9)
    _, residual, result = train(toy, tmp_path, cfg)
    assert result.iterations == 1
    assert "KL" in result.stopped or "loss" in result.stopped
    assert "last good residual is kept" in result.stopped
    assert torch.isfinite(weights(residual)).all()
    assert not residual.actor[-1].weight.any()  # as it was before the update that failed
    stored = residual_ppo.load_residual(tmp_path / "checkpoint-1", toy.BiasedBase().normalizer)
    assert torch.equal(weights(stored.actor), weights(residual.actor))
    again = train(toy, tmp_path, cfg, residual=residual, resume_from=tmp_path / "checkpoint-1")[-1]
    assert again == result  # a collapsed training is not taken up again


@pytest.mark.parametrize(
    ("autoreset", "hold"), [("same_step", False), ("same_step", True), ("disabled", False)]
)
def test_kill_and_resume_is_bit_identical(toy, tmp_path: Path, autoreset: str, hold: bool) -> None:
    cfg = dataclasses.replace(
        CPU, iterations=5, save_every=2, epochs=2, eval_every=3, normalize_reward=True, hold_residual=hold,
        reset_every_iteration=autoreset == "disabled", schedule="cosine",
    )  # fmt: skip
    evaluating = {"eval_env": toy.PointReach(64)}
    _, whole, result = train(toy, tmp_path / "whole", cfg, autoreset, **evaluating)

    def kill(metrics, step):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy, tmp_path / "killed", cfg, autoreset, on_log=kill, **evaluating)
    torch.manual_seed(99)
    _, resumed, again = train(
        toy,
        tmp_path / "killed",
        cfg,
        autoreset,
        residual=ResidualPolicy(4, 2, width=64),
        resume_from=tmp_path / "killed" / "checkpoint-2",
        **evaluating,
    )
    assert torch.equal(weights(whole), weights(resumed))
    assert result == again


def test_steps_after_success_enter_the_update_only_if_kept(toy) -> None:
    torch.manual_seed(0)
    collector = Collector(toy.PointReach(32, "disabled"), toy.BiasedBase(bias=0.0), steps=20)
    collector.reset(0)
    policy = ResidualPolicy(4, 2)
    found = collector.collect(policy)
    found.logprobs[~found.valid] = torch.nan
    zero = torch.zeros_like(found.rewards)
    for keep in (False, True):
        cfg = dataclasses.replace(CPU, epochs=1, keep_post_success=keep)
        arguments = (torch.optim.SGD(policy.parameters(), lr=0.0), found, zero, zero, cfg)
        if keep:
            with pytest.raises(residual_ppo.Collapse, match="loss=nan"):
                residual_ppo.update(policy, *arguments)
        else:
            assert residual_ppo.update(policy, *arguments)["update/kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs=0 must be at least 1"),
        ("minibatch_size", 1, "minibatch_size=1 must be at least 2"),
        ("gamma", 1.01, r"gamma=1\.01 is outside"),
    ],
)
def test_bad_settings_are_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(**{field: value})


def test_bad_envs_and_checkpoints_are_refused(toy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs an env with autoreset='same_step'"):
        train(toy, tmp_path, CPU, "disabled")
    env = toy.PointReach(4)
    with pytest.raises(ValueError, match="evaluating in the training env"):
        residual_ppo.train(
            env, toy.BiasedBase(), ResidualPolicy(4, 2), CPU, seed=0, folder=tmp_path, eval_env=env
        )
    identity = Identity("lamp", "absolute")
    cfg = dataclasses.replace(CPU, iterations=1, epochs=1)
    train(toy, tmp_path, cfg, identity=identity)
    with pytest.raises(ValueError, match="task 'lamp', this run 'one_leg'"):
        residual_ppo.load_residual(
            tmp_path / "checkpoint-1", Normalizer.empty(4, 2), Identity("one_leg", "absolute")
        )
    with pytest.raises(ValueError, match="action mode 'absolute', this run 'delta'"):
        checkpoints.load_config(tmp_path / "checkpoint-1", Identity("lamp", "delta"))
