"""Start the node on a camera: ros2 launch cosmos_ros foresight.launch.py image_topic:=/camera/image_raw [rviz:=true]

Every parameter of the node is an argument as well; `ros2 launch -s cosmos_ros foresight.launch.py` lists them.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from cosmos_ros.launch_arguments import (
    PARAMETERS,
    node_parameters,
    parameter_files,
    rviz_remappings,
    sibling_info,
    transport_of,
)
from cosmos_ros.settings import truth

SHARE = Path(__file__).absolute().parents[1]
# name -> (default, description)
ARGUMENTS = {
    "image_topic": ("image", "The camera's topic. One that ends in /compressed sets image_transport."),
    "camera_info_topic": ("", "Its calibration. Empty: the sibling `camera_info` of image_topic."),
    "namespace": ("", "Of the node and its topics."),
    "params_file": (str(SHARE / "config" / "foresight.yaml"), "Parameters of the node."),
    "rviz": ("false", "Show the camera and the node's images in RViz. [true or false]"),
} | PARAMETERS


def generate_launch_description() -> LaunchDescription:
    declarations = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declarations, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """The node, and RViz where it is asked for. Raises SettingError for an argument that cannot be what it is."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    parameters = transport_of(given["image_topic"]) | node_parameters(given)
    image, info = given["image_topic"], given["camera_info_topic"] or sibling_info(given["image_topic"])
    node = LifecycleNode(
        package="cosmos_ros",
        executable="foresight_node",
        name="foresight",
        namespace=given["namespace"],
        parameters=parameter_files(given["params_file"], parameters),
        remappings=[("image", image), ("camera_info", info)],
        output="screen",
        emulate_tty=True,
    )
    show = truth("rviz", given["rviz"])
    return [node, *(rviz(given, bool(parameters.get("use_sim_time"))) if show else [])]


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
            remappings=rviz_remappings(given["image_topic"]),
            parameters=[{"use_sim_time": use_sim_time}],
        )
    ]
