"""`cosmos_ros train`: from a bag to a model directory that the node loads, with tiny networks and few steps."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_ros import Clip, Foresight
from cosmos_ros.commands import cli, train
from cosmos_ros.errors import SettingError
from cosmos_ros.paths import embedded_model, share_directory
from cosmos_ros.training import loop, run
from cosmos_ros.training.checkpoint import Unfinished, alone_in, require_unused
from cosmos_ros.training.datasets import simulated
from cosmos_ros.training.evaluation import frame_psnr
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.robots import models
from cosmos_ros.training.robots.catalogue import Part
from cosmos_ros.training.sizes import Sizes
from cosmos_ros.training.transformer import noised, token_loss
from cosmos_ros.world_model import ModelSpec, Sampling, Transformer, TransformerConfig
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed

BAG = share_directory() / "data" / "sample_bag"
FILE = BAG / "sample_bag.mcap"
TINY = """
frame_size: [32, 48]
tokenizer: {channels: [8, 12], encoder_blocks: [1, 1], decoder_blocks: [1, 1], levels: [4, 3]}
layers: 1
width: 16
heads: 2
key_value_heads: 1
ffn_hidden: 16
refiner_channels: [4, 4, 4, 4]
temperature: 0.8
top_p: 0.7
"""
FEW = ["--tokenizer-steps", "2", "--world-model-steps", "2", "--refiner-steps", "2", "--tokenizer-batch", "2"]
FEW += ["--world-model-batch", "2", "--windows", "4", "--rollouts", "16", "--device", "cpu"]
TINY_TRANSFORMER = TransformerConfig(
    n_layers=1,
    dim=16,
    n_heads=2,
    n_kv_heads=1,
    head_dim=8,
    ffn_hidden=16,
    vocab_in=12,
    vocab_out=12,
    latent_shape=(5, 10, 16),
)


@pytest.fixture(scope="module")
def bag(tmp_path_factory, write_bag, moving_scene):
    """A small camera's ten seconds: what a large one adds is decoding."""
    stamps = [1_700_000_000_000_000_000 + i * 100_000_000 for i in range(97)]
    return str(write_bag(tmp_path_factory.mktemp("bags") / "drive", moving_scene(97, 64, 96), stamps))


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return str(file)


def same_weights(one, other) -> bool:
    programs = [torch.jit.load(str(file)).state_dict() for file in (one, other)]
    return all(torch.equal(weight, programs[1][name]) for name, weight in programs[0].items())


