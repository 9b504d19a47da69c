"""MuJoCo and the OpenGL by which it draws without a display: what to say where there is none."""

from __future__ import annotations

import os

from cosmos_ros.errors import ForesightError


class NoOpenGL(ForesightError, RuntimeError):
    """Nothing can be drawn on this machine."""

    @classmethod
    def because(cls, why: Exception | str) -> NoOpenGL:
        """With the remedy. `__init__` runs again on the way from a worker process, and would say it twice."""
        return cls(
            f"filming needs OpenGL without a display, and MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} gives none here "
            f"({why}): sudo apt install libegl1 (and libegl-mesa0 where there is no GPU driver), or another OpenGL, "
            "such as MUJOCO_GL=osmesa with libosmesa6"
        )


def load_mujoco() -> None:
    """Import MuJoCo, which is installed: it chooses its OpenGL when it is imported. Raises NoOpenGL."""
    try:
        import mujoco  # noqa: F401
    except Exception as error:  # a library of OpenGL that is not there shows in many ways
        raise NoOpenGL.because(error) from error
