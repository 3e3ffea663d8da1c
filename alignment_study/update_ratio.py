"""How much smaller is the update of the negatives than of the positives? The p / (1 - p) law of sheet §2.7.

With group-normalised advantages and success probability p of a prompt, the expected updates of NSR and PSR
point the same way, and in every coordinate

    NSR / PSR = p / (1 - p)

because E[grad log pi] = 0. Measured here on one set of rollouts: per prompt the gradients n (negatives) and
q (positives) of sum_i A_i log pi(y_i), on two independent halves a and b of its groups. With N and Q their
sums over prompts of like p,

    ratio = (<N_a, Q_b> + <N_b, Q_a>) / (2 <Q_a, Q_b>)

which, unlike <N, Q> / <Q, Q>, does not count the noise of Q as signal. `norm` is |N| / |Q|, noise included:
how large an update really is. p comes from rollouts of its own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignment_study import rewards, sampling
from alignment_study.arms import SCALE, Base, family
from alignment_study.evidence import Role
from alignment_study.signed_samples import signed_advantages
from alignment_study.tasks import Task, load_task
from shared import gpu, rollouts, runs
from shared.rollouts import Sampling
from shared.seeding import derive_seed

GROUP, GROUPS = 16, 4  # responses per group; groups per half
PROMPTS, COUNTED = 96, 128  # training prompts; rollouts of each that p is counted on
EDGES = (0.0, 0.03, 0.08, 0.15, 0.25, 0.4, 0.6, 0.9)  # of p, lower ends open: p = 0 has no ratio
MIN_PROMPTS, RESAMPLES = 5, 500
ROLES: tuple[Role, ...] = ("aligned", "weak")


@dataclass(frozen=True)
class Bin:
    """Prompts of like success probability; the interval is a bootstrap over them."""

    role: str
    prompts: int
    p: float
    law: float  # mean of p / (1 - p)
    ratio: float
    low: float
    high: float
    norm: float


def prompt_gradient(
    model: Any, prompt: Sequence[int], completions: Sequence[Sequence[int]], advantages: Sequence[float]
) -> torch.Tensor:
    """(parameters,) float32 gradient of sum_i A_i sum_t log pi(y_it); rows with A = 0 are not computed."""
    kept = [(c, a) for c, a in zip(completions, advantages, strict=True) if a]
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not kept:
        return torch.zeros(sum(p.numel() for p in parameters))
    longest = max(len(c) for c, _ in kept)
    rows = torch.tensor([[*prompt, *c, *([0] * (longest - len(c)))] for c, _ in kept], device=model.device)
    inside = torch.tensor([[1.0] * len(c) + [0.0] * (longest - len(c)) for c, _ in kept], device=model.device)
    weights = inside * torch.tensor([[a] for _, a in kept], device=model.device)
    logits = model(input_ids=rows).logits[:, len(prompt) - 1 : -1].float()  # padding is on the right
    logprobs = logits.log_softmax(-1).gather(-1, rows[:, len(prompt) :, None])[..., 0]
    gradient = torch.autograd.grad((weights * logprobs).sum(), parameters)
    return torch.cat([g.reshape(-1) for g in gradient]).cpu()


def ratio_of(negative: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """(ratio, norm) of P prompts.

    Args:
        negative, positive: (P, 2, parameters) gradients of the two halves.
        counts: (P,) how often each prompt counts; a bootstrap draw, or ones.
    """
    n, q = (np.einsum("p,phd->hd", counts, g) for g in (negative, positive))
    signal = n[0] @ q[1] + n[1] @ q[0]
    return float(signal / (2 * q[0] @ q[1])), float(np.linalg.norm(n.sum(0)) / np.linalg.norm(q.sum(0)))


def measure(model: Any, tokenizer: Any, task: Task, seed: int, role: str = "weak") -> list[Bin]:
    """One Bin per interval of EDGES with at least MIN_PROMPTS prompts; a function of the arguments."""
    ids = sampling.prompt_ids(tokenizer, [p.prompt for p in task.problems])
    per_prompt = COUNTED + 2 * GROUPS * GROUP
    drawn = rollouts.generate(
        model,
        ids,
        samples=per_prompt,
        sampling=Sampling(task.max_new_tokens),
        stop_ids=sampling.stop_ids(model, tokenizer),
        generator=torch.Generator(device=model.device).manual_seed(derive_seed(seed, "ratio", task.name)),
    )
    texts = tokenizer.batch_decode(drawn.completion_ids, skip_special_tokens=True)
    p, gradients = [], []
    for i, problem in enumerate(task.problems):
        mine = slice(i * per_prompt, (i + 1) * per_prompt)
        scores = rewards.score_group("ground_truth", texts[mine], problem.gold, verify=task.verify)
        p.append(float(np.mean(scores[:COUNTED])))
        gradients.append(_halves(model, ids[i], drawn.completion_ids[mine][COUNTED:], scores[COUNTED:]))
    grads, shares = np.stack(gradients), np.array(p)  # (P, 2 signs, 2 halves, parameters)
    rng, bins = np.random.default_rng(derive_seed(seed, "ratio", task.name, "bootstrap")), []
    for low, high in itertools.pairwise(EDGES):
        chosen = np.flatnonzero((shares > low) & (shares <= high))
        if (size := len(chosen)) < MIN_PROMPTS:
            continue
        negative, positive = grads[chosen, 0], grads[chosen, 1]
        ratio, norm = ratio_of(negative, positive, np.ones(size))
        bounds = _interval(negative, positive, rng.multinomial(size, np.full(size, 1 / size), RESAMPLES))
        mean, law = shares[chosen].mean(), np.mean(shares[chosen] / (1 - shares[chosen]))
        bins.append(Bin(role, size, float(mean), float(law), ratio, *bounds, norm))
    return bins


def _halves(
    model: Any, prompt: Sequence[int], completions: list[list[int]], scores: list[float]
) -> np.ndarray:
    """(2 signs, 2 halves, parameters) of one prompt's groups."""
    found = np.empty((2, 2), dtype=object)
    for s, mode in enumerate(("negative", "positive")):
        for half in range(2):
            rows: list[float] = []
            first = half * GROUPS * GROUP
            for start in range(first, first + GROUPS * GROUP, GROUP):
                rows += signed_advantages(scores[start : start + GROUP], mode)
            part = completions[first : first + GROUPS * GROUP]
            found[s, half] = prompt_gradient(model, prompt, part, rows).numpy()
    return np.stack([np.stack(list(row)) for row in found])


