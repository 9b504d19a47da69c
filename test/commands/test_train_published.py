"""`cosmos_ros train --init` one of NVIDIA's models: tiny ones of exactly the published format, known by their names."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cosmos_ros.commands import cli, train
from cosmos_ros.errors import SettingError
from cosmos_ros.paths import embedded_model
from cosmos_ros.training import loop
from cosmos_ros.training import run as training_run
from cosmos_ros.training.own_model import is_sayable
from cosmos_ros.training.published_model import PublishedModel
from cosmos_ros.world_model import ModelSpec, WorldModel, load_transformer
from cosmos_ros.world_model.checkpoints.transformer_weights import open_checkpoint, shard_axis

NAME = "Cosmos-1.0-Autoregressive-4B"
FEW = ["--world-model-steps", "2", "--world-model-batch", "2", "--refiner-steps", "2", "--windows", "3"]
FEW += ["--rollouts", "4", "--device", "cpu", "--pictures", "0"]


@pytest.fixture(scope="module")
def bag(tmp_path_factory, write_bag, moving_scene):
    stamps = [1_700_000_000_000_000_000 + i * 100_000_000 for i in range(97)]
    return str(write_bag(tmp_path_factory.mktemp("bags") / "drive", moving_scene(97, 64, 96), stamps))


@pytest.fixture(scope="module")
def published(make_checkpoint, tmp_path_factory) -> Path:
    """model.safetensors in float32, without text."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / NAME)


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1e9)
    monkeypatch.setattr(loop, "NOTE_EVERY", 1)
    monkeypatch.setattr(training_run, "write_pictures", lambda *_: None)


def losses(out: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_amounts_suit_clips_of_thousands_of_tokens_and_rollouts_can_be_done_without(published, bag):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    options = ["refiner", "--bags", bag, "--out", "out", "--init"]
    args = parser.parse_args([*options, str(published), "--rollouts", "0"])
    train.check(args)
    assert (args.world_model_batch, args.windows, args.rollouts) == (4, 1000, 0)
    args = parser.parse_args([*options, str(embedded_model())])
    train.check(args)
    assert (args.world_model_batch, args.windows, args.rollouts) == (64, 50000, 8192)
    args.rollouts = 0
    with pytest.raises(SettingError, match="--rollouts must be positive"):
        train.check(args)


def test_the_world_model_is_trained_further_and_the_node_loads_it_as_it_is(tmp_path, bag, published):
    out = tmp_path / "mine"
    options = ["--init", str(published), "--out", str(out), "--bags", bag, *FEW]
    assert cli.main(["train", "world-model", *options]) == 0
    spec = ModelSpec.of_checkpoint(out)
    assert (spec.published, spec.name, spec.frame_rate) == (True, NAME, 10.0), "it keeps needing NVIDIA's guardrail"
    assert (out / "encoder.jit").samefile(published / "encoder.jit"), "linked, not copied"
    before, after = (load_file(folder / "model.safetensors") for folder in (published, out))
    assert {name.removeprefix("model.") for name in after} == set(before)
    assert all(after[f"model.{name}"].dtype == weight.dtype for name, weight in before.items())
    changes = [(after[f"model.{name}"] - weight).abs().max().item() for name, weight in before.items()]
    assert min(changes) > 0 and max(changes) < 1e-3, "every tensor was trained, by a small rate"
    assert WorldModel.from_checkpoint(out, device="cpu").spec.name == NAME
    figures = json.loads((out / "evaluation.json").read_text())
    assert figures["clips"] == 1 and figures["sizes"]["learning_rate"] == 1e-4
    card = (out / "MODEL_CARD.md").read_text()
    assert "Built on NVIDIA Cosmos." in card and f"went on from {NAME}" in card and "| world-model | 2 | 160 |" in card
    assert not (out / "unfinished").exists()
    assert [step for step, _ in losses(out)] == [1, 2]


def test_a_refiner_is_added_at_the_size_of_the_published_frames(tmp_path, bag, published):
    config = tmp_path / "config.yaml"
    config.write_text("{refiner_channels: [4, 4, 4, 4], frame_rate: 8.0, frame_size: [32, 48]}")
    out = tmp_path / "mine"
    options = ["--init", str(published), "--out", str(out), "--bags", bag, "--config", str(config), *FEW]
    assert cli.main(["train", "refiner", *options]) == 0
    assert (out / "model.safetensors").samefile(published / "model.safetensors")
    spec = ModelSpec.of_checkpoint(out)
    assert (spec.frame_size, spec.frame_rate) == ((32, 48), 8.0)
    assert WorldModel.from_checkpoint(out, device="cpu").decoding.refined
    told = (out / "training.jsonl").read_text()
    assert '"windows": 1, "of_each": 4, "round_trips": 2' in told
    assert "- refiner: 0.0 million parameters" in (out / "MODEL_CARD.md").read_text()


def test_a_killed_run_goes_on_with_the_same_losses_and_bytes_and_reads_its_prompt(
    tmp_path, bag, tiny_text_checkpoint, known_prompt, monkeypatch, capsys
):
    init = tmp_path / "Cosmos-1.0-Autoregressive-5B-Video2World"
    shutil.copytree(tiny_text_checkpoint, init)
    weights = {f"model.{name}": w.to(torch.bfloat16) for name, w in load_file(init / "model.safetensors").items()}
    (init / "model.safetensors").unlink()
    torch.save({"model": weights, "iteration": 7}, init / "model.pt")
    options = ["--init", str(init), "--bags", bag, "--prompt", known_prompt, *FEW]
    whole, broken = tmp_path / "a" / "mine", tmp_path / "b" / "mine"
    assert cli.main(["train", "world-model", "--out", str(whole), *options]) == 0
    seeded = loop.keyed

    def killed(seed: int, name: str, step: int, rank: int) -> torch.Generator:
        if (name, step) == ("world-model", 1):
            raise KeyboardInterrupt
        return seeded(seed, name, step, rank)

    monkeypatch.setattr(loop, "keyed", killed)
    assert cli.main(["train", "world-model", "--out", str(broken), *options]) == 130
    assert open_checkpoint(broken).shapes == open_checkpoint(init).shapes, "a whole model, with a step's training"
    assert [file.name for file in (broken / "unfinished").glob("part-*")] == ["part-0-1.pt"]
    monkeypatch.setattr(loop, "keyed", seeded)
    assert cli.main(["train", "world-model", "--out", str(broken), *options, "--resume"]) == 0
    assert losses(broken) == losses(whole)
    one, other = (torch.load(out / "model.pt", weights_only=True) for out in (whole, broken))
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == torch.bfloat16 for name in weights)
    assert (whole / "text_embeddings.safetensors").is_file()
    capsys.readouterr()
    options[options.index(known_prompt)] = "something that no embedding is there for"
    assert cli.main(["train", "world-model", "--out", str(tmp_path / "c"), *options]) == 1
    assert "no precomputed embedding is named by this prompt" in capsys.readouterr().err


