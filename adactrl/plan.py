"""What `python train.py --preset paper --dry-run` prints: the run's plan, with nothing downloaded or loaded.

Memory and disk are estimates from the model's sizes: which strategy can fit, not what a profiler would show.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from adactrl import chains
from adactrl.benchmarks import BENCHMARKS, DEEPMATH, Benchmark
from adactrl.config import TINY, Config

EXPECTED_TIME = {
    "smoke": "under a minute",
    "small": "about 4 minutes on two cores",
    "pretrained": "not measured here",
    "paper": "not measured here: the authors used 32 GPUs",
}
PAPER_GPUS = 32  # [CODE] 4 nodes x 8
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

    @property
    def block(self) -> int:
        """Parameters of one transformer block."""
        weights = self.hidden * (2 * self.hidden + 2 * self.kv + 3 * self.intermediate + 2)
        return weights + self.bias * (self.hidden + 2 * self.kv)

    @property
    def parameters(self) -> int:
        return (2 - self.tied) * self.vocab * self.hidden + self.layers * self.block + self.hidden


KNOWN = {  # the `config.json` of each model; base and instruct versions are the same
    "Qwen2.5-0.5B": Architecture(896, 24, 128, 4864, 151_936),
    "Qwen2.5-1.5B": Architecture(1536, 28, 256, 8960, 151_936),
    "Qwen2.5-3B": Architecture(2048, 36, 256, 11_008, 151_936),
    "Qwen2.5-7B": Architecture(3584, 28, 512, 18_944, 152_064, tied=False),
    "Qwen2.5-14B": Architecture(5120, 48, 1024, 13_824, 152_064, tied=False),
    "Qwen2.5-32B": Architecture(5120, 64, 1024, 27_648, 152_064, tied=False),
    "SmolLM2-135M": Architecture(576, 30, 192, 1536, 49_152, bias=False),
    "SmolLM2-360M": Architecture(960, 32, 320, 2560, 49_152, bias=False),
    "SmolLM2-1.7B": Architecture(2048, 24, 2048, 8192, 49_152, bias=False),
}


def expected_time(cfg: Config) -> str:
    """How long the preset takes, in words; overridden fields are not taken into account."""
    return EXPECTED_TIME.get(cfg.preset, "not measured here")


def architecture(cfg: Config) -> Architecture | None:
    """The policy's sizes, or None for a model that is not in the table."""
    if cfg.model.name != TINY:
        name = Path(cfg.model.name).name.removesuffix("-Instruct")
        return KNOWN.get("SmolLM2-135M" if name == "smollm2" else name)
    from shared.tiny import SPECIALS  # imports transformers

    size, vocab = cfg.model.hidden, len(SPECIALS) + len(chains.WORDS)
    return Architecture(size, cfg.model.layers, size, 4 * size, vocab, bias=False)


def memory(arch: Architecture, world_size: int, bf16: bool) -> dict[str, float]:
    """Bytes per process that full fine-tuning with AdamW holds, per strategy; activations excluded.

    With `bf16`, DDP and FSDP hold float32 weights, gradients and two moments, DDP autocast's bf16 copy too;
    DeepSpeed holds bfloat16 weights and gradients, a float32 copy and two moments.
    """
    n, share, width = arch.parameters, arch.parameters / world_size, 2 if bf16 else 4
    sharded = 16 * share + 2 * width * max(
        arch.block, arch.vocab * arch.hidden
    )  # two layers in use are whole
    zero2 = width * n + (12 + 2 * bf16) * share
    return {"ddp": (16 + 2 * bf16) * n, "fsdp2": sharded, "zero2": zero2, "zero3": sharded}


def activations(arch: Architecture, cfg: Config) -> float:
    """Bytes for a micro-batch of full-length responses: each block's input (checkpointing), logits x 4."""
    tokens = cfg.algo.micro_batch_size * cfg.algo.max_completion_tokens
    return (
        tokens
        * (arch.layers * arch.hidden + 4 * arch.vocab)
        * (2 if cfg.model.precision == "bfloat16" else 4)
    )


