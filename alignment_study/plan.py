"""What `python train.py --dry-run` prints: the run's plan, with nothing downloaded, loaded or written.

Memory and disk are estimates from the model's sizes: which strategy can fit, not what a profiler would show.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from alignment_study import kor_bench
from alignment_study.base_models import BASES
from alignment_study.config import UPDATES_PER_STEP, Config
from alignment_study.dynamic_sampling import MAX_GENERATION_BATCHES
from alignment_study.sources import SETS

EXPECTED_TIME = {
    "smoke": "under a minute",
    "small": "about 2 minutes on two idle cores, pre-training included",
}
PAPER_GPUS = 8  # [CODE] one node
CHECKPOINTS = 3 + 1  # `save_total_limit`, and the one being written before the oldest goes


class Architecture(NamedTuple):
    """Sizes of a Llama- or Qwen2-shaped model: `kv` is all key heads' width, `bias` that of q, k, v."""

    hidden: int
    layers: int
    kv: int
    intermediate: int
    vocab: int
    tied: bool = True  # the output layer is the embedding
    bias: bool = True
    output_bias: bool = False

    @property
    def block(self) -> int:
        """Parameters of one transformer block."""
        weights = self.hidden * (2 * self.hidden + 2 * self.kv + 3 * self.intermediate + 2)
        return weights + self.bias * (self.hidden + 2 * self.kv) + self.output_bias * self.hidden

    @property
    def parameters(self) -> int:
        return (2 - self.tied) * self.vocab * self.hidden + self.layers * self.block + self.hidden


GENERATED = Architecture(64, 2, 64, 192, 38, output_bias=True)  # `pretrain.new_model`
KNOWN = {  # the `config.json` of each model; base and instruct versions are the same
    "Qwen2.5-0.5B": Architecture(896, 24, 128, 4864, 151_936),
    "Qwen2.5-1.5B": Architecture(1536, 28, 256, 8960, 151_936),
    "Qwen2.5-7B": Architecture(3584, 28, 512, 18_944, 152_064, tied=False),
    "Llama-3.2-1B": Architecture(2048, 16, 512, 8192, 128_256, bias=False),
    "Llama-3.1-8B": Architecture(4096, 32, 1024, 14_336, 128_256, tied=False, bias=False),
    "SmolLM2-135M": Architecture(576, 30, 192, 1536, 49_152, bias=False),
}


def expected_time(cfg: Config) -> str:
    """How long the preset takes, in words; overridden fields are not taken into account."""
    return EXPECTED_TIME.get(cfg.preset, "not measured here")


def architecture(cfg: Config) -> Architecture | None:
    """The policy's sizes, or None for a model that is not in the table."""
    if cfg.base is None:
        return GENERATED
    name = Path(cfg.base).name.removesuffix("-Instruct")
    return KNOWN.get("SmolLM2-135M" if name == "smollm2" else name)


def memory(arch: Architecture, world_size: int, bf16: bool) -> dict[str, float]:
    """Bytes per process for training all weights with AdamW; activations excluded.

    Float32 weights, gradients and two moments, with `bf16` autocast's copy too: whole (ddp), or sharded with
    two layers whole (fsdp2).
    """
    n, width = arch.parameters, 2 if bf16 else 4
    whole_layers = 2 * width * max(arch.block, arch.vocab * arch.hidden)
    return {"ddp": (16 + 2 * bf16) * n, "fsdp2": 16 * n / world_size + whole_layers}


def activations(arch: Architecture, cfg: Config) -> float:
    """Bytes for a micro-batch of full-length responses: each block's input (checkpointing), logits x 4."""
    tokens = cfg.algo.micro_batch_size * cfg.algo.max_completion_tokens
    width = 2 if cfg.precision == "bfloat16" else 4
    return tokens * (arch.layers * arch.hidden + 4 * arch.vocab) * width