@pytest.mark.slow
def test_from_a_bag_to_a_model_that_predicts_and_on_from_there(tmp_path, bag, config, capsys):
    out = tmp_path / "model"
    assert cli.main(["train", "all", "--out", str(out), "--bags", bag, "--config", config, *FEW]) == 0
    spec = ModelSpec.of_checkpoint(out)
    assert (spec.name, spec.frame_size, spec.frame_rate, spec.compression) == ("model", (32, 48), 10.0, (8, 8, 8))
    assert (spec.temperature, spec.top_p, spec.published) == (0.8, 0.7, False)
    figures = json.loads((out / "evaluation.json").read_text())
    assert figures["clips"] == 1 and all(math.isfinite(figures[k]) for k in ("rollout", "repeat_last", "ceiling"))
    stages = [json.loads(line)["stage"] for line in (out / "training.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(stages)) == [
        "films", "tokenizer", "tokenized", "world-model", "rolled out", "refiner", "evaluation",
    ]  # fmt: skip
    assert '"windows": 16, "of_each": 2, "round_trips": 64' in (out / "training.jsonl").read_text()
    assert '"held_out_gain": ' in (out / "training.jsonl").read_text()
    pictures = ["end", "refiner-000002", "tokenizer-000002", "world-model-000002"]
    assert sorted(folder.name for folder in (out / "pictures").iterdir()) == pictures
    assert all(list((out / "pictures" / name).glob("*.png")) for name in pictures)
    card = (out / "MODEL_CARD.md").read_text()
    assert f"| one rollout | {figures['rollout']:.2f} |" in card and "| refiner | 2 | 3,840 |" in card
    assert "- hypotheses of the refiner: 9; a sample is refined by number `seed % 9`" in card
    assert "Number 8 trusts the tokens" in card
    assert not (out / "unfinished").exists()
    frames = np.random.default_rng(0).integers(0, 256, (9, 60, 80, 3), dtype=np.uint8)
    clip = Clip(frames, tuple(k * 100_000_000 for k in range(9)), 10.0)
    rollout = Foresight.from_config({"checkpoint": str(out), "device": "cpu"}).predict(clip, seed=0)
    assert rollout.frames.shape[0] == 24 and rollout.decoding.refined

    again = tmp_path / "again"
    options = ["--out", str(again), "--init", str(out), "--bags", bag, "--config", config, *FEW]
    assert cli.main(["train", "refiner", *options]) == 0
    kept, trained = (same_weights(out / name, again / name) for name in ("encoder.jit", "refiner.jit"))
    assert kept and not trained
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()

    other = tmp_path / "other.yaml"
    other.write_text(TINY.replace("[8, 12]", "[8, 16]"))
    capsys.readouterr()
    options[options.index(config)], options[options.index(str(again))] = str(other), str(tmp_path / "third")
    assert cli.main(["train", "refiner", *options]) == 1
    assert "of another architecture than --config says" in capsys.readouterr().err


def test_first_latent_frame_counts_in_the_prompt_not_in_the_loss():
    torch.manual_seed(0)
    transformer = Transformer(TINY_TRANSFORMER)
    tokens = torch.randint(12, (2, 800))
    logits = transformer(tokens[:, :-1], torch.arange(799))
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    loss, z_loss = token_loss(transformer, tokens, tokens)
    torch.testing.assert_close(loss, losses[:, 159:].mean(), atol=1e-3, rtol=1e-3)  # under autocast
    torch.testing.assert_close(z_loss, logits[:, 159:].logsumexp(-1).square().mean(), atol=1e-2, rtol=1e-3)


def test_noise_replaces_a_share_of_what_the_transformer_sees():
    torch.manual_seed(0)
    tokens = torch.zeros(200, 300, dtype=torch.int64)
    share = (noised(tokens, 1000) != tokens).float().mean(1)
    assert share.max() < 0.25 and share.min() < 0.02 and share.mean() == pytest.approx(0.075, abs=0.02)


def test_generating_many_at_a_time_continues_as_the_decode_engine_does():
    torch.manual_seed(0)
    transformer = Transformer(TINY_TRANSFORMER).eval()
    prompts = torch.randint(12, (2, 640))
    greedy = Sampling(seed=0, temperature=0, top_p=1)
    together = completed(WindowDecoder(transformer).passes(prompts, greedy))
    for prompt, tokens in zip(prompts, together, strict=True):
        assert torch.equal(completed(WindowDecoder(transformer).passes(prompt[None], greedy))[0], tokens)


def test_psnr_is_of_8_bit_frames():
    video = torch.zeros(1, 3, 2, 4, 4)
    other = video.clone()
    other[:, :, 1] += 10 / 127.5
    psnr = frame_psnr(other, video)
    assert psnr[0, 1] == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)
    assert psnr[0, 0] > 70


def test_a_spoilt_film_is_the_same_scene_and_the_same_camera_throughout():
    slope = np.linspace(40, 200, 32).astype(np.uint8)
    frames = np.broadcast_to(slope[:, None], (3, 24, 32, 3)).copy()
    spoilt = [simulated.spoilt(frames, np.random.default_rng(seed)) for seed in range(12)]
    for film in spoilt:
        assert film.shape == frames.shape and film.dtype == np.uint8
        assert np.corrcoef(film[0].ravel(), frames[0].ravel())[0, 1] > 0.7
        assert np.abs(film[0].astype(int) - film[1]).mean() < 8
    assert any(not np.array_equal(film, frames) for film in spoilt)


