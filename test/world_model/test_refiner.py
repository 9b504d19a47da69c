"""The refiner between the frame decoder and the guards: its contract, and what it is refused for."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cosmos_ros import Clip, Foresight
from cosmos_ros.errors import InvalidGoal, ModelUnavailable, NotFinite
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.world_model import Sampling, WorldModel
from cosmos_ros.world_model.refiner import MOST_TIMES_THE_MODEL, PROGRAM, Refiner, faded, refiner_need

pytestmark = pytest.mark.slow  # as a whole

DRAWN = Sampling(seed=7, temperature=1.0, top_p=0.9)
SIZE = (48, 96)  # of the camera, 1.5 times the tiny model's


class HalfAndHalf(nn.Module):
    """The last camera frame and the newest decoded frames, half and half; brighter by how many were decoded."""

    def __init__(self, step: int = 8, gain: float = 0.5) -> None:
        super().__init__()
        self.step, self.gain = step, nn.Parameter(torch.tensor(gain))

    def forward(self, decoded: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        group = decoded[:, :, decoded.shape[2] - self.step :]
        height, width = conditioning.shape[3], conditioning.shape[4]
        large = F.interpolate(group[0].transpose(0, 1), size=(height, width), mode="nearest")
        last = conditioning[:, :, conditioning.shape[2] - 1 :]
        return self.gain * large.transpose(0, 1)[None] + 0.5 * last


class Several(nn.Module):
    """Of several hypotheses: the last camera frame, brighter by each one's number. One may trust the tokens."""

    def __init__(self, hypotheses: int = 3, trusting: object = None) -> None:
        super().__init__()
        self.hypotheses, self.gain = hypotheses, nn.Parameter(torch.tensor(0.1))
        if trusting is not None:
            self.trusting = trusting

    def forward(self, decoded: torch.Tensor, conditioning: torch.Tensor, hypothesis: int) -> torch.Tensor:
        last = conditioning[:, :, conditioning.shape[2] - 1 :].expand(-1, -1, 8, -1, -1)
        return 0.5 * last + self.gain * hypothesis


class Pretender(HalfAndHalf):
    """Says that it has several hypotheses, and takes no number."""

    def __init__(self) -> None:
        super().__init__()
        self.hypotheses = 2


