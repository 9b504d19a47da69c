"""What every scene shares: random colours, textures, lights and the camera, as MJCF fragments."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import mujoco
import numpy as np

Numbers = np.ndarray | Sequence[float]

FILMED = np.arange(0, 10, 0.1)  # seconds; no episode is longer
INDOORS = 'shadowsize="1024" numquads="1" numslices="18" numstacks="9"'  # quality, where there is much to draw
TEXTURE_SIZE = 128  # texels; a model sees surfaces at no more than about this many pixels


@dataclass(frozen=True)
class Scene:
    """A world to simulate.

    xml       MJCF of the world, with at least one camera
    textures  PNG files that the MJCF names
    drive     called before every physics step with (model, data); sets controls and velocities from data.time
    aim       called likewise before every picture; sets the mocap bodies, the cameras among them
    cameras   names of the cameras that film it
    settle_s  seconds to simulate before filming, so that nothing starts in mid-air by accident
    extend    adds to the world what other files describe, before it is compiled
    """

    xml: str
    textures: dict[str, bytes]
    drive: Callable[[mujoco.MjModel, mujoco.MjData], None]
    aim: Callable[[mujoco.MjModel, mujoco.MjData], None]
    cameras: tuple[str, ...]
    settle_s: float = 0.0
    extend: Callable[[mujoco.MjSpec], None] | None = None

    def compiled(self) -> mujoco.MjModel:
        """The world, ready to simulate; raises what `extend` raises."""
        if self.extend is None:
            return mujoco.MjModel.from_xml_string(self.xml, self.textures)
        spec = mujoco.MjSpec.from_string(self.xml, assets=self.textures)
        self.extend(spec)
        return spec.compile()


@dataclass
class Palette:
    """Collects the materials of one scene while it is being written down.

    mirrors  whether surfaces may reflect: each that does is drawn with the whole scene once more
    """

    rng: np.random.Generator
    mirrors: bool = True
    textures: dict[str, bytes] = field(default_factory=dict)
    assets: list[str] = field(default_factory=list)

    def colour(self, saturation: tuple[float, float] = (0.0, 1.0), value: tuple[float, float] = (0.15, 1.0)) -> str:
        """A random MJCF rgba."""
        rgb = colorsys.hsv_to_rgb(self.rng.random(), self.rng.uniform(*saturation), self.rng.uniform(*value))
        return "{:.3f} {:.3f} {:.3f} 1".format(*rgb)

    def surface(self, name: str) -> str:
        """Adds a material for a large surface (table, floor, wall); returns its name."""
        kind = self.rng.choice(["plain", "checker", "cloudy", "grained"], p=[0.35, 0.15, 0.3, 0.2])
        reflectance = self.rng.choice([0.0, 0.1, 0.25], p=[0.7, 0.2, 0.1]) if self.mirrors else 0.0
        finish = f'specular="{self.rng.uniform(0, 0.5):.2f}" shininess="{self.rng.random():.2f}"'
        if kind == "plain":
            rgba = self.colour(saturation=(0.0, 0.45))
            self.assets.append(f'<material name="{name}" rgba="{rgba}" {finish} reflectance="{reflectance}"/>')
            return name
        if kind == "checker":
            base = dull(self.rng.uniform(0.2, 0.9, 3))
            other = np.clip(base + dull(self.rng.uniform(-0.25, 0.25, 3)), 0, 1)
            self.assets.append(
                f'<texture name="{name}" type="2d" builtin="checker" width="{TEXTURE_SIZE}" height="{TEXTURE_SIZE}" '
                f'rgb1="{numbers(base)}" rgb2="{numbers(other)}"/>'
            )
            repeat = self.rng.uniform(1, 4)
        else:
            self.textures[f"{name}.png"] = noise_texture(self.rng, grained=kind == "grained")
            self.assets.append(f'<texture name="{name}" type="2d" file="{name}.png"/>')
            repeat = self.rng.uniform(0.7, 2)
        self.assets.append(
            f'<material name="{name}" texture="{name}" texrepeat="{repeat:.2f} {repeat:.2f}" {finish} '
            f'reflectance="{reflectance}"/>'
        )
        return name

    def look(self, textured: float = 0.4) -> str:
        """An attribute for a geom: with probability `textured` a material of its own, else a plain colour."""
        if self.rng.random() < textured:
            return f'material="{self.surface(f"look{len(self.assets)}")}"'
        return f'rgba="{self.colour((0, 0.9))}"'

    def picture(self, name: str, image: bytes, mapped: str, finish: str) -> str:
        """Adds a material that shows a PNG; returns it as an attribute.

        name    what it shows; it gets a number
        mapped  "2d", or "cube": the same on every side
        finish  further attributes of the material
        """
        name += str(len(self.assets))
        self.textures[f"{name}.png"] = image
        self.assets.append(f'<texture name="{name}" type="{mapped}" file="{name}.png"/>')
        self.assets.append(f'<material name="{name}" texture="{name}" {finish}/>')
        return f'material="{name}"'

    def sky(self) -> None:
        """The background: a gradient between two dull colours."""
        colours = [self.colour(saturation=(0, 0.4), value=(0.1, 0.95))[:-2] for _ in range(2)]
        self.assets.append(
            f'<texture name="sky" type="skybox" builtin="gradient" width="64" height="384" '
            f'rgb1="{colours[0]}" rgb2="{colours[1]}"/>'
        )

    def lights(self, height: float) -> str:
        """One light with shadows and, at times, a second without."""
        lights = [self._light(height, shadow=True)]
        if self.rng.random() < 0.4:
            lights.append(self._light(height, shadow=False))
        return "".join(lights)

    def _light(self, height: float, shadow: bool) -> str:
        position = np.array([*self.rng.uniform(-1.5, 1.5, 2), height * self.rng.uniform(0.9, 1.6)])
        diffuse = self.rng.uniform(0.3, 0.8) * (1 - 0.15 * self.rng.random(3)) * (1.0 if shadow else 0.4)
        return (
            f'<light directional="true" pos="{numbers(position)}" dir="{numbers(-position)}" '
            f'diffuse="{numbers(diffuse)}" specular="0.2 0.2 0.2" castshadow="{"true" if shadow else "false"}"/>'
        )

    def document(
        self,
        world: str,
        extra: str = "",
        height: float = 2.0,
        extent: float = 10.0,
        timestep: float = 0.005,
        znear: float = 0.01,
        lamps: str = "",
    ) -> str:
        """The whole MJCF around the bodies in `world`; `extra` holds further top-level sections.

        extent  about the scene's size, metres; shadows are drawn that far
        znear   share of it that is too near to be drawn
        lamps   light a scene under a ceiling, which keeps out the light from above
        """
        self.sky()
        ambient = self.rng.uniform(0.25, 0.5)
        return f"""
