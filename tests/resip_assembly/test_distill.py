"""Distillation to vision: encoders, augmentation, data sets that go on, students that learn from pixels."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resip_assembly import behaviour_cloning, image_data, vision_encoder, watch
from resip_assembly.behaviour_cloning import CloneConfig
from resip_assembly.checkpoints import Identity
from resip_assembly.config import PRESETS, Simulation
from resip_assembly.demos import HOLD_STEPS, ExpertAgent
from resip_assembly.distill_config import DISTILL_PRESETS, DistillConfig
from resip_assembly.env import make_vector
from resip_assembly.env.rendering import NoRendering
from resip_assembly.env.vision import Cameras, poses
from resip_assembly.normalization import Normalizer
from resip_assembly.vision_encoder import ImageEncoder, VisionConfig
from resip_assembly.vision_student import (
    Views,
    VisionAgent,
    build_student,
    image_samples,
    load_student,
    save_student,
)
from shared.config import from_dict, to_dict

CAMERAS = ("front", "arm0_wrist")
SMALL = VisionConfig("cnn", feature_dim=8, height=32, width=40, front_width=36, input_size=28)
PACKAGE = Path(__file__).resolve().parents[2] / "resip_assembly"


# ---- images and encoders


def test_the_papers_sizes() -> None:
    cfg = DISTILL_PRESETS["paper"]
    assert (cfg.vision.height, cfg.vision.width, cfg.vision.front_width, cfg.vision.input_size) == (
        240,
        320,
        280,
        224,
    )
    assert (cfg.episodes, cfg.demonstrations, cfg.clone.lr, cfg.clone.updates) == (
        (250, 500, 1000),
        50,
        1e-4,
        500_000,
    )
    normalizer = Normalizer.empty(16, 10)
    with torch.device("meta"):
        student = build_student(cfg.policy, cfg.vision, CAMERAS, normalizer)
    condition = student.denoiser.down[0][0].film[1].in_features - 256  # type: ignore[index, union-attr]
    assert condition == 16 + 2 * 128  # sheet §2.10
    resnet = sum(p.numel() for p in student.encoder.backbones[0].parameters())
    assert resnet == 11_176_512  # torchvision's ResNet-18 without its classifier


@pytest.mark.parametrize("name", DISTILL_PRESETS)
def test_presets_survive_a_round_trip(name: str) -> None:
    cfg = DISTILL_PRESETS[name]
    assert from_dict(DistillConfig, to_dict(cfg)) == cfg


def test_crops_follow_the_sheet() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(SMALL, CAMERAS)
    images = torch.zeros(3, 2, 32, 40, 3, dtype=torch.uint8)
    images[..., 0] = torch.arange(40, dtype=torch.uint8)  # red is the column
    images[..., 1] = torch.arange(32, dtype=torch.uint8)[:, None]  # green the row
    plain = encoder.crop(images) * 255
    assert plain.shape == (3, 2, 3, 28, 28)
    assert torch.allclose(plain[0, 0, 0, 0], torch.arange(6.0, 34.0))  # 2 off each side, then 4
    assert torch.allclose(plain[0, 0, 1, :, 0], torch.arange(2.0, 30.0))
    assert plain[0, 1, 0].max() > 38  # the wrist image is resized, not cropped
    front = vision_encoder.random_crop(images[:, 0].movedim(-1, 1).float().repeat(40, 1, 1, 1), 28)
    starts = front[:, :2, 0, 0]
    assert (front[:, 0, 5, 9] - starts[:, 0] == 9).all()
    assert (front[:, 1, 5, 9] - starts[:, 1] == 5).all()
    assert (starts.amin(0) == 0).all()
    assert starts.amax(0).tolist() == [12, 4]


def test_augmentation_is_drawn_per_image_and_stays_in_range() -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 12, 12)
    for augment in (vision_encoder.colour_jitter, vision_encoder.blur):
        torch.manual_seed(1)
        out = augment(images[:1].expand(64, -1, -1, -1).contiguous())
        assert out.shape == images.shape
        assert out.min() >= 0
        assert out.max() <= 1
        assert len(torch.unique(out.flatten(1), dim=0)) > 50  # the smallest sigmas blur nothing
    same = vision_encoder.colour_jitter(images, strength=0.0)
    assert torch.allclose(same, images, atol=1e-5)
    grey = torch.full((8, 3, 6, 6), 0.4)
    assert torch.allclose(vision_encoder.blur(grey), grey, atol=1e-6)
    third = vision_encoder.hue_rotation(torch.tensor([0.0, 2 * np.pi / 3]))
    luma = torch.tensor(vision_encoder.LUMA)
    assert torch.allclose(luma @ third, luma.expand(2, 3), atol=1e-3)  # brightness stays
    assert torch.allclose(third[0], torch.eye(3), atol=1e-5)


def test_blur_is_a_gaussian() -> None:
    point = torch.zeros(16, 3, 9, 9)
    point[:, :, 4, 4] = 1
    torch.manual_seed(3)
    out = vision_encoder.blur(point)
    assert torch.allclose(out.sum((2, 3)), torch.ones(16, 3), atol=1e-5)
    assert torch.allclose(out, out.mT)
    peak, beside, diagonal = out[:, 0, 4, 4], out[:, 0, 4, 5], out[:, 0, 5, 5]
    assert torch.allclose(diagonal * peak, beside.square(), atol=1e-6)  # separable


def test_spatial_softmax_finds_the_bright_spot() -> None:
    maps = torch.zeros(1, 2, 5, 9)
    maps[0, 0, 0, 8] = maps[0, 1, 4, 0] = 50.0
    found = vision_encoder.spatial_softmax(maps)
    assert torch.allclose(found, torch.tensor([[1.0, -1.0, -1.0, 1.0]]), atol=1e-4)  # columns, then rows


def test_an_encoder_of_the_hub_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModel, Dinov2Config, Dinov2Model

    tiny = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(tiny).save_pretrained(tmp_path)
    encoder = ImageEncoder(dataclasses.replace(SMALL, encoder=str(tmp_path)), CAMERAS)
    features = encoder(torch.rand(2, 2, 3, 28, 28))
    assert features.shape == (2, 16)
    features.sum().backward()
    assert next(encoder.backbones[0].parameters()).grad is not None  # it is fine-tuned

    def missing(name: str) -> None:
        raise OSError(f"{name} is not cached")

    monkeypatch.setattr(AutoModel, "from_pretrained", missing)
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing"):
        ImageEncoder(dataclasses.replace(SMALL, encoder="nobody/nothing"), CAMERAS)


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="input_size=33, front_width=36 do not fit images of 32 x 40"):
        dataclasses.replace(SMALL, input_size=33)
    with pytest.raises(ValueError, match=r"episodes=\(\): need one or more"):
        DistillConfig(episodes=())
    with pytest.raises(ValueError, match=r"policy\.kind='mlp' cannot see"):
        DistillConfig(policy=dataclasses.replace(PRESETS["small"].base, kind="mlp"))


# ---- students, on images made here


def made_up(episodes: int = 6, length: int = 20) -> image_data.ImageData:
    """A bright square moves about; the action's first number is its column, which nothing else tells."""
    rng = np.random.default_rng(0)
    frames = episodes * length
    column = np.repeat(rng.uniform(8, 30, episodes), length)
    images = np.zeros((frames, 2, 32, 40, 3), np.uint8)
    for f, c in enumerate(column.astype(int)):
        images[f, :, 12:20, c - 4 : c + 4] = 255
    obs = rng.normal(0, 1, (frames, 37)).astype(np.float32)
    actions = np.zeros((frames, 10), np.float32)
    actions[:, 0] = column / 20 - 1
    sim = ("peg_in_hole", "low", "floating", "absolute")
    card = image_data.Card(*sim, "nobody", "none", CAMERAS, 32, 40, 0, episodes, episodes, frames)
    return image_data.ImageData(card, images, obs, actions, np.full(episodes, length))


