"""Structure from motion over a row's frames, by COLMAP (pycolmap): where it thinks that the camera was."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.errors import ForesightError
from cosmos_ros.scratch import scratch_folder

LEAST_SHARE = 0.9  # of the frames, in one model: then the camera's path counts as found
WIDTH = 640  # pixels, to which smaller frames are enlarged: SIFT finds little in small ones
OVERLAP = 6  # frames that each frame is matched with, and others at distances of powers of two
SEED = 0
ROOM_BYTES = 100_000_000  # of temporary files: pictures, and thousands of features in each

logger = logging.getLogger(__name__)


class NoRoom(ForesightError):
    """There is no room for temporary files: frames that have no place for want of it would count against the model."""

    @classmethod
    def in_folder(cls, folder: Path) -> NoRoom:
        return cls(
            f"structure from motion needs {ROOM_BYTES / 1e6:.0f} MB for temporary files, and {folder} has "
            f"{shutil.disk_usage(folder).free / 1e6:.0f} MB left: free some space, or name another folder by TMPDIR"
        )


@dataclass(frozen=True)
class CameraPath:
    """What structure from motion found of n frames.

    frames  indices of those in the largest model, rising
    poses   float64 [len(frames), 4, 4]: camera to world, as OpenCV has cameras; scale and place are arbitrary
    """

    n: int
    frames: tuple[int, ...]
    poses: np.ndarray

    @property
    def share(self) -> float:
        """Of the frames, those that have a place in the model."""
        return len(self.frames) / self.n

    @property
    def found(self) -> bool:
        return self.share >= LEAST_SHARE


def camera_path(frames: np.ndarray, intrinsics: np.ndarray | None) -> CameraPath:
    """Of frames uint8 [n, H, W, 3]; always the same of the same frames.

    intrinsics  [3, 3] as GroundTruth has them; None: the focal length is estimated too

    Raises NoRoom.
    """
    import pycolmap

    # Its log would go to the terminal, warnings of every frame that has no place.
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    with scratch_folder("colmap") as folder:
        _require_room(folder)
        size = _write(frames, folder / "images")
        try:
            models = _models(folder, intrinsics, size[1] / frames.shape[2])
        except RuntimeError as error:  # frames without a single feature, for instance
            logger.debug("structure from motion: %s", error)
            _require_room(folder)  # others may have taken it
            models = []
        return _largest(models, len(frames))


def _require_room(folder: Path) -> None:
    if shutil.disk_usage(folder).free < ROOM_BYTES:
        raise NoRoom.in_folder(folder.parent)


def _write(frames: np.ndarray, folder: Path) -> tuple[int, int]:
    """As pictures, at least WIDTH wide; returns their (height, width)."""
    folder.mkdir()
    height, width = frames.shape[1:3]
    scale = max(1.0, WIDTH / width)
    size = round(width * scale), round(height * scale)
    for i, frame in enumerate(frames):
        picture = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
        if not cv2.imwrite(str(folder / f"{i:03d}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise NoRoom.in_folder(folder.parent.parent)
    return size[::-1]


def _models(folder: Path, intrinsics: np.ndarray | None, scale: float) -> list:
    """All models that the incremental mapper made. Raises RuntimeError."""
    import pycolmap

    database, images = folder / "database.db", folder / "images"
    reader = pycolmap.ImageReaderOptions()
    if intrinsics is not None:
        values = scale * np.array([intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]])
        reader.camera_model, reader.camera_params = "PINHOLE", ",".join(f"{value:.6f}" for value in values)
    extraction, matching = pycolmap.FeatureExtractionOptions(), pycolmap.FeatureMatchingOptions()
    extraction.num_threads = matching.num_threads = 1
    cpu = pycolmap.Device.cpu
    pycolmap.set_random_seed(SEED)
    pycolmap.extract_features(
        database,
        images,
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
        device=cpu,
    )
    pairing = pycolmap.SequentialPairingOptions()
    pairing.overlap = OVERLAP
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = SEED
    pycolmap.match_sequential(
        database, matching_options=matching, pairing_options=pairing, verification_options=verification, device=cpu
    )
    mapping = pycolmap.IncrementalPipelineOptions()
    mapping.num_threads, mapping.random_seed, mapping.extract_colors = 1, SEED, False
    mapping.min_model_size = 3
    # A clip's camera moves by a fraction of what a photographer's does between two pictures.
    mapping.mapper.init_min_tri_angle = 2.0
    mapping.mapper.init_min_num_inliers = 50
    if intrinsics is not None:
        mapping.ba_refine_focal_length = mapping.ba_refine_extra_params = False
    return list(pycolmap.incremental_mapping(database, images, folder / "models", mapping).values())


def _largest(models: list, n: int) -> CameraPath:
    model = max(models, key=lambda each: each.num_reg_images(), default=None)
    if model is None:
        return CameraPath(n, (), np.empty((0, 4, 4)))
    by_index = {}
    for image in model.images.values():
        if image.has_pose:
            pose = np.eye(4)
            pose[:3] = image.cam_from_world().inverse().matrix()
            by_index[int(Path(image.name).stem)] = pose
    frames = tuple(sorted(by_index))
    return CameraPath(n, frames, np.array([by_index[i] for i in frames]).reshape(-1, 4, 4))


def pose_errors(path: CameraPath, true: np.ndarray) -> tuple[float, float]:
    """(rotation in degrees, place as a share of the way that the camera went), each the mean over the frames.

    true  float64 [n, 4, 4]; both paths are laid over each other by the best similarity of their camera centres
          (Umeyama, PAMI 1991), and rotations by the rotation that fits them best
    """
    known = true[list(path.frames)]
    turn = _nearest_rotation(np.einsum("nij,nkj->ik", known[:, :3, :3], path.poses[:, :3, :3]))
    relative = np.einsum("nji,jk,nkl->nil", known[:, :3, :3], turn, path.poses[:, :3, :3])
    cosine = np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)
    places, found = known[:, :3, 3], path.poses[:, :3, 3] @ turn.T
    from_mean, to_mean = found - found.mean(axis=0), places - places.mean(axis=0)
    scale = (from_mean * to_mean).sum() / max((from_mean**2).sum(), 1e-12)
    way = np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1).sum()
    error = np.linalg.norm(scale * from_mean - to_mean, axis=1).mean()
    return float(np.degrees(np.arccos(cosine)).mean()), float(error / max(way, 1e-9))


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(matrix)
    return u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
