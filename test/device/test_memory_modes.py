"""A world model gives the same frames in every memory mode, from the same checkpoint."""

from contextlib import closing

import numpy as np
import pytest

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import plan_memory
from cosmos_ros.pipeline import PIPELINE, needs_of
from cosmos_ros.world_model import ModelSpec, Sampling, WorldModel

SAMPLING = Sampling(seed=3, temperature=1.0, top_p=0.9)


def rollout(model: WorldModel, prompt: str, seed: int) -> np.ndarray:
    height, width = model.spec.frame_size
    frames = np.random.default_rng(seed).integers(0, 256, (9, height, width, 3), dtype=np.uint8)
    steps = model.roll_out(model.tokenize(frames), model.encode_text(prompt), SAMPLING, 9, n_frames=24)
    return np.concatenate([some.pixels for step in steps for some in step.frames])


def in_mode(checkpoint, mode: str) -> WorldModel:
    memory = DeviceMemory("cpu", plan_memory(needs_of(ModelSpec.of_checkpoint(checkpoint)), PIPELINE, 10**9, mode))
    return WorldModel.from_checkpoint(checkpoint, device="cpu", memory=memory)


@pytest.mark.parametrize("mode", ["auto", "balanced", "low"])
@pytest.mark.parametrize("text", [False, True], ids=["base", "text"])
def test_parking_changes_no_pixel(mode, text, request, known_prompt):
    checkpoint = request.getfixturevalue("tiny_text_checkpoint" if text else "tiny_checkpoint")
    prompt = known_prompt if text else ""
    fast, other = WorldModel.from_checkpoint(checkpoint, device="cpu"), in_mode(checkpoint, mode)
    other.warm_up()
    for seed in (1, 2):
        assert np.array_equal(rollout(other, prompt, seed), rollout(fast, prompt, seed))


def test_a_generation_that_ends_early_leaves_a_parked_model_fit(tiny_checkpoint):
    model = in_mode(tiny_checkpoint, "low")
    expected = rollout(model, "", 1)
    tokens = model.tokenize(np.zeros((9, *model.spec.frame_size, 3), np.uint8))

    with closing(model.roll_out(tokens, None, SAMPLING, 9, n_frames=24)) as steps:
        next(steps)
    assert np.array_equal(rollout(model, "", 1), expected)


@pytest.mark.parametrize("n_frames", [24, 8])
def test_no_network_works_while_it_waits_in_host_memory(n_frames, tiny_checkpoint, monkeypatch):
    """On a GPU it would fail there, and a measurement that failed was taken for its answer."""
    model = in_mode(tiny_checkpoint, "low")
    outside = []

    def watched(run):
        def work(given):
            if not model._programs._users:
                outside.append(run.__name__)
            return run(given)

        return work

    for name in ("_encode", "_decode"):
        monkeypatch.setattr(model._tokenizer, name, watched(getattr(model._tokenizer, name)))
    given = model.tokenize(np.zeros((9, *model.spec.frame_size, 3), np.uint8))
    steps = list(model.roll_out(given, None, SAMPLING, 9, n_frames))
    assert sum(len(some.pixels) for step in steps for some in step.frames) == n_frames
    assert outside == []
