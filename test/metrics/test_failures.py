"""The failure detectors: they fire on what they are for, and not on what cameras see."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cosmos_ros.metrics.failures import failures

RNG = np.random.default_rng(11)
GROUND = cv2.normalize(
    cv2.GaussianBlur(RNG.integers(0, 256, (300, 700, 3), np.uint8), (0, 0), 6), None, 30, 220, cv2.NORM_MINMAX
)
HEIGHT, WIDTH = 120, 192


def drive(n: int, speed: float) -> np.ndarray:
    """uint8 [n, HEIGHT, WIDTH, 3]: a textured scene that goes by, `speed` pixels per frame."""
    starts = [round(20 + speed * i) for i in range(n)]
    return np.stack([GROUND[50 : 50 + HEIGHT, start : start + WIDTH] for start in starts])


def kinds(frames: np.ndarray) -> list[tuple[str, int]]:
    return [(failure.kind, failure.frame) for failure in failures(frames[0], frames[1:])]


@pytest.mark.parametrize("speed", [0, 2, 8])
def test_a_scene_that_goes_by_is_no_failure(speed):
    assert kinds(drive(25, speed)) == []


def table(x: int, y: int) -> np.ndarray:
    """uint8 [HEIGHT, WIDTH, 3]: a plain thing on a plain table, as a camera on a robot's hand sees them."""
    frame = np.full((HEIGHT, WIDTH, 3), (150, 150, 90), np.uint8)
    cv2.ellipse(frame, (x, y), (26, 20), 0, 0, 360, (60, 200, 210), -1)
    cv2.ellipse(frame, (x - 4, y + 8), (26, 20), 0, 0, 180, (20, 80, 90), -1)
    return frame


@pytest.mark.parametrize("step", [(20, 14), (-18, 16), (22, 10)])
def test_a_plain_thing_that_moves_far_in_a_frame_is_no_failure(step):
    """Optical flow loses it: nothing on it, or around it, says where it went."""
    frames = np.stack([table(96 + step[0] * i, 40 + step[1] * i) for i in range(3)])
    assert kinds(frames) == []


def test_a_plain_thing_that_comes_from_nowhere_is_caught_beside_one_that_moves():
    frames = np.stack([table(96 + 22 * i, 40 + 10 * i) for i in range(3)])
    frames[2:, 20:95, 15:80] = (200, 40, 40)
    assert kinds(frames) == [("sudden_object", 2)]


def test_light_that_goes_on_is_no_failure():
    frames = drive(10, 2)
    frames[5:] = np.clip(frames[5:].astype(int) + 60, 0, 255).astype(np.uint8)
    assert kinds(frames) == []


def test_a_small_thing_that_comes_in_is_no_failure():
    frames = drive(10, 0).copy()
    for i in range(10):
        cv2.circle(frames[i], (5 * i, 60), 10, (250, 30, 30), -1)
    assert kinds(frames) == []


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_video_that_fades_to_one_colour_is_caught(level):
    frames = drive(25, 2).astype(float)
    for i in range(25):
        share = min(1, i / 12)
        frames[i] = (1 - share) * frames[i] + share * level
    noisy = np.clip(frames + RNG.normal(0, 2, frames.shape), 0, 255).astype(np.uint8)
    caught = dict(kinds(noisy))
    assert 7 <= caught["solid_colour"] <= 12


def test_a_robot_before_a_blank_wall_is_no_failure():
    wall = np.clip(RNG.normal(128, 3, (10, HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    assert kinds(wall) == []


@pytest.mark.parametrize("colour", [(200, 40, 40), (245, 245, 245), (5, 5, 5)])
@pytest.mark.parametrize("speed", [0, 4])
def test_a_large_thing_that_was_not_there_is_caught_where_it_appears(colour, speed):
    frames = drive(12, speed).copy()
    frames[7:, 30:80, 60:120] = colour
    assert kinds(frames) == [("sudden_object", 7)]


def test_a_large_thing_out_of_another_scene_is_caught():
    caught = 0
    for place in range(20):
        frames = drive(5, 3).copy()
        frames[3:, 20:90, 40:140] = GROUND[180:250, 30 * place : 30 * place + 100][:, ::-1]
        caught += ("sudden_object", 3) in kinds(frames)
    assert caught >= 18
