"""Metrics against cases whose answer is known, and baselines that are what they say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cosmos_ros.metrics import fidelity as metrics
from cosmos_ros.metrics.baselines import constant_flow, repeat_last

pytestmark = pytest.mark.slow  # as a whole

RNG = np.random.default_rng(3)
TEXTURE = cv2.GaussianBlur(RNG.integers(0, 256, (200, 400, 3), np.uint8), (0, 0), 2)
TEXTURE = cv2.normalize(TEXTURE, None, 0, 255, cv2.NORM_MINMAX)


def panned(n: int, speed: float, height: int = 96, width: int = 128) -> np.ndarray:
    """A camera that turns: the texture moves to the left, `speed` pixels per frame."""
    shift = np.float32([[1, 0, 0], [0, 1, -40]])
    frames = []
    for i in range(n):
        shift[0, 2] = -20 - speed * i
        frames.append(cv2.warpAffine(TEXTURE, shift, (width, height), flags=cv2.INTER_LINEAR))
    return np.stack(frames)


def test_psnr_is_that_of_its_definition_per_frame():
    true = RNG.integers(0, 200, (2, 8, 8, 3), np.uint8)
    off = true.copy()
    off[0] += 10
    off[1, ..., 0] += 20
    assert metrics.psnr(off, true) == pytest.approx([10 * np.log10(255**2 / 100), 10 * np.log10(255**2 / (400 / 3))])


def test_identical_frames_count_as_the_ceiling_and_so_do_nearly_identical_ones():
    true = RNG.integers(0, 200, (2, 64, 64, 3), np.uint8)
    nearly = true.copy()
    nearly[1, 0, 0, 0] += 1
    assert metrics.psnr(nearly, true) == [metrics.PSNR_CEILING] * 2


def test_ssim_is_one_for_the_same_and_falls_with_blur():
    frames = panned(3, 0)
    sigmas = (0.1, 2, 6)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), by) for frame, by in zip(frames, sigmas, strict=True)])
    same, blurry, worst = metrics.ssim(blurred, frames)
    assert same == pytest.approx(1.0, abs=1e-3) and 1 > blurry > worst


def test_motion_error_is_the_speed_that_was_missed():
    true, still, right = panned(6, 3.0), np.repeat(panned(1, 0), 6, axis=0), panned(6, 3.0)
    true_motion = metrics.motion(true[0], true[1:])
    assert np.median(true_motion[..., 0]) == pytest.approx(-3.0, abs=0.2)
    missed = metrics.endpoint_error(metrics.motion(still[0], still[1:]), true_motion)
    assert missed == pytest.approx([3.0] * 5, abs=0.4)
    assert metrics.endpoint_error(metrics.motion(right[0], right[1:]), true_motion) == pytest.approx([0.0] * 5)


def test_wide_frames_are_measured_in_their_own_pixels():
    wide = np.stack([cv2.resize(frame, (1024, 768), interpolation=cv2.INTER_CUBIC) for frame in panned(4, 3.0)])
    flow = metrics.motion(wide[0], wide[1:])
    assert flow.shape == (3, 384, 512, 2) and np.median(flow[..., 0]) == pytest.approx(-24.0, abs=1.5)


def two_planes(n: int) -> np.ndarray:
    """A camera that moves sideways past a near wall and a far one: a scene with parallax."""
    far, near = panned(n, 1.0, 160, 200), panned(n, 4.0, 160, 200)
    frames = far.copy()
    frames[:, 80:] = near[:, 80:]
    return frames


def test_sampson_error_is_small_in_a_rigid_scene_and_grows_as_the_scene_wobbles():
    frames = two_planes(12)
    y, x = np.mgrid[:160, :200].astype(np.float32)
    wobbly = np.stack(
        [
            cv2.remap(frame, x, y + 1.5 * np.sin(x / 7 + 2.1 * i) * np.sin(y / 9), cv2.INTER_LINEAR)
            for i, frame in enumerate(frames)
        ]
    )
    rigid = metrics.sampson_error(frames[:4], frames[4:])
    bent = metrics.sampson_error(wobbly[:4], wobbly[4:])
    assert all(error is not None for error in rigid + bent)
    assert np.mean(rigid) < 0.35 and np.mean(bent) > 2 * np.mean(rigid)


def test_sampson_error_is_the_same_each_time():
    frames = two_planes(8)
    assert metrics.sampson_error(frames[:4], frames[4:]) == metrics.sampson_error(frames[:4], frames[4:])


@pytest.mark.parametrize("frames", [np.zeros((8, 64, 64, 3), np.uint8), np.repeat(panned(1, 0), 8, axis=0)])
def test_sampson_error_has_no_value_where_there_is_nothing_to_tell_it_from(frames):
    assert metrics.sampson_error(frames[:4], frames[4:]) == [None] * 4


def test_sampson_error_begins_where_there_is_an_earlier_frame_to_hold_against():
    frames = two_planes(12)
    whole, after_one = metrics.sampson_error(frames[:4], frames[4:]), metrics.sampson_error(frames[3:4], frames[4:])
    assert after_one[:3] == [None] * 3 and after_one[3:] == whole[3:] and None not in whole


def test_a_single_frame_shows_no_motion_that_could_go_on():
    assert np.array_equal(constant_flow(panned(1, 3.0), 4), repeat_last(panned(1, 3.0), 4))


def test_the_floor_repeats():
    clip = panned(9, 3.0)
    assert np.array_equal(repeat_last(clip, 5), np.stack([clip[-1]] * 5))


def test_constant_flow_goes_on_as_before():
    frames = panned(15, 3.0)
    extrapolated = constant_flow(frames[:9], 6)
    inside = np.s_[:, 8:-8, 8:-28]  # what comes in over the edge cannot be known
    error = np.abs(extrapolated[inside].astype(int) - frames[9:][inside]).mean(axis=(1, 2, 3))
    floor = np.abs(repeat_last(frames[:9], 6)[inside].astype(int) - frames[9:][inside]).mean(axis=(1, 2, 3))
    assert (error < floor / 4).all()


def test_tiny_images_are_measured_too():
    frames = RNG.integers(0, 256, (9, 12, 12, 3), np.uint8)
    assert len(constant_flow(frames, 3)) == 3
    motion = metrics.motion(frames[0], frames[1:])
    assert motion.shape == (8, 12, 12, 2) and metrics.endpoint_error(motion, motion) == [0] * 8


def test_pixels_that_move_are_told_by_the_truth_and_measured_alone():
    last = np.full((20, 30, 3), 100, np.uint8)
    true = np.stack([last, last.copy(), last.copy()])
    true[1, :5, :6] = 110  # ten levels are not enough
    true[2, :5, :6, 1] = 111
    mask = metrics.moving(last, true)
    assert mask.dtype == bool and mask.sum(axis=(1, 2)).tolist() == [0, 0, 30]
    predicted = np.stack([last] * 3)
    predicted[2, 10:] = 0  # wrong where nothing moves
    assert metrics.moving_psnr(predicted, true, mask)[:2] == [None, None]
    expected = 10 * np.log10(255**2 / (11**2 / 3))
    assert metrics.moving_psnr(predicted, true, mask)[2] == pytest.approx(expected)
    assert metrics.moving_psnr(true, true, mask)[2] == metrics.PSNR_CEILING