class OfAnotherSize(nn.Module):
    def forward(self, decoded: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        return decoded[:, :, :8]


def put_refiner(checkpoint, module):
    torch.jit.script(module.eval()).save(str(checkpoint / PROGRAM))
    return checkpoint


@pytest.fixture
def refined_checkpoint(make_checkpoint, tmp_path):
    return put_refiner(make_checkpoint(tmp_path / "checkpoint"), HalfAndHalf())


def camera_frames(n, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def clip_of(frames):
    return Clip(frames, tuple(k * 100_000_000 for k in range(len(frames))), 10.0)


@pytest.mark.parametrize(("n_conditioning", "n_new"), [(9, 24), (1, 32)])
def test_refined_frames_are_the_cameras_size_and_made_of_its_last_frame(refined_checkpoint, n_conditioning, n_new):
    model, camera = WorldModel.from_checkpoint(refined_checkpoint, device="cpu"), camera_frames(n_conditioning)
    tokens = model.tokenize(camera)
    steps = model.roll_out(tokens, None, DRAWN, n_conditioning, n_new, camera=camera)
    some = [frames for step in steps for frames in step.frames]
    refined = np.concatenate([each.pixels for each in some]).astype(int)
    unrefined = np.concatenate([each.unrefined for each in some])
    assert refined.shape == (n_new, *SIZE, 3) and unrefined.shape == (n_new, 32, 64, 3)
    large = unrefined.repeat(2, 1).repeat(2, 2)[:, : SIZE[0], : SIZE[1]]
    nearest = F.interpolate(torch.from_numpy(unrefined).permute(0, 3, 1, 2).float(), size=SIZE, mode="nearest")
    expected = 0.5 * nearest.permute(0, 2, 3, 1).numpy() + 0.5 * camera[-1]
    for first in range(8, n_new, 8):  # of each later group
        before, *mixed = expected[first - 1 : first + 2].copy()
        expected[first], expected[first + 1] = (before * 2 + mixed[0]) / 3, (before + mixed[1] * 2) / 3
    assert large.shape == refined.shape
    assert np.abs(refined - expected).max() <= 2  # both were cut to whole levels


def test_a_group_begins_with_less_and_less_of_the_frame_before_it():
    group, before = np.full((8, 2, 3, 3), 200, np.uint8), np.full((2, 3, 3), 50, np.uint8)
    assert [int(frame[0, 0, 0]) for frame in faded(group, before)] == [100, 150] + 6 * [200]
    assert faded(group[:1], before).tolist() == np.full((1, 2, 3, 3), 100).tolist(), "as many frames as there are"
    assert (group == 200).all() and (before == 50).all(), "what it was made of stays"


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_what_does_not_change_from_one_group_to_the_next_stays_as_it_is(level):
    group = np.full((8, 1, 1, 3), level, np.uint8)
    assert np.array_equal(faded(group, group[0]), group)


def test_samples_of_a_batch_are_faded_from_their_own_frames(refined_checkpoint):
    """Several at once, each with what it alone would have had."""
    foresight = Foresight.from_config({"checkpoint": str(refined_checkpoint), "device": "cpu"})
    clip = clip_of(camera_frames(9))
    together = foresight.predict_samples(clip, 3, seed=3, temperature=1.0)
    for seed, sample in enumerate(together, 3):
        assert np.array_equal(sample.frames, foresight.predict(clip, seed=seed, temperature=1.0).frames)


@pytest.mark.parametrize("n_frames", [8, 9, 17])
def test_frames_are_the_same_pixels_whatever_is_predicted_after_them(refined_checkpoint, n_frames):
    model, camera = WorldModel.from_checkpoint(refined_checkpoint, device="cpu"), camera_frames(9)
    tokens = model.tokenize(camera)

    def rollout(n_frames):
        steps = model.roll_out(tokens, None, DRAWN, 9, n_frames, camera=camera)
        return np.concatenate([some.pixels for step in steps for some in step.frames])

    assert np.array_equal(rollout(n_frames), rollout(24)[:n_frames])


def test_a_rollout_says_that_it_was_refined(refined_checkpoint, tiny_checkpoint):
    clip = clip_of(camera_frames(9))
    refined = Foresight.from_config({"checkpoint": str(refined_checkpoint), "device": "cpu"}).predict(clip, seed=3)
    assert refined.decoding.refined and refined.frames.shape == (24, *SIZE, 3)
    assert (
        not Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})
        .predict(clip, seed=3)
        .decoding.refined
    )


