"""Problems for every stage: cold-start examples, RL prompts, evaluation sets; and the prompt's form."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from adactrl import benchmarks, chains
from adactrl.benchmarks import Problem
from adactrl.config import Config, Data

# The baseline prompt of the authors' preprocessing scripts; every arm uses it. The generated
# task has none.
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."


def messages(question: str, data: Data) -> list[dict[str, str]]:
    """The conversation that asks one question."""
    system = [] if data.task == "chains" else [{"role": "system", "content": SYSTEM_PROMPT}]
    return [*system, {"role": "user", "content": question}]


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: str, data: Data, prefix: str = "") -> str:
    """The rendered prompt with a forced tag, if any, as the first characters of the assistant turn."""
    text = tokenizer.apply_chat_template(messages(question, data), tokenize=False, add_generation_prompt=True)
    return str(text) + prefix


@dataclass(frozen=True)
class SftProblem:
    """A problem with both kinds of answer; `short` is None where the instruct model found no correct one."""

    question: str
    answer: str
    difficulty: float
    short: str | None
    long: str
    verbose: str | None = None  # a wordier `short`; generated task only


def chain_sft_problems(cfg: Config) -> list[SftProblem]:
    """The generated task's cold-start problems; the same list for both styles and for every arm of a seed."""
    drawn = islice(chains.cold_start_problems(cfg.run.seed), cfg.sft.examples)
    return [SftProblem(c.question, c.answer, c.difficulty, c.short, c.long, c.verbose) for c in drawn]


def train_problems(cfg: Config) -> list[Problem]:
    """DeepMath-103K or GSM8K train, with difficulty and a long solution; from `data_dir` or the hub."""
    data_dir = Path(cfg.data.data_dir) if cfg.data.data_dir else None
    if cfg.data.task == "deepmath":
        return benchmarks.load_deepmath(data_dir=data_dir)
    return benchmarks.load_gsm8k_train(data_dir=data_dir)


def rl_dataset(cfg: Config) -> Dataset:
    """RL prompts: columns `prompt` (messages), `answer`, `tier`."""
    if cfg.data.task == "chains":
        drawn = chains.rl_problems(cfg.data.rl_problems, cfg.run.seed)
        rows = [(chain.question, chain.answer, tier) for tier, chain in drawn]
    else:
        rows = [(p.question, p.answer, p.source) for p in train_problems(cfg)[: cfg.data.rl_problems]]
    return Dataset.from_list([{"prompt": messages(q, cfg.data), "answer": a, "tier": t} for q, a, t in rows])


def eval_sets(cfg: Config, split: chains.Split = "test") -> dict[str, list[Problem]]:
    """Test problems per tier (generated) or per data set; `eval.problems` bounds each.

    The generated test problems depend on no training seed: all seeds and arms answer the same ones.
    """
    count = cfg.eval.problems
    if cfg.data.task != "chains":
        names = ["gsm8k"] if cfg.data.task == "gsm8k" else list(benchmarks.BENCHMARKS)
        data_dir = Path(cfg.data.data_dir) if cfg.data.data_dir else None
        return {name: benchmarks.load_benchmark(name, data_dir)[:count] for name in names}
    return {tier: chain_problems(tier, count or 400, split) for tier in chains.TIERS}


def chain_problems(tier: chains.Tier, count: int, split: chains.Split, seed: int = 0) -> list[Problem]:
    drawn = chains.tier_problems(tier, count, split, seed)
    return [
        Problem(f"{tier}/{split}/{i}", tier, c.question, c.answer, c.difficulty) for i, c in enumerate(drawn)
    ]


def tokenized(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], responses: list[str], cut: int
) -> dict[str, Any]:
    """`input_ids` and `labels` (-100 on the prompt) of prompt + response + end token, at most `cut`
    tokens."""
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    response_ids = tokenizer([r + _end(tokenizer) for r in responses], add_special_tokens=False)["input_ids"]
    rows = [(p + r, [-100] * len(p) + r) for p, r in zip(prompt_ids, response_ids, strict=True)]
    return {"input_ids": [ids[:cut] for ids, _ in rows], "labels": [labels[:cut] for _, labels in rows]}


def _end(tokenizer: PreTrainedTokenizerBase) -> str:
    """The end token as text; a word-level tokenizer needs white space before it."""
    end = str(tokenizer.eos_token)
    glued = str(tokenizer.decode(tokenizer.encode("a" + end, add_special_tokens=False)))
    return end if glued.endswith(end) else " " + end