def test_samples_pair_each_chunk_with_its_frame() -> None:
    data = made_up()
    normalizer = Normalizer.fit(data.obs[:, :16], data.actions)
    student = build_student(PRESETS["smoke"].base, SMALL, CAMERAS, normalizer)
    samples = image_samples(student, data, pad_after=15)
    assert len(samples.chunks) == 6 * 20
    views = samples.obs[torch.tensor([0, 45])]
    assert views.state.shape == (2, 16)
    assert np.array_equal(views.images.numpy(), data.images[[0, 45]])
    assert torch.allclose(views.state, normalizer.normalize_obs(data.obs[[0, 45], :16]))
    raw = normalizer.action.denormalize(samples.chunks[45])
    expected = data.actions[np.minimum(45 + np.arange(16), 59)]  # never beyond its own episode
    assert torch.allclose(raw, torch.from_numpy(expected), atol=1e-5)
    half = data.first(3)
    assert (half.card.episodes, half.card.steps, len(half.images)) == (3, 60, 60)
    assert [len(obs) for obs, _ in half.episodes()] == [20] * 3
    both = image_data.joined([half, data])
    assert (both.card.episodes, len(both.images), both.card.teacher) == (9, 180, "nobody + nobody")
    with pytest.raises(ValueError, match="episodes=7: the data set has 6"):
        data.first(7)


