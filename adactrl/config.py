"""AdaCtrl's configuration: one dataclass per stage, one preset per scale.

The `paper` preset holds the hyper-parameters of the authors' run; every value names its source: [CODE] is
`verl/qwen-7b.sh` and its defaults in the authors' repository at 9a0b89f, [NOTE] the paper as relayed by two
reading notes, [OURS] a choice of ours where neither says anything. `small` and `smoke` change sizes and the
task, never the method. `python train.py --help` lists every field.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from adactrl.rewards import LengthGate
from shared.runs import RunConfig

if TYPE_CHECKING:
    from trl import GRPOConfig

TINY = "tiny"  # model.name of the generated Llama; anything else is a hub id or a local folder


@dataclass(frozen=True)
class Model:
    """The policy."""

    # "tiny" builds a Llama of the sizes below, "smollm2" is the offline model (`make pretrained-model`).
    name: str = "Qwen/Qwen2.5-7B-Instruct"  # [CODE] run name, [NOTE]
    revision: str = "main"
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation; weights train in float32
    hidden: int = 64  # the sizes are read only when name is "tiny"
    layers: int = 4
    heads: int = 4


@dataclass(frozen=True)
class Data:
    """Problems for both stages."""

    task: Literal["chains", "deepmath", "gsm8k"] = "deepmath"  # [NOTE] DeepMath-103K; "chains" is generated
    data_dir: str | None = None  # folder with local JSONL copies, instead of the hub
    rl_problems: int = 103_110  # [OURS] all of DeepMath: the authors' subset is not known
    difficulty_cut: float = 5.0  # [OURS] annotated difficulty <= 5 is cold-started as [Easy]


@dataclass(frozen=True)
class Sft:
    """Stage 1, cold start. The paper's values are not known: all [OURS]."""

    # "r1" is the baseline: no tags, the long answer for every one of the same problems.
    style: Literal["adactrl", "r1"] = "adactrl"
    # Where [Easy] answers come from: the instruct model's own correct ones [NOTE], or the last step of the
    # data set's worked solution (GSM8K only), for a model too weak to write enough correct ones.
    concise: Literal["model", "solution"] = "model"
    steps: int = 480
    batch_size: int = 64
    micro_batch_size: int = 1
    lr: float = 1e-5
    warmup: int = 24
    examples: int = 10_240
    # Share of [Easy] examples with a wordy answer, so that the length reward has something to select.
    verbose: float = 0.0
    # Share of examples with the other tag and style, which keeps both tags explorable.
    flip: float = 0.0
    max_length: int = 16_384


@dataclass(frozen=True)
class Algo:
    """Stage 2, difficulty-aware GRPO."""

    alpha: float = 0.5  # [CODE] diff_format_weight, [NOTE]
    beta: float = 0.5  # [CODE] diff_len_weight, [NOTE]
    threshold: float = 0.625  # [CODE] diff_threshold (delta), strict
    length_gate: LengthGate = "correct"  # [CODE]; "tag" is the paper's wording (D1)
    calibrate: bool = True  # False: ablation w/o r_f, keeps only the -1 for a missing tag
    filter: Literal["acc", "none"] = "acc"  # [CODE] filter_groups.metric=acc
    max_generation_batches: int = 10  # [CODE] filter_groups.max_num_gen_batches
    overlong_buffer: int = 4096  # [CODE]
    overlong_factor: float = 1.0  # [CODE]
    group_size: int = 16  # [CODE] rollout.n
    prompts_per_generation: int = 512  # [CODE] gen_batch_size
    prompts_per_step: int = 256  # [CODE] train_batch_size, kept groups
    updates_per_step: int = 8  # [CODE] 256 / ppo_mini_batch_size 32
    micro_batch_size: int = 1  # [OURS] responses per device and forward pass
    clip_low: float = 0.2  # [CODE]
    clip_high: float = 0.28  # [CODE]
    lr: float = 1e-6  # [CODE]
    warmup: int = 10  # [CODE] updates, then constant
    weight_decay: float = 0.1  # [CODE]
    max_grad_norm: float = 1.0  # [CODE]
    temperature: float = 1.0  # [CODE] top_p 1.0, no top_k
    max_completion_tokens: int = 24_576  # [CODE]
    steps: int = 300  # [OURS] the authors' step count is not known; 5000 in the code is a cap
    save_every: int = 5  # [CODE] save_freq
    vllm: bool = True  # [CODE] sample with vLLM (extra `vllm`); False: our engine (`shared.rollouts`)