def test_shards_become_one_file_that_is_replaced_in_one_go(tmp_path, bag, published):
    init = tmp_path / NAME
    shutil.copytree(published, init)
    whole = load_file(init / "model.safetensors")
    (init / "model.safetensors").unlink()
    for rank in range(2):
        parts = {name: w if (axis := shard_axis(name)) is None else w.chunk(2, axis)[rank] for name, w in whole.items()}
        torch.save({f"model.{name}": part.clone() for name, part in parts.items()}, init / f"model_model_mp_{rank}.pt")
    out = tmp_path / "mine"
    assert cli.main(["train", "world-model", "--init", str(init), "--out", str(out), "--bags", bag, *FEW]) == 0
    assert {file.name for file in out.glob("*.pt")} == {"model.pt"}
    trained = load_transformer(out, device="cpu").state_dict()
    assert all((trained[name] - weight).abs().max() < 1e-3 for name, weight in whole.items())


TWO = r"""
import sys
from cosmos_ros.commands import cli
from cosmos_ros.training import loop, run
loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE, loop.NOTE_EVERY = 0, 1e9, 1
run.write_pictures = lambda *_: None
seeded, (whole, broken, *options) = loop.keyed, sys.argv[1:]
def killed(seed, name, step, rank):
    if step == 1 and name == "world-model":
        raise KeyboardInterrupt
    return seeded(seed, name, step, rank)
assert cli.main(["train", "world-model", "--out", whole, *options]) == 0
loop.keyed = killed
assert cli.main(["train", "world-model", "--out", broken, *options]) == 130
loop.keyed = seeded
assert cli.main(["train", "world-model", "--out", broken, *options, "--resume"]) == 0
"""


