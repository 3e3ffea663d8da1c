"""CLS-RL's configuration: the authors' hyper-parameters, and the small scale that two cores can run.

Sources: [CODE] the authors' repository at 0dc42e0 and its launch scripts, [PAPER] arXiv v6, [OURS] our choice
where neither says anything. `python train.py --help` lists every field.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from cls_rl import data_sets, hub_sets
from cls_rl.images import MAX_PIXELS, MIN_PIXELS
from cls_rl.prompts import Wording
from cls_rl.rewards import Method
from shared.runs import RunConfig

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import GRPOConfig, SFTConfig

SHIPPED = "shipped"  # model.name of the small model in this repository
Objective = Literal["rl", "sft_completion", "sft_full_text"]
AccuracyRule = Literal["string", "authors"]


@dataclass(frozen=True)
class Model:
    """The policy."""

    name: str = "Qwen/Qwen2-VL-2B-Instruct"  # [CODE], [PAPER]; "shipped" is the small model, or a folder
    revision: str = "main"
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation; weights train in float32
    side: int | None = 384  # [CODE]; the paper says 328. None: the side a small model was made for
    min_pixels: int = MIN_PIXELS  # [CODE] the same limits in training and evaluation
    max_pixels: int = MAX_PIXELS  # [CODE]
    lora_rank: int = 0  # 0 trains all weights, as the authors do


@dataclass(frozen=True)
class Data:
    """One data set in one setting."""

    # "drawings": cls_rl.data_sets; "hub": the authors' training sets and raw test images in data_dir;
    # "folder": a split that `python -m cls_rl.folders` wrote.
    source: Literal["drawings", "hub", "folder"] = "hub"
    set: str = "pets"  # a name of the source, or the folder
    setting: Literal["few_shot", "base_to_new"] = "few_shot"
    shots: int = 4  # [PAPER]
    copies: int = 20  # drawings: renderings of each, so that a test set has at least 400 images
    data_dir: str | None = None  # hub: raw test images in CoOp's layout, with <set>.jsonl listings


@dataclass(frozen=True)
class Algo:
    """Fine-tuning; RL by GRPO, or one of the two supervised baselines."""

    objective: Objective = "rl"
    method: Method = "thinking"  # whose prompt and rewards; SFT by completion uses its prompt
    accuracy: AccuracyRule = "string"  # "authors" asks math_verify first (D1)
    loss: Literal["grpo", "bnpo"] = "grpo"  # [CODE] mean per sequence; "bnpo" is the mean over tokens
    prompts_per_step: int = 16  # [CODE] 8 GPUs x 1 prompt x 2 accumulated; SFT: examples per update
    group_size: int = 4  # [CODE], [PAPER]
    beta: float = 0.04  # [PAPER]; the code takes TRL 0.14's default, the same
    lr: float = 1e-6  # [PAPER]
    lr_schedule: Literal["linear", "constant"] = "linear"  # [CODE] to 0, no warm-up
    max_grad_norm: float = 1.0  # [CODE]
    temperature: float = 1.0  # [CODE]
    top_k: int = 50  # [CODE] default of the GenerationConfig it builds
    max_prompt_tokens: int = 1024  # [CODE]; StanfordCars has 2048 at least. More is refused, not cut
    max_completion_tokens: int = 1024  # [CODE]
    steps: int | None = None  # updates; None: the authors' epochs of the set (hub)
    micro_prompts: int = 1  # prompts (SFT: examples) per device and forward pass
    save_every: int = 100  # [OURS]; the authors save at the end only
    vllm: bool = False  # [CODE] off; sample with vLLM (extra `vllm`), False: our engine (cls_rl.rollouts)


@dataclass(frozen=True)
class Eval:
    """Greedy decoding, every matcher."""

    images: int | None = None  # per test set, evenly over it; None is all
    wording: Wording = "training"  # "authors_test": their evaluation's wording (D3)
    empty_thought: bool = False  # start every reply with an empty think block (Table 17)
    before: bool = True  # evaluate the policy before fine-tuning too
    every: int = 0  # updates between points of the learning curve; 0 is never
    curve_images: int = 200  # per test set, for the learning curve


@dataclass(frozen=True)
class Config:
    preset: str = "paper-qwen2-vl-2b"
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    algo: Algo = field(default_factory=Algo)
    eval: Eval = field(default_factory=Eval)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        algo, data = self.algo, self.data
        positive: dict[str, float | None] = {f"algo.{name}": getattr(algo, name) for name in _POSITIVE}
        positive |= {"data.shots": data.shots, "data.copies": data.copies, "eval.images": self.eval.images}
        for name, value in positive.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be above 0")
        if algo.objective == "rl" and algo.group_size < 2:
            raise ValueError(
                f"algo.group_size={algo.group_size}: a group needs 2 samples to compare, or more"
            )
        if algo.prompts_per_step % algo.micro_prompts:
            raise ValueError(
                f"algo.micro_prompts={algo.micro_prompts} does not divide algo.prompts_per_step="
                f"{algo.prompts_per_step}; {_divisors(algo.prompts_per_step)} do"
            )
        if algo.beta < 0 or algo.temperature <= 0 or algo.top_k < 0 or (algo.steps or 0) < 0:
            raise ValueError(
                f"algo.beta={algo.beta}, algo.temperature={algo.temperature}, algo.top_k={algo.top_k},"
                f" algo.steps={algo.steps}: only the temperature must be above 0, the others at least 0"
            )
        known = {"drawings": data_sets.ALL, "hub": tuple(hub_sets.SETS)}.get(data.source)
        if known and data.set not in known:
            raise ValueError(
                f"data.set={data.set!r} is not one of {', '.join(known)} (data.source={data.source})"
            )
        if algo.steps is None and data.source != "hub":
            raise ValueError(
                "algo.steps is not set, and only the hub's sets have the authors' epochs; set it"
            )

    @property
    def max_prompt_tokens(self) -> int:
        """`algo.max_prompt_tokens`, or more where the authors' script of a hub's set has more (cars)."""
        own = hub_sets.SETS[self.data.set].max_prompt_tokens if self.data.source == "hub" else 0
        return max(self.algo.max_prompt_tokens, own)


_POSITIVE = (
    "prompts_per_step", "lr", "max_grad_norm", "max_prompt_tokens", "max_completion_tokens", "micro_prompts",
    "save_every",
)  # fmt: skip


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def updates(cfg: Config, train_images: int) -> int:
    """Optimizer updates: `algo.steps`, or the authors' epochs over the training images."""
    if cfg.algo.steps is not None:
        return cfg.algo.steps
    return max(1, round(train_images * hub_sets.SETS[cfg.data.set].epochs / cfg.algo.prompts_per_step))


