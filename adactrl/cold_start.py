"""Stage 1: supervised fine-tuning that teaches the tags and the two reasoning styles, with TRL.

Easy problems get `[Easy]` and a concise answer, hard ones `[Hard]` and a long one. For real data the concise
answer is the instruct model's own, kept only if correct, and the long one comes with the data set (DeepMath:
`r1_solution_1`). The R1-SFT baseline (`sft.style="r1"`) sees the same problems in the same order, long
answers only and no tags.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from adactrl import chains
from adactrl.callbacks import FiniteLossMixin, RunCallback
from adactrl.config import TINY, Config
from adactrl.data import SftProblem, chain_sft_problems, prompt_text, tokenized, train_problems
from adactrl.tags import TAG_TEXT
from shared import answers, checkpoint, gpu, rollouts, tiny
from shared.pretrained import smollm2
from shared.runs import Run
from shared.seeding import derive_seed

SHIPPED = Path(__file__).parent / "cold_start_checkpoint"


def responses(problems: list[SftProblem], cfg: Config) -> list[str]:
    """The target response of each problem in the run's style; a function of the problems and the seed.

    With `sft.flip` > 0 that share of the problems gets the other tag *and* the other style, so that sampling
    at temperature 1 explores both tags on every kind of problem and RL can recalibrate them.
    With `sft.verbose` > 0 that share of the [Easy] answers is wordy: an instruct model's concise answers vary
    in length, and only such variation leaves the length reward something to select.
    """
    if cfg.sft.style == "r1":
        return [p.long for p in problems]
    rng = random.Random(derive_seed(cfg.run.seed, "flip"))
    texts = []
    for p in problems:
        easy = (p.difficulty <= cfg.data.difficulty_cut) != (rng.random() < cfg.sft.flip)
        easy = easy and p.short is not None
        short = p.verbose if p.verbose and rng.random() < cfg.sft.verbose else p.short
        texts.append(f"{TAG_TEXT['easy']} {short}" if easy else f"{TAG_TEXT['hard']} {p.long}")
    return texts


def build_problems(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cfg: Config, cache: Path
) -> list[SftProblem]:
    """The cold-start problems. For real data the instruct model answers the easy ones first (or, with
    `sft.concise="solution"`, the worked solutions' last steps do); answers go to `cache`.

    The mix is 1:1 by construction: easy problems without a correct concise answer are dropped, then both
    kinds are cut to the smaller one's count, at most `sft.examples` in all. Both styles use the same list.
    """
    if cfg.data.task == "chains":
        return chain_sft_problems(cfg)
    if cache.exists():
        return [SftProblem(**json.loads(line)) for line in cache.read_text().splitlines()]
    pool = [p for p in train_problems(cfg) if p.solution]
    random.Random(derive_seed(cfg.run.seed, "cold start")).shuffle(pool)
    half = cfg.sft.examples // 2
    hard = [p for p in pool if (p.difficulty or 0) > cfg.data.difficulty_cut][:half]
    easy = [p for p in pool if (p.difficulty or 0) <= cfg.data.difficulty_cut]
    shorts: dict[str, str] = {}
    if cfg.sft.concise == "solution":  # its last step and the boxed answer
        shorts = {p.id: "\n".join(str(p.solution).splitlines()[-2:]) for p in easy[:half]}
    for first in range(0, len(easy) if cfg.sft.concise == "model" else 0, 64):  # until enough are correct
        batch = easy[first : first + 64]
        texts = _instruct_answers(model, tokenizer, [p.question for p in batch], cfg)
        graded = answers.grade_many(texts, [p.answer for p in batch])
        shorts |= {p.id: text for p, text, ok in zip(batch, texts, graded, strict=True) if ok}
        print(
            f"cold start: {len(shorts)} of {half} concise answers, {first + len(batch)} problems tried",
            flush=True,
        )
        if len(shorts) >= half:
            break
    answered = [p for p in easy if p.id in shorts][:half]
    keep = min(len(answered), len(hard))
    if keep == 0:
        raise ValueError(
            f"no cold-start data: {len(answered)} easy problems answered correctly, {len(hard)} hard ones; "
            f"move --data.difficulty-cut (now {cfg.data.difficulty_cut:g})"
        )
    chosen = answered[:keep] + hard[:keep]
    random.Random(derive_seed(cfg.run.seed, "cold start order")).shuffle(chosen)
    problems = [
        SftProblem(p.question, p.answer, p.difficulty or 0, shorts.get(p.id), str(p.solution)) for p in chosen
    ]
    cache.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text_atomic(cache, "".join(json.dumps(vars(p)) + "\n" for p in problems))
    return problems


def _instruct_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[str], cfg: Config
) -> list[str]:
    prompts = [prompt_text(tokenizer, q, cfg.data) for q in questions]
    sampled = rollouts.generate(
        model,
        tokenizer(prompts, add_special_tokens=False)["input_ids"],
        sampling=rollouts.Sampling(
            min(cfg.algo.max_completion_tokens, 2048), cfg.eval.temperature, cfg.eval.top_p
        ),
        stop_ids=[tokenizer.eos_token_id],  # type: ignore[list-item]
        generator=torch.Generator(device=model.device).manual_seed(derive_seed(cfg.run.seed, questions[0])),
    )
    return tokenizer.batch_decode(sampled.completion_ids, skip_special_tokens=True)


def sft_dataset(tokenizer: PreTrainedTokenizerBase, problems: list[SftProblem], cfg: Config) -> Dataset:
    """Token ids and labels in training order; inside each update short rows come first, so micro-batches pad
    little."""
    prompts = [prompt_text(tokenizer, p.question, cfg.data) for p in problems]
    columns = tokenized(tokenizer, prompts, responses(problems, cfg), cfg.sft.max_length)
    order: list[int] = []
    for first in range(0, len(problems), cfg.sft.batch_size):
        update = range(first, min(first + cfg.sft.batch_size, len(problems)))
        order += sorted(update, key=lambda i: len(columns["input_ids"][i]))
    return Dataset.from_dict({name: [rows[i] for i in order] for name, rows in columns.items()})


def policy(cfg: Config, run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy RL starts from: cold-started now (`fresh`), the checkpoint in this repository, or a folder.

    A finished cold start is read back from its folder, also right after training, so that an interrupted and
    an uninterrupted run go on from the same bits.
    """
    if cfg.cold_start != "fresh":
        folder = SHIPPED if cfg.cold_start == "shipped" else Path(cfg.cold_start)
        if cfg.cold_start == "shipped" and cfg.model.name != TINY:
            raise ValueError(
                f"no cold-started {cfg.model.name} is shipped; use --cold-start fresh, or a folder"
            )
        return load_policy(folder, cfg)
    folder = run.dir / "cold_start" / "model"
    if checkpoint.problem(folder):
        train(cfg, run, folder)
    return load_policy(folder, cfg)


def load_policy(folder: Path, cfg: Config) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if (reason := checkpoint.problem(folder)) is not None:
        raise ValueError(f"cannot start from {folder}: {reason}; use --cold-start fresh")
    model, tokenizer = gpu.load_causal_lm(folder.resolve())
    return model.to(gpu.device()), tokenizer


def base_model(cfg: Config) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model before any training of ours: a seeded tiny Llama, or a pretrained one."""
    if cfg.model.name != TINY:
        name = smollm2() if cfg.model.name == "smollm2" else cfg.model.name
        model, tokenizer = gpu.load_causal_lm(name, revision=cfg.model.revision)
        return model.to(gpu.device()), tokenizer
    tokenizer = tiny.word_tokenizer(chains.WORDS)
    model = tiny.tiny_causal_lm(
        tokenizer,
        hidden=cfg.model.hidden,
        layers=cfg.model.layers,
        heads=cfg.model.heads,
        intermediate=4 * cfg.model.hidden,
        seed=cfg.run.seed,
    )
    return model.to(gpu.device()), tokenizer  # type: ignore[arg-type]


class FiniteSFTTrainer(FiniteLossMixin, SFTTrainer):
    """TRL's SFT trainer, stopping at a non-finite loss."""


def train(cfg: Config, run: Run, folder: Path) -> None:
    """Fine-tune the base model on the cold-start data and save it in `folder`, marked complete.

    The loss is on the response only, its tag and end token included.
    """
    model, tokenizer = base_model(cfg)
    sft_config = to_sft_config(cfg, folder.parent)
    with PartialState().main_process_first():  # the others read what the first has written
        problems = build_problems(model, tokenizer, cfg, folder.parent / "problems.jsonl")
    stage = Run(folder.parent, cfg, run.package, resumed=run.resumed, main=run.main)
    callback = RunCallback(stage, "cold start")
    trainer = FiniteSFTTrainer(
        model,
        args=sft_config,
        train_dataset=sft_dataset(tokenizer, problems, cfg),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)  # RunCallback prints the progress
    last = stage.last_checkpoint() if run.resumed else None
    stage.truncate_after(int(last.name.split("-")[-1]) if last else 0)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    if callback.interrupted:
        sys.exit(f"stopped by Ctrl-C; to go on: {run.resume_command()}")
    trainer.save_model(str(folder))
    trainer.accelerator.wait_for_everyone()
    if run.main:
        checkpoint.mark_complete(folder)
    trainer.accelerator.wait_for_everyone()


def to_sft_config(cfg: Config, output_dir: Path) -> SFTConfig:
    """TRL's SFT settings; every one that matters is set, because TRL's defaults move between releases."""
    sft, cuda = cfg.sft, torch.cuda.is_available()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if sft.batch_size % (sft.micro_batch_size * world_size):
        raise ValueError(
            f"sft.batch_size={sft.batch_size} does not divide over {world_size} processes x "
            f"sft.micro_batch_size={sft.micro_batch_size}; lower --sft.micro-batch-size"
        )
    return SFTConfig(
        output_dir=str(output_dir),
        max_steps=sft.steps,
        per_device_train_batch_size=sft.micro_batch_size,
        gradient_accumulation_steps=sft.batch_size // (sft.micro_batch_size * world_size),
        learning_rate=sft.lr,
        lr_scheduler_type="cosine",
        warmup_steps=sft.warmup,
        optim="adamw_torch",
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        max_length=sft.max_length,
        loss_type="nll",
        packing=False,
        completion_only_loss=False,  # the labels already mask the prompt
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",  # sft_dataset has fixed the order
        bf16=cfg.model.precision == "bfloat16" and cuda,
        gradient_checkpointing=cfg.model.name != TINY,
        logging_steps=10,
        save_steps=200,
        save_total_limit=2,
        report_to="none",
        seed=cfg.run.seed,
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        use_cpu=not cuda,
    )
