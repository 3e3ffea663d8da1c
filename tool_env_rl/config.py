"""FTRL's configuration: one dataclass per stage, one preset per scale.

The `paper` preset holds the authors' hyper-parameters; every value names its source: [CODE] is the authors'
repository at 3ea979b (its six scripts and `ppo_trainer.yaml`), [NOTE] the paper as relayed by reading notes,
[SHEET] a choice for the small scale, [OURS] ours where neither says anything. `small` and `smoke` change
sizes, learning rate and the model, never the method. `python train.py --help` lists every field.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shared.runs import RunConfig
from tool_env_rl.build_env.pipeline import BuildSettings
from tool_env_rl.records import SCENARIOS
from tool_env_rl.rewards import RewardKind

if TYPE_CHECKING:
    from trl import GRPOConfig

TOY = "toy"  # model.name of the generated Llama; anything else is a hub id or a local folder
Algorithm = Literal["grpo", "reinforce_pp"]
Mode = Literal["single_turn", "multi_turn"]


@dataclass(frozen=True)
class Model:
    """The policy."""

    # "toy" trains a Llama of the sizes below on demonstrations, "smollm2" is the offline model.
    name: str = "Qwen/Qwen2.5-7B-Instruct"  # [CODE] first of six scripts
    revision: str = "main"
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # [CODE]
    # data.enable_thinking of the scripts; None leaves the chat template its default. True makes the toy model
    # name the next sub-questions before it calls (claim 8).
    thinking: bool | None = False
    hidden: int = 128  # the sizes are read only when name is "toy" [SHEET]
    layers: int = 4
    heads: int = 4


@dataclass(frozen=True)
class Data:
    """Environments: built by the deterministic pipeline, or JSONL files in the authors' format."""

    train_file: str | None = None
    test_file: str | None = None
    train: int = 2215  # [NOTE] built environments, or at most so many rows
    dev: int = 40
    test: int = 200  # [NOTE] 50 per scenario
    # Complexity and scenarios of built training environments, taken in turn; dev and test: all scenarios, L4.
    levels: tuple[int, ...] = (4,)
    scenarios: tuple[str, ...] = SCENARIOS
    max_prompt_tokens: int = 16_384  # [CODE] longer states are left out
    unsafe_exec: bool = False  # run tool code even where the machine offers no isolation


@dataclass(frozen=True)
class Base:
    """The stand-in for an instruct model; only for model.name "toy"."""

    tokens: int = 5_000_000  # [SHEET] 2 to 2.5 M, or what the gate needs
    environments: int = 2400  # [OURS] of its own, apart from those of RL; 600 were learnt by heart (D10)
    levels: tuple[int, ...] = (4, 0, 4, 1, 4, 2, 4, 3)  # [OURS] as those of RL
    demonstrations: int = 2  # [OURS] per environment; varied in each pass
    general_first: int = 1000  # batches of tasks without tools at the start: copying is learnt there, cheaply
    general_share: float = 0.2  # of the batches afterwards [SHEET] 4 : 1
    batch_size: int = 8  # demonstrations; eight times as many tasks without tools, which are short
    lr: float = 3e-3
    warmup: int = 50
    # Measure the base model against gate.py, and refuse RL if it fails.
    gate: Literal["refuse", "report", "off"] = "off"


@dataclass(frozen=True)
class Algo:
    """RL on states."""

    algorithm: Algorithm = "grpo"  # [CODE]
    reward: RewardKind = "f1"  # [CODE]; the others are the ablations of §2.6
    random_reward: bool = False  # sanity control: a coin instead of the reward
    mode: Mode = "single_turn"  # [CODE]; "multi_turn" is the end-to-end variant of §8
    strict: bool = False  # whole-token matching in the reward; False is the authors' substring matching
    echo_guard: bool = True  # False reproduces the authors' leak (§6.2-2)
    drop_thoughts: bool = False  # False: thoughts are part of the content, as in the authors' code (§6.2-4)
    iterations: int = 3  # [NOTE] launches, each with new trajectories and a new KL reference
    environments: int = 2215  # sampled for trajectories per iteration
    batches: int = 0  # RL batches per iteration; 0 is one epoch over the states [CODE]
    states_per_batch: int = 512  # [CODE] train_batch_size
    group_size: int = 16  # [CODE] rollout.n
    updates_per_batch: int = 16  # [CODE] 512 / ppo_mini_batch_size 32
    micro_batch_size: int = 1  # [OURS] responses per device and forward pass
    max_turns: int = 20  # [CODE]
    collect_temperature: float = 1.0  # [CODE] data_sample.py
    temperature: float = 0.7  # [CODE] of the RL rollouts; top_p 1, no top_k
    max_completion_tokens: int = 1024  # [CODE] non-reasoning; 8192 when thinking
    clip: float = 0.2  # [CODE] both sides
    dual_clip: float = 3.0  # [CODE]
    kl: float = 0.001  # [CODE] low_var_kl, in the loss
    entropy: float = 0.001  # [CODE]
    lr: float = 1e-6  # [CODE] constant, no warm-up
    weight_decay: float = 0.01  # [CODE]
    max_grad_norm: float = 1.0  # [CODE]
    save_every: int = 8  # batches; [CODE] save_freq 120 updates
    vllm: bool = True  # [CODE] sample RL rollouts with vLLM (extra `vllm`); False: shared.rollouts