@pytest.mark.slow
def test_a_run_that_was_killed_in_each_stage_ends_with_the_losses_and_the_bytes_of_one_that_was_not(
    tmp_path, bag, config, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(loop, "NOTE_EVERY", 1)
    monkeypatch.setattr(run, "write_pictures", lambda *_: None)
    options = ["--bags", bag, "--config", config, *FEW]
    whole, broken = tmp_path / "a" / "model", tmp_path / "b" / "model"
    assert cli.main(["train", "all", "--out", str(whole), *options]) == 0
    resume: list[str] = []
    seeded = loop.keyed
    for stage in ("tokenizer", "a picture", "world-model", "refiner"):

        def while_drawing(*_) -> None:
            raise KeyboardInterrupt  # after a stage's last step

        def killed(seed: int, name: str, step: int, rank: int, until: str = stage) -> torch.Generator:
            if (name, step) == (until, 1):
                raise KeyboardInterrupt
            return seeded(seed, name, step, rank)

        monkeypatch.setattr(run, "write_pictures", while_drawing if stage == "a picture" else lambda *_: None)
        monkeypatch.setattr(loop, "keyed", killed)
        assert cli.main(["train", "all", "--out", str(broken), *options, *resume]) == 130
        resume = ["--resume"]
    monkeypatch.setattr(loop, "keyed", seeded)
    capsys.readouterr()
    assert cli.main(["train", "all", "--out", str(broken), *options]) == 1
    assert "go on with it by --resume" in capsys.readouterr().err
    assert cli.main(["train", "all", "--out", str(broken), *options, "--resume", "--seed", "1"]) == 1
    assert "had other settings (seed was 0, is 1 now): give" in capsys.readouterr().err
    assert cli.main(["train", "all", "--out", str(broken), *options, "--resume"]) == 0
    assert losses(broken) == losses(whole)
    assert last_losses(broken) == last_losses(whole) and len(last_losses(whole)) == 3
    for name in ("encoder.jit", "decoder.jit", "refiner.jit", "model.safetensors", "evaluation.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


def last_losses(out) -> list[str]:
    """Of each stage, as the card has them."""
    lines = (out / "MODEL_CARD.md").read_text().splitlines()
    return [line.split("|")[-2] for line in lines if line.split("|")[2:3] == [" 2 "]]


def losses(out) -> list[tuple]:
    lines = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    return [(line["stage"], line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("all", "--episodes", "0"), "nothing to train on: give --bags, or a positive --episodes"),
        (("all", "--episodes", "-1"), "--episodes must not be negative; got -1"),
        (("all", "--bags", str(BAG), "--robots", "ur5e"), "are seen in simulated episodes: give a positive --episodes"),
        (("all", "--robots", "kinova3"), "--robots kinova3: training never sees them, only validation; name another"),
        (("all", "--workers", "0"), "--workers must be positive and finite; got 0"),
        (("all", "--refiner-steps", "-1"), "--refiner-steps must not be negative; got -1"),
        (("all", "--seed", str(2**64)), f"--seed must lie in 0..9223372036854775807; got {2**64}"),
        (("all", "--resume", "--bags", str(BAG)), "there is no run in"),
        (("all", "--film-minutes", "nan"), "--film-minutes must not be negative; got nan"),
        (("all", "--device", "banana"), "device must be auto, cpu, cuda or cuda:N; got 'banana'"),
        (("world-model",), "goes on from a tokenizer; name its model with --init"),
        (("refiner", "--init", "/nowhere"), "holds no exported model"),
        (("all", "--config", "/nowhere.yaml"), "/nowhere.yaml cannot be read as YAML"),
        (("all", "--bags", "/nowhere"), "/nowhere"),
        (("all", "--bags", str(BAG), "--held-out", str(BAG)), "--held-out must not name what is trained on"),
        (("all", "--bags", str(BAG), "--held-out", f"{BAG}/../{BAG.name}/"), "must not name what is trained on"),
        (("all", "--bags", str(BAG), f"{BAG}/../{BAG.name}/"), "must name each recording once; named again: "),
        (("all", "--bags", str(BAG.parent), str(BAG)), f"must name each recording once; named again: {BAG}"),
        (("all", "--bags", str(BAG), str(FILE)), f"must name each recording once; named again: {FILE}"),
        (("all", "--bags", str(FILE), "--held-out", str(BAG)), "--held-out must not name what is trained on"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(tmp_path, capsys, options, said):
    assert cli.main(["train", *options, "--out", str(tmp_path / "model")]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("cosmos_ros train: ") and said in errors and errors.count("\n") == 1
    assert not list((tmp_path / "model").glob("*.jit"))


def test_a_run_takes_nothing_from_what_one_left_that_was_killed_at_its_very_end(tmp_path):
    """While it tidied up: caches were left, and no state that says of which run they are."""
    alone = Ranks(0, 1, torch.device("cpu"))
    before = Unfinished(tmp_path, {"seed": 0}, False, alone)
    before.keep({"stages": []})
    before.cached("rollouts-0", lambda: torch.zeros(1))
    (tmp_path / "unfinished" / "state.pt").unlink()
    assert Unfinished(tmp_path, {"seed": 1}, False, alone).cached("rollouts-0", lambda: torch.ones(1)) == 1


def test_two_runs_do_not_train_into_one_directory(tmp_path, capsys):
    """Nor does one go on with what another is at work on."""
    with alone_in(tmp_path, Ranks(0, 1, torch.device("cpu"))):
        for more in ([], ["--resume"]):
            assert cli.main(["train", "all", "--bags", str(BAG), "--out", str(tmp_path), *more]) == 1
            assert f"another run trains into {tmp_path} right now" in capsys.readouterr().err
    assert cli.main(["train", "all", "--bags", str(BAG), "--out", str(tmp_path), "--resume"]) == 1
    assert "there is no run in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "parts", "said"),
    [
        ("world-model", ["encoder.jit", "model.safetensors", "config.json"], "there is no decoder.jit in it"),
        ("refiner", ["encoder.jit", "decoder.jit"], "holds no transformer, of which the refiner learns: expected"),
        ("tokenizer", ["decoder.jit"], "there is no encoder.jit in it"),
        (
            "world-model",
            ["encoder.jit", "decoder.jit", "model.safetensors", "config.json"],
            "holds no refiner.jit, and this run trains none",
        ),
    ],
)
def test_what_is_not_trained_must_be_there_to_go_on_from(tmp_path, capsys, stage, parts, said):
    """Random weights would take its place, and nobody would know."""
    init = tmp_path / "init"
    init.mkdir()
    for name in parts:
        (init / name).symlink_to(embedded_model() / name)
    assert cli.main(["train", stage, "--bags", str(BAG), "--init", str(init), "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_finished_model_is_not_replaced_by_another_run(tmp_path, capsys):
    (tmp_path / "MODEL_CARD.md").write_text("hours of work")
    assert cli.main(["train", "all", "--bags", str(BAG), "--out", str(tmp_path)]) == 1
    assert f"{tmp_path} holds a finished model, which this run would replace: choose" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["MODEL_CARD.md"]
    require_unused(tmp_path, tmp_path / ".." / tmp_path.name)  # what goes on from it
    require_unused(tmp_path / "new", None)


def test_a_folder_stands_for_the_recordings_in_it(tmp_path, write_bag, moving_scene):
    write_bag(tmp_path / "bags" / "drive", moving_scene(1, 32, 48), [1])
    films = [tmp_path / "films" / name for name in ("a.mp4", "b.MP4", "notes.txt")]
    films[0].parent.mkdir()
    for film in films:
        film.touch()
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    given = [tmp_path / "bags", tmp_path / "films", BAG]
    args = parser.parse_args(["all", "--out", "out", "--bags", *map(str, given), "--held-out", str(tmp_path / "films")])
    with pytest.raises(SettingError, match=r"what is trained on: .*a.mp4, .*b.MP4$"):
        train.check(args)
    assert args.bags == [tmp_path / "bags" / "drive", *films[:2], BAG] and args.held_out == films[:2]


def test_a_run_that_does_not_go_on_names_all_that_differs_with_both_values(tmp_path, config):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    ranks, sizes = Ranks.join("cpu"), Sizes.of(Path(config))

    def unfinished(sizes: Sizes, *options: str) -> Unfinished:
        args = parser.parse_args(["all", "--out", str(tmp_path), *options])
        return Unfinished(tmp_path, train.deciding(args, sizes, ranks, []), args.resume, ranks)

    unfinished(sizes, "--bags", "a", "b").keep({"stages": []})
    others = replace(sizes, refiner_hypotheses=5, temperature=0.5)
    with pytest.raises(SettingError) as refused:
        unfinished(others, "--bags", "b", "c", "--refiner-steps", "7", "--resume")
    for words in (
        'bags: "a" only then, "c" only now',
        f"config.refiner_hypotheses was {sizes.refiner_hypotheses}, is 5 now",
        f"config.temperature was {sizes.temperature}, is 0.5 now",
        "refiner_steps was not set, is 7 now",
    ):
        assert words in str(refused.value)


def test_a_robot_that_no_package_brings_is_said_with_the_command_before_anything_is_filmed(
    tmp_path, capsys, monkeypatch
):
    pytest.importorskip("mujoco", reason="simulating needs requirements/train.txt")
    monkeypatch.setitem(models.ROBOTS, "ur5e", replace(models.ROBOTS["ur5e"], arm=Part("robosuite", "nowhere.xml")))
    assert cli.main(["train", "all", "--robots", "ur5e", "--out", str(tmp_path / "model")]) == 1
    errors = capsys.readouterr().err
    assert "robosuite" in errors and models.INSTALL in errors and errors.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_a_run_goes_on_only_with_the_robots_with_which_it_began(tmp_path, config):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_args(["all", "--out", str(tmp_path), "--config", config, "--episodes", "2", "--robots", "all"])
    ranks, sizes = Ranks.join("cpu"), Sizes.of(args.config)

    def unfinished(digest: str, resume: bool) -> Unfinished:
        robots = [models.RobotModel(models.ROBOTS["ur5e"], (), digest)]
        return Unfinished(tmp_path, train.deciding(args, sizes, ranks, robots), resume, ranks)

    unfinished("one version", resume=False).keep({"stages": []})
    assert unfinished("one version", resume=True).state
    with pytest.raises(
        SettingError, match=r'had other settings \(robots.ur5e was "one version", is "another version" now\)'
    ):
        unfinished("another version", resume=True)
