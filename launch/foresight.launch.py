"""Start the node on a camera: ros2 launch cosmos_ros foresight.launch.py image_topic:=/camera/image_raw [rviz:=true]"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

SHARE = Path(__file__).absolute().parents[1]
# name -> (default, description)
ARGUMENTS = {
    "image_topic": ("image", "the camera's topic; with image_transport:=compressed the one that ends in /compressed"),
    "camera_info_topic": ("", "its calibration; empty: the sibling `camera_info` of image_topic"),
    "image_transport": ("", "raw or compressed; empty: as in params_file"),
    "checkpoint": ("", "directory of the world model; empty: as in params_file, where empty is the one that ships"),
    "guardrail": ("", "directory of Cosmos-1.0-Guardrail; empty: as in params_file"),
    "memory": ("", "auto, fast, balanced or low; empty: as in params_file"),
    "gpus": ("", "over how many GPUs the transformer is cut; empty: as in params_file"),
    "namespace": ("", "of the node and its topics"),
    "params_file": (str(SHARE / "config" / "foresight.yaml"), "parameters of the node"),
    "use_sim_time": ("false", "true: the robot's time is on /clock"),
    "rviz": ("false", "true: show camera, rollout and contact sheet in RViz"),
}
# Parameters that an argument may set, and their types.
OVERRIDES = {"checkpoint": str, "guardrail": str, "image_transport": str, "memory": str, "gpus": int}


def generate_launch_description() -> LaunchDescription:
    declarations = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declarations, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """The node, and RViz where it is asked for."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    use_sim_time = {"use_sim_time": given["use_sim_time"].lower() in ("true", "1")}
    image, info = given["image_topic"], given["camera_info_topic"] or sibling_info(given["image_topic"])
    overrides = {name: as_type(given[name]) for name, as_type in OVERRIDES.items() if given[name]}
    node = LifecycleNode(
        package="cosmos_ros",
        executable="foresight_node",
        name="foresight",
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides | use_sim_time],
        remappings=[("image", image), ("camera_info", info)],
        output="screen",
        emulate_tty=True,
    )
    return [node, *([show(given, use_sim_time)] if given["rviz"].lower() in ("true", "1") else [])]


def sibling_info(image_topic: str) -> str:
    """`camera_info` beside the image, as image_transport names it."""
    base = image_topic.removesuffix("/compressed")
    return base.rpartition("/")[0] + "/camera_info" if "/" in base else "camera_info"


def show(given: dict[str, str], use_sim_time: dict[str, bool]) -> Node:
    """RViz with the shipped configuration, which names the topics as a node without a namespace does."""
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=given["namespace"],
        arguments=["-d", str(SHARE / "rviz" / "foresight.rviz")],
        remappings=[
            ("/image", given["image_topic"].removesuffix("/compressed")),
            ("/foresight/image", "foresight/image"),
            ("/foresight/contact_sheet", "foresight/contact_sheet"),
        ],
        parameters=[use_sim_time],
    )