@dataclass(frozen=True)
class Eval:
    """Sheet §4."""

    temperature: float = 0.7  # [CODE] val_kwargs
    top_p: float = 0.8  # [CODE]
    problems: int | None = None  # per tier or data set; None is all of them
    samples: int = 1  # [CODE] times the data set's repeats (AIME x 8)
    before: bool = True  # evaluate the cold-started policy too
    probe_every: int = 0  # RL steps between held-out probes of labels and tags; 0 is never


@dataclass(frozen=True)
class Config:
    preset: str = "paper"
    # "fresh": train stage 1 now; "shipped": start RL from this repository's checkpoint; or a folder.
    cold_start: str = "fresh"
    # Generated task: measure the cold-started policy against `gate.py`, and refuse RL if it fails.
    gate: Literal["refuse", "report", "off"] = "off"
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    sft: Sft = field(default_factory=Sft)
    algo: Algo = field(default_factory=Algo)
    eval: Eval = field(default_factory=Eval)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        algo = self.algo
        counts = {
            f"algo.{k}": getattr(algo, k)
            for k in ("group_size", "prompts_per_generation", "prompts_per_step")
        }
        counts |= {
            f"algo.{k}": getattr(algo, k) for k in ("updates_per_step", "micro_batch_size", "save_every")
        }
        counts |= {"sft.batch_size": self.sft.batch_size, "sft.micro_batch_size": self.sft.micro_batch_size}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if algo.prompts_per_step % algo.updates_per_step:
            raise ValueError(
                f"algo.updates_per_step={algo.updates_per_step} does not divide algo.prompts_per_step="
                f"{algo.prompts_per_step}; {_divisors(algo.prompts_per_step)} do"
            )
        rows = algo.prompts_per_step // algo.updates_per_step * algo.group_size
        if rows % algo.micro_batch_size:
            raise ValueError(
                f"algo.micro_batch_size={algo.micro_batch_size} does not divide the {rows} rows per update "
                f"(algo.prompts_per_step / algo.updates_per_step x algo.group_size={algo.group_size}); "
                f"{_divisors(rows)} do"
            )
        if self.sft.batch_size % self.sft.micro_batch_size:
            raise ValueError(
                f"sft.micro_batch_size={self.sft.micro_batch_size} does not divide sft.batch_size="
                f"{self.sft.batch_size}; {_divisors(self.sft.batch_size)} do"
            )
        if self.sft.concise == "solution" and self.data.task != "gsm8k":
            raise ValueError(
                f"sft.concise='solution' needs data.task='gsm8k' and its solutions, not {self.data.task!r}"
            )
        if algo.group_size < 2:
            raise ValueError(
                f"algo.group_size={algo.group_size}: a group needs at least 2 samples to compare"
            )
        if not 0 <= algo.threshold < 1:
            raise ValueError(f"algo.threshold={algo.threshold} is outside [0, 1)")
        if algo.overlong_buffer > algo.max_completion_tokens:
            raise ValueError(
                f"algo.overlong_buffer={algo.overlong_buffer} exceeds "
                f"algo.max_completion_tokens={algo.max_completion_tokens}; the paper uses one sixth of it"
            )


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def to_grpo_config(cfg: Config, output_dir: Path, world_size: int = 1) -> GRPOConfig:
    """TRL's settings; every option that defines the algorithm is set, because TRL's defaults move between
    releases."""
    from trl import GRPOConfig

    algo, cuda = cfg.algo, torch.cuda.is_available()
    rows_per_update = algo.prompts_per_step * algo.group_size // algo.updates_per_step
    if rows_per_update % (algo.micro_batch_size * world_size):
        raise ValueError(
            f"{rows_per_update} responses per update do not divide over {world_size} processes x "
            f"algo.micro_batch_size={algo.micro_batch_size}; {_divisors(rows_per_update // world_size)} do"
        )
    for name, prompts in [("step", algo.prompts_per_step), ("generation", algo.prompts_per_generation)]:
        if prompts % world_size:
            raise ValueError(
                f"algo.prompts_per_{name}={prompts} must be a multiple of the {world_size} processes"
            )
    accumulate = rows_per_update // (algo.micro_batch_size * world_size)
    return GRPOConfig(
        output_dir=str(output_dir),
        # batches
        num_generations=algo.group_size,
        per_device_train_batch_size=algo.micro_batch_size,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate * algo.updates_per_step,
        num_iterations=1,
        max_steps=algo.steps * algo.updates_per_step,
        # sampling
        temperature=algo.temperature,
        top_p=1.0,
        top_k=0,
        max_completion_length=algo.max_completion_tokens,
        use_vllm=algo.vllm,
        vllm_mode="colocate",
        vllm_tensor_parallel_size=min(4, world_size),  # [CODE]
        vllm_gpu_memory_utilization=0.8,  # [CODE]
        vllm_enable_sleep_mode=algo.vllm,
        # objective
        beta=0.0,
        epsilon=algo.clip_low,
        epsilon_high=algo.clip_high,
        loss_type="bnpo",  # token mean per micro-batch, as the authors' verl does it
        scale_rewards="group",
        importance_sampling_level="token",
        multi_objective_aggregation="sum_then_normalize",
        reward_weights=[1.0, 1.0, algo.alpha, algo.beta],  # PART_NAMES order
        mask_truncated_completions=False,
        use_bias_correction_kl=False,
        top_entropy_quantile=1.0,
        entropy_coef=0.0,
        vllm_importance_sampling_correction=False,  # the authors do not correct for the sampler
        disable_dropout=True,
        # optimizer
        learning_rate=algo.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=algo.warmup,
        optim="adamw_torch",
        weight_decay=algo.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=algo.max_grad_norm,
        # plumbing
        bf16=cfg.model.precision == "bfloat16" and cuda,
        gradient_checkpointing=cfg.model.name != TINY,
        logging_steps=algo.updates_per_step,
        save_steps=algo.save_every * algo.updates_per_step,
        save_total_limit=3,
        report_to="none",
        seed=cfg.run.seed,
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        use_cpu=not cuda,
    )


