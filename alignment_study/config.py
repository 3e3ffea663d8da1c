"""The study's configuration: one dataclass per stage, one preset per scale and per pair of model and task.

Every value of the `paper` presets names its source: [CODE] the authors' scripts, identical but for model,
reward and estimator (arXiv 2508.21188, official repository at d337693), [OURS] a choice of ours where they
say nothing. `small` follows the pilot's specification (§7.2 of our fact sheet), `pretrained` its §7.8. Sizes
and tasks change with the scale, the method never. `python train.py --help` lists every field.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from alignment_study.families import MAX_COMPLETION, WORLDS, WorldName
from alignment_study.kor_bench import TASKS as KOR_BENCH
from alignment_study.one_shot import How
from alignment_study.rewards import Kind
from alignment_study.trainer import OBJECTIVE, Samples
from shared.runs import RunConfig

if TYPE_CHECKING:
    from trl import GRPOConfig

UPDATES_PER_STEP = 2  # [CODE] 128 prompts in mini-batches of 64: the second update is the one that is clipped


@dataclass(frozen=True)
class Data:
    """What the two families are; None is the world's own letter strings. Any name of `tasks.load_task`."""

    aligned: str | None = None
    weak: str | None = None
    data_dir: str | None = None  # folder with local copies (JSONL, parquet), instead of the hub
    train_problems: int = 100_000  # at most; the whole training set if it has fewer


@dataclass(frozen=True)
class WarmUp:
    """Teaches a pretrained model the form before anything is measured (§7.8b); 0 examples: none."""

    task: str = "gsm8k"  # its training questions; none of them is trained or tested on afterwards
    examples: int = 0
    epochs: int = 2
    batch_size: int = 8
    lr: float = 1e-5


@dataclass(frozen=True)
class Algo:
    """One cell of the study: which reward, which samples, and the GRPO they share (`trainer.OBJECTIVE`)."""

    reward: Kind = "ground_truth"
    samples: Samples = "all"
    # of "one_shot": the problem to train on. "variance" reads `history`; the others measure the base model.
    selection: How = "near_half"
    candidates: int = 64  # [OURS] §7.2: 24 to 64 training problems are measured for near_half and random
    history: str | None = None  # history.json of a run with samples="all" on the same family
    dynamic_sampling: bool = True  # [CODE]
    released: bool = False  # the authors' one-line format regex and math rewards (D1, D2)
    chance: float = 0.5  # [CODE] P(reward 1) of the random rewards
    positive_weight: float = 1.0  # [CODE]; 0.1 weights successes as W-REINFORCE does
    group_size: int = 16  # [CODE] rollout.n
    prompts_per_step: int = 128  # [CODE] train_batch_size, and of each of at most two generation batches
    micro_batch_size: int = 4  # [OURS] responses per device and forward pass
    steps: int = 300  # [CODE]
    warmup: int = 10  # [CODE] steps, then constant
    lr: float = 1e-6  # [CODE]
    weight_decay: float = 0.1  # [CODE]
    max_grad_norm: float = 1.0  # [CODE]
    temperature: float = 1.0  # [CODE]
    top_p: float = 1.0  # [CODE]; top-k off
    max_completion_tokens: int = 8192  # [CODE]
    save_every: int = 50  # [CODE]
    vllm: bool = True  # [CODE] sample with vLLM (extra `vllm`); False: our engine (`shared.rollouts`)


@dataclass(frozen=True)
class Eval:
    """How every listed task is measured: before RL, every so many steps, and after."""

    tasks: tuple[str, ...] = ()  # none: the world's three families, or the two of `data`
    problems: int = 500  # of each task, or all it has
    samples: int = 16  # [OURS] per problem, for pass@16; the authors' in-training validation draws 1
    every: int = 20  # [CODE] test_freq; 0 is only before and after
    temperature: float = 1.0  # [CODE] val_kwargs
    top_p: float = 0.7  # [CODE] val_kwargs


