"""RetinaFace, its boxes and the pixelation, against results of the reference (cosmos-predict1 4ed35fa)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.cosmos import retinaface_detector as face_blur
from cosmos_ros.guardrail.cosmos.retinaface_detector import RetinaFaceDetector, anchors, find_boxes, suppress
from cosmos_ros.guardrail.cosmos.retinaface_network import RetinaFace
from cosmos_ros.guardrail.face_blur import FaceBlur, FaceDetector, pixelate
from cosmos_ros.guardrail_report import Verdict

pytestmark = pytest.mark.slow  # as a whole

DATA = Path(__file__).parents[1] / "data" / "guardrail"
CPU = DeviceMemory("cpu")


def by_formula(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weights under which the reference's output was recorded: a wave that depends on the weight's name."""
    key = sum(map(ord, name))
    wave = np.sin(np.arange(int(np.prod(shape)), dtype=np.float64) * (1 + key % 7) * 0.37 + key)
    if name.endswith("running_var"):
        wave = 1 + 0.5 * wave
    elif name.endswith("weight"):
        wave = wave * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 1 + 0.2 * wave
    else:
        wave = 0.1 * wave
    return torch.from_numpy(wave.astype(np.float32).reshape(shape))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    names = RetinaFace().state_dict()
    return {n: by_formula(n, tuple(v.shape)) if v.is_floating_point() else v for n, v in names.items()}


@pytest.fixture(scope="module")
def detector(weights, tmp_path_factory) -> RetinaFaceDetector:
    file = tmp_path_factory.mktemp("faces") / "Resnet50_Final.pth"
    torch.save({f"module.{name}": value for name, value in weights.items()}, file)
    return RetinaFaceDetector(file, CPU)


def test_the_network_is_the_references(weights):
    recorded = np.load(DATA / "retinaface_output.npz")
    network = RetinaFace().eval()
    network.load_state_dict(weights)
    mean = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    with torch.inference_mode():
        offsets, scores = network(torch.from_numpy(recorded["frames"]).permute(0, 3, 1, 2).flip(1).float() - mean)
    assert offsets.std(dim=1).min() > 0.01, "an output that does not vary shows nothing"
    assert np.abs(offsets.numpy() - recorded["offsets"]).max() < 1e-5
    assert np.abs(scores.numpy() - recorded["scores"]).max() < 1e-5


@pytest.mark.parametrize("case", range(12))
def test_anchors_and_boxes_are_the_references(case):
    recorded = np.load(DATA / "face_boxes.npz")
    height, width = map(int, recorded[f"{case}_size"])
    priors = anchors(height, width)
    assert np.array_equal(priors, recorded[f"{case}_anchors"])
    offsets, scores = (torch.from_numpy(recorded[f"{case}_{name}"])[None] for name in ("offsets", "scores"))
    (boxes,) = find_boxes(offsets, scores, priors, height, width)
    assert boxes.shape == recorded[f"{case}_boxes"].shape
    np.testing.assert_allclose(boxes, recorded[f"{case}_boxes"], rtol=1e-5, atol=1e-4)


def test_frames_reach_the_network_as_the_reference_gives_them(detector, monkeypatch):
    """BGR less the mean: boxes of RGB frames are those of the recorded output, which saw no surer face."""
    monkeypatch.setattr(face_blur, "MIN_CONFIDENCE", 0.5)
    recorded = np.load(DATA / "retinaface_output.npz")
    offsets, scores = (torch.from_numpy(recorded[name]) for name in ("offsets", "scores"))
    height, width = recorded["frames"].shape[1:3]
    expected = find_boxes(offsets, scores, anchors(height, width), height, width)
    for found, boxes in zip(detector.detect(recorded["frames"]), expected, strict=True):
        assert len(boxes) > 5
        np.testing.assert_allclose(found, boxes, rtol=1e-4, atol=1e-2)