@dataclass(frozen=True)
class Eval:
    """Sheet §4.1 and §7.7; decoding is greedy [CODE]."""

    before: bool = True  # evaluate the start model too
    chains: int = 0  # OOD-1 environments: chains of 5-6 with unseen compositions
    noisy: int = 0  # OOD-2 environments per noise level: perturbed names; toy model only
    tables: int = 0  # OOD-3 tasks: a table that tools change, a scripted user; toy model only
    general: int = 0  # examples per task without tools; toy model only
    levels: int = 0  # how many environments at each complexity level 0 … 4
    repeat: bool = False  # evaluate the test set twice, each in a fresh sandbox, and compare every byte


@dataclass(frozen=True)
class Config:
    preset: str = "paper"
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    base: Base = field(default_factory=Base)
    algo: Algo = field(default_factory=Algo)
    eval: Eval = field(default_factory=Eval)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        algo = self.algo
        sizes = ("iterations", "environments", "states_per_batch", "updates_per_batch", "micro_batch_size")
        counts = {f"algo.{name}": getattr(algo, name) for name in (*sizes, "max_turns", "save_every")}
        counts |= {"data.train": self.data.train, "base.environments": self.base.environments}
        counts |= {"base.demonstrations": self.base.demonstrations, "base.batch_size": self.base.batch_size}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        rows = algo.states_per_batch * algo.group_size
        if rows % algo.updates_per_batch:
            raise ValueError(
                f"algo.updates_per_batch={algo.updates_per_batch} does not divide the {rows} responses of a "
                f"batch (algo.states_per_batch x algo.group_size); {_divisors(rows)} do"
            )
        if rows // algo.updates_per_batch % algo.micro_batch_size:
            raise ValueError(
                f"algo.micro_batch_size={algo.micro_batch_size} does not divide the "
                f"{rows // algo.updates_per_batch} responses of an update; "
                f"{_divisors(rows // algo.updates_per_batch)} do"
            )
        if algo.group_size < 2:
            raise ValueError(f"algo.group_size={algo.group_size}: TRL needs at least 2 responses per state")
        if self.base.general_first < 0:
            raise ValueError(f"base.general_first={self.base.general_first} must be at least 0")
        if not 0 < self.base.general_share <= 0.5:
            raise ValueError(f"base.general_share={self.base.general_share} must lie in (0, 0.5]; 0.2 is 4:1")
        if algo.dual_clip <= 1:
            raise ValueError(f"algo.dual_clip={algo.dual_clip} must exceed 1; the authors use 3.0")
        if algo.mode == "multi_turn" and algo.vllm:
            raise ValueError("algo.mode='multi_turn' samples with shared.rollouts; add --algo.no-vllm")
        for name, part in {
            "data": {"levels": self.data.levels, "scenarios": self.data.scenarios},
            "base": {"levels": self.base.levels},
        }.items():
            try:
                BuildSettings(**part)
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from None
        if self.data.train_file and self.data.scenarios != SCENARIOS:
            raise ValueError("data.scenarios is for built environments; leave data.train_file out")
        if self.model.name == TOY and (self.data.train_file or self.data.test_file):
            raise ValueError(
                "the toy language knows the built environments only; leave data.train_file and "
                "data.test_file out, or choose a pretrained --model.name"
            )


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def to_grpo_config(cfg: Config, output_dir: Path, states: int, world_size: int = 1) -> GRPOConfig:
    """TRL's settings for one iteration over `states` prompts; every option that defines the algorithm is
    set, because TRL's defaults move between releases.

    Raises:
        ValueError: fewer states than a batch, or responses that do not divide over the processes.
    """
    import torch
    from trl import GRPOConfig

    algo, cuda = cfg.algo, torch.cuda.is_available()
    rows_per_update = algo.states_per_batch * algo.group_size // algo.updates_per_batch
    if rows_per_update % (algo.micro_batch_size * world_size):
        raise ValueError(
            f"{rows_per_update} responses per update do not divide over {world_size} processes x "
            f"algo.micro_batch_size={algo.micro_batch_size}; {_divisors(rows_per_update // world_size)} do"
        )
    batches = algo.batches or states // algo.states_per_batch
    if states < algo.states_per_batch:
        raise ValueError(
            f"{states} states are fewer than algo.states_per_batch={algo.states_per_batch}; "
            "raise --algo.environments or lower --algo.states-per-batch"
        )
    accumulate = rows_per_update // (algo.micro_batch_size * world_size)
    return GRPOConfig(
        output_dir=str(output_dir),
        # batches
        num_generations=algo.group_size,
        per_device_train_batch_size=algo.micro_batch_size,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate * algo.updates_per_batch,
        num_iterations=1,
        max_steps=batches * algo.updates_per_batch,
        # sampling
        temperature=algo.temperature,
        top_p=1.0,
        top_k=0,
        max_completion_length=algo.max_completion_tokens,
        use_vllm=algo.vllm,
        vllm_mode="colocate",
        vllm_tensor_parallel_size=min(2, world_size),  # [CODE]
        vllm_gpu_memory_utilization=0.7,  # [CODE]
        vllm_enable_sleep_mode=algo.vllm,
        vllm_importance_sampling_correction=False,  # the authors do not correct for the sampler
        # objective
        beta=algo.kl,
        epsilon=algo.clip,
        epsilon_high=algo.clip,
        delta=algo.dual_clip,
        loss_type="grpo",  # mean over tokens, then over responses: the fork's seq-mean-token-mean
        scale_rewards="group",  # logged only: the trainer puts its own advantages in
        importance_sampling_level="token",
        mask_truncated_completions=False,
        use_bias_correction_kl=False,
        top_entropy_quantile=1.0,
        entropy_coef=algo.entropy,
        disable_dropout=True,
        # optimizer
        learning_rate=algo.lr,
        lr_scheduler_type="constant",
        warmup_steps=0,
        optim="adamw_torch",
        weight_decay=algo.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=algo.max_grad_norm,
        # plumbing
        bf16=cfg.model.precision == "bfloat16" and cuda,
        gradient_checkpointing=cfg.model.name != TOY,
        logging_steps=algo.updates_per_batch,
        save_steps=algo.save_every * algo.updates_per_batch,
        save_total_limit=2,
        report_to="none",
        seed=cfg.run.seed,
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        use_cpu=not cuda,
    )


