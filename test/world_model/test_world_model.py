"""Camera frames in, predicted frames out, on a whole small model in the published layout."""

import json
import shutil
import threading
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cosmos_ros import paths
from cosmos_ros.device.threads import CORES, set_cpu_threads
from cosmos_ros.errors import ModelUnavailable, SettingError
from cosmos_ros.world_model import ModelSpec, Sampling, WorldModel
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed
from cosmos_ros.world_model.decoding.window import WindowPass
from cosmos_ros.world_model.text_encoder import EMBEDDINGS_FILE

DRAWN = Sampling(seed=7, temperature=1.0, top_p=0.9)
WIDTH = 24


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return WorldModel.from_checkpoint(tiny_checkpoint, device="cpu")


@pytest.fixture
def checkpoint(make_checkpoint, tmp_path):
    """One whose files may be changed."""
    return make_checkpoint(tmp_path / "checkpoint")


def camera_frames(n, size=(48, 80), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def test_the_spec_says_what_the_directory_holds(tiny_checkpoint):
    spec = ModelSpec.of_checkpoint(tiny_checkpoint)
    assert (spec.name, spec.directory, spec.published, spec.takes_prompt) == ("tiny", tiny_checkpoint, False, False)
    assert (spec.frame_size, spec.frame_rate, spec.conditioning_lengths) == ((32, 64), 10.0, (9, 1))
    assert [spec.new_frames(n) for n in spec.conditioning_lengths] == [24, 32]


def tokens_of(model, given, context=None, sampling=DRAWN):
    return completed(model.passes(given, context, sampling))[0]


@pytest.mark.parametrize(("n_conditioning", "n_given", "n_new"), [(9, 16, 24), (1, 8, 32)])
def test_a_clip_becomes_the_frames_after_it(model, n_conditioning, n_given, n_new):
    given = model.tokenize(camera_frames(n_conditioning))
    steps = list(model.roll_out(given, model.encode_text(""), DRAWN, n_conditioning, n_new))
    frames = [some.pixels for step in steps for some in step.frames]
    assert given.shape == (n_given,)
    assert np.concatenate(frames).shape == (n_new, 32, 64, 3)
    assert all(part.dtype == np.uint8 for part in frames)
    done = [step.done for step in steps]
    assert done == sorted(done) and done[-1] == 40 - n_given == steps[-1].total
    assert [step.frames_ready for step in steps] == [count // 8 * 8 for count in done]
    assert [step.passes for step in steps[:3]] == [1, 2, 3] and steps[-1].passes <= 40 - n_given
    whole = np.concatenate(list(model.decode(tokens_of(model, given), n_conditioning)))
    assert np.array_equal(np.concatenate(frames), whole)


def test_the_seed_says_which_future(model):
    given = model.tokenize(camera_frames(9))
    futures = [tokens_of(model, given, sampling=Sampling(seed, 1.0, 0.9)).tolist() for seed in (7, 8, 7, 2**63 - 1)]
    assert futures[0] == futures[2]
    assert len({tuple(future) for future in futures}) == 3


def test_samples_of_a_batch_are_those_of_their_seeds_alone(model):
    given = model.tokenize(camera_frames(9))
    frames = {0: [], 1: [], 2: []}
    for step in model.roll_out(given, None, DRAWN, 9, 24, samples=3):
        for some in step.frames:
            frames[some.sample].append(some.pixels)
    for sample, parts in frames.items():
        alone = tokens_of(model, given, sampling=replace(DRAWN, seed=DRAWN.seed + sample))
        assert np.array_equal(np.concatenate(parts), np.concatenate(list(model.decode(alone, 9))))


def test_temperature_zero_is_the_same_for_every_seed(model):
    given = model.tokenize(camera_frames(9))
    one, two = (tokens_of(model, given, sampling=Sampling(seed, 0.0, 0.9)) for seed in (1, 2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("early", [False, True], ids=["at the end", "as tokens come"])
@pytest.mark.parametrize(("wanted", "latent_frames"), [(8, 3), (16, 4), (24, 5)])
def test_fewer_frames_take_fewer_tokens(model, wanted, latent_frames, early, monkeypatch):
    monkeypatch.setattr(model, "_by_groups", lambda: early)
    given = model.tokenize(camera_frames(9))
    steps = list(model.roll_out(given, None, DRAWN, 9, wanted))
    assert steps[-1].total == latent_frames * 8 - 16
    frames = np.concatenate([some.pixels for step in steps for some in step.frames])
    whole = np.concatenate(list(model.decode(tokens_of(model, given), 9)))
    assert frames.shape == (wanted, 32, 64, 3)
    assert np.abs(frames.astype(int) - whole[:wanted]).max() <= 1  # rounding: another number of frames at a time


def test_frames_are_decoded_while_later_tokens_are_being_decided(model, monkeypatch):
    monkeypatch.setattr(model, "_by_groups", lambda: True)
    decoded = threading.Event()
    decode = model._frames._decode

    def noted(tokens, first, camera):
        yield from decode(tokens, first, camera)
        decoded.set()

    monkeypatch.setattr(model._frames, "_decode", noted)
    monkeypatch.setattr(model, "_engine", WindowDecoder(model._engine.transformer, window=4))
    given = model.tokenize(camera_frames(9))
    early = []
    for step in model.roll_out(given, None, DRAWN, 9, 24):
        if step.done < step.total:
            early += step.frames
            if step.frames_ready == 8 and not early:
                assert decoded.wait(60)
    assert early, "the first latent frame was there before the last token"
    assert early[0].pixels.shape == (8, 32, 64, 3)


def test_a_decoder_that_looks_ahead_waits_for_all_tokens_and_the_log_says_so(model, monkeypatch, caplog):
    monkeypatch.setattr(model, "_device", torch.device("cuda"))  # where frames are decoded early if they can be
    monkeypatch.setitem(vars(model._frame_decoder), "by_groups", False)
    monkeypatch.delitem(vars(model), "_decodes_by_groups", raising=False)
    with caplog.at_level("INFO"):
        steps = list(model.roll_out(model.tokenize(camera_frames(9)), None, DRAWN, 9, 24))
    del model._decodes_by_groups
    assert "the discrete decoder looks at later tokens: frames are decoded once all of them are there" in caplog.text
    assert not any(step.frames for step in steps if step.done < step.total)
    assert sum(len(some.pixels) for step in steps for some in step.frames) == 24


@pytest.mark.parametrize("last_pass", [1, 2, 24])
def test_a_goal_can_be_ended_after_any_pass_and_the_next_one_succeeds(model, last_pass):
    given = model.tokenize(camera_frames(9))
    expected = tokens_of(model, given)
    with closing(model.roll_out(given, None, DRAWN, 9, 24)) as steps:
        assert [step.passes for step in islice(steps, last_pass)][:2] == [1, 2][:last_pass]
    assert torch.equal(tokens_of(model, given), expected)


def test_no_thread_of_an_earlier_rollout_waits_while_tokens_are_decided(tiny_checkpoint):
    """On a CPU its OpenMP helpers would slow down the passes."""
    others = set(threading.enumerate())
    model = WorldModel.from_checkpoint(tiny_checkpoint, device="cpu")
    given = model.tokenize(camera_frames(9))
    assert sum(len(some.pixels) for step in model.roll_out(given, None, DRAWN, 9, 24) for some in step.frames) == 24
    with closing(model.roll_out(given, None, DRAWN, 9, 24)) as steps:
        next(steps)
        assert set(threading.enumerate()) <= others


def test_half_of_the_cores_are_left_to_the_robot_unless_a_number_was_asked_for(model, monkeypatch):
    run = WindowPass.run
    monkeypatch.setattr(WindowPass, "run", lambda self: (at_work.append(torch.get_num_threads()), run(self)))
    given, at_work, before = model.tokenize(camera_frames(9)), [], torch.get_num_threads()

    def threads_at_work() -> set[int]:
        at_work.clear()
        outside = torch.get_num_threads()
        for _ in model.passes(given, None, DRAWN):
            assert torch.get_num_threads() == outside, "whoever takes the passes is not held to it"
        return set(at_work)

    try:
        torch.set_num_threads(2 * CORES)
        assert threads_at_work() == {max(1, CORES // 2)}
        assert torch.get_num_threads() == 2 * CORES
        torch.set_num_threads(1)
        assert threads_at_work() == {1}, "PyTorch was set to fewer"
        set_cpu_threads(CORES + 1)
        assert threads_at_work() == {CORES + 1}
    finally:
        set_cpu_threads(0)
        torch.set_num_threads(before)


def test_warming_up_changes_no_prediction(tiny_checkpoint, model):
    warm = WorldModel.from_checkpoint(tiny_checkpoint, device="cpu")
    warm.warm_up()
    given = warm.tokenize(camera_frames(9))
    assert torch.equal(tokens_of(warm, given), tokens_of(model, given))


def test_a_prompt_steers_a_model_that_takes_one(make_checkpoint, tmp_path):
    directory = make_checkpoint(tmp_path / "text", context_dim=WIDTH)
    # Far apart: with the same noise, a small difference between two texts would draw the same tokens.
    random = torch.Generator().manual_seed(0)
    prompts = {
        text: torch.randn(n, WIDTH, generator=random).bfloat16() * 1000 for n, text in [(400, "left"), (500, "right")]
    }
    save_file(prompts, directory / EMBEDDINGS_FILE)
    model = WorldModel.from_checkpoint(directory, device="cpu")
    assert model.spec.takes_prompt
    model.warm_up()
    given = model.tokenize(camera_frames(9))
    left, right, again = (tokens_of(model, given, model.encode_text(text)) for text in ("left", "right", "left"))
    assert left.shape == (40,) and torch.equal(left[:16], given)
    assert torch.equal(left, again) and not torch.equal(left, right)


def test_a_released_model_holds_nothing(tiny_checkpoint):
    model = WorldModel.from_checkpoint(tiny_checkpoint, device="cpu")
    model.release()
    assert not any(isinstance(value, torch.nn.Module) for value in vars(model).values())


def test_the_tokenizer_may_lie_elsewhere(checkpoint, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("encoder.jit", "decoder.jit"):
        shutil.move(checkpoint / name, elsewhere / name)
    with pytest.raises(ModelUnavailable, match="no encoder.jit and decoder.jit"):
        WorldModel.from_checkpoint(checkpoint, device="cpu")
    model = WorldModel.from_checkpoint(checkpoint, tokenizer=elsewhere, device="cpu")
    assert model.tokenize(camera_frames(1)).shape == (8,)


def test_a_model_made_for_another_frame_size_than_its_tokenizers_is_refused(checkpoint):
    (checkpoint / "config.json").write_text(json.dumps({"latent_shape": [5, 2, 4], "compression": [8, 16, 32]}))
    with pytest.raises(ModelUnavailable, match=r"makes \[5, 2, 8\] tokens"):
        WorldModel.from_checkpoint(checkpoint, device="cpu")


def test_a_tokenizer_with_more_tokens_than_the_model_knows_is_refused(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    for name in ("tok_embeddings.weight", "output.weight"):
        weights[name] = weights[name][:10].clone()
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(ModelUnavailable, match="the model knows only 10"):
        WorldModel.from_checkpoint(checkpoint, device="cpu")


def test_a_file_in_place_of_its_directory_is_refused(tiny_checkpoint):
    with pytest.raises(ModelUnavailable, match="give the directory"):
        ModelSpec.of_checkpoint(tiny_checkpoint / "model.safetensors")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"device": "tpu9"}, "device must be auto, cpu, cuda"),
        ({"device": "mps"}, "device must be auto, cpu, cuda"),
        ({"device": "cuda:99"}, "cuda:99 is not there"),
        ({"device": "cpu", "dtype": "int4"}, "dtype must be auto, float32, bfloat16 or fp8"),
    ],
)
def test_a_device_or_precision_that_is_not_there_is_refused(tiny_checkpoint, setting, said):
    with pytest.raises(SettingError, match=said):
        WorldModel.from_checkpoint(tiny_checkpoint, **setting)


def test_the_model_that_ships_is_the_default(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(paths, "embedded_model", lambda: tiny_checkpoint)
    assert ModelSpec.of_checkpoint().directory == tiny_checkpoint

    def absent():
        raise FileNotFoundError("no share/cosmos_ros")

    monkeypatch.setattr(paths, "embedded_model", absent)
    with pytest.raises(ModelUnavailable, match="no share/cosmos_ros"):
        ModelSpec.of_checkpoint()


def test_another_frame_size_is_another_grid(tiny_checkpoint):
    spec = ModelSpec.of_checkpoint(tiny_checkpoint)
    small = spec.at("16x32")
    assert (small.frame_size, small.config.latent_shape, spec.at("")) == ((16, 32), (5, 1, 2), spec)
    model = WorldModel.from_checkpoint(small, device="cpu")
    given = model.tokenize(camera_frames(9))
    frames = [some.pixels for step in model.roll_out(given, None, DRAWN, 9, 24) for some in step.frames]
    assert given.shape == (4,) and np.concatenate(frames).shape == (24, 16, 32, 3)


@pytest.mark.parametrize("size", ["48x64", "32x80", "24x64", "32x40", "0x64", "32x0"])
def test_a_frame_size_that_tokens_do_not_fit_is_refused(tiny_checkpoint, size):
    with pytest.raises(SettingError, match=f"frame_size must be .* up to 32x64; got {size}"):
        ModelSpec.of_checkpoint(tiny_checkpoint).at(size)


def test_where_the_device_cannot_multiply_in_8_bits_it_says_so(tiny_checkpoint, model, caplog):
    other = WorldModel.from_checkpoint(tiny_checkpoint, device="cpu", dtype="fp8")
    assert "cpu does not multiply in 8 bits; the transformer computes in torch.float32" in caplog.text
    assert other.decoding.dtype == model.decoding.dtype == "float32"
    given = model.tokenize(camera_frames(9))
    assert torch.equal(tokens_of(other, given), tokens_of(model, given))


def test_8_bits_and_several_gpus_do_not_go_together(tiny_checkpoint):
    with pytest.raises(SettingError, match="fp8 works on one GPU"):
        WorldModel.from_checkpoint(tiny_checkpoint, device="cpu", dtype="fp8", gpus=2)
