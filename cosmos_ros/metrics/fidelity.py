"""How near predicted frames come to the true ones, per frame. All frames are uint8 [n, H, W, 3] RGB."""

from __future__ import annotations

import math

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.transform import FundamentalMatrixTransform

PSNR_CEILING = 60.0  # dB, of frames that are (nearly) identical: their PSNR is infinite and has no mean
MOTION_WIDTH = 512  # pixels to which wider frames are reduced to tell their motion; numbers are the camera's pixels
MOVING_LEVELS = 10  # of 255, in any channel: what a pixel differs by from the last camera frame where something moves
MOVING_SHARE = 0.001  # of the pixels; where fewer move, it may be noise, and their PSNR says nothing
SAMPSON_STEP = 4  # frames between the two of a pair: neighbours hardly move, and any geometry fits them
SAMPSON_REACH = 3.0  # pixels; matches further from every epipolar geometry are mismatches or moving things
MIN_MATCHES = 16  # twice what a fundamental matrix is determined by
SIFT_FEATURES = 1000
RATIO = 0.75  # of the best to the second best descriptor distance (Lowe, IJCV 2004)


def psnr(predicted: np.ndarray, true: np.ndarray) -> list[float]:
    """Of each frame over its three channels, dB, at most PSNR_CEILING. Means are taken over dB."""
    return [min(PSNR_CEILING, _psnr(a, b)) for a, b in zip(predicted, true, strict=True)]


def moving(last: np.ndarray, true: np.ndarray) -> np.ndarray:
    """bool [n, H, W]: the pixels that have changed since the last camera frame, uint8 [H, W, 3], in each true frame."""
    return np.stack([cv2.absdiff(frame, last).max(axis=-1) > MOVING_LEVELS for frame in true])


def moving_psnr(predicted: np.ndarray, true: np.ndarray, mask: np.ndarray) -> list[float | None]:
    """PSNR of each frame, dB, over the pixels of mask [n, H, W] alone; None where too few move."""
    return [
        _masked_psnr(a[where], b[where]) if where.mean() >= MOVING_SHARE else None
        for a, b, where in zip(predicted, true, mask, strict=True)
    ]


def ssim(predicted: np.ndarray, true: np.ndarray) -> list[float]:
    """Of each frame's luma, with the Gaussian window of 1.5 pixels of Wang et al. (IEEE TIP 2004)."""
    return [
        float(
            structural_similarity(
                _luma(a), _luma(b), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
        )
        for a, b in zip(predicted, true, strict=True)
    ]


def motion(before: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Optical flow into each frame from the one before it, pixels per frame: float32 [n, h, w, 2].

    before  the frame before the first, uint8 [H, W, 3]; h and w are at most those of MOTION_WIDTH
    """
    grey = [_reduced_grey(frame) for frame in (before, *frames)]
    scale = before.shape[1] / grey[0].shape[1]
    return scale * np.stack([dense_flow(a, b) for a, b in zip(grey, grey[1:], strict=False)])


def endpoint_error(flow: np.ndarray, true_flow: np.ndarray) -> list[float]:
    """Mean distance between predicted and true motion, pixels per frame, for flows [n, h, w, 2]."""
    return [float(np.linalg.norm(a - b, axis=-1).mean()) for a, b in zip(flow, true_flow, strict=True)]


def sampson_error(before: np.ndarray, frames: np.ndarray) -> list[float | None]:
    """Mean Sampson distance, pixels, between each frame and the one SAMPSON_STEP frames earlier.

    How well the two obey one epipolar geometry: SIFT matches, the fundamental matrix by USAC_MAGSAC (OpenCV), the
    mean over the matches within SAMPSON_REACH of it. None where there are too few matches to tell, or no motion.

    before  the frames that go before; with fewer than SAMPSON_STEP of them the first frames have None
    """
    described = [_features(frame) for frame in (*before[-SAMPSON_STEP:], *frames)]
    unpaired: list[float | None] = [None] * (SAMPSON_STEP - min(SAMPSON_STEP, len(before)))
    return unpaired + [_pair_error(*pair) for pair in zip(described, described[SAMPSON_STEP:], strict=False)]


def dense_flow(grey: np.ndarray, next_grey: np.ndarray) -> np.ndarray:
    """DIS optical flow (Kroeger et al., ECCV 2016) from one grey image to the next, pixels: float32 [H, W, 2]."""
    # It has no frames smaller than its patches.
    if min(grey.shape) < 16:
        return np.zeros((*grey.shape, 2), np.float32)
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return method.calc(grey, next_grey, None)  # type: ignore[call-overload]  # OpenCV's stub wants a flow to begin with


def warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The image looked up at each pixel's position plus `flow`; edges repeat."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return math.inf if np.array_equal(a, b) else float(peak_signal_noise_ratio(b, a, data_range=255))


def _masked_psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of pixels uint8 [m, 3]."""
    error = float(np.square(a.astype(np.float32) - b).mean(dtype=np.float64))
    return min(PSNR_CEILING, 10 * math.log10(255**2 / error)) if error else PSNR_CEILING


def _luma(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _features(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions [m, 2] in the frame's own pixels and descriptors [m, 128] of SIFT features."""
    grey = _reduced_grey(frame)
    found, descriptors = cv2.SIFT.create(SIFT_FEATURES).detectAndCompute(grey, None)
    places = np.array([feature.pt for feature in found], np.float32).reshape(-1, 2)
    return places * np.float32(frame.shape[1] / grey.shape[1]), descriptors


def _reduced_grey(frame: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = MOTION_WIDTH / frame.shape[1]
    return grey if scale >= 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _pair_error(a: tuple[np.ndarray, np.ndarray | None], b: tuple[np.ndarray, np.ndarray | None]) -> float | None:
    from_points, to_points = _matches(*a, *b)
    if len(from_points) < MIN_MATCHES or np.abs(from_points - to_points).max() < 0.5:
        return None
    try:
        matrix, _ = cv2.findFundamentalMat(from_points, to_points, cv2.USAC_MAGSAC, SAMPSON_REACH, 0.999, 2000)
    except cv2.error:  # what it does with degenerate matches, all on one line for instance
        return None
    if matrix is None or matrix.shape != (3, 3):
        return None
    distance = FundamentalMatrixTransform(matrix).residuals(from_points, to_points)
    fitting = distance[distance < SAMPSON_REACH]
    return float(fitting.mean()) if len(fitting) >= MIN_MATCHES else None


def _matches(
    from_points: np.ndarray,
    from_descriptors: np.ndarray | None,
    to_points: np.ndarray,
    to_descriptors: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [m, 2] in either image of the features that match beyond doubt."""
    if from_descriptors is None or to_descriptors is None or min(len(from_points), len(to_points)) < 2:
        return from_points[:0], to_points[:0]
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(from_descriptors, to_descriptors, k=2)
    good = [best for best, second in pairs if best.distance < RATIO * second.distance]
    return from_points[[match.queryIdx for match in good]], to_points[[match.trainIdx for match in good]]
