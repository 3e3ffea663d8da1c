"""Claim 7 on one seed: which weights RL changed, and which of them the gain needs (sheet §7.9; D16).

    python grafting.py --run.seed 1     # compares the runs that reproduce.py has made with that seed

The relative change of every matrix is divided by that of the random-reward run: AdamW moves all matrices by a
like amount. Grafts exchange one group of weights, {attention, MLP} x {low, high layers} and the rest: "reset"
is the trained model with the base's weights there, "only" the base model with the trained ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from shared import config, gpu
from shared.checkpoint import write_json_atomic
from tool_env_rl import arms, base_model, environment_sets, evidence, layer_report
from tool_env_rl.arms import Job
from tool_env_rl.chat_templates import with_tools
from tool_env_rl.config import PRESETS, Config
from tool_env_rl.episodes import model_policy, of_environments, play
from tool_env_rl.evidence import Layers
from tool_env_rl.layer_changes import compare, locate, third
from tool_env_rl.metrics import solve_scores
from tool_env_rl.progress import StageBar
from tool_env_rl.records import Environment
from tool_env_rl.sandbox import Sandbox
from tool_env_rl.weight_files import Weights

WEIGHTS = "model.safetensors"


def group_of(name: str, num_layers: int) -> str:
    """ "low mlp", "high attention", …; "rest" for embeddings, norms and the head."""
    layer, kind = locate(name)
    return "rest" if layer is None or kind == "other" else f"{third(layer, num_layers)} {kind}"


def graft(
    into: dict[str, Tensor], other: dict[str, Tensor], group: str, num_layers: int
) -> dict[str, Tensor]:
    """The weights `into` with those of one group taken from `other`."""
    return {name: (other if group_of(name, num_layers) == group else into)[name].clone() for name in into}


def test_f1(
    model: Any, tokenizer: Any, cfg: Config, test: list[Environment], sandbox: Sandbox
) -> list[float]:
    """Greedy Solve-F1 of each environment."""
    policy = model_policy(model, tokenizer, cfg, temperature=0.0)
    played = play(
        of_environments(test),
        policy,
        sandbox,
        max_turns=cfg.algo.max_turns,
        drop_thoughts=cfg.algo.drop_thoughts,
    )
    scores = [transcript.score for transcript in played]
    return [solve_scores(s.total, s.calls, s.solved)[2] for s in scores]


def final_model(job: Job) -> Path:
    """The model that a run of reproduce.py ended with."""
    return job.folder / f"iteration-{job.config.algo.iterations}" / "model"


def main(cfg: Config) -> None:
    """Write layers.json (what `evidence.py` keeps) and the whole report to the run's folder."""
    seed, out = cfg.run.seed, Job("layers", cfg.run.seed).folder
    with Sandbox(unsafe_exec=cfg.data.unsafe_exec) as sandbox, StageBar() as bar:
        sets = environment_sets.load(cfg, sandbox, bar.update)
        base = base_model.load_or_train(cfg, sandbox, bar.update)
        trained, control = map(final_model, arms.compared(Job("layers", seed)))
        with Weights(str(base)) as before, Weights(str(trained)) as after, Weights(str(control)) as coin:
            report = compare(before, after, coin)
        sources = {"before": str(base), "after": str(trained), "control": str(control)}
        layer_report.write_report(report, sources, out / "report")
        place = report["localization"]
        model, tokenizer = gpu.load_causal_lm(str(base))
        tokenizer = with_tools(tokenizer)
        weights = {"only": load_file(base / WEIGHTS), "reset": load_file(trained / WEIGHTS)}
        other = {"only": weights["reset"], "reset": weights["only"]}
        groups = sorted({group_of(name, place["num_layers"]) for name in weights["only"]})
        grafts: dict[tuple[str, str], list[float]] = {}
        plan = [(how, group) for how in weights for group in groups]
        for number, (how, group) in enumerate(plan):
            bar.update("grafts", number / len(plan))
            model.load_state_dict(graft(weights[how], other[how], group, place["num_layers"]), strict=False)
            grafts[how, group] = test_f1(model, tokenizer, cfg, sets.test_gold, sandbox)
    write_json_atomic(out / "config.json", config.to_dict(cfg))
    matrices = [(change.name, change.rho, change.rho_normed) for change in report["changes"]]
    layers = Layers(place["groups"], place["s"], place["low_mlp_rank"], matrices, grafts)
    evidence.write_layers(layers, Job("layers", seed).output)
    print(f"written: {Job('layers', seed).output}")


if __name__ == "__main__":
    main(config.parse(Config, PRESETS, default="small"))
