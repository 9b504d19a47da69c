"""What the launch files make of their arguments. Nothing here needs `launch`, so it is tested where that is not."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path

from cosmos_ros.errors import SettingError
from cosmos_ros.files import write_whole
from cosmos_ros.paths import expanded
from cosmos_ros.scratch import scratch_folder
from cosmos_ros.settings import SETTINGS, Value, parameter_file, truth

_until_exit = contextlib.ExitStack()  # as long as launch runs it may start the node again
AS_IN_FILE = "Empty: as in params_file."
# Images of the node that rviz/foresight.rviz shows.
SHOWN = ("image", "image_now", "mean", "contact_sheet", "uncertainty", "surprise/map")
# Parameters of the node as arguments: name -> (default, description).
PARAMETERS = {
    name: ("", f"{setting.description} [{'; '.join(filter(None, (setting.constraints, AS_IN_FILE)))}]")
    for name, setting in SETTINGS.items()
} | {"use_sim_time": ("", f"The robot's time is on /clock. [true or false; {AS_IN_FILE}]")}


def node_parameters(given: Mapping[str, str]) -> dict[str, Value]:
    """Of the arguments those that set a parameter, as the parameter's type. Raises SettingError."""
    texts = {name: given[name] for name in PARAMETERS if given.get(name)}
    sim_time = {"use_sim_time": truth("use_sim_time", texts.pop("use_sim_time"))} if "use_sim_time" in texts else {}
    return {name: SETTINGS[name].parse(text) for name, text in texts.items()} | sim_time


def parameter_files(params_file: str, parameters: Mapping[str, Value]) -> list[str]:
    """The files of parameters with which the node is started: the given one, and one of what goes before it.

    launch itself would write the latter without quotes, and rcl takes `1e5` for a number; and of a file that is not
    there launch only warns.

    Raises SettingError where there is no such file.
    """
    path = Path(expanded(params_file))
    if not path.is_file():
        raise SettingError(f"params_file must be a file of the node's parameters; there is none at {path}")
    if not parameters:
        return [str(path)]
    file = _until_exit.enter_context(scratch_folder("launch")) / "parameters.yaml"
    write_whole(file, parameter_file(parameters, node="/**/foresight"))
    return [str(path), str(file)]


def transport_of(image_topic: str) -> dict[str, Value]:
    """The parameter that goes with a topic named as image_transport names compressed ones; else none."""
    return {"image_transport": "compressed"} if image_topic.endswith("/compressed") else {}


def sibling_info(image_topic: str) -> str:
    """The camera_info topic next to an image topic, as image_transport names it."""
    base = image_topic.removesuffix("/compressed")
    return base.rpartition("/")[0] + "/camera_info" if "/" in base else "camera_info"


def rviz_remappings(image_topic: str) -> list[tuple[str, str]]:
    """From the topics as RViz's file names them, as if there were no namespace, to those of this node and camera."""
    camera = ("/image", image_topic.removesuffix("/compressed"))
    return [camera, *((f"/foresight/{topic}", f"foresight/{topic}") for topic in SHOWN)]


def recording(bag: str) -> str:
    """The path of a recording. Raises SettingError where nothing is there."""
    path = Path(expanded(bag))
    if not path.exists():
        raise SettingError(f"bag must be a rosbag2 recording; there is none at {path}")
    return str(path)


def speed(rate: str) -> str:
    """Times the recorded speed. Raises SettingError for what is no number above 0."""
    try:
        fits = math.isfinite(float(rate)) and float(rate) > 0
    except ValueError:
        fits = False
    if not fits:
        raise SettingError(f"rate must be a number above 0; got {rate!r}")
    return rate
