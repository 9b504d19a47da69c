"""What nobody foresees: a thing drops, a person steps in, the camera is knocked, it freezes, the lights go out.

An incident is added to a scene of another kind and happens at a chosen time; until then the scene is as without it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import replace

import mujoco
import numpy as np

from cosmos_ros.training.scenes.surroundings import Palette, Scene, free_object, numbers

FAR_AWAY = np.array([60.0, 60.0, 1.0])  # metres: nothing of it, nor its shadow, is seen
PERSON = (0.2, 1.75)  # metres: radius and height
KNOCK_S = 0.15  # in which a knocked camera is where it stays, but for the trembling

Act = Callable[[mujoco.MjModel, mujoco.MjData], None]


class Incident(enum.Enum):
    """The values are the labels of recordings."""

    DROP = "drop"
    PERSON = "person"
    KNOCKED_CAMERA = "knocked_camera"
    FROZEN_CAMERA = "frozen_camera"
    LIGHTS_OUT = "lights_out"


def with_incident(scene: Scene, incident: Incident, camera: str, at_s: float, rng: np.random.Generator) -> Scene:
    """The scene, in which the incident begins after `at_s` seconds of film, seen by `camera`.

    A frozen camera is none of the scene's: whoever films it repeats the picture.
    """
    begin_s = scene.settle_s + at_s
    match incident:
        case Incident.DROP:
            return _with_drop(scene, begin_s, rng)
        case Incident.PERSON:
            return _with_person(scene, camera, begin_s, rng)
        case Incident.KNOCKED_CAMERA:
            return replace(scene, aim=_both(scene.aim, _knock(camera, begin_s, rng)))
        case Incident.LIGHTS_OUT:
            return replace(scene, aim=_both(scene.aim, _darken(begin_s, rng.uniform(0.03, 0.3))))
        case Incident.FROZEN_CAMERA:
            return scene


def _with_drop(scene: Scene, begin_s: float, rng: np.random.Generator) -> Scene:
    """A ball or block falls onto the table from above the picture."""
    thing = free_object(Palette(rng), "dropped", FAR_AWAY, size=(0.05, 0.09))
    above = np.array([rng.uniform(0.25, 0.55), rng.uniform(-0.3, 0.3), rng.uniform(0.9, 1.3)])

    def hold(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if data.time < begin_s:
            joint = data.joint(model.body("dropped").jntadr[0])
            falls = data.time + model.opt.timestep >= begin_s
            joint.qpos[:3], joint.qvel[:] = above if falls else FAR_AWAY, 0

    return replace(scene, xml=_added(scene.xml, thing), drive=_both(scene.drive, hold))


def _with_person(scene: Scene, camera: str, begin_s: float, rng: np.random.Generator) -> Scene:
    """Somebody walks in from the side, between camera and table, and stops in the middle of the picture."""
    radius, tall = PERSON
    palette = Palette(rng)
    body = (
        f'<body name="person" mocap="true" pos="{numbers(FAR_AWAY)}">'
        f'<geom type="capsule" fromto="0 0 0.2 0 0 {tall - 0.35}" size="{radius}" rgba="{palette.colour()}" '
        'contype="0" conaffinity="0"/>'
        f'<geom type="sphere" size="0.12" pos="0 0 {tall - 0.12}" rgba="0.8 0.6 0.5 1" contype="0" conaffinity="0"/>'
        "</body>"
    )
    nearness, side, speed = rng.uniform(0.2, 0.45), rng.choice([-1, 1]), rng.uniform(0.7, 1.4)
    from_m = 1.2  # beside the line of sight

    def walk(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if data.time < begin_s:
            return
        eye, view = _pose(model, data, camera)
        forward = view[:2] / np.linalg.norm(view[:2])
        reach = (1 - nearness) * 1.2  # metres before the camera
        aside = max(0.0, from_m - speed * (data.time - begin_s))
        place = eye[:2] + reach * forward + side * aside * np.array([-forward[1], forward[0]])
        data.mocap_pos[model.body("person").mocapid[0]] = [*place, eye[2] - tall + 0.25]

    return replace(scene, xml=_added(scene.xml, body), aim=_both(scene.aim, walk))


def _knock(camera: str, begin_s: float, rng: np.random.Generator) -> Act:
    """The camera turns by some degrees within a blink, trembles and stays so."""
    turn = np.radians(rng.uniform(2.5, 8.0)) * rng.choice([-1, 1])
    axis = rng.normal(size=3) * [1, 1, 0.4]
    axis /= np.linalg.norm(axis)

    def knock(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        since = data.time - begin_s
        if since < 0:
            return
        tremble = 0.35 * np.exp(-6 * since) * np.sin(40 * since)
        turned = np.empty(4)
        mujoco.mju_axisAngle2Quat(turned, axis, turn * (min(1.0, since / KNOCK_S) + tremble))
        body = model.body(camera).mocapid[0]
        before = data.mocap_quat[body].copy()
        mujoco.mju_mulQuat(data.mocap_quat[body], before, turned)

    return knock


def _darken(begin_s: float, left: float) -> Act:
    """The light falls to a share of what it was."""
    lit: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def darken(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        head = model.vis.headlight
        if not lit:
            lit.append((model.light_diffuse.copy(), head.ambient.copy(), head.diffuse.copy()))
        share = left if data.time >= begin_s else 1.0
        model.light_diffuse[:], head.ambient[:], head.diffuse[:] = (share * light for light in lit[0])

    return darken


def _pose(model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the camera is, and the direction in which it looks."""
    body = model.body(camera).mocapid[0]
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, data.mocap_quat[body])
    return data.mocap_pos[body].copy(), -rotation.reshape(3, 3)[:, 2]


def _added(xml: str, body: str) -> str:
    return xml.replace("</worldbody>", f"{body}</worldbody>")


def _both(first: Act, second: Act) -> Act:
    def act(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        first(model, data)
        second(model, data)

    return act
