"""What all scenes of the physics benchmark share: floor, backdrop, view, and the looks and materials of things.

A film has no scale of its own: a scene four times as large, filmed at half the rate, looks the same. So the scenes are
about a metre wide, gravity is chosen such that what happens takes about 33 frames at 10 Hz, and a model of another rate
gets the same frames: those of a scene that is larger or smaller by the square of the ratio.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, field

import mujoco
import numpy as np

from cosmos_ros.benchmarks.scenes.staged import Staged
from cosmos_ros.training.scenes.surroundings import Numbers, Palette, Scene, camera, geom, numbers, wall

CAMERA = "camera"
FRAME_RATE = 10.0  # Hz, for which gravity was chosen
TIMESTEP = 0.002  # s, of the physics
# Density in kg/m^3, sliding friction, and the damping ratio of contacts: below one, things bounce.
MATERIALS = ((150, 0.9, 0.15), (500, 0.5, 0.6), (900, 0.6, 0.9), (2500, 0.3, 0.3))  # rubber, wood, clay, steel
GLOSSES = ((0.0, 0.1), (0.4, 0.5), (0.9, 0.9))  # specular and shininess: matt, silk, polished


@dataclass
class Scenery:
    """Collects a scene while it is being written down.

    Its things have one hue each, far apart; floor and walls are dull: by their colours things are found again in a
    predicted picture.
    """

    rng: np.random.Generator
    n_things: int
    palette: Palette = field(init=False)
    world: list[str] = field(default_factory=list)
    things: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.palette = Palette(self.rng)
        hues = (self.rng.random() + np.arange(self.n_things) / self.n_things) % 1
        self._hues = list(self.rng.permutation(hues))
        floor, back = self.palette.look(textured=1), self.palette.look(textured=0.8)
        self.world += [wall([0, 0, 0], "0 0 1", floor), wall([0, self.rng.uniform(1.6, 3.0), 0], "0 -1 0", back)]

    def material(self) -> str:
        """Attributes of a random physical material. Its friction and bounce hold whatever it touches."""
        density, friction, bounce = MATERIALS[self.rng.integers(len(MATERIALS))]
        return f'density="{density}" friction="{friction} 0.002 0.0001" condim="6" solref="0.02 {bounce}" priority="1"'

    def thing(
        self,
        parts: Callable[[str], str],
        position: Numbers,
        turned: str = "",
        joint: str = "<freejoint/>",
    ) -> str:
        """A body that can move; parts makes its geoms of the attributes of their look. Returns its name.

        turned  as `turned` below gives it
        """
        name = f"thing{len(self.things)}"
        geoms = parts(self._look(name))
        self.world.append(f'<body name="{name}" pos="{numbers(position)}" {turned}>{joint}{geoms}</body>')
        self.things.append(name)
        return name

    def solid(self, shape: str, size: Numbers, position: Numbers, turned: str = "", material: str = "") -> str:
        """A thing of one geom, of a random material where none is given. Returns its name."""
        material = material or self.material()
        return self.thing(lambda look: geom(shape, size, [0, 0, 0], look, material), position, turned)

    def fixture(self, shape: str, size: Numbers, position: Numbers, look: str, more: str = "") -> None:
        """What stands there and never moves."""
        self.world.append(geom(shape, size, position, look, more))

    def staged(
        self,
        target: Numbers,
        distance: float,
        gravity: float,
        drive: Callable[[mujoco.MjModel, mujoco.MjData], None] | None = None,
        azimuths_deg: tuple[float, float] = (-45, 45),
        elevations_deg: tuple[float, float] = (8, 32),
    ) -> Staged:
        """All that was collected, seen by a camera that stands still.

        target, distance  m; azimuths are measured from the middle of the front, where y is negative
        gravity           m/s^2
        """
        rng = self.rng
        azimuth, elevation = np.radians(rng.uniform(*azimuths_deg)), np.radians(rng.uniform(*elevations_deg))
        flat = np.cos(elevation)
        towards = np.array([np.sin(azimuth) * flat, -np.cos(azimuth) * flat, np.sin(elevation)])
        eye = np.asarray(target) + distance * rng.uniform(0.95, 1.15) * towards
        self.world.append(camera(CAMERA, eye, np.array(target, np.float64), fovy_deg=42.0))
        extra = f'<option gravity="0 0 {-gravity}"/>'
        xml = self.palette.document("".join(self.world), extra=extra, timestep=TIMESTEP)
        scene = Scene(xml, self.palette.textures, drive or _nothing, _nothing, (CAMERA,))
        return Staged(scene, tuple(self.things), FRAME_RATE)

    def _look(self, name: str) -> str:
        """Attributes of a new look of its own hue: of one colour or in two shades, from matt to polished."""
        rng, hue = self.rng, self._hues[len(self.things)]
        saturation, value = rng.uniform(0.75, 1.0), rng.uniform(0.6, 1.0)
        colours = [colorsys.hsv_to_rgb(hue, saturation, value * shade) for shade in (1.0, rng.uniform(0.55, 0.75))]
        specular, shininess = GLOSSES[rng.integers(len(GLOSSES))]
        if rng.random() < 0.4:
            paint = f'rgba="{numbers(colours[0])} 1"'
        else:
            self.palette.assets.append(
                f'<texture name="{name}" type="cube" builtin="checker" width="64" height="64" '
                f'rgb1="{numbers(colours[0])}" rgb2="{numbers(colours[1])}"/>'
            )
            paint = f'texture="{name}"'
        self.palette.assets.append(f'<material name="{name}" {paint} specular="{specular}" shininess="{shininess}"/>')
        return f'material="{name}"'


def turned(*turns: tuple[str, float]) -> str:
    """The attribute of a body or geom that is turned by degrees about the world's axes, one after the other.

    turned(("y", 20), ("z", 90)) tips it about y, then turns it about the upright.
    """
    quaternion = np.array([1.0, 0, 0, 0])
    for axis, degrees in turns:
        half = np.radians(degrees) / 2
        turn = np.array([np.cos(half), *(np.sin(half) * (np.array(list("xyz")) == axis))])
        product = np.empty(4)
        mujoco.mju_mulQuat(product, turn, quaternion)
        quaternion = product
    return f'quat="{numbers(quaternion)}"'


def _nothing(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
    """Gravity does it all, and the cameras stand where the world puts them."""
