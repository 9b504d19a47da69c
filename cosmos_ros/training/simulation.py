"""Simulated robot cameras: runs a scene's physics in MuJoCo and films it at a fixed rate."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from functools import cache

import mujoco
import numpy as np

from cosmos_ros.training.opengl import NoOpenGL
from cosmos_ros.training.scenes.surroundings import Scene


@cache
def _gl_context(height: int, width: int) -> mujoco.GLContext:
    """One OpenGL context per process and size: making one costs more than filming an episode."""
    if not hasattr(mujoco, "GLContext"):
        raise NoOpenGL.because("there is no EGL")
    context = mujoco.GLContext(width, height)
    atexit.register(context.free)  # OSMesa's cannot be freed any more where the interpreter does it
    context.make_current()
    return context


class Film:
    """Renders one model's cameras off screen; use as a context manager.

    Needs an OpenGL that works without a display: EGL, or what the environment variable MUJOCO_GL names. Raises
    NoOpenGL where there is none.
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
        self.model, self.height, self.width = model, height, width
        # MuJoCo renders into a buffer of this size, whatever part of it is used.
        model.vis.global_.offheight, model.vis.global_.offwidth = height, width
        try:
            _gl_context(height, width).make_current()
            self._renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        except NoOpenGL:
            raise
        except Exception as error:  # drivers that are missing or broken show in many ways
            raise NoOpenGL.because(error) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._renderer)
        self._scene = mujoco.MjvScene(model, maxgeom=500)
        self._options = mujoco.MjvOption()
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        self._renderer.free()

    def frame(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """What the camera sees now: uint8 [height, width, 3] RGB."""
        self._look(data, camera)
        return self._pixels()

    def bodies(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Which body each pixel of that picture shows: int32 [height, width] body ids, 0 for the world, -1 for none."""
        self._look(data, camera)
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        colours = self._pixels().astype(np.int32)
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        # A pixel's colour counts the scene's parts, in the order in which they were put there; 0 is the background.
        body = np.full(self._scene.ngeom + 1, -1, np.int32)
        for part in self._scene.geoms[: self._scene.ngeom]:
            if part.segid >= 0 and part.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                body[part.segid + 1] = self.model.geom_bodyid[part.objid]
        return body[colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]]

    def _look(self, data: mujoco.MjData, camera: str) -> None:
        self._camera.fixedcamid = self.model.camera(camera).id
        mujoco.mjv_updateScene(
            self.model, data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )

    def _pixels(self) -> np.ndarray:
        mujoco.mjr_render(self._viewport, self._scene, self._renderer)
        pixels = np.empty((self.height, self.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._viewport, self._renderer)
        return pixels[::-1]  # OpenGL counts rows from the bottom


def simulate(
    scene: Scene, n_frames: int, frame_rate: float, timestep: float | None = None, exposure: int = 1
) -> Iterator[tuple[mujoco.MjModel, mujoco.MjData]]:
    """Yields the world at each of n_frames instants, `frame_rate` Hz apart; data.time is the simulation time.

    timestep  of the physics, seconds; None: the scene's own
    exposure  of each frame so many instants are yielded, a physics step apart, the frame's own the last

    Raises ValueError where the rate is no whole number of physics steps, or the exposure longer than a frame.
    """
    model = scene.compiled()
    model.opt.timestep = timestep or model.opt.timestep
    data = mujoco.MjData(model)
    steps = 1 / (frame_rate * model.opt.timestep)
    per_frame = round(steps)
    if abs(steps - per_frame) > 1e-6:
        raise ValueError(f"{frame_rate} Hz is no whole number of physics steps of {model.opt.timestep} s")
    if not 1 <= exposure <= per_frame:
        raise ValueError(f"a frame of {per_frame} physics steps cannot be exposed for {exposure}")
    for _ in range(round(scene.settle_s / model.opt.timestep)):
        _step(scene, model, data)
    for frame in range(n_frames):
        for _ in range(per_frame - exposure if frame else 0):  # the shutter is closed
            _step(scene, model, data)
        for instant in range(exposure):
            if frame or instant:
                _step(scene, model, data)
            scene.aim(model, data)
            mujoco.mj_forward(model, data)
            yield model, data


def _step(scene: Scene, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    scene.drive(model, data)
    mujoco.mj_step(model, data)


def film(
    scene: Scene, n_frames: int, frame_rate: float, height: int, width: int, exposure: int = 1
) -> dict[str, np.ndarray]:
    """An episode as each camera of the scene saw it: uint8 [n_frames, height, width, 3] RGB per camera name.

    exposure  physics steps for which the shutter is open, and what moves is blurred; 1: an instant
    """
    instants = {name: np.empty((n_frames * exposure, height, width, 3), np.uint8) for name in scene.cameras}
    recorder = None
    try:
        for i, (model, data) in enumerate(simulate(scene, n_frames, frame_rate, exposure=exposure)):
            recorder = recorder or Film(model, height, width)
            for name in scene.cameras:
                instants[name][i] = recorder.frame(data, name)
    finally:
        if recorder:
            recorder.__exit__()
    return {name: exposed(pictures, exposure) for name, pictures in instants.items()}


def exposed(pictures: np.ndarray, exposure: int) -> np.ndarray:
    """One frame of every so many pictures uint8 [n, H, W, 3]: light adds up, and pixels hold about its square root."""
    if exposure == 1:
        return pictures
    frames = np.split(pictures, len(pictures) // exposure)
    return np.stack([np.sqrt(np.square(each, dtype=np.float32).mean(0)).round().astype(np.uint8) for each in frames])
