"""An arm that picks things up and puts them elsewhere, at times on top of each other; at times seen from its hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import mujoco
import numpy as np

from cosmos_ros.training.scenes.arm_over_table import HAND_LENGTH, TABLE_HEIGHT, Arm, CameraPath, Waves, camera_path
from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, clutter, geom, numbers, point, wall

CAMERAS = ("camera0", "camera1")
ON_THE_HAND = "camera1"
N_TRANSFERS = 6
REACHABLE = 0.12  # metres between the fingers' tips and a thing that they can still take
Place = tuple[float, float, float]  # yaw [rad], reach [m], height of the hand's tip above the table [m]


@dataclass(frozen=True)
class Move:
    """The hand's way between two places, beginning and ending at rest; held: which thing it carries, or -1."""

    begin_s: float
    end_s: float
    start: Place
    goal: Place
    held: int

    def at(self, time_s: float) -> Place:
        done = np.clip((time_s - self.begin_s) / (self.end_s - self.begin_s), 0, 1)
        smooth = done**3 * (done * (6 * done - 15) + 10)
        yaw, reach, height = (a + smooth * (b - a) for a, b in zip(self.start, self.goal, strict=True))
        return yaw, reach, height


def work_cell(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette, arm = Palette(rng), Arm.random(rng)
    n, half = int(rng.integers(2, 5)), rng.uniform(0.022, 0.04)
    spots = [(yaw, rng.uniform(0.33, 0.55)) for yaw in rng.permutation(np.linspace(-1.1, 1.1, n + 2))]
    world = [*surroundings(palette), arm.mjcf(palette)]
    world += [thing(palette, i, spots[i], half) for i in range(n)]
    paths = {name: viewpoint(rng) for name in CAMERAS}
    from_the_hand = rng.random() < 0.3
    for name, path in paths.items():
        wide = from_the_hand and name == ON_THE_HAND
        world.append(camera(name, *path.pose(0.0), fovy_deg=rng.uniform(55, 80) if wide else rng.uniform(35, 60)))
    moves = transfers(rng, spots, n, half)
    grasps: dict[int, tuple[np.ndarray, float, np.ndarray]] = {}

    def drive(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        place, held = now(moves, data.time)
        angles = joint_angles(arm, place)
        if data.time == 0:
            data.qpos[:4] = angles
        data.ctrl[:] = angles
        for gone in grasps.keys() - {held}:
            del grasps[gone]
        if held >= 0:
            carry(data, data.joint(model.body(f"thing{held}").jntadr[0]), held, place[0], grasps)

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, path in paths.items():
            eye, target = hand_view(data) if from_the_hand and name == ON_THE_HAND else path.pose(data.time)
            point(model, data, name, np.array(eye), np.array(target))

    xml = palette.document("".join(world), Arm.ACTUATORS)
    return Scene(xml, palette.textures, drive, aim, CAMERAS, settle_s=0.1)


def surroundings(palette: Palette) -> list[str]:
    """Floor, table, walls, and what stands behind the arm and on the table."""
    rng = palette.rng
    table = [rng.uniform(0.5, 0.9), rng.uniform(0.6, 1.2), 0.03]
    world = [
        wall([0, 0, -TABLE_HEIGHT], "0 0 1", palette.look(textured=1)),
        geom("box", table, [0.4, 0, -0.03], palette.look(textured=1), 'friction="0.8 0.01 0.002"'),
    ]
    if rng.random() < 0.7:
        world.append(wall([-rng.uniform(0.6, 1.6), 0, 0], "1 0 0", palette.look(textured=1)))
    if rng.random() < 0.5:
        side = rng.choice([-1, 1])
        world.append(wall([0, side * rng.uniform(1.0, 2.0), 0], f"0 {-side} 0", palette.look(textured=1)))
    if rng.random() < 0.7:
        floor = rng.choice([0.0, -TABLE_HEIGHT])
        world.append(clutter(palette, [-0.4, 0], [0.25, 1.0], int(rng.integers(2, 8)), floor))
    if rng.random() < 0.5:
        world.append(clutter(palette, [0.4, 0], [0.45, 0.8], int(rng.integers(1, 5)), 0.0, size=(0.015, 0.06)))
    return world


def viewpoint(rng: np.random.Generator) -> CameraPath:
    """Nearer, farther and from more sides than over the plain table."""
    return replace(
        camera_path(rng),
        azimuth=rng.uniform(-2.6, 2.6),
        elevation=rng.uniform(0.15, 1.1),
        distance=rng.uniform(0.8, 1.8),
        turn=rng.choice([0.0, rng.uniform(-0.15, 0.15)], p=[0.85, 0.15]),
    )


def thing(palette: Palette, i: int, spot: tuple[float, float], half: float) -> str:
    yaw, reach = spot
    shape = palette.rng.choice(["box", "box", "cylinder"])
    look = f'rgba="{palette.colour((0.4, 1.0), (0.3, 1.0))}"'
    solid = geom(shape, [half] * 3, [0, 0, 0], look, 'density="300" condim="4" friction="1 0.01 0.002"')
    position = numbers([reach * np.cos(yaw), reach * np.sin(yaw), half + 0.001])
    return f'<body name="thing{i}" pos="{position}" euler="0 0 {np.degrees(yaw):.1f}"><freejoint/>{solid}</body>'


def transfers(rng: np.random.Generator, spots: list[tuple[float, float]], n: int, half: float) -> list[Move]:
    """One thing after the other is taken to the same place, some of them stacked; then they go elsewhere."""
    spots, pile = list(spots), spots[n]
    above, pace, time_s = rng.uniform(0.12, 0.25), rng.uniform(0.7, 1.6), rng.uniform(-2.0, 0.4)
    place: Place = (rng.uniform(-1, 1), rng.uniform(0.35, 0.5), rng.uniform(0.1, 0.25))
    moves: list[Move] = []
    for k in range(N_TRANSFERS):
        i = k % n
        source, goal = spots[i], pile if k < n else spots[(i + k) % len(spots)]
        level = 2 * half * k if k < n and rng.random() < 0.7 else 0.0
        grip = 0.4 * half
        stations: list[tuple[Place, int]] = [
            ((*source, above), -1),
            ((*source, grip), -1),
            ((*source, above), i),
            ((*goal, above + level), i),
            ((*goal, grip + level), i),
            ((*goal, above + level), -1),
        ]
        for station, held in stations:
            distance = np.hypot((station[0] - place[0]) * 0.45, station[1] - place[1]) + abs(station[2] - place[2])
            moves.append(Move(time_s, time_s + max(0.35, pace * distance / 0.45), place, station, held))
            time_s = moves[-1].end_s + (rng.uniform(0, 0.8) if rng.random() < 0.25 else 0.05)
            place = station
        spots[i] = goal
    return moves


def now(moves: list[Move], time_s: float) -> tuple[Place, int]:
    """Where the hand is to be, and what it holds."""
    move = next((move for move in moves if time_s <= move.end_s), moves[-1])
    return move.at(time_s), move.held if time_s <= move.end_s else -1


def joint_angles(arm: Arm, place: Place) -> np.ndarray:
    still = Waves(np.array(place), np.zeros((2, 3)), np.ones((2, 3)), np.zeros((2, 3)))
    return replace(arm, hand_path=still).joint_angles(0.0)


def carry(data: mujoco.MjData, joint: Any, held: int, yaw: float, grasps: dict) -> None:
    """Keeps a thing between the fingers, as it was when they closed."""
    hand = data.body("hand")
    rotation = hand.xmat.reshape(3, 3)
    tip = hand.xpos + rotation @ [HAND_LENGTH - 0.03, 0, 0]
    if held not in grasps:
        if np.linalg.norm(joint.qpos[:3] - tip) > REACHABLE:
            return
        grasps[held] = rotation.T @ (joint.qpos[:3] - tip), yaw, joint.qpos[3:7].copy()
    offset, first_yaw, first_turn = grasps[held]
    turn, turned = (yaw - first_yaw) / 2, np.empty(4)
    mujoco.mju_mulQuat(turned, np.array([np.cos(turn), 0, 0, np.sin(turn)]), first_turn)
    joint.qpos[:3], joint.qpos[3:7], joint.qvel[:] = tip + rotation @ offset, turned, 0


def hand_view(data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray]:
    """Eye and target of a camera on the hand, which looks past the fingers."""
    hand = data.body("hand")
    rotation = hand.xmat.reshape(3, 3)
    down = rotation[2, 0] < -0.2
    eye = hand.xpos + (rotation @ [-0.02, 0, 0.09] if down else np.array([0, 0, 0.1]))
    target = hand.xpos + rotation @ [HAND_LENGTH + 0.1, 0, 0]
    straight_down = np.linalg.norm(np.cross([0, 0, 1.0], eye - target)) < 1e-3
    return eye, target + [0.01, 0, 0] if straight_down else target