@pytest.mark.processes
@pytest.mark.slow
def test_two_ranks_each_keep_their_part_and_go_on_as_if_nothing_had_happened(tmp_path, bag, published):
    script, whole, broken = tmp_path / "train.py", tmp_path / "a" / "mine", tmp_path / "b" / "mine"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    options = ["--init", str(published), "--bags", bag, *FEW]
    done = subprocess.run(
        [*command, str(whole), str(broken), *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert losses(whole) == losses(broken) and len(losses(whole)) == 2
    one, other = (load_file(out / "model.safetensors") for out in (whole, broken))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    assert open_checkpoint(whole).shapes == open_checkpoint(published).shapes


def test_somebody_elses_model_is_trained_as_published_ones_are_and_keeps_its_name(tmp_path, bag, tiny_checkpoint):
    """Neither NVIDIA's nor ours: its tokenizer is a program that we know nothing of, in a folder of its own."""
    theirs, refined, trained = tmp_path / "theirs", tmp_path / "refined", tmp_path / "trained"
    shutil.copytree(tiny_checkpoint, theirs)
    (theirs / "tokenizer").mkdir()
    for name in ("encoder.jit", "decoder.jit"):
        (theirs / name).rename(theirs / "tokenizer" / name)
    config = tmp_path / "config.yaml"
    config.write_text("refiner_channels: [4, 4, 4, 4]")
    options = ["--bags", bag, "--config", str(config), *FEW]
    assert cli.main(["train", "refiner", "--init", str(theirs), "--out", str(refined), *options]) == 0
    spec = ModelSpec.of_checkpoint(refined)
    assert (spec.name, spec.published, spec.frame_size) == ("tiny", False, (32, 64))
    assert WorldModel.from_checkpoint(refined, device="cpu").decoding.refined
    assert (refined / "encoder.jit").samefile(theirs / "tokenizer" / "encoder.jit")
    assert "Built on NVIDIA" not in (refined / "MODEL_CARD.md").read_text()
    assert cli.main(["train", "world-model", "--init", str(refined), "--out", str(trained), *options]) == 0
    model = WorldModel.from_checkpoint(trained, device="cpu")
    assert model.spec.name == "tiny" and model.decoding.refined
    before, after = (load_transformer(out, device="cpu").state_dict() for out in (theirs, trained))
    assert all(0 < (after[name] - weight).abs().max() < 1e-3 for name, weight in before.items())


def test_whose_a_model_is_shows_in_its_tokenizer_and_in_its_transformer(
    tmp_path, tiny_checkpoint, tiny_text_checkpoint
):
    ours = embedded_model()
    assert not train.is_made_elsewhere(ours) and not train.is_made_elsewhere(None)
    assert train.is_made_elsewhere(tiny_checkpoint) and train.is_made_elsewhere(tiny_text_checkpoint)
    mixed = tmp_path / "mixed"
    shutil.copytree(ours, mixed)
    shutil.copy(tiny_checkpoint / "decoder.jit", mixed)
    assert train.is_made_elsewhere(mixed), "one program of another tokenizer"
    shutil.copy(ours / "decoder.jit", mixed)
    settings = json.loads((ours / "config.json").read_text())
    (mixed / "config.json").write_text(json.dumps(settings | {"rope_theta": 10_000.0}))
    assert train.is_made_elsewhere(mixed), "no sizes in --config make this transformer"
    wide_heads = replace(ModelSpec.of_checkpoint(ours).config, n_heads=128)
    assert not is_sayable(wide_heads), "nor one whose heads are together wider than itself"
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(ours / "encoder.jit", alone)
    assert not train.is_made_elsewhere(alone), "a tokenizer of ours without a transformer"
    shutil.copy(tiny_checkpoint / "encoder.jit", alone)
    with pytest.raises(SettingError, match="a tokenizer that was made elsewhere, .* expected model.pt or"):
        train.is_made_elsewhere(alone)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("tokenizer",), "its tokenizer is a finished program that cannot be trained"),
        (("all",), "Give the stage world-model or refiner"),
        (("refiner", "--init", "{tmp}/bare"), "no encoder.jit and decoder.jit, nor an autoencoder.jit, in"),
        (("world-model", "--init", "{tmp}/half"), "does not hold the expected tensors: missing norm.weight"),
        (("world-model", "--prompt", "a robot"), "--prompt: tiny reads no prompt"),
        (("world-model", "--out", "{init}"), "--out and --init are the same directory"),
        (("world-model", "--config", "{tmp}/wide.yaml"), "frame_size must be height x width, the height a multiple"),
        (
            ("world-model", "--config", "{tmp}/layers.yaml"),
            "expected a mapping of camera_times, frame_rate, ",
        ),
        (("world-model", "--config", "{tmp}/rate.yaml"), "out of range: expected frame_rate 0.001 to 1000"),
        (("world-model", "--out", "{tmp}/other"), "other holds other weights, model.pt; choose an empty directory"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(tmp_path, published, bag, capsys, options, said):
    for name, text in {"wide": "frame_size: [640, 1024]", "layers": "layers: 3", "rate": "frame_rate: -1"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    shutil.copytree(published, tmp_path / "half")
    shutil.copytree(published, tmp_path / "bare", ignore=shutil.ignore_patterns("*.jit"))
    weights = load_file(published / "model.safetensors")
    save_file({name: w for name, w in weights.items() if name != "norm.weight"}, tmp_path / "half/model.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.pt").touch()
    given = [option.format(init=published, tmp=tmp_path) for option in options]
    out = [] if "--out" in given else ["--out", str(tmp_path / "out")]
    init = [] if "--init" in given else ["--init", str(published)]
    before = sorted(published.iterdir())
    assert cli.main(["train", *given, *out, *init, "--bags", bag]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("cosmos_ros train: ") and said in errors and errors.count("\n") == 1
    assert sorted(published.iterdir()) == before and not (tmp_path / "out" / "model.safetensors").exists()


def test_a_disk_that_would_fill_up_is_said_before_anything_is_trained(tmp_path, published, bag, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    options = ["--init", str(published), "--out", str(tmp_path / "out"), "--bags", bag, *FEW]
    assert cli.main(["train", "world-model", *options]) == 1
    assert "and 0.0 GB are free; choose another disk" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_disk_that_is_full_in_the_middle_leaves_the_last_whole_model(tmp_path, published, bag, capsys, monkeypatch):
    def full(self: PublishedModel, _loss: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PublishedModel, "_export_weights", full)
    out = tmp_path / "out"
    assert cli.main(["train", "world-model", "--init", str(published), "--out", str(out), "--bags", bag, *FEW]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()
