"""What each sign notices, and what the error map shows."""

from __future__ import annotations

import numpy as np
import pytest

from cosmos_ros.planning.surprise import PLACE, STILL, TOKENS, WHOLE, WIDTH, Pair, Past, error_map, measure, reduced
from cosmos_ros.rollout import Likelihood

SIZE = (96, 128)


@pytest.fixture(scope="module")
def film(moving_scene) -> np.ndarray:
    """A bar that moves to the right over a textured ground, with a camera's noise."""
    frames = moving_scene(20, *SIZE).astype(np.float32)
    noise = np.random.default_rng(3).normal(0, 1.5, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def clean(moving_scene) -> np.ndarray:
    return moving_scene(20, *SIZE)


def signs(film, clean, seen, seen_before=None) -> dict[str, float]:
    """Of what is seen where frame 12 was foreseen, rightly."""
    pair = Pair(clean[12], seen, film[11] if seen_before is None else seen_before)
    return measure(Past.of(film[:9]), pair).signs


def test_nothing_is_strange_about_what_was_foreseen(film, clean):
    nominal = signs(film, clean, film[12])
    assert nominal[PLACE] < 0 and nominal[WHOLE] < -1 and nominal[STILL] < 0
    assert TOKENS not in nominal


def test_a_thing_where_nothing_was_to_move_is_noticed_in_its_place(film, clean):
    seen = film[12].copy()
    seen[10:26, 100:116] = (250, 20, 200)
    assert signs(film, clean, seen)[PLACE] > signs(film, clean, film[12])[PLACE] + 1.5


def test_lights_that_go_out_and_a_knocked_camera_are_noticed_in_the_whole(film, clean):
    nominal = signs(film, clean, film[12])[WHOLE]
    assert signs(film, clean, film[12] // 8)[WHOLE] > nominal + 1.5
    assert signs(film, clean, np.roll(film[12], (6, 9), axis=(0, 1)))[WHOLE] > nominal + 1


def test_frames_that_do_not_change_any_more_are_noticed(film, clean):
    assert signs(film, clean, film[9], film[9])[STILL] > signs(film, clean, film[12])[STILL] + 2


def test_without_the_frame_before_nothing_is_said_of_stillness(film, clean):
    pair = Pair(clean[12], film[12], None)
    assert STILL not in measure(Past.of(film[:9]), pair).signs


def test_the_floor_is_the_frame_repeated(film, clean):
    past = Past.of(film[:9])
    pair = Pair(clean[12], film[12], film[11])
    measured, floor = measure(past, pair), measure(past, pair.of_floor(past))
    assert (floor.psnr, floor.ssim) == (measured.floor_psnr, measured.floor_ssim)
    assert floor.psnr < measured.psnr


def test_an_image_alone_has_no_motion_in_its_past(film):
    assert not Past.of(film[:1]).moved.any()


def test_tokens_count_by_what_the_model_expects_of_itself():
    """Unlikely tokens where it was sure weigh more than as unlikely ones where it was not."""
    rng = np.random.default_rng(4)
    expected = np.full((1, 12, 20), 4.0, np.float32)
    expected[:, :, 10:] = 0.2
    variance = expected.copy()
    nominal = np.float32(expected + np.sqrt(variance) * rng.normal(size=expected.shape))

    def sign(nats: np.ndarray) -> float:
        frame = np.zeros((*SIZE, 3), np.uint8)
        pair = Pair(frame, frame, None)
        return measure(Past.of([frame]), pair, Likelihood(nats, expected, variance)).signs[TOKENS]

    def strange(at: slice) -> np.ndarray:
        nats = nominal.copy()
        nats[0, 4:8, at] += 2.0
        return nats

    unsure, sure = sign(strange(slice(2, 6))), sign(strange(slice(13, 17)))
    assert sign(nominal) < unsure and sure > 1.5 * unsure


def test_a_likelihood_that_is_not_known_says_nothing():
    frame, unknown = np.zeros((*SIZE, 3), np.uint8), np.full((1, 12, 20), np.nan, np.float32)
    pair = Pair(frame, frame, None)
    assert TOKENS not in measure(Past.of([frame]), pair, Likelihood(unknown, unknown, unknown)).signs


def test_the_error_map_is_the_error_of_each_pixel(film, clean):
    error = error_map(clean[12], film[12])
    assert error.dtype == np.float32 and error.shape == SIZE
    assert error[3, 7] == pytest.approx(np.sqrt(np.square(clean[12, 3, 7].astype(float) - film[12, 3, 7]).mean()))


def test_the_error_map_is_the_same_for_a_camera_picture_and_its_mirror_around_the_prediction():
    """It says how far, and not to which side: the camera's pixel does not follow from it."""
    predicted = np.full((4, 4, 3), 100, np.uint8)
    assert np.array_equal(error_map(predicted, predicted + 7), error_map(predicted, predicted - 7))


def test_wide_frames_are_reduced():
    assert reduced(np.zeros((640, 1024, 3), np.uint8)).shape == (200, WIDTH, 3)
    assert reduced(np.zeros((48, 64, 3), np.uint8)).shape == (48, 64, 3)
