"""A machine that cannot draw is told so, whatever it is that MuJoCo or its OpenGL raises."""

from __future__ import annotations

import pickle
import sys

import pytest

from cosmos_ros.errors import ForesightError
from cosmos_ros.training.opengl import NoOpenGL, load_mujoco


class _Broken:
    """A finder that fails to import MuJoCo, as PyOpenGL does where the library it is asked for is not there."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "mujoco":
            raise AttributeError("'NoneType' object has no attribute 'glGetError'")


def test_an_opengl_that_is_not_there_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Broken(), *sys.meta_path])
    with pytest.raises(
        NoOpenGL, match="MUJOCO_GL=osmesa gives none here .*glGetError.*apt install libegl1.*libosmesa6"
    ) as caught:
        load_mujoco()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value), "as it comes from a worker process"


def test_a_driver_that_is_not_there_is_said_with_the_remedy(monkeypatch):
    mujoco = pytest.importorskip("mujoco", reason="simulating needs requirements/train.txt")
    from cosmos_ros.training import simulation

    def context(*_: int) -> None:
        raise ImportError("Cannot initialize a EGL device display")

    monkeypatch.setattr(simulation, "_gl_context", context)
    with pytest.raises(ForesightError, match="EGL device display.: sudo apt install libegl1"):
        simulation.Film(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)