@pytest.mark.slow
def test_a_student_learns_what_only_the_images_tell(tmp_path: Path) -> None:
    data = made_up(episodes=12)
    normalizer = Normalizer.fit(data.obs[:, :16], data.actions)
    base = dataclasses.replace(PRESETS["smoke"].base, widths=(64,), predict=4, execute=4)
    torch.manual_seed(0)
    student = build_student(base, SMALL, CAMERAS, normalizer)
    samples = image_samples(student, data, pad_after=3)
    cfg = CloneConfig(updates=300, batch_size=16, lr=3e-3, warmup=10, pad_after=3, test_every=300)
    behaviour_cloning.train(student, samples, cfg)
    rows = torch.arange(0, len(samples.chunks), 20)
    error = (student.predict_chunk(samples.obs[rows]) - samples.chunks[rows])[..., 0].abs().mean()
    spread = (samples.chunks[rows, :, 0] - samples.chunks[rows, :, 0].mean()).abs().mean()
    assert error < 0.5 * spread
    identity = Identity("peg_in_hole")
    save_student(student, base, tmp_path / "policy", identity)
    again = load_student(tmp_path / "policy", identity)
    views = samples.obs[rows]
    assert torch.equal(again.eval().condition(views), student.condition(views))
    with pytest.raises(ValueError, match="has task 'peg_in_hole', this run 'lamp'"):
        load_student(tmp_path / "policy", Identity("lamp"))


def test_training_sees_augmented_images_and_evaluation_does_not() -> None:
    data = made_up(episodes=1)
    student = build_student(
        PRESETS["smoke"].base, SMALL, CAMERAS, Normalizer.fit(data.obs[:, :16], data.actions)
    )
    views = Views(torch.zeros(4, 16), torch.from_numpy(data.images[:4]))
    torch.manual_seed(0)
    one, two = (student.corrupt(views, 0.1) for _ in range(2))
    assert one.images.shape == (4, 2, 3, 28, 28)
    assert not torch.equal(one.images, two.images)
    assert 0.05 < one.state.std() < 0.2
    assert torch.equal(student.condition(views), student.condition(views))


# ---- data sets of the simulator


@pytest.fixture(scope="module")
def env():
    env = make_vector("peg_in_hole", 4, threads=1, autoreset="disabled")
    try:
        Cameras(env.scene, 8, 8).close()
    except NoRendering as error:
        pytest.skip(str(error))
    return env


def record(folder: Path, env, episodes: int = 5, **options) -> None:
    size = {"height": 32, "width": 40}
    image_data.record(folder, env, ExpertAgent(env, 3), "expert", episodes, seed=3, **size, **options)


