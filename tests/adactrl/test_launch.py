"""Every way of starting `train.py`: from its folder, as a module, into a full folder, with two processes."""

from __future__ import annotations

import json
import multiprocessing
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shared import checkpoint

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "adactrl"
FAST = ["--sft.steps", "4", "--algo.steps", "2", "--eval.problems", "3"]

servers = multiprocessing.get_context("forkserver")
servers.set_forkserver_preload(["adactrl.train", "torch.utils.tensorboard"])


def launch(words: list[str], cwd: Path, folder: Path) -> subprocess.Popen[str]:
    command = [*words, "--preset", "smoke", *FAST, "--run.output-dir", str(folder)]
    return subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(process: subprocess.Popen[str], folder: Path) -> str:
    text, _ = process.communicate(timeout=150)
    assert process.returncode == 0, text
    assert json.loads((folder / "manifest.json").read_text())["metrics"] is not None
    assert checkpoint.problem(folder / "model") is None
    return text


def test_from_its_folder_and_as_a_module(tmp_path: Path) -> None:
    script, module = tmp_path / "script", tmp_path / "module"
    runs = [
        launch([sys.executable, "train.py"], PACKAGE, script),
        launch([sys.executable, "-m", "adactrl.train"], ROOT, module),
    ]
    texts = [finished(run, folder) for run, folder in zip(runs, (script, module), strict=True)]
    for text, folder in zip(texts, (script, module), strict=True):
        assert "run folder: " in text
        assert "to resume:  python -m adactrl.train --config " in text
        for tier in ("T1", "T2", "T3"):  # the table at the end
            assert tier in text.split("accuracy [95 % interval]")[1]
        for word in ("adaptive", "force easy", "force hard", "before RL", "after RL"):
            assert word in text
        for name in ("config.json", "environment.json", "code.diff", "metrics.jsonl", "samples-after.jsonl"):
            assert (folder / name).is_file()
        assert list(folder.glob("*.png"))
        assert list((folder / "samples").glob("step-*.txt"))
        assert list((folder / "tensorboard").iterdir())
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (script, module)]
    assert weights[0] == weights[1]
    commands = [json.loads((f / "environment.json").read_text())["command"] for f in (script, module)]
    assert commands[0].startswith("cd adactrl && python train.py --preset smoke")
    assert commands[1].startswith("python -m adactrl.train --preset smoke")


PROGRAM = """
import os, runpy, sys
log = os.open(log, os.O_WRONLY | os.O_CREAT)
os.dup2(log, 1), os.dup2(log, 2)
sys.argv = [path, *arguments]
os.chdir(os.path.dirname(path))
runpy.run_path(path, run_name="__main__")
"""


def start(tmp_path: Path, *arguments: str) -> tuple[int | None, str]:
    """Exit code and output of `train.py ARGUMENTS`, forked from a server that has the imports done."""
    log = tmp_path / "log.txt"
    names = {"log": str(log), "path": str(PACKAGE / "train.py"), "arguments": list(arguments)}
    process = servers.Process(target=exec, args=(PROGRAM, {"__name__": "run", **names}))
    process.start()
    process.join(180)  # the first one waits for the imports
    return process.exitcode, log.read_text()


