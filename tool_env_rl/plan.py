"""What `python train.py --preset paper --dry-run` prints: the plan, with nothing downloaded or built."""

from __future__ import annotations

from tool_env_rl import environment_sets
from tool_env_rl.config import TOY, Config

EXPECTED_TIME = {
    "smoke": "about a minute",
    "small": "5 minutes on one core for seed 0, 14 more for the base model of another seed",
    "pretrained": "not measured here",
    "paper": "not measured here: the authors used 8 GPUs",
}


def expected_time(cfg: Config) -> str:
    """How long the preset takes, in words; overridden fields are not taken into account."""
    return EXPECTED_TIME.get(cfg.preset, "not measured here")


def lines(cfg: Config) -> dict[str, str]:
    """Name → value of the plan."""
    algo = cfg.algo
    rows = algo.states_per_batch * algo.group_size
    batches = f"{algo.batches} batches" if algo.batches else "one epoch over the states"
    found = {"preset": f"{cfg.preset}, seed {cfg.run.seed}; {expected_time(cfg)}"}
    found["model"] = cfg.model.name if cfg.model.name == TOY else f"{cfg.model.name} @ {cfg.model.revision}"
    if cfg.model.name == TOY:
        found["base"] = f"{cfg.base.tokens:,} tokens of noisy demonstrations; gate: {cfg.base.gate}"
    else:
        found["thinking"] = str(cfg.model.thinking)
    found |= {f"{name} set": text for name, text in environment_sets.describe(cfg).items()}
    found["RL"] = f"{algo.algorithm}, reward {'coin' if algo.random_reward else algo.reward}, {algo.mode}"
    found["iteration"] = (
        f"{algo.iterations} x [{algo.environments} trajectories at T={algo.collect_temperature:g}, up to "
        f"{algo.max_turns} turns; {batches} of {algo.states_per_batch} states x {algo.group_size} at "
        f"T={algo.temperature:g}]"
    )
    found["updates"] = f"{algo.updates_per_batch} per batch, {rows // algo.updates_per_batch} responses each"
    found["limits"] = f"prompt {cfg.data.max_prompt_tokens} tokens, turn {algo.max_completion_tokens} tokens"
    return found


def show(cfg: Config) -> None:
    """Print the plan."""
    for name, value in lines(cfg).items():
        print(f"{name:<12} {value}")