@pytest.mark.slow
def test_recording_goes_on_and_is_a_function_of_its_seed(
    env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "whole", env)
    data = image_data.load(tmp_path / "whole")
    card = data.card
    assert (card.episodes, len(data.lengths), card.steps) == (5, 5, data.lengths.sum())
    assert card.hold_steps == HOLD_STEPS == 8
    assert data.images.shape == (card.steps, 2, 32, 40, 3)
    for obs, _ in data.episodes():  # successes only: the peg is in the hole at the end
        assert np.linalg.norm(obs[-1, 16:19] - obs[-1, 23:26]) < 0.01

    write, calls = image_data._write_shard, []

    def killed(path: Path, *rest) -> None:
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(image_data, "_write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "killed", env)
    with pytest.raises(ValueError, match="cannot be used: no COMPLETE"):
        image_data.load(tmp_path / "killed")
    record(tmp_path / "killed", env)
    assert calls == ["shard-00000.npz", "shard-00001.npz", "shard-00001.npz"]
    again = image_data.load(tmp_path / "killed")
    assert again.card == card
    assert np.array_equal(again.images, data.images)
    assert np.array_equal(again.actions, data.actions)
    with pytest.raises(ValueError, match="this run wants"):
        record(tmp_path / "killed", env, looks="full")
    with pytest.raises(ValueError, match="have task 'peg_in_hole', this run 'lamp'"):
        image_data.check(card, Simulation(task="lamp"), SMALL)
    with pytest.raises(ValueError, match="have robot 'floating', this run 'panda'"):
        image_data.check(card, Simulation(task="peg_in_hole"), SMALL)


def test_the_agent_renders_only_when_its_plan_has_run_out(env) -> None:
    obs, _ = env.reset(seed=1)
    normalizer = Normalizer.fit(obs[:, :16], ExpertAgent(env, 1).act(obs))
    torch.manual_seed(0)
    student = build_student(PRESETS["smoke"].base, SMALL, CAMERAS, normalizer).eval()
    agent = VisionAgent(student, env)
    agent.reset(np.ones(4, bool))
    seen, look = [], agent.cameras.images
    agent.cameras.images = lambda pose: seen.append(pose) or look(pose)  # type: ignore[method-assign]
    torch.manual_seed(5)
    first = agent.act(obs)
    assert len(seen) == 4
    assert np.array_equal(seen[2], poses(env.simulator)[2])
    blind = obs.copy()
    blind[:, 16:] = np.nan  # where the parts are is not read
    for _ in range(student.execute - 1):
        agent.act(blind)
    assert len(seen) == 4
    agent.act(blind)
    assert len(seen) == 8
    images = np.stack([look(pose) for pose in poses(env.simulator)])
    views = Views(normalizer.normalize_obs(obs[:, :16]), torch.from_numpy(images))
    torch.manual_seed(5)
    expected = normalizer.denormalize_action(student.predict_chunk(views)[:, 0])
    assert np.array_equal(first, expected)
    agent.close()


# ---- the command


@pytest.mark.slow
def test_the_command_makes_a_scaling_curve_and_watch_films_it(
    env, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start = tmp_path / "start"  # as train.py leaves it; the expert teaches, so no policy is needed
    start.mkdir()
    cfg = dataclasses.replace(PRESETS["smoke"], start=None)
    (start / "config.json").write_text(json.dumps(to_dict(cfg)))
    (start / "manifest.json").write_text("{}")
    command = [sys.executable, "distill.py", "--preset", "smoke", "--start", str(start), "--episodes", "1,2"]
    command += ["--clone.updates", "3", "--run.output-dir", str(tmp_path / "run"), "--run.trackers"]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "manifest.json").read_text())["metrics"]
    assert {"expert/success", "student-1/success", "student-2/success"} <= metrics.keys()
    assert metrics["student-2/episodes"] == 2
    assert (tmp_path / "run" / "scaling.png").stat().st_size > 5_000
    assert image_data.read_card(tmp_path / "run" / "images" / "rollouts").episodes == 2
    assert image_data.read_card(tmp_path / "run" / "images" / "demonstrations").episodes == 1
    load_student(tmp_path / "run" / "student-1" / "policy", Identity("peg_in_hole"))

    film = tmp_path / "film.gif"
    options = [str(tmp_path / "run"), "--episodes", "1", "--out", str(film)]
    capsys.readouterr()
    watch.main(options)
    said = capsys.readouterr().out
    assert "scripted expert: 1 of 1 episodes assembled" in said
    assert "student of images, 2 rollouts: " in said
    with Image.open(film) as image:
        assert image.size == (640, 500)  # two policies side by side, two cameras one above the other
    watch.main([*options, "--policy", "student", "--rollouts", "1", "--camera", "front"])
    said = capsys.readouterr().out
    assert "student of images, 1 rollouts: " in said
    assert "expert" not in said
    with Image.open(film) as image:
        assert image.size == (320, 260)
    with pytest.raises(SystemExit, match="holds no student of 3 rollouts; it holds: 1, 2"):
        watch.main([*options, "--rollouts", "3"])
    with pytest.raises(
        SystemExit, match="unknown camera 'left' of peg_in_hole; there are front, close, detail"
    ):
        watch.main([*options, "--policy", "expert", "--camera", "left"])


def test_a_start_that_is_no_run_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "distill.py", "--preset", "smoke", "--start", str(tmp_path)]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "is not a run folder of train.py" in done.stderr
    assert "Traceback" not in done.stderr