def _accumulate(cfg: Config, world_size: int) -> int:
    """Micro-batches per process and update."""
    algo = cfg.algo
    if algo.prompts_per_step % (algo.micro_prompts * world_size):
        raise ValueError(
            f"algo.prompts_per_step={algo.prompts_per_step} does not divide over {world_size} processes x "
            f"algo.micro_prompts={algo.micro_prompts}; use a multiple of {algo.micro_prompts * world_size}"
        )
    return algo.prompts_per_step // (algo.micro_prompts * world_size)


def _common(cfg: Config, output_dir: Path, steps: int) -> dict[str, Any]:
    algo, cuda = cfg.algo, torch.cuda.is_available()
    return {
        "output_dir": str(output_dir),
        "max_steps": steps,
        # optimizer: AdamW as transformers' defaults had it [CODE]
        "learning_rate": algo.lr,
        "lr_scheduler_type": algo.lr_schedule,
        "warmup_steps": 0,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": algo.max_grad_norm,
        # plumbing
        "bf16": cfg.model.precision == "bfloat16" and cuda,
        "gradient_checkpointing": False,  # [CODE]
        "logging_steps": 1,
        "save_steps": algo.save_every,
        "save_total_limit": 2,
        "report_to": "none",
        "seed": cfg.run.seed,
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
        "use_cpu": not cuda,
        "remove_unused_columns": False,
    }


