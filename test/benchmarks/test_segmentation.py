"""Objects are found again where they are, on pictures whose masks are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cosmos_ros.benchmarks.segmentation import WIDEST, Segmenter, reduced_labels

RNG = np.random.default_rng(2)
HEIGHT, WIDTH = 96, 160
COLOURS = ((200, 40, 40), (40, 60, 210))
FLOOR = cv2.GaussianBlur(RNG.integers(90, 170, (HEIGHT, WIDTH, 1), np.uint8), (0, 0), 4)
FLOOR = np.repeat(cv2.normalize(FLOOR, None, 90, 170, cv2.NORM_MINMAX)[..., None], 3, axis=2)


def film(n: int, blur: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Two balls that cross a mottled floor, and their masks."""
    frames, labels = np.stack([FLOOR] * n), np.zeros((n, HEIGHT, WIDTH), np.uint8)
    for k in range(n):
        for i, (x, y) in enumerate(((20 + 3 * k, 30), (130 - 2 * k, 60 - k // 2))):
            cv2.circle(labels[k], (x, y), 9, i + 1, -1)
            frames[k][labels[k] == i + 1] = COLOURS[i]
            frames[k][(labels[k] == i + 1) & (np.arange(HEIGHT)[:, None] > y)] = np.array(COLOURS[i]) * 0.7  # shade
        frames[k] = cv2.GaussianBlur(frames[k], (0, 0), blur)
    return frames, labels


FRAMES, LABELS = film(24)


def iou(found: np.ndarray, true: np.ndarray, label: int) -> float:
    a, b = found == label, true == label
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("n_shown", [1, 9])
def test_true_frames_give_the_true_masks(n_shown):
    found = Segmenter(FRAMES[:n_shown], LABELS[:n_shown], 2)(FRAMES[n_shown:])
    assert min(iou(found.labels, LABELS[n_shown:], label) for label in (1, 2)) > 0.9
    assert not (found.spare.any() or found.new.any()), "edges of mixed colours are nothing new"


def test_blurred_frames_are_found_less_exactly():
    found = Segmenter(FRAMES[:9], LABELS[:9], 2)(film(24, blur=2.0)[0][9:])
    assert 0.6 < min(iou(found.labels, LABELS[9:], label) for label in (1, 2)) < 0.95


def test_what_left_is_not_found_and_background_is_there_instead():
    emptied = FRAMES[9:].copy()
    emptied[LABELS[9:] == 2] = np.stack([FLOOR] * 15)[LABELS[9:] == 2]
    found = Segmenter(FRAMES[:9], LABELS[:9], 2)(emptied)
    assert (found.labels == 2).sum() < 0.05 * (LABELS[9:] == 2).sum()
    assert iou(found.labels, LABELS[9:], 1) > 0.9


def test_a_second_piece_far_away_is_spare_and_a_strange_colour_is_new():
    disturbed = FRAMES[9:].copy()
    disturbed[:, 70:85, 20:35] = COLOURS[0]
    disturbed[:, 10:25, 130:145] = (230, 220, 40)
    found = Segmenter(FRAMES[:9], LABELS[:9], 2)(disturbed)
    assert found.spare[:, 72:83, 22:33].all() and found.new[:, 12:23, 132:143].all()
    assert found.spare[:, :60].mean() < 0.002 and iou(found.labels, LABELS[9:], 1) > 0.85


@pytest.mark.parametrize("light", [0.55, 1.4])
def test_a_shadow_that_comes_or_goes_is_no_object(light):
    shaded = FRAMES[9:].copy()
    shaded[:, 70:90, 60:110] = np.clip(shaded[:, 70:90, 60:110] * light, 0, 255).astype(np.uint8)
    found = Segmenter(FRAMES[:9], LABELS[:9], 2)(shaded)
    assert not found.labels[:, 72:88, 62:108].any() and not found.new.any()


def test_an_object_that_was_not_seen_is_not_found():
    found = Segmenter(FRAMES[:9], LABELS[:9], 3)(FRAMES[9:])
    assert not (found.labels == 3).any() and iou(found.labels, LABELS[9:], 1) > 0.9


def test_large_frames_are_reduced_and_their_masks_with_them():
    large = np.stack([cv2.resize(frame, (1024, 640), interpolation=cv2.INTER_CUBIC) for frame in FRAMES[:12]])
    labels = np.stack([cv2.resize(each, (1024, 640), interpolation=cv2.INTER_NEAREST) for each in LABELS[:12]])
    found = Segmenter(large[:9], labels[:9], 2)(large[9:])
    assert found.labels.shape == (3, 200, WIDEST)
    assert min(iou(found.labels, reduced_labels(labels[9:]), label) for label in (1, 2)) > 0.9


def test_the_same_frames_give_the_same_masks():
    first, again = (Segmenter(FRAMES[:9], LABELS[:9], 2)(FRAMES[9:]) for _ in range(2))
    assert np.array_equal(first.labels, again.labels) and np.array_equal(first.new, again.new)
