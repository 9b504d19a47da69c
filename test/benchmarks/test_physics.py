"""The physics benchmark's numbers of a clip, beside floor and ceiling, on drawn frames whose answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cosmos_ros import Foresight
from cosmos_ros.benchmarks.physics import BENCHMARK, measure
from cosmos_ros.benchmarks.simulated_clip import Contact, GroundTruth
from cosmos_ros.evaluation.measure import Videos
from cosmos_ros.metrics.baselines import repeat_last
from cosmos_ros.rollout import Crop

N, HEIGHT, WIDTH = 33, 32, 64
MARGIN = 6  # pixels of the camera's image, above and below what the model sees


@pytest.fixture(scope="module")
def foresight(tiny_checkpoint) -> Foresight:
    foresight = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})
    foresight.load()
    return foresight


def film() -> tuple[np.ndarray, GroundTruth]:
    """A red ball falls beside a blue one that lies on the floor."""
    frames = np.full((N, HEIGHT + 2 * MARGIN, WIDTH, 3), 150, np.uint8)
    labels = np.zeros(frames.shape[:3], np.uint8)
    for k in range(N):
        for label, (x, y), colour in ((1, (20, 12 + min(k, 20)), (200, 40, 40)), (2, (48, 32), (40, 60, 210))):
            cv2.circle(labels[k], (x, y), 4, label, -1)
            frames[k][labels[k] == label] = colour
    contacts = tuple(Contact(k, (0, 2), (48.0, 36.0)) for k in range(N)) + tuple(
        Contact(k, (0, 1), (20.0, 36.0)) for k in range(20, N)
    )
    poses, intrinsics = np.repeat(np.eye(4)[None], N, axis=0), np.eye(3)
    truth = GroundTruth("free_fall", 0, ("red", "blue"), labels, poses, intrinsics, contacts)
    return frames, truth


@pytest.mark.parametrize("n_shown", [1, 9])
def test_the_truth_is_best_and_the_floor_is_wrong_where_it_moves(foresight, n_shown):
    frames, truth = film()
    crop = Crop(0, MARGIN, WIDTH, HEIGHT)
    seen = crop.of(frames)
    camera, future = seen[:n_shown], seen[n_shown:]
    rows = {
        "model": future,
        "repeat_last_frame": repeat_last(camera, len(future)),
        "constant_flow": np.full_like(future, 250),
        "tokenizer_round_trip": future,
    }
    numbers = measure(Videos(camera, camera, future, rows, crop), truth, foresight, None)
    assert set(numbers) == {*rows, "truth"}
    assert set(numbers["model"]) == {each.key for each in BENCHMARK.measures}
    right, floor = numbers["model"], numbers["repeat_last_frame"]
    assert {key: right[key] for key in numbers["truth"]} == numbers["truth"], "of the objects, the same"
    assert right["code_distance"] == 0 and right["psnr"] == 60 and right["ssim"] == pytest.approx(1)
    assert right["iou"] > 0.9 and right["moved_iou"] > 0.9 and right["centre_error"] < 1
    assert right["missed_contact"] == right["vanished"] == 0 and not right["appeared"]
    assert floor["moved_iou"] < 0.2 and floor["centre_error_24"] > 5 and floor["missed_contact"] == 1
    assert floor["psnr"] < 30 and floor["ssim"] < 0.98
    assert floor["vanished"] == 0 and not floor["appeared"]
    white = numbers["constant_flow"]
    assert white["vanished"] == 1 and white["centre_error"] is None and white["code_distance"] > 0.1


def test_recordings_are_refused():
    assert not BENCHMARK.takes_recordings
    with pytest.raises(ValueError, match="takes no recordings"):
        measure(None, None, None, None)


def test_published_figures_are_those_of_the_papers_table():
    assert {each.model: each.numbers["iou"] for each in BENCHMARK.published if each.conditioning == "video"} == {
        "Cosmos AR 4B": 0.481,
        "Cosmos AR 5B Video2World": 0.481,
        "Cosmos AR 12B": 0.487,
        "Cosmos AR 13B Video2World": 0.482,
        "Cosmos Diffusion 7B Video2World": 0.592,
    }
    keys = {each.key for each in BENCHMARK.measures}
    assert all(set(each.numbers) <= keys for each in BENCHMARK.published)
    assert set(BENCHMARK.comparable) == {key for each in BENCHMARK.published for key in each.numbers}


def test_a_trackers_masks_take_the_place_of_those_found_by_colour(foresight):
    frames, truth = film()
    crop = Crop(0, MARGIN, WIDTH, HEIGHT)
    seen = crop.of(frames)
    camera, future = seen[:9], seen[9:]
    asked = []

    def tracker(frame: np.ndarray, mask: np.ndarray, frames: np.ndarray) -> np.ndarray:
        asked.append((frame, mask))
        return np.repeat(mask[None], len(frames), axis=0)  # everything stands still

    numbers = measure(Videos(camera, camera, future, {"model": future}, crop), truth, foresight, tracker)
    by_colour = measure(Videos(camera, camera, future, {"model": future}, crop), truth, foresight, None)
    assert len(asked) == 2, "the model's row and the true frames"
    assert np.array_equal(asked[0][0], camera[-1]) and np.array_equal(
        asked[0][1], crop.of(truth.labels[..., None])[8, ..., 0]
    )
    assert numbers["model"]["moved_iou"] < 0.5 < by_colour["model"]["moved_iou"]
    assert numbers["model"]["psnr"] == by_colour["model"]["psnr"]
