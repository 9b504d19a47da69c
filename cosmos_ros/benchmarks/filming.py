"""Films a benchmark's scene: pixels, object masks, contacts, camera poses and intrinsics. Needs MuJoCo and OpenGL."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mujoco
import numpy as np

from cosmos_ros.benchmarks.scenes.staged import Staged
from cosmos_ros.benchmarks.simulated_clip import Contact, GroundTruth, SimulatedClip
from cosmos_ros.training.simulation import Film

LONGEST_STEP_S = 0.005  # of the physics, unless the scene asks for shorter ones
TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # MuJoCo's camera has y up and looks along -z
Touching = dict[tuple[int, int], np.ndarray]  # labels of two things -> where they touch, metres


def film_clip(
    staged: Staged, kind: str, seed: int, n_frames: int, frame_rate: float, size: tuple[int, int]
) -> SimulatedClip:
    """The scene as its first camera sees it; size is (height, width). Raises NoOpenGL where it cannot be drawn."""
    height, width = size
    frames = np.empty((n_frames, height, width, 3), np.uint8)
    labels = np.zeros((n_frames, height, width), np.uint8)
    poses, intrinsics, camera = np.empty((n_frames, 4, 4)), np.eye(3), staged.scene.cameras[0]
    contacts: list[Contact] = []
    recorder: Film | None = None
    try:
        for i, (model, data, touching) in enumerate(_instants(staged, n_frames, staged.frame_rate or frame_rate)):
            recorder = recorder or Film(model, height, width)
            frames[i] = recorder.frame(data, camera)
            if staged.objects:
                labels[i] = _labels(staged, model)[recorder.bodies(data, camera)]
            poses[i], intrinsics = _pose(data, camera), _intrinsics(float(model.camera(camera).fovy[0]), size)
            contacts += [
                Contact(i, things, _projected(place, poses[i], intrinsics))
                for things, place in sorted(touching.items())
            ]
    finally:
        if recorder:
            recorder.__exit__()
    truth = GroundTruth(kind, seed, staged.objects, labels, poses, intrinsics, tuple(contacts))
    return SimulatedClip(frames, frame_rate, truth)


def _instants(
    staged: Staged, n_frames: int, frame_rate: float
) -> Iterator[tuple[mujoco.MjModel, mujoco.MjData, Touching]]:
    """The world at each frame, whole physics steps apart whatever the rate, and what touched since the last one."""
    scene = staged.scene
    model = mujoco.MjModel.from_xml_string(scene.xml, scene.textures)
    steps = math.ceil(1 / (frame_rate * min(model.opt.timestep, LONGEST_STEP_S)))
    model.opt.timestep = 1 / (frame_rate * steps)
    data = mujoco.MjData(model)
    labels = _labels(staged, model)

    def step() -> None:
        scene.drive(model, data)
        mujoco.mj_step(model, data)

    for _ in range(round(scene.settle_s / model.opt.timestep)):
        step()
    for frame in range(n_frames):
        touching: Touching = {}
        for _ in range(steps if frame else 0):
            step()
            touching = _touching(model, data, labels) | touching
        scene.aim(model, data)
        mujoco.mj_forward(model, data)
        yield model, data, _touching(model, data, labels) | touching


def _labels(staged: Staged, model: mujoco.MjModel) -> np.ndarray:
    """Of each body; the last one is that of no body, whose id is -1."""
    labels = np.zeros(model.nbody + 1, np.uint8)
    for label, name in enumerate(staged.objects, start=1):
        labels[model.body(name).id] = label
    return labels


def _touching(model: mujoco.MjModel, data: mujoco.MjData, labels: np.ndarray) -> Touching:
    if not labels.any():
        return {}
    pairs = np.sort(labels[model.geom_bodyid[data.contact.geom]], axis=1)
    found = zip(pairs.tolist(), data.contact.pos, data.contact.dist <= 0, strict=True)
    return {(a, b): place.copy() for (a, b), place, is_touching in found if is_touching and a != b}


def _projected(place: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray) -> tuple[float, float]:
    x, y, depth = intrinsics @ (pose[:3, :3].T @ (place - pose[:3, 3]))
    return float(x / depth), float(y / depth)


def _pose(data: mujoco.MjData, camera: str) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = data.camera(camera).xmat.reshape(3, 3), data.camera(camera).xpos
    return pose @ TO_OPENCV


def _intrinsics(fovy_deg: float, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    focal = height / 2 / math.tan(math.radians(fovy_deg) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
