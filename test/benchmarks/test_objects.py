"""What became of objects, told by masks whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from cosmos_ros.benchmarks.objects import first_touches, object_numbers
from cosmos_ros.benchmarks.segmentation import Segmented
from cosmos_ros.benchmarks.simulated_clip import Contact

HEIGHT, WIDTH, N = 60, 100, 24
SIDE = 10  # pixels, of the objects


def square(labels: np.ndarray, label: int, x: int, y: int) -> None:
    labels[y : y + SIDE, max(0, x) : max(0, x + SIDE)] = label


def falling(n: int, speed: int = 1, start: int = 0) -> np.ndarray:
    """Object 1 falls from the top by `speed` pixels per frame onto a floor at row 50, object 2 stands still."""
    labels = np.zeros((n, HEIGHT, WIDTH), np.uint8)
    for k in range(n):
        square(labels[k], 1, 20, min(start + speed * k, 50 - SIDE))
        square(labels[k], 2, 60, 40)
    return labels


def segmented(labels: np.ndarray, spare: np.ndarray | None = None, new: np.ndarray | None = None) -> Segmented:
    nothing = np.zeros(labels.shape, bool)
    return Segmented(labels, nothing if spare is None else spare, nothing if new is None else new)


LAST, TRUTH = falling(1)[0], falling(N + 1, speed=2)[1:]
LANDING = Contact(19, (0, 1), (25.0, 50.0))  # counted from the first predicted frame


def numbers(found: Segmented, truth: np.ndarray = TRUTH, touches: tuple[Contact, ...] = (LANDING,)) -> dict:
    return object_numbers(found, truth, LAST, touches, 2)


def test_the_truth_is_right_and_nothing_is_wrong_with_it():
    perfect = numbers(segmented(TRUTH))
    assert perfect == {
        "iou": 1.0,
        "moved_iou": 1.0,
        "centre_error": 0.0,
        "centre_error_8": 0.0,
        "centre_error_16": 0.0,
        "centre_error_24": 0.0,
        "missed_contact": 0.0,
        "vanished": 0.0,
        "appeared": False,
    }


def test_masks_beside_the_true_ones_are_off_by_so_much():
    beside = np.roll(TRUTH, 5, axis=2)
    found = numbers(segmented(beside))
    assert found["centre_error"] == pytest.approx(5.0)  # of 100 pixels
    assert [found["iou"], found["moved_iou"]] == pytest.approx([50 / 150] * 2)


def test_what_stands_still_is_wrong_where_things_move_and_wrong_by_more_and_more():
    found = numbers(segmented(np.stack([LAST] * N)))
    assert found["moved_iou"] < 0.2 < 0.5 < found["iou"], "the one that stands still is right"
    assert found["missed_contact"] == 1.0 and found["vanished"] == 0.0 and found["appeared"] is False
    # Object 1 is 2, 4, ... 16 pixels ahead in the first eight frames, object 2 never.
    assert found["centre_error_8"] == pytest.approx(9.0 / 2)
    assert found["centre_error_8"] < found["centre_error_16"] < found["centre_error_24"]


def test_an_object_vanishes_where_it_is_gone_for_some_frames_and_not_for_two():
    gone, blinking = TRUTH.copy(), TRUTH.copy()
    gone[10:][gone[10:] == 1] = 0
    blinking[10:12][blinking[10:12] == 1] = 0
    assert numbers(segmented(gone))["vanished"] == 0.5
    assert numbers(segmented(blinking))["vanished"] == 0.0
    crumb = TRUTH.copy()
    crumb[:, :, 22:][crumb[:, :, 22:] == 1] = 0  # a fifth of it is left
    crumb[:, :, :21][crumb[:, :, :21] == 1] = 0  # a tenth
    assert numbers(segmented(crumb))["vanished"] == 0.5


def test_an_object_that_truly_leaves_the_picture_has_not_vanished():
    leaving = np.zeros((N, HEIGHT, WIDTH), np.uint8)
    for k in range(N):
        square(leaving[k], 1, 20 - 3 * k, 0)
        square(leaving[k], 2, 60, 40)
    assert numbers(segmented(leaving), leaving, ())["vanished"] == 0.0


def test_something_appears_where_it_is_large_and_lasts():
    large, small, short = (np.zeros((N, HEIGHT, WIDTH), bool) for _ in range(3))
    large[5:9, 10:20, 80:90] = True
    small[5:9, 10:15, 80:85] = True
    short[5:7, 10:20, 80:90] = True
    for named in ("new", "spare"):
        appeared = [numbers(segmented(TRUTH, **{named: what}))["appeared"] for what in (large, small, short)]
        assert appeared == [True, False, False]


def test_there_is_no_number_where_there_is_nothing_to_measure():
    empty = np.zeros((N, HEIGHT, WIDTH), np.uint8)
    found = object_numbers(segmented(empty), empty, empty[0], (), 2)
    assert set(found.values()) == {None}
    still = np.stack([LAST] * N)
    assert numbers(segmented(still), still, ())["moved_iou"] is None


def test_objects_touch_wherever_they_meet():
    touching = Contact(3, (1, 2), (0.0, 0.0))
    apart, beside = TRUTH.copy(), TRUTH.copy()
    beside[12][beside[12] == 1] = 0
    square(beside[12], 1, 60 - SIDE, 40)
    assert numbers(segmented(apart), touches=(touching,))["missed_contact"] == 1.0
    assert numbers(segmented(beside), touches=(touching,))["missed_contact"] == 0.0


def test_contacts_count_that_begin_after_the_frames_shown_and_can_be_seen():
    labels = falling(30, speed=2)
    landing = [Contact(frame, (0, 1), (25.0, 50.0)) for frame in (21, 22)]
    standing = [Contact(frame, (0, 2), (65.0, 50.0)) for frame in range(30)]
    out_of_sight = [Contact(20, (1, 2), (50.0, 45.0))]  # as the masks have it, they are far apart
    found = first_touches(sorted([*landing, *standing, *out_of_sight], key=lambda each: each.frame), labels, 9)
    assert found == [Contact(12, (0, 1), (25.0, 50.0))]
    # Shown beyond the landing, there is none to come.
    assert first_touches(landing, labels, 22) == []


def test_places_of_contacts_are_scaled_with_the_masks():
    labels = falling(30, speed=2)
    found = first_touches([Contact(21, (0, 1), (50.0, 100.0))], labels, 9, scale=0.5)
    assert found == [Contact(12, (0, 1), (25.0, 50.0))]
