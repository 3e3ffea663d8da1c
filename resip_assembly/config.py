"""ResiP's configuration: one dataclass per stage, one preset per scale.

`paper-<task>` holds the authors' values for a task, `paper` those for one_leg; the sources are
named where the fields are defined: here, `behaviour_cloning.py` (sheet §2.6), `residual_policy.py` (§2.7) and
`residual_ppo.py` (§2.8). `small` and `smoke` change sizes, and the switches that two cores need, never the
method. Baselines and students (§2.9) have a front door of their own, with the same preset names: everything
that they share with the run they start from is read there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from resip_assembly.baselines.chunk_rollouts import ChunkLoopConfig
from resip_assembly.baselines.dppo import DPPOConfig
from resip_assembly.baselines.mlp_ppo import MlpPPOConfig
from resip_assembly.baselines.value_reranking import RerankingConfig
from resip_assembly.behaviour_cloning import BaseConfig, CloneConfig
from resip_assembly.env.tasks import LEVELS, task_named
from resip_assembly.residual_policy import ResidualConfig
from resip_assembly.residual_ppo import PPOConfig
from shared.runs import RunConfig


@dataclass(frozen=True)
class Simulation:
    """The assembly task and its simulator."""

    task: str = "one_leg"  # one_leg, round_table, lamp, mug_rack, peg_in_hole, bimanual
    randomness: Literal["low", "med", "high"] = "low"
    robot: Literal["floating", "panda"] = "panda"
    action_mode: Literal["absolute", "delta"] = "absolute"  # of the base's actions; §2.3
    num_envs: int = 1024  # §2.8; 256 for bimanual
    # stepping: native threads (None: one per core), or MuJoCo Warp on CUDA (warp-cpu: for tests)
    threads: int | Literal["warp", "warp-cpu"] | None = None
    max_episode_steps: int | None = None  # None: the task's own


@dataclass(frozen=True)
class Demos:
    """Demonstrations of the scripted expert."""

    episodes: int = 50  # §2.2
    folder: str | None = None  # recorded ones (`python -m resip_assembly.demos record`); None records them


@dataclass(frozen=True)
class Eval:
    """Held-out episodes, the same for every arm and training seed."""

    episodes: int = 1024  # per policy
    num_envs: int = 256
    execute: tuple[int, ...] = ()  # judge the base executing only so many steps of its chunks too (claim 1)
    video: bool = True


@dataclass(frozen=True)
class Config:
    preset: str = "paper"
    start: str | None = None  # run folder whose frozen base policy to use; None clones one
    sim: Simulation = field(default_factory=Simulation)
    demos: Demos = field(default_factory=Demos)
    base: BaseConfig = field(default_factory=BaseConfig)
    clone: CloneConfig = field(default_factory=CloneConfig)
    residual: ResidualConfig = field(default_factory=ResidualConfig)
    features: bool = False  # append relative features to the residual's input (ours; `relative_features.py`)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    eval: Eval = field(default_factory=Eval)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        task = task_named(self.sim.task)  # names the known ones
        for name, value in (
            ("sim.num_envs", self.sim.num_envs),
            ("demos.episodes", self.demos.episodes),
            ("eval.episodes", self.eval.episodes),
            ("eval.num_envs", self.eval.num_envs),
        ):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if bad := [n for n in self.eval.execute if not 1 <= n <= self.base.predict]:
            raise ValueError(f"eval.execute={bad} of chunks of base.predict={self.base.predict} steps")
        if self.residual.parametrisation == "delta6" and self.sim.action_mode == "delta":
            raise ValueError(
                "residual.parametrisation='delta6' corrects absolute poses; with sim.action_mode='delta' use "
                "'normalised'"
            )
        if self.preset != "paper" and self.sim.randomness not in LEVELS:
            raise ValueError(f"sim.randomness={self.sim.randomness!r} of {task.name}: one of {LEVELS}")


@dataclass(frozen=True)
class BaselineConfig:
    """What the paper compares with (§2.9): everything else is the run `start`'s, so that the arms differ in
    nothing but the method."""

    preset: str = "paper"
    kind: Literal["mlp_ppo", "dppo", "rerank"] = "mlp_ppo"
    start: str = ""  # run folder of train.py: its base policy is fine-tuned or re-ranked
    loop: ChunkLoopConfig = field(default_factory=ChunkLoopConfig)
    mlp_ppo: MlpPPOConfig = field(default_factory=MlpPPOConfig)
    dppo: DPPOConfig = field(default_factory=DPPOConfig)
    rerank: RerankingConfig = field(default_factory=RerankingConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.loop.iterations < 1:
            raise ValueError(f"loop.iterations={self.loop.iterations} must be at least 1")


@dataclass(frozen=True)
class ImitationConfig:
    """A student of the run `start`'s architecture, cloned from other data (§2.9 DAgger, §2.10)."""

    preset: str = "paper"
    # successful episodes of the scripted expert, of start's base, of its base + residual; or DAgger with the
    # latter as teacher
    data: Literal["demos", "base", "residual", "dagger"] = "residual"
    episodes: int = 1000  # §2.10: 1 k to 100 k
    start: str = ""  # run folder of train.py
    updates: int | None = None  # None: as start's base
    dagger_envs: int = 16  # §2.9; 64 for peg-in-hole
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name in ("episodes", "dagger_envs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


def paper_preset(
    task: str,
    predict: int = 32,
    execute: int = 8,
    num_envs: int = 1024,
    init_logstd: float = -1.0,
    learn_std: bool = False,
    normalize_reward: bool = True,
) -> Config:
    """The authors' run of one task: 10^9 environment steps in iterations of one whole episode (§2.8)."""
    steps = task_named(task).paper_episode_steps
    return Config(
        preset=f"paper-{task}",
        sim=Simulation(task=task, num_envs=num_envs, max_episode_steps=steps),
        base=BaseConfig(predict=predict, execute=execute),
        clone=CloneConfig(pad_after=execute - 1),
        residual=ResidualConfig(init_logstd=init_logstd, learn_std=learn_std),
        ppo=PPOConfig(
            rollout_steps=steps,
            iterations=10**9 // (num_envs * steps),
            normalize_reward=normalize_reward,
            entropy_coef=1e-3 if learn_std else 0.0,  # §2.7: the scripts that learn it add entropy
            eval_episodes=num_envs,
        ),
    )


# Horizons: §2.6. Standard deviations: launch scripts, §2.7. Raw rewards: the released checkpoints, §2.8.
_TASKS = {
    "one_leg": paper_preset("one_leg", init_logstd=-0.9, learn_std=True, normalize_reward=False),
    "round_table": paper_preset("round_table", init_logstd=-1.5, learn_std=True, normalize_reward=False),
    "lamp": paper_preset("lamp", normalize_reward=False),
    "mug_rack": paper_preset("mug_rack", init_logstd=-0.7),
    "peg_in_hole": paper_preset("peg_in_hole", predict=8, execute=4),
    "bimanual": paper_preset("bimanual", predict=64, execute=16, num_envs=256),
}
_PAPER = replace(_TASKS["one_leg"], preset="paper")

# What two cores need, tuned on seed 0: the floating gripper (D18), a 0.23 M-parameter denoiser that predicts
# the clean chunk, autoreset on success, residuals in metres and radians, small iterations.
_SMALL = Config(
    preset="small",
    sim=Simulation(task="peg_in_hole", robot="floating", num_envs=128),
    demos=Demos(episodes=100),
    base=BaseConfig(
        kind="mlp_denoiser",
        predict=16,
        prediction="sample",
        loss="l1",
        widths=(256,),
        layers=2,
        warm_start=False,
    ),
    clone=CloneConfig(
        updates=4000,
        lr=1e-3,
        warmup=50,
        ema_decay=0.9995,
        obs_noise=0.005,
        pad_after=15,
        test_every=1000,
        save_every=1000,
    ),
    residual=ResidualConfig(parametrisation="delta6", residual_scale=1.0, max_units=2.0, init_logstd=-1.2),
    features=True,
    ppo=PPOConfig(
        rollout_steps=48,
        iterations=60,
        reset_every_iteration=False,
        keep_post_success=False,
        truncation_is_terminal=False,
        normalize_reward=False,
        gamma=0.99,
        epochs=10,
        minibatch_size=512,
        value_coef=1.0,
        joint_clip=False,
        target_kl=0.075,
        critic_only_iterations=2,
        actor_lr=5e-4,
        critic_lr=1e-3,
        warmup_iterations=0,
        eval_every=20,
        eval_episodes=128,
        save_every=5,
    ),
    eval=Eval(episodes=256, num_envs=128),
)

_SMOKE = replace(
    _SMALL,
    preset="smoke",
    sim=replace(_SMALL.sim, num_envs=8),
    demos=Demos(episodes=4),
    base=replace(_SMALL.base, widths=(32,)),
    clone=replace(_SMALL.clone, updates=40, batch_size=32, test_every=20, save_every=20),
    residual=replace(_SMALL.residual, width=32),
    ppo=replace(
        _SMALL.ppo, rollout_steps=16, iterations=3, epochs=2, minibatch_size=32, eval_every=3,
        eval_episodes=8, critic_only_iterations=1, save_every=1,
    ),
    eval=Eval(episodes=8, num_envs=8),
)  # fmt: skip

_RUNS = (_SMOKE, _SMALL, _PAPER, *_TASKS.values())
PRESETS: dict[str, Config] = {cfg.preset: cfg for cfg in _RUNS}


def baseline_preset(cfg: Config) -> BaselineConfig:
    """The baselines of a scale: the same environment steps per iteration, and as many iterations."""
    ppo, task = cfg.ppo, cfg.sim.task
    late = task in ("peg_in_hole", "mug_rack", "bimanual")  # §2.9: other values for these
    loop = ChunkLoopConfig(
        decisions=max(1, ppo.rollout_steps // cfg.base.execute),
        iterations=ppo.iterations,
        reset_every_iteration=ppo.reset_every_iteration,
        keep_post_success=ppo.keep_post_success,
        truncation_is_terminal=ppo.truncation_is_terminal,
        gamma=ppo.gamma,
        eval_every=ppo.eval_every,
        eval_episodes=ppo.eval_episodes,
        save_every=ppo.save_every,
    )
    mlp_ppo = MlpPPOConfig(
        init_logstd=-4.0 if late else -5.0,
        lr=5e-5 if task == "bimanual" else 1e-4,
        value_coef=1.0 if late else 0.5,
        kl_coef=0.5 if late else 1.0,
    )
    return BaselineConfig(preset=cfg.preset, loop=loop, mlp_ppo=mlp_ppo)


def small_baseline_preset(cfg: Config, minibatch: int) -> BaselineConfig:
    """What two cores need: small batches, no dropout noise in the update, larger steps. MLP-C + PPO takes
    smaller ones: at σ = e^-4 and 1e-4 one update of the small network is a KL runaway."""
    found = baseline_preset(cfg)
    return replace(
        found,
        mlp_ppo=replace(found.mlp_ppo, lr=1e-5, critic_lr=1e-3, dropout_in_update=False),
        dppo=replace(found.dppo, lr=1e-4, minibatch_size=4 * minibatch, critic_width=256),
        rerank=replace(found.rerank, lr=1e-3, width=256, minibatch_size=minibatch),
    )


BASELINE_PRESETS: dict[str, BaselineConfig] = {cfg.preset: baseline_preset(cfg) for cfg in _RUNS[2:]} | {
    "smoke": small_baseline_preset(_SMOKE, minibatch=8),
    "small": small_baseline_preset(_SMALL, minibatch=256),
}
IMITATION_PRESETS: dict[str, ImitationConfig] = {
    cfg.preset: ImitationConfig(preset=cfg.preset, dagger_envs=64 if cfg.sim.task == "peg_in_hole" else 16)
    for cfg in _RUNS[2:]
} | {
    "smoke": ImitationConfig(preset="smoke", episodes=4, dagger_envs=8),
    "small": ImitationConfig(preset="small", episodes=200),
}