def to_grpo_config(cfg: Config, output_dir: Path, steps: int, world_size: int = 1) -> GRPOConfig:
    """TRL's settings; all that define the algorithm are set: TRL's defaults move between releases."""
    from trl import GRPOConfig

    algo, accumulate = cfg.algo, _accumulate(cfg, world_size)
    return GRPOConfig(
        **_common(cfg, output_dir, steps),
        num_generations=algo.group_size,
        per_device_train_batch_size=algo.micro_prompts * algo.group_size,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate,  # one update per roll-out batch: on-policy, nothing to clip
        num_iterations=1,
        temperature=algo.temperature,
        top_p=1.0,
        top_k=algo.top_k,
        max_completion_length=algo.max_completion_tokens,
        use_vllm=algo.vllm,
        vllm_mode="colocate",
        vllm_importance_sampling_correction=False,
        beta=algo.beta,
        epsilon=0.2,  # no effect at one update per batch
        loss_type=algo.loss,
        scale_rewards="group",
        importance_sampling_level="token",
        multi_objective_aggregation="sum_then_normalize",
        mask_truncated_completions=False,
        use_bias_correction_kl=False,
        top_entropy_quantile=1.0,
        entropy_coef=0.0,
        disable_dropout=True,
        shuffle_dataset=False,  # the trainer draws its prompts itself
    )


def to_sft_config(cfg: Config, output_dir: Path, steps: int, world_size: int = 1) -> SFTConfig:
    """TRL's settings for both supervised baselines; the labels are made by `cls_rl.sft`."""
    from trl import SFTConfig

    return SFTConfig(
        **_common(cfg, output_dir, steps),
        per_device_train_batch_size=cfg.algo.micro_prompts,
        gradient_accumulation_steps=_accumulate(cfg, world_size),
        max_length=None,
        packing=False,
        loss_type="nll",
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def lora_config(cfg: Config) -> LoraConfig | None:
    """LoRA on the language model's linear layers, or None: all weights [CODE]."""
    if not cfg.model.lora_rank:
        return None
    from peft import LoraConfig

    rank = cfg.model.lora_rank
    layers = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=layers)


_PAPER = Config()
_SMALL = Config(
    preset="small",
    model=Model(name=SHIPPED, precision="float32", side=None),
    data=Data(source="drawings", set="animals", setting="base_to_new"),
    algo=Algo(
        method="no_thinking",
        prompts_per_step=8,
        group_size=8,
        lr=5e-5,
        max_completion_tokens=48,
        steps=120,
        micro_prompts=8,
        save_every=40,
    ),
    eval=Eval(every=20),
)
_SMOKE = replace(
    _SMALL,
    preset="smoke",
    data=replace(_SMALL.data, shots=1, copies=2),
    algo=replace(_SMALL.algo, prompts_per_step=4, micro_prompts=2, group_size=4, steps=3, save_every=1),
    eval=Eval(images=8),
)
PRESETS: dict[str, Config] = {
    "smoke": _SMOKE,
    "small": _SMALL,
    "paper": replace(_PAPER, preset="paper"),  # the first of the paper's three models
    "paper-qwen2-vl-2b": _PAPER,
    "paper-qwen2-vl-7b": replace(
        _PAPER, preset="paper-qwen2-vl-7b", model=replace(_PAPER.model, name="Qwen/Qwen2-VL-7B-Instruct")
    ),
    "paper-qwen2.5-vl-3b": replace(
        _PAPER, preset="paper-qwen2.5-vl-3b", model=replace(_PAPER.model, name="Qwen/Qwen2.5-VL-3B-Instruct")
    ),
}
SCALE = {name: "paper" if name.startswith("paper") else name for name in PRESETS}