@pytest.mark.parametrize("size", [SIZE, (75, 131)])
def test_in_a_later_stretch_the_refined_frames_stand_for_the_cameras_at_their_own_size(
    refined_checkpoint, monkeypatch, size
):
    """The larger camera's view is not quite of the model's aspect: cutting it again would take off a row each time."""
    foresight = Foresight.from_config({"checkpoint": str(refined_checkpoint), "device": "cpu"})
    foresight.load()
    refiner, seen = foresight._model._refiner, []
    refine = refiner.refine
    monkeypatch.setattr(refiner, "refine", lambda _, camera, *more: seen.append(camera) or refine(_, camera, *more))
    clip = clip_of(camera_frames(9, size))
    rollouts = foresight.predict_samples(clip, 2, seed=3, temperature=1.0, frames=32)
    assert len(seen) == 2 * (3 + 1)
    levels = [((camera[0] + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy() for camera in seen[-2:]]
    assert {frames.tobytes() for frames in levels} == {rollout.frames[15:24].tobytes() for rollout in rollouts}
    alone = foresight.predict(clip, seed=4, temperature=1.0, frames=32)
    assert np.array_equal(alone.frames, rollouts[1].frames)


def hypotheses_of(frames: np.ndarray, last: np.ndarray) -> list[int]:
    """Which hypothesis of `Several` made each frame of the camera's last one."""
    brighter = (frames / 127.5 - 1) - 0.5 * (last / 127.5 - 1)
    return [round(10 * each.mean()) for each in brighter]


def test_a_samples_seed_says_which_hypothesis_refines_it_in_every_stretch(make_checkpoint, tmp_path):
    checkpoint = put_refiner(make_checkpoint(tmp_path / "several"), Several())
    foresight, camera = Foresight.from_config({"checkpoint": str(checkpoint), "device": "cpu"}), camera_frames(9)
    rollouts = foresight.predict_samples(clip_of(camera), 4, seed=4, temperature=1.0, frames=32)
    for rollout, expected in zip(rollouts, (1, 2, 0, 1), strict=True):
        assert rollout.decoding.hypothesis == expected
        first, later = rollout.frames[:24], rollout.frames[24:]
        assert hypotheses_of(first, camera[-1]) == [expected] * 24
        assert hypotheses_of(later, first[-1]) == [expected] * 8
    alone = foresight.predict(clip_of(camera), seed=5, temperature=1.0, frames=32)
    assert np.array_equal(alone.frames, rollouts[1].frames)


def test_hypotheses_of_a_greedy_rollout_come_one_by_one_by_their_seeds(make_checkpoint, tmp_path):
    checkpoint = put_refiner(make_checkpoint(tmp_path / "several"), Several())
    foresight, clip = Foresight.from_config({"checkpoint": str(checkpoint), "device": "cpu"}), clip_of(camera_frames(9))
    greedy = [foresight.predict(clip, seed=seed, temperature=0.0, frames=8) for seed in range(3)]
    assert [hypotheses_of(rollout.frames, clip.frames[-1]) for rollout in greedy] == [[k] * 8 for k in range(3)]
    with pytest.raises(InvalidGoal, match="at temperature 0 all 3 samples would have the same tokens"):
        foresight.predict_samples(clip, 3, seed=0, temperature=0.0)


@pytest.mark.parametrize(("says", "expected"), [(None, 0), (0, 0), (1, 1), (2, 2)])
def test_a_round_trip_is_refined_by_the_hypothesis_that_trusts_the_tokens(make_checkpoint, tmp_path, says, expected):
    checkpoint = put_refiner(make_checkpoint(tmp_path / "several"), Several(trusting=says))
    foresight, whole = Foresight.from_config({"checkpoint": str(checkpoint), "device": "cpu"}), camera_frames(33)
    trip = foresight.reconstruct(clip_of(whole))
    assert trip.decoding.hypothesis == expected
    assert hypotheses_of(trip.frames[:8], whole[0]) + hypotheses_of(trip.frames[8:], whole[8]) == [expected] * 32
    samples = foresight.predict_samples(clip_of(whole[:9]), 4, seed=3, temperature=1.0, frames=8)
    assert [sample.decoding.hypothesis for sample in samples] == [0, 1, 2, 0], "seeds choose as they always do"
    assert [hypotheses_of(sample.frames, whole[8])[0] for sample in samples] == [0, 1, 2, 0]


def test_a_round_trip_is_refined_as_a_rollout_is(refined_checkpoint):
    whole = camera_frames(33)
    foresight = Foresight.from_config({"checkpoint": str(refined_checkpoint), "device": "cpu"})
    frames = foresight.reconstruct(clip_of(whole)).frames.astype(int)
    assert frames.shape == (32, *SIZE, 3)
    model = WorldModel.from_checkpoint(refined_checkpoint, device="cpu")
    decoded = np.concatenate(list(model.decode(model.tokenize(whole), 1)))
    large = F.interpolate(torch.from_numpy(decoded).permute(0, 3, 1, 2).float(), size=SIZE, mode="nearest")
    seen = np.where(np.arange(32)[:, None, None, None] < 8, whole[0], whole[8])
    assert np.abs(frames - (0.5 * large.permute(0, 2, 3, 1).numpy() + 0.5 * seen)).max() <= 2


def test_what_the_model_gave_is_judged_before_a_refiner_hides_it(make_checkpoint, tmp_path, monkeypatch):
    """A refiner that only copies from the camera makes pictures of nothing; the guard sees the nothing."""
    checkpoint = put_refiner(make_checkpoint(tmp_path / "copies"), HalfAndHalf(gain=0.0))
    foresight = Foresight.from_config({"checkpoint": str(checkpoint), "device": "cpu"})
    foresight.load()
    shapes = []
    for guard in foresight.guardrail.guards.content:
        judge = guard.judge
        monkeypatch.setattr(
            guard, "judge", lambda frames, judge=judge: shapes.append(frames.shape[1:3]) or judge(frames)
        )
    rollout = foresight.predict(clip_of(camera_frames(9)), seed=1)
    assert rollout.guardrail.decisions[0].verdict is Verdict.PASSED
    assert shapes == [(32, 64), SIZE] * 3


def test_a_camera_much_larger_than_the_model_is_refined_smaller_and_enlarged(refined_checkpoint):
    size = (32 * MOST_TIMES_THE_MODEL * 2, 64 * MOST_TIMES_THE_MODEL * 2)
    model = WorldModel.from_checkpoint(refined_checkpoint, device="cpu")
    camera = camera_frames(1, size)
    steps = model.roll_out(model.tokenize(camera), None, DRAWN, 1, 8, camera=camera)
    pixels = np.concatenate([some.pixels for step in steps for some in step.frames])
    assert pixels.shape == (8, 32 * MOST_TIMES_THE_MODEL, 64 * MOST_TIMES_THE_MODEL, 3)
    clip = Clip(camera, (0,), 10.0)
    foresight = Foresight.from_config({"checkpoint": str(refined_checkpoint), "device": "cpu"})
    assert foresight.predict(clip, seed=0, frames=8).frames.shape == (8, *size, 3)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (OfAnotherSize(), "was expected"),
        (HalfAndHalf(step=4), "was expected"),
        (Several(hypotheses=0), "says that it has 0 hypotheses, expected 1 or more"),
        (Several(hypotheses=1), "the refiner cannot take frames of 32x64 in groups of 8"),
        (Several(trusting=True), "its hypothesis True trusts the tokens, and it has 0 to 2"),
        (Several(trusting=-1), "its hypothesis -1 trusts the tokens, and it has 0 to 2"),
        (Several(trusting=3), "its hypothesis 3 trusts the tokens, and it has 0 to 2"),
        (Several(trusting=1.5), "its hypothesis 1.5 trusts the tokens, and it has 0 to 2"),
        (Pretender(), "the refiner cannot take frames of 32x64 in groups of 8"),
        (nn.Conv2d(3, 3, 1), "frames of 32x64 in groups of 8, of which frame_size may be the reason .*multiples of 16"),
    ],
)
def test_a_refiner_that_does_not_fit_is_refused(make_checkpoint, tmp_path, module, message):
    checkpoint = put_refiner(make_checkpoint(tmp_path / "misfit"), module)
    with pytest.raises(ModelUnavailable, match=message) as refusal:
        WorldModel.from_checkpoint(checkpoint, device="cpu")
    assert PROGRAM in str(refusal.value) and "remove the file" in str(refusal.value)


