"""3D consistency: is the predicted world one rigid scene, seen by a camera that moves as the true one does."""

from __future__ import annotations

import numpy as np

from cosmos_ros.benchmarks.benchmark import Benchmark, Measure, Numbers, Published, Tracker
from cosmos_ros.benchmarks.reconstruction import LEAST_SHARE, CameraPath, camera_path, pose_errors
from cosmos_ros.benchmarks.scenes import rooms
from cosmos_ros.benchmarks.simulated_clip import GroundTruth
from cosmos_ros.evaluation.measure import METRICS, Videos
from cosmos_ros.foresight import Foresight
from cosmos_ros.metrics.fidelity import sampson_error

PUBLISHED_WIDTH = 1024  # pixels, of the published models' frames: Sampson errors are given at this scale
NO_PATH = "no path found"
STEP = 2  # every second frame goes into structure from motion


def measure(videos: Videos, truth: GroundTruth | None, _foresight: Foresight, _tracker: Tracker | None) -> Numbers:
    """Every row that moves: the floor stands still, and has neither matches that move nor a path."""
    rows = {row: frames for row, frames in videos.rows.items() if row != "repeat_last_frame"}
    rows["truth"] = videos.truth
    if len(videos.camera) < 2:
        del rows["constant_flow"]  # which stands still too: a single image shows no motion
    return {row: _of_row(videos.before(row), frames, truth) for row, frames in rows.items()}


def _of_row(before: np.ndarray, frames: np.ndarray, truth: GroundTruth | None) -> dict[str, float | bool | None]:
    errors = [error for error in sampson_error(before, frames) if error is not None]
    numbers: dict[str, float | bool | None] = {
        "sampson": float(np.mean(errors)) * PUBLISHED_WIDTH / frames.shape[2] if errors else None
    }
    path = camera_path(frames[::STEP], truth.intrinsics if truth else None)
    numbers["pose_success"], numbers["registered"] = path.found, path.share
    if truth is not None:
        true_poses = truth.poses[-len(frames) :: STEP]
        numbers["rotation_error"], numbers["place_error"] = _errors(path, true_poses)
    return numbers


def _errors(path: CameraPath, true_poses: np.ndarray) -> tuple[float | None, float | None]:
    return pose_errors(path, true_poses) if path.found else (None, None)


BENCHMARK = Benchmark(
    name="3d",
    title="3D consistency",
    question="A static scene seen by a camera that moves: are the predicted frames views of one rigid scene?",
    stages=rooms,
    n_clips=12,
    conditioning=("video", "image"),
    metrics=tuple(metric for metric in METRICS if metric != "sampson"),
    measure=measure,
    measures=(
        Measure(
            "sampson",
            "Sampson error",
            f"pixels at a width of {PUBLISHED_WIDTH}, near the truth's is best",
            3,
            lacking="too few matches that move",
        ),
        Measure("pose_success", "Pose estimation succeeds", "% of clips, higher is better", 0, 100),
        Measure("registered", "Frames placed", "% of a clip's, higher is better", 0, 100),
        Measure("rotation_error", "Rotation error", "degrees, where it succeeds", 2, lacking=NO_PATH),
        Measure("place_error", "Place error", "% of the camera's way, where it succeeds", 2, 100, NO_PATH),
    ),
    published=(
        Published("VideoLDM", None, {"sampson": 0.841, "pose_success": 0.044}),
        Published("Cosmos 7B Text2World", None, {"sampson": 0.355, "pose_success": 0.626}),
        Published("Cosmos 7B Video2World", None, {"sampson": 0.473, "pose_success": 0.684}),
        Published("Cosmos AR 4B", None, {"sampson": 0.433, "pose_success": 0.356}),
        Published("Cosmos AR 5B Video2World", None, {"sampson": 0.392, "pose_success": 0.270}),
        Published("real videos", None, {"sampson": 0.431, "pose_success": 0.564}),
    ),
    comparable={
        "sampson": "not the same protocol: the paper takes 500 clips of RealEstate10K and matches SuperPoint features "
        "with LightGlue, a fundamental matrix by 8-point RANSAC; here other clips, SIFT and USAC_MAGSAC, over "
        "matches within 3 pixels, at the scale of 1024 pixels. Hold the model against the true frames' row of the "
        "same table, as the paper does",
        "pose_success": "not the same protocol: COLMAP in both, but other clips, and in simulated rooms with the "
        "camera's intrinsics given; these rooms have more texture than what one finds in houses, so that even true "
        "frames reach other shares (the paper's real videos 56 %)",
    },
    clips_note="Static rooms: nothing moves except the camera, which drives in, passes by, or goes round. What stands "
    "in them, prints, lights, lens and way are drawn from the seed.",
    notes=(
        "Sampson error: SIFT matches between predicted frames four steps apart, the fundamental matrix by USAC_MAGSAC "
        "(OpenCV), the mean Sampson distance of matches within 3 pixels of it, scaled to a width of 1024 pixels. It "
        "only says whether what matches obeys one geometry: frames without detail to match can have a small one.",
        "Pose estimation: COLMAP's incremental mapper over every second predicted frame, none of the true ones, "
        f"succeeds where one model holds {LEAST_SHARE:.0%} of them. Found and true way are laid over each other by the "
        "best similarity; a place error of 1 % is one hundredth of the length of the camera's way.",
        "The floor stands still, and so does constant flow after a single image: nothing to match or to find there.",
        "View synthesis (PSNR, SSIM and LPIPS of held-back views, in the paper by Gaussian splatting of Nerfstudio) is "
        "left out: gsplat (1.5.3, July 2025) compiles CUDA kernels, and Nerfstudio's last release (1.1.5) is of "
        "November 2024. No package that is kept up does it without a GPU.",
    ),
    needs={"pycolmap": "structure from motion"},
    takes_recordings=True,
    least_width=320,
)