def boxes_of(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """What is found where the network sees these boxes, float32 [n, 4] in pixels of a frame of 100x100, so surely."""
    sizes = (boxes[:, 2:] - boxes[:, :2]) / 100
    priors = np.concatenate((boxes[:, :2] / 100 + sizes / 2, sizes), axis=1)
    offsets, scores, priors = (torch.from_numpy(part.astype(np.float32)) for part in (0 * boxes, scores, priors))
    (found,) = find_boxes(offsets[None], scores[None], priors, 100, 100)
    return found


def test_a_face_is_surer_than_seven_tenths():
    boxes = np.array([(0.0, 0.0, 20.0, 20.0), (50.0, 50.0, 70.0, 70.0)])
    limit = np.float32(0.7)
    np.testing.assert_allclose(boxes_of(boxes, np.array([limit, np.nextafter(limit, 1)])), boxes[1:], atol=1e-4)


@pytest.mark.parametrize("surer, found", [(4999, 2), (5000, 1)])
def test_no_more_than_the_five_thousand_surest_are_compared(surer, found):
    """One box over and over, and a last one elsewhere."""
    boxes = np.array([(0.0, 0.0, 20.0, 20.0)] * surer + [(50.0, 50.0, 70.0, 70.0)])
    assert len(boxes_of(boxes, np.linspace(0.99, 0.71, len(boxes)))) == found


def test_the_seven_hundred_and_fifty_surest_faces_stay():
    rows, columns = np.divmod(np.arange(800), 32)
    boxes = np.stack((3 * columns, 3 * rows, 3 * columns + 1, 3 * rows + 1), axis=1).astype(np.float64)
    surest_last = np.linspace(0.71, 0.99, len(boxes))
    np.testing.assert_allclose(boxes_of(boxes, surest_last), boxes[:49:-1], atol=1e-3)


def test_two_boxes_stay_that_overlap_by_four_tenths():
    """Four pixels and three, of which they share two of five; and one more pixel shared."""
    scores = np.array([0.9, 0.8], np.float32)
    assert suppress(np.array([(0, 0, 3, 0), (2, 0, 4, 0)], np.float32), scores) == [0, 1]
    assert suppress(np.array([(0, 0, 3, 0), (1, 0, 3, 0)], np.float32), scores) == [0]


@pytest.mark.parametrize("case", range(4))
def test_pixelated_frames_are_the_references(case):
    recorded = np.load(DATA / "pixelated.npz")
    frame = recorded[f"{case}_frame"].copy()
    assert pixelate(frame, recorded[f"{case}_boxes"]) >= 2
    assert np.array_equal(frame, recorded[f"{case}_pixelated"])


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "box",
    [(-80, 5, -40, 45), (5, -80, 45, -40), (90, 5, 130, 45), (5, 70, 45, 110), (10, 10, 29, 50), (10, 10, 50, 29)],
    ids=["left", "above", "right", "below", "narrow", "low"],
)
def test_boxes_beside_the_frame_and_small_ones_change_nothing(box):
    """A box left of the frame or above it blurs a strip in the reference, one right of it or below raises."""
    frame = picture()
    assert pixelate(frame, np.array([box], np.float32)) == 0
    assert np.array_equal(frame, picture())


def test_a_box_is_cut_to_the_frame_and_becomes_five_by_five_blocks():
    frame = picture()
    assert pixelate(frame, np.array([(-10, -10, 20, 25)], np.float32)) == 1
    assert len(np.unique(frame[:25, :20].reshape(-1, 3), axis=0)) <= 25
    changed = (frame != picture()).any(axis=-1)
    assert changed[:25, :20].mean() > 0.9 and not changed[25:].any() and not changed[:, 20:].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_box_that_is_not_finite_is_an_error(value):
    with pytest.raises(ValueError, match="finite"):
        pixelate(picture(), np.array([(0, 0, 30, value)]))


@pytest.mark.parametrize(
    "box, changed", [((10, 10, 1e20, 50), 70 * 40), ((-1e20, -1e20, 1e38, 1e20), 60 * 80), ((1e20, 10, 3e38, 50), 0)]
)
def test_a_huge_box_is_pixelated_where_it_meets_the_frame(box, changed):
    """Larger than an int64 holds, and finite: a cast alone would turn it round."""
    frame = picture()
    assert pixelate(frame, np.array([box], np.float32)) == (changed > 0)
    assert (frame != picture()).any(axis=-1).sum() == pytest.approx(changed, rel=0.01)


def test_a_boxs_corners_lose_their_fractions():
    frame = picture()
    assert pixelate(frame, np.array([(10.9, 9.9, 30.9, 29.9)], np.float32)) == 1
    assert pixelate(picture(), np.array([(10.9, 9.9, 30.9, 28.9)], np.float32)) == 0
    assert not (frame != picture())[:9].any() and (frame != picture())[9, 10:30].any()


