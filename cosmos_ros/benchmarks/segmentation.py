"""Finds known objects again in predicted frames of a camera that stands still, by colour and by where they were.

It knows what the published protocol's tracker is given: where the objects are in the true frames before the prediction.
How well it does is measured on the true frames that follow: its own error stands in the benchmark's table.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

WIDEST = 320  # pixels to which wider frames are reduced
SHADES = 6  # of each object's colours, from dark to light
LIGHTNESS_WEIGHT = 0.35  # against hue and saturation: shading changes as things turn
SHADOW_WEIGHT = 0.3  # likewise, where a shadow comes to the background or goes from it
FAR_COLOUR = 1e4  # in these units
DARKEST_SHADOW = 0.3  # of the background's lightness
BACKGROUND_BIAS = 4.0  # in units of CIELAB, in favour of the background
NEW_COLOUR = 20.0  # in these units: further from background and all objects, a pixel shows something else
SMALLEST_SHARE = 0.0006  # of the picture: smaller pieces are specks
REACH = 0.12  # of the picture's width, that an object moves from frame to frame at most


@dataclass(frozen=True)
class Segmented:
    """What was found in n frames.

    labels  uint8 [n, h, w]: object i is labelled i + 1
    spare   bool [n, h, w]: further pieces that have the colours of an object, away from where it is
    new     bool [n, h, w]: what is neither of any object's colours nor the background, where that is known
    """

    labels: np.ndarray
    spare: np.ndarray
    new: np.ndarray


class Segmenter:
    """Of the objects that true frames show; frames uint8 [m, H, W, 3] RGB, labels uint8 [m, H, W]."""

    def __init__(self, frames: np.ndarray, labels: np.ndarray, n_objects: int) -> None:
        pictures = np.stack([_lab(reduced(frame)) for frame in frames])
        labels = reduced_labels(labels)
        self._background, self._unseen = _background(pictures, labels)
        self._colours = np.stack([_shades(pictures[labels == i + 1]) for i in range(n_objects)])
        self._places = [_middle(labels[-1] == i + 1) for i in range(n_objects)]
        self._smallest = max(4, round(SMALLEST_SHARE * labels[0].size))
        self._reach = REACH * labels.shape[2]

    def __call__(self, frames: np.ndarray) -> Segmented:
        """In the frames that follow, uint8 [n, H, W, 3], at the reduced size."""
        places = list(self._places)
        found = [self._in_frame(frame, places) for frame in frames]
        return Segmented(*(np.stack(each) for each in zip(*found, strict=True)))

    def _in_frame(
        self, frame: np.ndarray, places: list[np.ndarray | None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`places` are the objects' last known ones, and are brought up to date."""
        picture = _lab(reduced(frame))
        background = _from_background(picture, self._background) - BACKGROUND_BIAS
        costs = np.stack(
            [cv2.GaussianBlur(cost, (0, 0), 0.7) for cost in (background, *_from_colours(picture, self._colours))]
        )
        nearest = costs.argmin(axis=0)
        labels, spare = np.zeros(nearest.shape, np.uint8), np.zeros(nearest.shape, bool)
        for i, place in enumerate(places):
            own, others = self._pieces(nearest == i + 1, place)
            labels[own] = i + 1
            spare |= others
            places[i] = _middle(own) if own.any() else place
        new = (costs.min(axis=0) > NEW_COLOUR) & ~self._unseen
        return labels, _without_edges(spare), _without_edges(new)

    def _pieces(self, mask: np.ndarray, place: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The object itself, and further pieces of its colours.

        The object is the largest piece near its last place, where there is one, else the largest; what lies by it
        belongs to it, as it may be partly hidden.
        """
        _, pieces, stats, middles = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]
        large = 1 + np.flatnonzero(areas >= self._smallest)
        if not len(large):
            return np.zeros_like(mask), np.zeros_like(mask)
        weights = stats[large, cv2.CC_STAT_AREA].astype(np.float64)
        if place is not None:
            weights *= np.exp(-np.square(np.linalg.norm(middles[large] - place, axis=1) / self._reach))
        main = pieces == large[weights.argmax()]
        if len(large) == 1:
            return main, np.zeros_like(mask)
        away = cv2.distanceTransform((~main).astype(np.uint8), cv2.DIST_L2, 5)
        own, others = main.copy(), np.zeros_like(mask)
        for piece in large:
            here = pieces == piece
            near = away[here].min() <= max(2.0, np.sqrt(stats[piece, cv2.CC_STAT_AREA]))
            (own if near else others)[here] = True
        return own, others


def _without_edges(mask: np.ndarray) -> np.ndarray:
    """Without what is a line only: along edges, where colours mix."""
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0


def reduced(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if width <= WIDEST:
        return frame
    return cv2.resize(frame, (WIDEST, round(height * WIDEST / width)), interpolation=cv2.INTER_AREA)


def reduced_labels(labels: np.ndarray) -> np.ndarray:
    """[n, H, W] at the size at which objects are looked for."""
    height, width = labels.shape[1:]
    if width <= WIDEST:
        return labels
    size = (WIDEST, round(height * WIDEST / width))
    return np.stack([cv2.resize(each, size, interpolation=cv2.INTER_NEAREST) for each in labels])


def _lab(frame: np.ndarray) -> np.ndarray:
    """CIELAB, float32: 0..100, and about -100..100 twice."""
    return cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)


def _background(pictures: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lies behind the objects: the mean of what was seen of it, and where nothing was, a guess from around.

    [h, w, 3], and bool [h, w] where it is a guess.
    """
    wide = np.stack([cv2.dilate(each, np.ones((3, 3), np.uint8)) for each in labels])  # edges are mixed colours
    seen = (wide == 0)[..., None]
    count = seen.sum(axis=0)
    mean = np.where(seen, pictures, 0).sum(axis=0) / np.maximum(count, 1)
    hidden = count[..., 0] == 0
    return _filled(mean.astype(np.float32), hidden.astype(np.uint8)), hidden


def _filled(picture: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Hidden pixels from the nearest seen ones, then smoothed."""
    if not hidden.any() or hidden.all():
        return picture
    _, nearest = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    order = np.zeros(nearest.max() + 1, np.int64)
    order[nearest[hidden == 0]] = np.flatnonzero(hidden == 0)
    filled = picture.reshape(-1, 3)[order[nearest]]
    smooth = cv2.GaussianBlur(filled, (0, 0), 2)
    return np.where(hidden[..., None] > 0, smooth, picture)


def _shades(pixels: np.ndarray) -> np.ndarray:
    """An object's colours [SHADES, 3], from its pixels [m, 3]: means of equal parts, by lightness.

    One that is not seen has none: colours that no pixel is near.
    """
    if not len(pixels):
        return np.full((SHADES, 3), FAR_COLOUR, np.float32)
    ordered = pixels[pixels[:, 0].argsort(kind="stable")]
    bounds = np.linspace(0, len(ordered), SHADES + 1).astype(int)
    return np.stack(
        [
            ordered[min(start, len(ordered) - 1) : max(end, start + 1)].mean(axis=0)
            for start, end in zip(bounds, bounds[1:], strict=False)
        ]
    )


def _from_background(picture: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Distance of each pixel, CIELAB; shadows that come and go take the background's colours along with its light."""
    light = picture[..., 0] / np.maximum(background[..., 0], 1)
    shaded = background * np.clip(light, DARKEST_SHADOW, 1 / DARKEST_SHADOW)[..., None]
    shadow = background[..., 0] - shaded[..., 0]
    return np.sqrt(np.square(picture - shaded).sum(axis=-1) + np.square(SHADOW_WEIGHT * shadow)).astype(np.float32)


def _from_colours(picture: np.ndarray, shades: np.ndarray) -> np.ndarray:
    """Distance [n, h, w] of each pixel from the nearest of each object's shades [n, SHADES, 3], CIELAB."""
    weights = np.array([LIGHTNESS_WEIGHT, 1, 1], np.float32)
    pixels, colours = (picture * weights).reshape(-1, 3), (shades * weights).reshape(-1, 3)
    squares = np.square(colours).sum(axis=1)[:, None] - 2 * colours @ pixels.T + np.square(pixels).sum(axis=1)
    nearest = squares.reshape(*shades.shape[:2], -1).min(axis=1)
    return np.sqrt(np.maximum(nearest, 0)).reshape(len(shades), *picture.shape[:2])


def _middle(mask: np.ndarray) -> np.ndarray | None:
    """(x, y) of a mask's centre; None where there is nothing."""
    y, x = np.nonzero(mask)
    return np.array([x.mean(), y.mean()]) if len(x) else None