<mujoco>
  <statistic extent="{extent}"/>
  <option timestep="{timestep}" integrator="implicitfast" cone="elliptic"/>
  <visual>
    <headlight ambient="{ambient:.2f} {ambient:.2f} {ambient:.2f}" diffuse="0.2 0.2 0.2" specular="0 0 0"/>
    <quality {INDOORS if lamps else 'shadowsize="2048"'}/>
    <map znear="{znear}" zfar="20"{' shadowscale="1"' if lamps else ""}/>
  </visual>
  <asset>{"".join(self.assets)}</asset>
  <worldbody>{lamps or self.lights(height)}{world}</worldbody>
  {extra}
</mujoco>"""


def numbers(values: Numbers) -> str:
    """Numbers as an MJCF attribute."""
    return " ".join(f"{v:.4f}" for v in values)


def dull(colour: np.ndarray) -> np.ndarray:
    """Halfway to grey: floors and walls are seldom gaudy."""
    return 0.5 * (colour + colour.mean())


def noise_texture(rng: np.random.Generator, grained: bool) -> bytes:
    """PNG of smooth noise between two random colours; grained: stretched along one axis, like wood."""
    size = (int(rng.integers(3, 12)), 2) if grained else (int(rng.integers(3, 8)),) * 2
    cells = rng.random(size).astype(np.float32)
    noise = cv2.resize(cells, (TEXTURE_SIZE, TEXTURE_SIZE), interpolation=cv2.INTER_CUBIC)
    base = dull(rng.uniform(30, 230, 3))
    other = base + dull(rng.uniform(-70, 70, 3))
    image = base + np.clip(noise, 0, 1)[..., None] * (other - base)
    return png(image)


def png(image: np.ndarray) -> bytes:
    """A texture's file, of levels [h, w, 3] that are cut to 0..255."""
    return cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8))[1].tobytes()


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Quaternion (w, x, y, z) of a MuJoCo camera (x right, y up, looking along -z) at `eye` that sees `target`."""
    back = eye - target
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).flatten())
    return quaternion


def camera(name: str, eye: np.ndarray, target: np.ndarray, fovy_deg: float) -> str:
    """A camera on a mocap body of the same name, so that a scene may move it."""
    return (
        f'<body name="{name}" mocap="true" pos="{numbers(eye)}" quat="{numbers(look_at(eye, target))}">'
        f'<camera name="{name}" fovy="{fovy_deg:.2f}"/></body>'
    )


def point(model: mujoco.MjModel, data: mujoco.MjData, name: str, eye: np.ndarray, target: np.ndarray) -> None:
    """Move the camera of this name, as `camera` makes it, to `eye`, looking at `target`."""
    body = model.body(name).mocapid[0]
    data.mocap_pos[body], data.mocap_quat[body] = eye, look_at(eye, target)


def free_object(palette: Palette, name: str, position: np.ndarray, size: tuple[float, float]) -> str:
    """A free body of a random shape; size: range of half its width, metres."""
    rng = palette.rng
    shape = rng.choice(["sphere", "box", "cylinder", "capsule", "ellipsoid"], p=[0.35, 0.3, 0.15, 0.1, 0.1])
    r = rng.uniform(*size)
    sizes: dict[str, np.ndarray | list[float]] = {
        "sphere": [r],
        "box": r * rng.uniform(0.6, 1.1, 3),
        "cylinder": [r * 0.8, r],
        "capsule": [r * 0.6, r * 0.8],
        "ellipsoid": r * rng.uniform(0.6, 1.2, 3),
    }
    yaw = rng.uniform(0, np.pi)
    # A damping ratio below one makes contacts springy: things bounce.
    bounce = rng.uniform(0.1, 1.0)
    return (
        f'<body name="{name}" pos="{numbers(position)}" euler="0 0 {np.degrees(yaw):.1f}"><freejoint/>'
        f'<geom type="{shape}" size="{numbers(sizes[shape])}" rgba="{palette.colour((0.4, 1.0), (0.3, 1.0))}" '
        f'density="400" condim="6" friction="0.6 0.01 0.002" solref="0.015 {bounce:.2f}"/></body>'
    )


def geom(shape: str, size: Numbers, position: Numbers, look: str, more: str = "") -> str:
    """A geom of a shape; look is a rgba or a material attribute, as `Palette.look` gives it."""
    return f'<geom type="{shape}" size="{numbers(size)}" pos="{numbers(position)}" {look} {more}/>'


def wall(position: Numbers, facing: str, look: str) -> str:
    """An endless wall that faces along `facing`."""
    return f'<geom type="plane" size="6 6 0.1" pos="{numbers(position)}" zaxis="{facing}" {look}/>'


def clutter(
    palette: Palette, centre: Numbers, spread: Numbers, n: int, floor: float, size: tuple[float, float] = (0.03, 0.25)
) -> str:
    """n things that stand about on a floor at this height and never move."""
    rng, parts = palette.rng, []
    for _ in range(n):
        half = rng.uniform(*size, 3)
        place = np.asarray(centre) + rng.uniform(-1, 1, 2) * np.asarray(spread)
        shape = rng.choice(["box", "cylinder", "sphere"], p=[0.65, 0.25, 0.1])
        shapes: dict[str, Numbers] = {"box": half, "cylinder": [half[0] * 0.6, half[2]], "sphere": [half[0] * 0.6]}
        sizes = shapes[shape]
        height = floor + (half[0] * 0.6 if shape == "sphere" else half[2])
        untouchable = f'contype="0" conaffinity="0" euler="0 0 {rng.uniform(0, 180):.1f}"'
        parts.append(geom(str(shape), sizes, [*place, height], palette.look(), untouchable))
    return "".join(parts)