def _interval(negative: np.ndarray, positive: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio from inner products of all pairs of prompts."""
    signal = negative[:, 0] @ positive[:, 1].T + negative[:, 1] @ positive[:, 0].T
    square = 2 * positive[:, 0] @ positive[:, 1].T
    values = [(c @ signal @ c) / (c @ square @ c) for c in draws.astype(float)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def measure_and_record(base: Base, start: str, path: Path) -> list[Bin]:
    """Measure one checkpoint of a base model on training prompts of both families and append the record."""
    began = time.monotonic()
    model, tokenizer = gpu.load_causal_lm((base.folder / start).resolve(), torch.float32)
    model.to(gpu.device()).eval()
    bins = []
    for role in ROLES:
        task = load_task(family(base.world, role), split="train", n=PROMPTS, seed=base.seed)
        bins += measure(model, tokenizer, task, base.seed, role)
    runs.append_record(
        path,
        row=f"alignment_study/{base.world}/ratio/{start}",
        preset=SCALE,
        scale=SCALE,
        seed=base.seed,
        config_hash="-",
        wall_s=round(time.monotonic() - began, 1),
        n=PROMPTS,
        metrics={"bins": [asdict(found) for found in bins]},
        command="cd alignment_study && python reproduce.py --dose",
        world=base.world,
        start=start,
    )
    return bins
