"""Start the node on a camera: ros2 launch cosmos_ros foresight.launch.py image_topic:=/camera/image_raw [rviz:=true]

Every parameter of the node is an argument as well; `ros2 launch -s cosmos_ros foresight.launch.py` lists them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from cosmos_ros.paths import expanded
from cosmos_ros.settings import SETTINGS, Value, parameter_file, truth

SHARE = Path(__file__).absolute().parents[1]
AS_IN_FILE = "Empty: as in params_file."
# name -> (default, description)
ARGUMENTS = {
    "image_topic": ("image", "The camera's topic; with image_transport:=compressed the one that ends in /compressed."),
    "camera_info_topic": ("", "Its calibration. Empty: the sibling `camera_info` of image_topic."),
    "namespace": ("", "Of the node and its topics."),
    "params_file": (str(SHARE / "config" / "foresight.yaml"), "Parameters of the node."),
    "use_sim_time": ("", f"true: the robot's time is on /clock. {AS_IN_FILE}"),
    "rviz": ("false", "true: show camera, rollout and contact sheet in RViz."),
}
PARAMETERS = {
    name: ("", f"{setting.description} [{'; '.join(filter(None, (setting.constraints, AS_IN_FILE)))}]")
    for name, setting in SETTINGS.items()
}


def generate_launch_description() -> LaunchDescription:
    declarations = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in (ARGUMENTS | PARAMETERS).items()
    ]
    return LaunchDescription([*declarations, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """The node, and RViz where it is asked for. Raises SettingError for an argument that cannot be what it is."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS | PARAMETERS}
    parameters = {name: SETTINGS[name].parse(given[name]) for name in PARAMETERS if given[name]}
    if given["use_sim_time"]:
        parameters["use_sim_time"] = truth("use_sim_time", given["use_sim_time"])
    show = truth("rviz", given["rviz"])
    image, info = given["image_topic"], given["camera_info_topic"] or sibling_info(given["image_topic"])
    node = LifecycleNode(
        package="cosmos_ros",
        executable="foresight_node",
        name="foresight",
        namespace=given["namespace"],
        parameters=[existing(given["params_file"]), *([written(parameters)] if parameters else [])],
        remappings=[("image", image), ("camera_info", info)],
        output="screen",
        emulate_tty=True,
    )
    return [node, *(rviz(given, parameters.get("use_sim_time", False)) if show else [])]


def existing(params_file: str) -> str:
    """launch itself would warn of a file that is not there, and start the node without it."""
    path = Path(expanded(params_file))
    if not path.is_file():
        raise FileNotFoundError(f"params_file must be a file of the node's parameters; there is none at {path}")
    return str(path)


def written(parameters: dict[str, Value]) -> str:
    """A file of parameters, which launch's own way would write without quotes: rcl then takes `1e5` for a number."""
    with tempfile.NamedTemporaryFile("w", prefix="launch_params_", suffix=".yaml", delete=False) as file:
        file.write(parameter_file(parameters, node="/**/foresight"))
    return file.name


def sibling_info(image_topic: str) -> str:
    """`camera_info` beside the image, as image_transport names it."""
    base = image_topic.removesuffix("/compressed")
    return base.rpartition("/")[0] + "/camera_info" if "/" in base else "camera_info"


def rviz(given: dict[str, str], use_sim_time: bool) -> list[Action]:
    """RViz with the shipped configuration, which names the topics as a node without a namespace does."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        get_logger("foresight").warning("rviz:=true is left out: the package rviz2 is not installed here")
        return []
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=given["namespace"],
            arguments=["-d", str(SHARE / "rviz" / "foresight.rviz")],
            remappings=[
                ("/image", given["image_topic"].removesuffix("/compressed")),
                ("/foresight/image", "foresight/image"),
                ("/foresight/contact_sheet", "foresight/contact_sheet"),
            ],
            parameters=[{"use_sim_time": use_sim_time}],
        )
    ]
