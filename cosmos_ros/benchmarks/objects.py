"""What became of each object in predicted frames, told by masks: uint8 [n, h, w], object i is labelled i + 1."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cosmos_ros.benchmarks.segmentation import Segmented
from cosmos_ros.benchmarks.simulated_clip import Contact

VISIBLE_SHARE = 0.0008  # of the picture, that an object takes to be counted
STAYED = 0.5  # IoU of an object's true mask with that of the last camera frame, below which it has moved
GONE = 0.2  # of its true area: less of it is found, and it has vanished
LASTING = 3  # frames running: anything shorter may be a flaw of the segmentation
NEAR = 0.025  # of the picture's width: what comes as near as this to where the true one touched, touches
GAP = 0.0125  # likewise, between two objects
SPANS = (8, 16, 24)  # frames of the horizon, over which the error of the centre is told one after the other
Numbers = dict[str, float | bool | None]


def object_numbers(
    found: Segmented, truth: np.ndarray, last: np.ndarray, touches: Sequence[Contact], n_objects: int
) -> Numbers:
    """Measures of one clip; None where there is nothing to measure.

    found    in n predicted frames
    truth    the true masks of these frames
    last     uint8 [h, w], of the last camera frame
    touches  `first_touches` of the truth, frames counted from the first predicted one

    iou             mean over objects, of its mean over the frames in which the object is seen in truth
    moved_iou       likewise, over the frames in which it has left its place in the last camera frame
    centre_error    distance of an object's centre from the true one where both are seen, % of the picture's width; and
                    the same over frames 1 to 8, 9 to 16, 17 to 24
    missed_contact  share of the touches that never happen
    vanished        share of the objects of which less than a fifth is left for three frames or more
    appeared        whether for three frames or more there is something new, or a second piece with an object's
                    colours, half as large as the smallest object or larger
    """
    tracks = [_Track(found.labels == i, truth == i, last == i) for i in range(1, n_objects + 1)]
    tracks = [track for track in tracks if track.is_seen]
    errors = np.array([track.centre_errors() for track in tracks]).reshape(len(tracks), len(truth))
    spans = zip((0, *SPANS), SPANS, strict=False)
    return {
        "iou": _mean([_mean(track.overlaps[track.seen]) for track in tracks]),
        "moved_iou": _mean([_mean(track.overlaps[track.moved]) for track in tracks]),
        "centre_error": _mean(errors),
        **{f"centre_error_{end}": _mean(errors[:, start:end]) for start, end in spans},
        "missed_contact": _mean([not _touches(found.labels, touch).any() for touch in touches]),
        "vanished": _mean([track.vanishes() for track in tracks]),
        "appeared": _appears(found, [int(track.last.sum()) for track in tracks]) if tracks else None,
    }


def first_touches(contacts: Sequence[Contact], labels: np.ndarray, n_before: int, scale: float = 1.0) -> list[Contact]:
    """Contacts that begin after the first frames and that the true masks show beginning.

    labels    uint8 [n_before + n, h, w], true
    n_before  frames before the prediction
    scale     pixels of the masks per pixel of the contacts' places

    Of each pair that does not touch in the last frame before: the first. Frames are counted from the first predicted.
    """
    last = n_before - 1
    known = {contact.things for contact in contacts if contact.frame == last}
    begun = []
    for contact in contacts:
        if contact.frame <= last or contact.things in known:
            continue
        known.add(contact.things)
        x, y = contact.place
        placed = Contact(contact.frame - n_before, contact.things, (x * scale, y * scale))
        around = labels[contact.frame - 1 : contact.frame + 2]
        if not _touches(labels[last : last + 1], placed).any() and _touches(around, placed).any():
            begun.append(placed)
    return begun


class _Track:
    """One object: bool [n, h, w] as found and in truth, [h, w] in the last camera frame."""

    def __init__(self, found: np.ndarray, truth: np.ndarray, last: np.ndarray) -> None:
        self.found, self.truth, self.last = found, truth, last
        smallest = max(4, VISIBLE_SHARE * last.size)
        self.areas = truth.sum(axis=(1, 2))
        self.seen = self.areas >= smallest
        self.is_seen = last.sum() >= smallest and bool(self.seen.any())
        self.overlaps = _overlaps(found, truth)
        self.moved = self.seen & (_overlaps(truth, np.broadcast_to(last, truth.shape)) < STAYED)

    def centre_errors(self) -> list[float]:
        """Per frame; NaN where it is not seen in both."""
        width = self.truth.shape[2]
        both = self.seen & self.found.any(axis=(1, 2))
        return [
            100 / width * float(np.linalg.norm(_centre(found) - _centre(true))) if known else np.nan
            for found, true, known in zip(self.found, self.truth, both, strict=True)
        ]

    def vanishes(self) -> bool:
        # Where the truth sees more of it than the camera did, it need not be found any larger.
        expected = np.minimum(self.areas, self.last.sum())
        return _lasts(self.seen & (self.found.sum(axis=(1, 2)) < GONE * expected))


def _overlaps(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each frame's masks; NaN where both are empty."""
    union = (some | others).sum(axis=(1, 2))
    return np.where(union > 0, (some & others).sum(axis=(1, 2)) / np.maximum(union, 1), np.nan)


def _touches(labels: np.ndarray, contact: Contact) -> np.ndarray:
    """bool [n]: in which frames these masks [n, h, w] show the two together.

    With what is no object of interest, that is where the true contact was; two objects may touch anywhere.
    """
    (a, b), width = contact.things, labels.shape[2]
    if a:
        return np.array([_distance(each == a, each == b) <= max(1.5, GAP * width) for each in labels], bool)
    return np.array([_distance_from(each == b, contact.place) <= max(2.0, NEAR * width) for each in labels], bool)


def _distance(mask: np.ndarray, other: np.ndarray) -> float:
    """Pixels between two masks, from middle to middle of the nearest ones."""
    if not (mask.any() and other.any()):
        return np.inf
    return float(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)[other].min())


def _distance_from(mask: np.ndarray, place: tuple[float, float]) -> float:
    y, x = np.nonzero(mask)
    return float(np.hypot(x + 0.5 - place[0], y + 0.5 - place[1]).min()) if len(x) else np.inf


def _appears(found: Segmented, areas: Sequence[int]) -> bool:
    """Whether something is there that was not; areas of the objects, pixels, in the last camera frame."""
    least = max(8, min(areas) / 2)
    return _lasts([any(size >= least for size in _sizes(new)) for new in found.new]) or _lasts(
        [any(size >= least for size in _sizes(spare)) for spare in found.spare]
    )


def _sizes(mask: np.ndarray) -> list[int]:
    """Of its connected pieces, pixels."""
    return cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA].tolist()


def _lasts(flags: Sequence[bool] | np.ndarray) -> bool:
    """Whether it is so in so many frames running."""
    running = 0
    for flag in flags:
        running = running + 1 if flag else 0
        if running == LASTING:
            return True
    return False


def _centre(mask: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([x.mean(), y.mean()])


def _mean(values: Sequence[float | None] | np.ndarray) -> float | None:
    """Of the numbers that are there."""
    there = np.array([np.nan if value is None else value for value in np.ravel(np.asarray(values, object))], float)
    there = there[~np.isnan(there)]
    return float(there.mean()) if len(there) else None