_PAPER = Config()

_SMALL = Config(
    preset="small",
    model=Model(name=TOY, precision="float32", thinking=None),
    data=Data(train=600, dev=100, levels=(4, 0, 4, 1, 4, 2, 4, 3), max_prompt_tokens=256),  # D10, D7
    base=Base(gate="refuse"),
    algo=Algo(  # §7.6
        environments=120,
        batches=12,  # D7
        states_per_batch=16,
        group_size=8,
        updates_per_batch=4,
        micro_batch_size=32,
        max_turns=8,
        max_completion_tokens=40,
        lr=1e-4,
        save_every=2,
        vllm=False,
    ),
    eval=Eval(chains=100, noisy=20, tables=100, general=100),
)

_SMOKE = replace(
    _SMALL,
    preset="smoke",
    model=replace(_SMALL.model, hidden=32, layers=2, heads=2),
    data=replace(_SMALL.data, train=8, dev=4, test=4, levels=(0, 4)),
    base=replace(
        _SMALL.base,
        tokens=20_000,
        environments=8,
        levels=(0, 4),
        general_first=8,
        batch_size=4,
        warmup=2,
        gate="report",
    ),
    algo=replace(
        _SMALL.algo,
        iterations=2,
        environments=8,
        batches=2,
        states_per_batch=4,
        group_size=4,
        updates_per_batch=2,
        micro_batch_size=8,
        max_turns=3,
        save_every=1,
    ),
    eval=Eval(chains=4, noisy=1, tables=4, general=4),
)

_PRETRAINED = Config(
    preset="pretrained",
    model=Model(name="smollm2", precision="float32", thinking=None),
    data=Data(train=64, dev=8, test=40, levels=(1, 2), max_prompt_tokens=4096),
    algo=Algo(
        iterations=1,
        environments=16,
        batches=4,
        states_per_batch=8,
        group_size=8,
        updates_per_batch=2,
        micro_batch_size=2,
        max_turns=6,
        max_completion_tokens=192,
        lr=5e-6,
        save_every=1,
        vllm=False,
    ),
    eval=Eval(),
)

PRESETS: dict[str, Config] = {"smoke": _SMOKE, "small": _SMALL, "pretrained": _PRETRAINED, "paper": _PAPER}
