"""Physical alignment: do the objects of a predicted video do what gravity, contact and momentum make the true ones do?

After the Cosmos paper (arXiv:2501.03575, section 5.3.2 and table 20): its eight kinds of scene, simulated; the model is
shown 1 or 9 frames of 33. Beside pixels it is objects that are measured, found by their masks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosmos_ros.benchmarks.benchmark import Benchmark, Measure, Numbers, Published, Tracker
from cosmos_ros.benchmarks.objects import first_touches, object_numbers
from cosmos_ros.benchmarks.scenes import experiments
from cosmos_ros.benchmarks.segmentation import Segmented, Segmenter, reduced_labels
from cosmos_ros.benchmarks.simulated_clip import GroundTruth
from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.evaluation.measure import Videos
from cosmos_ros.foresight import Foresight
from cosmos_ros.metrics import fidelity

EVERY = 4  # frames, of those that are encoded: encoding all would take longer than all else
UNSEEN, NOT_FOUND = "no object to be seen", "no object found"
TRUTH = "truth"  # the row of the true frames: what it says of objects is the segmentation's own error


def measure(videos: Videos, truth: GroundTruth | None, foresight: Foresight, tracker: Tracker | None) -> Numbers:
    """Of each row: what became of the objects, and how far its pixels and codes are from the true ones."""
    if truth is None:
        raise ValueError("the physics benchmark needs to know where its objects are: it takes no recordings")
    numbers = _of_objects(videos, truth, tracker)
    for row, frames in videos.rows.items():
        numbers[row] |= {
            "psnr": float(np.mean(fidelity.psnr(frames, videos.truth))),
            "ssim": float(np.mean(fidelity.ssim(frames, videos.truth))),
            "code_distance": _code_distance(frames[::EVERY], videos.truth[::EVERY], foresight),
        }
    return numbers


def _code_distance(frames: np.ndarray, truth: np.ndarray, foresight: Foresight) -> float | None:
    """As `planning.scores` has it, over frames; None for an encoder that gives tokens alone."""
    try:
        errors = foresight.codes(frames) - foresight.codes(truth)
    except ModelUnavailable:
        return None
    return float(np.sqrt(np.square(errors).mean(axis=(1, 2, 3))).mean())


def _of_objects(videos: Videos, truth: GroundTruth, tracker: Tracker | None) -> Numbers:
    crop, n_before, n_objects = videos.crop, len(videos.camera), len(truth.objects)
    labels = crop.of(truth.labels[..., None])[..., 0]
    segmenter = Segmenter(videos.camera, labels[:n_before], n_objects)
    masks = reduced_labels(labels)
    contacts = [replace(each, place=(each.place[0] - crop.x, each.place[1] - crop.y)) for each in truth.contacts]
    touches = first_touches(contacts, masks, n_before, masks.shape[2] / labels.shape[2])
    rows = {**videos.rows, TRUTH: videos.truth}
    last = masks[n_before - 1]

    def found(frames: np.ndarray) -> Segmented:
        by_colour = segmenter(frames)  # which finds what is new, too
        return replace(by_colour, labels=tracker(videos.camera[-1], last, frames)) if tracker else by_colour

    return {
        row: object_numbers(found(frames), masks[n_before:], last, touches, n_objects) for row, frames in rows.items()
    }


def published(model: str, image: tuple[float, float, float], video: tuple[float, float, float]) -> list[Published]:
    """PSNR, SSIM and IoU after an image and after nine frames."""
    keys = ("psnr", "ssim", "iou")
    shown = {"image": image, "video": video}
    return [Published(model, what, dict(zip(keys, numbers, strict=True))) for what, numbers in shown.items()]


BENCHMARK = Benchmark(
    name="physics",
    title="Physical alignment",
    question="Do the objects of the predicted video do what gravity, contact and momentum make the true ones do?",
    stages=experiments,
    n_clips=40,
    conditioning=("video", "image"),
    metrics=(),
    measure=measure,
    measures=(
        Measure("psnr", "PSNR", "dB, higher is better", 2),
        Measure("ssim", "SSIM", "higher is better", 3),
        Measure("iou", "IoU, all objects", "higher is better", 3, lacking=UNSEEN),
        Measure("moved_iou", "IoU, where they moved", "higher is better", 3, lacking="nothing moved"),
        Measure("centre_error", "Centre error", "% of the width, lower is better", 1, lacking=NOT_FOUND),
        Measure("centre_error_8", "… in frames 1–8", "% of the width", 1, lacking=NOT_FOUND),
        Measure("centre_error_16", "… in frames 9–16", "% of the width", 1, lacking=NOT_FOUND),
        Measure("centre_error_24", "… in frames 17–24", "% of the width", 1, lacking=NOT_FOUND),
        Measure(
            "missed_contact", "Contacts that never happen", "% of the true ones, lower is better", 0, 100, "none due"
        ),
        Measure("vanished", "Objects that vanish", "% of objects, lower is better", 0, 100, UNSEEN),
        Measure("appeared", "Something appears", "% of clips, lower is better", 0, 100, UNSEEN),
        Measure("code_distance", "Distance of codes", "of -1..1, lower is better", 3, lacking="no codes, only tokens"),
    ),
    published=(
        *published("Cosmos AR 4B", (17.91, 0.49, 0.394), (18.13, 0.48, 0.481)),
        *published("Cosmos AR 5B Video2World", (17.67, 0.48, 0.376), (18.29, 0.48, 0.481)),
        *published("Cosmos AR 12B", (17.94, 0.49, 0.395), (18.22, 0.49, 0.487)),
        *published("Cosmos AR 13B Video2World", (18.00, 0.49, 0.397), (18.26, 0.48, 0.482)),
        *published("Cosmos Diffusion 7B Video2World", (17.34, 0.54, 0.332), (21.06, 0.69, 0.592)),
    ),
    comparable={
        "psnr": "the same definition on other pictures: the paper's are 800 photorealistic clips of Isaac Sim, ours "
        "are small and plain, where more of each frame stands still. Only a model's distance from floor and ceiling "
        "of the same table says something",
        "ssim": "as PSNR",
        "iou": "of all objects that can move, as published; but there SAMURAI tracks them, here their colours and "
        "places do, in scenes that are made for it, and a floor is not published. Hold it against the rows of the "
        "same table",
    },
    clips_note="The eight kinds of scene of the paper, in MuJoCo. Every clip has its own objects, materials, colours, "
    "light and viewpoint, and a camera that stands still. A film has no scale of its own: a model of any rate gets the "
    "same frames.",
    notes=(
        "Objects are found in predicted frames by their colours, which are taken from the frames and masks that go "
        "before, and by where they were. The row of the true frames says how well that works: its IoU is the "
        "segmentation's, and what vanishes or appears there is a false alarm.",
        "A contact counts where it begins after the frames that the model is shown, and where the true masks show it. "
        "It never happens where the object comes nowhere near the place of the true contact, or two objects nowhere "
        "near each other.",
        "An object has vanished where less than a fifth of it is found in three frames running. Something appears "
        "where for as long there is a piece that is neither background nor object, or a second one of an object's "
        "colours, at least half as large as the smallest object.",
        "The distance of codes is the root mean square difference between what the model's own tokenizer makes of "
        "every fourth predicted frame and of the true one, each by itself; codes lie in -1..1. An encoder that gives "
        "tokens alone has none.",
        "DreamSim's networks, which the paper uses, are no part of this package; LPIPS is measured where its weights "
        "are named, and SAM 2 tracks the objects, from the last frame that the model is shown on, where its are. What "
        "appears is told by colours in any case.",
    ),
    needs={},
    tracks_objects=True,
)