@dataclass(frozen=True)
class Config:
    preset: str = "paper"
    world: WorldName = "one"  # the letter-string world of the small scale: which kind the base knows
    # Folder, hub id or smollm2. None: pre-trained here for world and seed, once for all runs.
    base: str | None = None
    pretrain_steps: int | None = None  # None: until the gate is met; a number: so many, and no gate (smoke)
    revision: str = "main"
    precision: Literal["float32", "bfloat16"] = "float32"  # of the computation; weights train in float32
    families: Literal["aligned", "weak", "both"] = "both"  # which to train on, one run each
    train_family: str | None = None  # a task by name instead, one run
    data: Data = field(default_factory=Data)
    warm_up: WarmUp = field(default_factory=WarmUp)
    algo: Algo = field(default_factory=Algo)
    eval: Eval = field(default_factory=Eval)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def aligned(self) -> str:
        return self.data.aligned or WORLDS[self.world].aligned

    @property
    def weak(self) -> str:
        return self.data.weak or WORLDS[self.world].weak

    @property
    def cells(self) -> dict[str, str]:
        """Role -> task of each run: what `families` or `train_family` asks for, the aligned one first."""
        roles = {"aligned": self.aligned, "weak": self.weak}
        if self.train_family:
            named = [role for role, task in roles.items() if task == self.train_family]
            return {named[0] if named else "trained": self.train_family}
        return roles if self.families == "both" else {self.families: roles[self.families]}

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is evaluated."""
        if self.eval.tasks:
            return self.eval.tasks
        own = self.data.aligned or self.data.weak
        return (self.aligned, self.weak) if own else (self.aligned, WORLDS[self.world].transfer, self.weak)

    def __post_init__(self) -> None:
        algo, least = self.algo, {"algo.group_size": 2}
        counts = ("prompts_per_step", "micro_batch_size", "save_every", "candidates", "max_completion_tokens")
        least |= {f"algo.{name}": 1 for name in counts} | {"eval.problems": 1, "eval.samples": 1}
        least |= {"warm_up.batch_size": 1, "data.train_problems": 1, "algo.steps": 0, "eval.every": 0}
        for name, bound in least.items():
            group, _, leaf = name.partition(".")
            if (value := getattr(getattr(self, group), leaf)) < bound:
                raise ValueError(f"{name}={value} must be at least {bound}")
        if algo.prompts_per_step % UPDATES_PER_STEP:
            raise ValueError(
                f"algo.prompts_per_step={algo.prompts_per_step} must be even: a step has two updates"
            )
        rows = algo.prompts_per_step // UPDATES_PER_STEP * algo.group_size
        if rows % algo.micro_batch_size:
            raise ValueError(
                f"algo.micro_batch_size={algo.micro_batch_size} does not divide the {rows} responses of an "
                f"update (algo.prompts_per_step / 2 x algo.group_size); {_divisors(rows)} do"
            )
        if not 0 <= algo.chance <= 1:
            raise ValueError(f"algo.chance={algo.chance} is no probability; give a number from 0 to 1")
        if algo.reward == "entropy" and algo.samples in ("negative", "positive"):
            raise ValueError(
                f"algo.samples='{algo.samples}' needs rewards of 0 and 1, and algo.reward='entropy' has "
                "log-probabilities; use --algo.samples all"
            )
        if algo.samples == "one_shot" and (algo.selection == "variance") != (algo.history is not None):
            raise ValueError(
                f"algo.selection='{algo.selection}' with algo.history={algo.history!r}: variance, and only "
                "variance, reads a history; run with --algo.samples all first, then pass its history.json"
            )
        if self.pretrain_steps is not None and self.base is not None:
            raise ValueError(
                f"pretrain_steps={self.pretrain_steps} is for pre-training here, but base={self.base!r} is "
                "given; keep one"
            )


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def to_grpo_config(cfg: Config, output_dir: Path, world_size: int = 1) -> GRPOConfig:
    """TRL's settings; every option that defines the algorithm is set, because TRL's defaults move between
    releases. `OBJECTIVE` is the loss; advantages are the trainer's own.

    Raises:
        ValueError: responses or prompts that do not divide over `world_size` processes.
    """
    from trl import GRPOConfig

    algo, cuda = cfg.algo, torch.cuda.is_available()
    rows = algo.prompts_per_step // UPDATES_PER_STEP * algo.group_size
    if rows % (algo.micro_batch_size * world_size) or algo.prompts_per_step % world_size:
        raise ValueError(
            f"{algo.prompts_per_step} prompts and {rows} responses per update do not divide over "
            f"{world_size} processes x algo.micro_batch_size={algo.micro_batch_size}; "
            f"{_divisors(algo.prompts_per_step)} processes do, if the micro-batch divides {rows} / processes"
        )
    accumulate = rows // (algo.micro_batch_size * world_size)
    return GRPOConfig(
        **OBJECTIVE,
        output_dir=str(output_dir),
        # batches
        num_generations=algo.group_size,
        per_device_train_batch_size=algo.micro_batch_size,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate * UPDATES_PER_STEP,  # else the ratio is 1 and clipping never acts
        max_steps=algo.steps * UPDATES_PER_STEP,
        # sampling
        temperature=algo.temperature,
        top_p=algo.top_p,
        top_k=0,
        max_completion_length=algo.max_completion_tokens,
        use_vllm=algo.vllm,
        vllm_mode="colocate",
        vllm_tensor_parallel_size=min(4, world_size),  # [CODE]
        vllm_gpu_memory_utilization=0.8,  # [CODE]
        vllm_enable_sleep_mode=algo.vllm,
        vllm_importance_sampling_correction=False,  # the authors do not correct for the sampler
        # advantages: `signed_samples` computes them on whole groups
        scale_rewards="group",
        use_bias_correction_kl=False,
        # optimizer
        learning_rate=algo.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=algo.warmup * UPDATES_PER_STEP,  # verl moves its schedule once per step
        optim="adamw_torch",
        weight_decay=algo.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=algo.max_grad_norm,
        # plumbing
        bf16=cfg.precision == "bfloat16" and cuda,
        gradient_checkpointing=cfg.precision == "bfloat16",  # large models; it slows the sampler down
        logging_steps=UPDATES_PER_STEP,
        save_steps=algo.save_every * UPDATES_PER_STEP,
        save_total_limit=3,
        report_to="none",
        seed=cfg.run.seed,
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        use_cpu=not cuda,
    )


_QWEN = Config(
    base="Qwen/Qwen2.5-7B",  # [CODE] the base model, which has a chat template
    precision="bfloat16",
    train_family="deepscaler",  # [CODE] agentica-org/DeepScaleR-Preview-Dataset
    eval=Eval(tasks=("math500", "aime24")),
)
_LOGIC = {
    "train_family": "synlogic-easy",  # [CODE] MiniMaxAI/SynLogic, config easy
    # [OURS] what the paper reports; the repository holds no evaluation of KOR-Bench
    "eval": Eval(tasks=("synlogic-easy", *KOR_BENCH)),
}
_LLAMA = replace(_QWEN, base="meta-llama/Llama-3.1-8B-Instruct")  # [CODE], gated on the hub

_SMALL = Config(
    preset="small",
    algo=Algo(
        prompts_per_step=16,
        micro_batch_size=128,
        steps=50,
        lr=1e-4,
        max_completion_tokens=MAX_COMPLETION,
        save_every=10,
        vllm=False,
    ),
    eval=Eval(problems=128, every=10, top_p=1.0),
)
_SMOKE = replace(
    _SMALL,
    preset="smoke",
    pretrain_steps=40,
    algo=replace(_SMALL.algo, group_size=8, prompts_per_step=4, micro_batch_size=16, steps=4, save_every=1),
    eval=Eval(problems=12, every=2, top_p=1.0),
)
_PRETRAINED = Config(  # §7.8; full fine-tuning at a rate of ours instead of LoRA
    preset="pretrained",
    base="smollm2",
    data=Data(aligned="mawps", weak="rg:spell_backward"),
    warm_up=WarmUp(examples=256),
    algo=Algo(
        group_size=8,
        prompts_per_step=8,
        micro_batch_size=8,
        steps=30,
        warmup=3,
        lr=5e-6,
        temperature=0.7,
        top_p=0.95,
        max_completion_tokens=64,
        save_every=5,
        vllm=False,
    ),
    eval=Eval(problems=64, every=10, temperature=0.7, top_p=0.95),
)

PRESETS: dict[str, Config] = {
    "smoke": _SMOKE,
    "small": _SMALL,
    "pretrained": _PRETRAINED,
    "paper": _QWEN,
    "paper-qwen-logic": replace(_QWEN, preset="paper-qwen-logic", **_LOGIC),
    "paper-llama-math": replace(_LLAMA, preset="paper-llama-math"),
    "paper-llama-logic": replace(_LLAMA, preset="paper-llama-logic", **_LOGIC),
}