def show(cfg: Config) -> None:
    """Print the plan: stages, model, data, updates, tokens, disk and memory."""
    algo, sft, task, fresh = cfg.algo, cfg.sft, cfg.data.task, cfg.cold_start == "fresh"
    batches = algo.max_generation_batches if algo.filter == "acc" else 1
    sampled, trained = (n * algo.group_size for n in (algo.prompts_per_generation, algo.prompts_per_step))
    tokens, rl_updates = sampled * algo.max_completion_tokens, algo.steps * algo.updates_per_step
    train_on = {"deepmath": DEEPMATH, "gsm8k": BENCHMARKS["gsm8k"]}.get(task)
    test_on = {"deepmath": list(BENCHMARKS.values()), "gsm8k": [train_on]}.get(task, [None])
    out = {"plan": f"preset {cfg.preset}, seed {cfg.run.seed}; nothing is downloaded or written"}
    out["expected time"] = expected_time(cfg)
    out["1 cold start"] = f"{sft.steps:,} updates x {sft.batch_size} examples" if fresh else cfg.cold_start
    out["2 RL"] = f"{algo.steps:,} steps x {algo.updates_per_step} updates"
    out["3 evaluation"] = (
        f"{cfg.eval.problems or 'all'} problems of each set x {cfg.eval.samples}, three modes"
    )
    out["test data"] = "\n".join(_source(data, cfg) for data in test_on)
    out["training data"] = f"{_source(train_on, cfg)}\n{cfg.data.rl_problems:,} problems for RL"
    out["updates"] = f"{fresh * sft.steps + rl_updates:,} in all"
    out["one RL step"] = (
        f"{algo.prompts_per_generation} prompts x {algo.group_size}, sampled at most {batches} x"
    )
    out["responses"] = f"{sampled:,} to {batches * sampled:,} per step, {trained:,} of them trained on"
    out["tokens"] = (
        f"{tokens // 2:,} per step if sampled once at half the limit, {batches * tokens:,} at most"
    )
    out["model"] = cfg.model.name if cfg.model.name == TINY else f"{cfg.model.name} @ {cfg.model.revision}"
    if (arch := architecture(cfg)) is None:
        out["size"] = f"unknown, and so are memory and disk; known: {', '.join(KNOWN)}"
    else:
        world_size = int(os.environ.get("WORLD_SIZE", PAPER_GPUS if cfg.preset == "paper" else 1))
        bf16, working = cfg.model.precision == "bfloat16", _size(activations(arch, cfg))
        held = memory(arch, world_size, bf16)
        shown = list(held) if world_size > 1 else ["ddp"]
        disk = (14 if bf16 else 12) * arch.parameters * CHECKPOINTS
        cache = 2 * arch.layers * arch.kv * (2 if bf16 else 4) * algo.max_completion_tokens
        out["size"] = f"{arch.parameters:,} parameters, {cfg.model.precision}"
        out["checkpoints"] = f"{_size(disk)} at most: {CHECKPOINTS} with weights and optimizer"
        out["memory"] = f"per process of {world_size} (WORLD_SIZE), AdamW on all weights, estimated"
        out["memory"] += "".join(f"\n{s:<6} {_size(held[s]):>9} + activations {working}" for s in shown)
        out["sampling cache"] = f"{_size(cache)} for each full-length response"
    for name, value in out.items():
        print(f"{name:<15} {value}".replace("\n", f"\n{'':<16}"))


def _source(data: Benchmark | None, cfg: Config) -> str:
    if data is None:
        return f"generated chains ({', '.join(chains.TIERS)})"
    where = f"from {cfg.data.data_dir}" if cfg.data.data_dir else f"@ {data.revision or 'newest'}"
    return f"{data.hub_id} {where}{f', {data.repeats} x' if data.repeats > 1 else ''}"


def _size(count: float) -> str:
    unit, power = ("GiB", 30) if count >= 2**29 else ("MiB", 20)
    return f"{count / 2**power:,.1f} {unit}"