def test_an_existing_folder_is_refused_in_a_pipe_naming_both_flags(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    config = {"preset": "smoke", "run": {"seed": 0, "overwrite": False}}
    (folder / "config.json").write_text(json.dumps(config))
    code, text = start(tmp_path, "--preset", "smoke", "--run.output-dir", str(folder))
    assert code == 2
    (line,) = [line for line in text.splitlines() if line.startswith("error")]
    assert "--run.resume" in line
    assert "--run.overwrite" in line
    assert [p.name for p in folder.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "smokey"], "unknown preset smokey; did you mean smoke?"),
        (["--algo.groupsize", "8"], "did you mean --algo.group-size?"),
        (["--preset", "smoke", "--algo.group-size", "5"], "1, 2, 5, 10 "),
        (["--preset", "smoke", "--algo.updates-per-step", "0"], "updates-per-step"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    code, text = start(tmp_path, *arguments, "--run.output-dir", str(tmp_path / "run"))
    assert code == 2, text
    flat = " ".join(text.replace("\u2502", " ").replace("_", "-").split())
    assert said in flat
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


def test_dry_run_downloads_and_writes_nothing(tmp_path: Path) -> None:
    code, text = start(tmp_path, "--preset", "paper", "--dry-run", "--run.output-dir", str(tmp_path / "run"))
    assert code == 0, text
    for word in ("Qwen/Qwen2.5-7B-Instruct", "DeepMath-103K", "MATH-500", "GiB", "tokens"):
        assert word in text
    assert not (tmp_path / "run").exists()


def test_two_processes_train(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    words += ["--config_file", str(PACKAGE / "accelerate" / "cpu2.yaml"), "train.py"]
    text = finished(launch(words, PACKAGE, folder), folder)
    assert text.count("run folder: ") == 1  # rank 0 alone speaks
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for step in (2, 4):
        position = json.loads((folder / f"checkpoint-{step}" / "prompt_stream.json").read_text())["position"]
        assert position == 2 * step  # 4 prompts per step, all processes together


# ---- rewards with two processes equal those with one

REWARDS = """
import os
os.environ.update(environment)
import torch
from dataclasses import replace
from pathlib import Path
from adactrl import chains
from adactrl.config import PRESETS, to_grpo_config
from adactrl.data import rl_dataset
from adactrl.rewards import is_informative
from adactrl.tags import parse_tag
from adactrl.trainer import DifficultyAwareGRPO, Group
from shared import tiny
from shared.seeding import derive_seed

world_size = int(os.environ.get("WORLD_SIZE", "1"))
smoke = PRESETS["smoke"]
algo = replace(smoke.algo, filter="none", prompts_per_generation=4, prompts_per_step=4, updates_per_step=2)
cfg = replace(smoke, algo=algo)
tokenizer = tiny.word_tokenizer(chains.WORDS)
model = tiny.tiny_causal_lm(tokenizer, hidden=8, layers=1, heads=1, intermediate=16, seed=0)
trainer = DifficultyAwareGRPO(
    model=model, args=to_grpo_config(cfg, Path(folder), world_size), train_dataset=rl_dataset(cfg),
    processing_class=tokenizer, algo=algo,
)

def respond(prompts, owner):
    # what is answered is a function of the prompt and of the place in its group
    ids = [tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in prompts]
    gold = {row["prompt"][0]["content"]: row["answer"] for row in owner.train_dataset}
    completions = []
    for place, prompt in enumerate(prompts):
        question = prompt[0]["content"]
        draw = derive_seed(question, place % algo.group_size)
        tag = ("[Easy] ", "[Hard] ", "")[draw % 3]
        filler = "start 1 2 3 4 ; " * (draw // 3 % 3)
        answer = gold[question] if draw // 9 % 2 else "wait"
        text = tag + filler + "\\\\boxed{ " + answer + " } <eos>"
        completions.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    logprobs = [[-1.0] * len(c) for c in completions]
    return {"prompt_ids": ids, "completion_ids": completions, "logprobs": logprobs}

trainer.rollout_func = respond
def totals(group):
    return [part.total for part in trainer.reward_parts(group)]

steps = []
for step in range(3):
    output = trainer._generate_and_score_completions([{"prompt": []}])
    advantages = output["advantages"].view(-1, algo.group_size).tolist()
    steps.append([
        (g.row["prompt"][0]["content"], g.correct, g.tags, g.lengths, totals(g), a)
        for g, a in zip(trainer._kept, advantages, strict=True)
    ])
ours = ("reward", "rollout", "sampling")
metrics = {k: v for k, v in trainer._metrics["train"].items() if k.startswith(ours)}
torch.save({"steps": steps, "metrics": metrics}, f"{folder}/rank{trainer.accelerator.process_index}.pt")
"""


def rewards_of(folder: Path, world_size: int) -> list[dict]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world_size):
        environment = {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
        if world_size > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        names = {"__name__": "run", "environment": environment, "folder": str(folder)}
        processes.append(servers.Process(target=exec, args=(REWARDS, names)))
        processes[-1].start()
    for process in processes:
        process.join(90)
        assert process.exitcode == 0
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world_size)]


def test_two_processes_compute_the_rewards_of_one(tmp_path: Path) -> None:
    (one,), two = rewards_of(tmp_path / "one", 1), rewards_of(tmp_path / "two", 2)
    assert any(len(set(group[4])) > 2 for step in one["steps"] for group in step)  # the rewards do differ
    for step, parts in zip(one["steps"], zip(*(rank["steps"] for rank in two), strict=True), strict=True):
        interleaved = [group for together in zip(*parts, strict=True) for group in together]
        assert interleaved == step
    assert set(one["metrics"]) == set(two[0]["metrics"])
    for name in ("reward", "rewards/outcome/mean", "rewards/length/mean", "rollout/all/length"):
        assert two[0]["metrics"][name] == pytest.approx(one["metrics"][name]), name