def lines(cfg: Config) -> dict[str, str]:
    """The plan, one entry per line of what `show` prints."""
    algo, test = cfg.algo, cfg.eval
    runs, responses = len(cfg.cells), algo.prompts_per_step * algo.group_size
    tokens = responses * algo.max_completion_tokens
    measured = 2 + (max(algo.steps - 1, 0) // test.every if test.every else 0)
    out = {"plan": f"preset {cfg.preset}, seed {cfg.run.seed}; nothing is downloaded or written"}
    out["expected time"] = expected_time(cfg)
    out["base"] = _base(cfg)
    out["training"] = "\n".join(f"{_source(task, cfg)}, {role}" for role, task in cfg.cells.items())
    out["evaluation"] = "\n".join(_source(task, cfg) for task in cfg.tasks)
    out["cell"] = f"{algo.reward} reward, {algo.samples} samples"
    out["RL"] = f"{runs} x {algo.steps:,} steps x {UPDATES_PER_STEP} updates, learning rate {algo.lr:g}"
    most = MAX_GENERATION_BATCHES if algo.dynamic_sampling else 1
    out["one RL step"] = f"{algo.prompts_per_step} prompts x {algo.group_size}, sampled at most {most} x"
    out["responses"] = f"{responses:,} to {most * responses:,} per step, {responses:,} of them trained on"
    out["tokens"] = f"{tokens // 2:,} per step if sampled once at half the limit, {most * tokens:,} at most"
    out["measuring"] = (
        f"{runs * measured} x {len(cfg.tasks)} tasks x at most {test.problems} items x {test.samples} samples"
    )
    if (arch := architecture(cfg)) is None:
        out["size"] = f"unknown, and so are memory and disk; known: {', '.join(KNOWN)}"
        return out
    world_size = int(os.environ.get("WORLD_SIZE", PAPER_GPUS if cfg.preset.startswith("paper") else 1))
    bf16, working = cfg.precision == "bfloat16", _size(activations(arch, cfg))
    held = memory(arch, world_size, bf16)
    shown = list(held) if world_size > 1 else ["ddp"]
    out["size"] = f"{arch.parameters:,} parameters, {cfg.precision}"
    out["checkpoints"] = f"{_size(12 * arch.parameters * CHECKPOINTS * runs)} at most: weights and optimizer"
    out["memory"] = f"per process of {world_size} (WORLD_SIZE), AdamW on all weights, estimated"
    out["memory"] += "".join(f"\n{s:<6} {_size(held[s]):>9} + activations {working}" for s in shown)
    cache = 2 * arch.layers * arch.kv * (2 if bf16 else 4) * algo.max_completion_tokens
    out["sampling cache"] = f"{_size(cache)} for each full-length response"
    return out


def show(cfg: Config) -> None:
    """Print the plan."""
    for name, value in lines(cfg).items():
        print(f"{name:<15} {value}".replace("\n", f"\n{'':<16}"))


def _base(cfg: Config) -> str:
    if cfg.base is not None:
        taught = f", then the form from {cfg.warm_up.examples} questions of {cfg.warm_up.task}"
        return f"{cfg.base} @ {cfg.revision}{taught if cfg.warm_up.examples else ''}"
    if cfg.pretrain_steps is not None:
        return f"world {cfg.world}, {cfg.pretrain_steps} pre-training steps, no gate"
    folder = BASES / f"base-{cfg.world}-seed{cfg.run.seed}"
    state = "there already" if (folder / "model").is_dir() else "pre-trained first, 1-3 minutes"
    return f"world {cfg.world}, seed {cfg.run.seed}: {state}"


def _source(task: str, cfg: Config) -> str:
    if task.endswith(".jsonl"):
        return f"{task} in {cfg.data.data_dir or 'the current folder'}"
    if task.startswith("rg:"):
        return f"{task} (reasoning-gym)"
    if task not in SETS and task not in kor_bench.TASKS:
        return f"{task} (generated)"
    if cfg.data.data_dir:
        return f"{task} in {cfg.data.data_dir}"
    if task in kor_bench.TASKS:
        return f"{task} (github.com/{kor_bench.REPOSITORY} @ {kor_bench.COMMIT})"
    source = next(iter(SETS[task].values()))
    if source.hub is None:
        return f"{task} (a local file: needs --data.data-dir)"
    return f"{task} ({source.hub[0]} @ {source.revision or 'newest'})"


def _size(count: float) -> str:
    unit, power = ("GiB", 30) if count >= 2**29 else ("MiB", 20)
    return f"{count / 2**power:,.1f} {unit}"