def test_a_damaged_refiner_is_refused(refined_checkpoint):
    file = refined_checkpoint / PROGRAM
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ModelUnavailable, match=PROGRAM):
        WorldModel.from_checkpoint(refined_checkpoint, device="cpu")


@pytest.mark.parametrize(
    ("made", "said"),
    [(lambda file: file.symlink_to("nowhere"), "does not exist; .*remove the file"), (Path.mkdir, "is a folder")],
)
def test_a_refiner_that_was_lost_is_told_and_not_done_without(refined_checkpoint, made, said):
    """As when a cache of downloads was tidied up, whose files are links."""
    file = refined_checkpoint / PROGRAM
    file.unlink()
    made(file)
    with pytest.raises(ModelUnavailable, match=f"{PROGRAM} {said}"):
        WorldModel.from_checkpoint(refined_checkpoint, device="cpu")


def test_pixels_that_are_no_numbers_are_refused(refined_checkpoint):
    model, camera = WorldModel.from_checkpoint(refined_checkpoint, device="cpu"), camera_frames(9)
    with torch.no_grad():
        model._refiner.program.gain.fill_(float("nan"))
    with pytest.raises(NotFinite, match="refiner"):
        list(model.roll_out(model.tokenize(camera), None, DRAWN, 9, 8, camera=camera))


def test_the_memory_plan_counts_the_refiner(refined_checkpoint, tiny_checkpoint):
    chunking = WorldModel.from_checkpoint(refined_checkpoint, device="cpu").spec.chunking
    need = refiner_need(refined_checkpoint, chunking)
    assert need.weights == (refined_checkpoint / PROGRAM).stat().st_size and need.work > 0
    assert refiner_need(tiny_checkpoint, chunking) is None
    assert Refiner.load(tiny_checkpoint, chunking, torch.device("cpu"), torch.float32) is None