def test_boxes_whose_overlap_cannot_be_told_all_stay():
    whole = (-1e30, -1e30, 1e30, 1e30)
    with np.errstate(all="ignore"):
        assert suppress(np.array([whole, whole], np.float32), np.array([0.9, 0.8], np.float32)) == [0, 1]


def test_the_surer_of_two_overlapping_boxes_stays():
    boxes = np.array([(0, 0, 30, 30), (1, 1, 31, 31), (50, 50, 90, 90)], np.float32)
    assert suppress(boxes, np.array([0.8, 0.9, 0.75], np.float32)) == [1, 2]


def test_a_file_without_counts_of_batches_loads(detector, weights, tmp_path):
    """Only training asks for them, and old files have none."""
    file = tmp_path / "Resnet50_Final.pth"
    torch.save({name: value for name, value in weights.items() if "num_batches_tracked" not in name}, file)
    frame = picture(64, 96)[None]
    assert np.array_equal(RetinaFaceDetector(file, CPU).detect(frame)[0], detector.detect(frame)[0])


@pytest.mark.parametrize("name", ["body.layer4.2.conv3.weight", "fpn.merge1.1.running_var", "BboxHead.0.conv1x1.bias"])
def test_a_weight_that_is_not_finite_refuses_by_its_name(weights, tmp_path, name):
    broken = dict(weights)
    broken[name] = weights[name].clone()
    broken[name].view(-1)[-1] = float("inf")
    torch.save(broken, tmp_path / "Resnet50_Final.pth")
    with pytest.raises(GuardrailUnavailable, match=f"Resnet50_Final.pth holds weights that are not finite: {name}$"):
        RetinaFaceDetector(tmp_path / "Resnet50_Final.pth", CPU)


def test_faces_are_pixelated_on_a_copy(detector, weights, tmp_path):
    """The same network, made to see a face at every coarse anchor."""
    surely = dict(weights)
    surely["ClassHead.2.conv1x1.bias"] = torch.tensor([-9.0, 9.0, 9.0, -9.0])
    torch.save(surely, tmp_path / "Resnet50_Final.pth")
    frames = np.stack([picture(96, 128)] * 2)
    frames.flags.writeable = False
    blurred, judgement = FaceBlur(RetinaFaceDetector(tmp_path / "Resnet50_Final.pth", CPU), 96 * 128).filter(frames)
    assert judgement.verdict is Verdict.MODIFIED and judgement.changes >= 2
    assert (blurred != frames).any() and np.array_equal(frames[0], picture(96, 128))


class SeesOneFace(FaceDetector):
    weights = ""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        self.seen.append(frames.shape)
        return [np.array([[10.0, 20.0, 40.0, 50.0]])] * len(frames)


@pytest.mark.parametrize("height, width, looked_at", [(60, 80, (60, 80)), (30, 40, (30, 40)), (180, 160, (85, 75))])
def test_faces_are_searched_for_in_a_reduced_copy_of_large_frames(height, width, looked_at):
    """And pixelated where they are in the frame that leaves."""
    frames = np.stack([picture(height, width)] * 2)
    blurred, judgement = FaceBlur(detector := SeesOneFace(), 80 * 80).filter(frames)
    assert detector.seen == [(2, *looked_at, 3)] and judgement.changes == 2
    rows, columns = np.nonzero((blurred != frames).any(axis=(0, 3)))
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    scale = np.tile([width / looked_at[1], height / looked_at[0]], 2)
    expected = np.minimum(np.array([10, 20, 40, 50]) * scale, [width, height] * 2)
    assert np.abs(found - expected).max() <= 1


def test_a_batch_gives_what_its_frames_give_alone(detector):
    frames = np.stack([picture(64, 96), 255 - picture(64, 96)])
    for together, frame in zip(detector.detect(frames), frames, strict=True):
        np.testing.assert_allclose(together, detector.detect(frame[None])[0], rtol=1e-4, atol=1e-2)


def test_anchors_are_made_once_for_a_size():
    assert anchors(64, 96) is anchors(64, 96)
    assert len(anchors(640, 1024)) == 2 * (80 * 128 + 40 * 64 + 20 * 32)