_PAPER = Config()

_SMALL = Config(
    preset="small",
    cold_start="shipped",
    gate="refuse",
    model=Model(name=TINY, precision="float32"),
    data=Data(task="chains", rl_problems=16_384),
    sft=Sft(
        steps=1800,
        batch_size=64,
        micro_batch_size=32,
        lr=2e-3,
        warmup=50,
        examples=30_720,
        flip=0.15,
        verbose=0.5,
        max_length=128,
    ),
    algo=Algo(
        prompts_per_generation=16,
        prompts_per_step=8,
        updates_per_step=2,
        micro_batch_size=64,
        lr=1e-4,
        warmup=5,
        max_completion_tokens=96,
        vllm=False,
        overlong_buffer=16,  # one sixth, as in the paper's configuration
        steps=100,
        save_every=10,
    ),
    eval=Eval(problems=400, samples=2, probe_every=20),
)

_SMOKE = replace(
    _SMALL,
    preset="smoke",
    cold_start="fresh",
    gate="off",
    model=Model(name=TINY, precision="float32", hidden=32, layers=2, heads=2),
    data=replace(_SMALL.data, rl_problems=64),
    sft=replace(_SMALL.sft, steps=12, batch_size=16, micro_batch_size=8, examples=192),
    algo=replace(
        _SMALL.algo,
        filter="none",  # a model that has learnt nothing yet is wrong everywhere: no group would be kept
        group_size=4,
        prompts_per_generation=4,
        prompts_per_step=4,
        micro_batch_size=4,
        max_completion_tokens=24,
        overlong_buffer=4,
        steps=3,
        save_every=1,
    ),
    eval=Eval(problems=6, samples=1, probe_every=0),
)

_PRETRAINED = Config(
    preset="pretrained",
    model=Model(name="smollm2", precision="float32"),
    data=Data(task="gsm8k", rl_problems=7_473, difficulty_cut=2.0),
    sft=Sft(
        concise="solution",
        steps=60,
        batch_size=16,
        micro_batch_size=8,
        warmup=3,
        examples=960,
        lr=2e-5,
        max_length=768,
    ),
    algo=Algo(
        group_size=8,
        prompts_per_generation=32,
        prompts_per_step=16,
        updates_per_step=2,
        micro_batch_size=8,
        max_completion_tokens=256,
        vllm=False,
        overlong_buffer=40,
        steps=100,
    ),
    eval=Eval(problems=200),
)

PRESETS: dict[str, Config] = {"smoke": _SMOKE, "small": _SMALL, "pretrained": _PRETRAINED, "paper": _PAPER}
SCALE = {"smoke": "smoke", "small": "small", "pretrained": "pretrained", "paper": "paper"}
