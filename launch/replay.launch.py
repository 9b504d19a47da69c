"""Play a recording into the node: ros2 launch cosmos_ros replay.launch.py [bag:=DIR] [image_topic:=/camera/image_raw]

All arguments of foresight.launch.py are taken as well. The recording is played by this package's own player; it starts
when the node listens.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(__file__).absolute().parents[1]
ARGUMENTS = {
    "bag": (str(SHARE / "data" / "sample_bag"), "directory of a rosbag2 recording, MCAP or SQLite"),
    "image_topic": ("/camera/image_raw", "the recorded camera topic"),
    "rate": ("1.0", "times the recorded speed"),
    "loop": ("false", "true: begin again at the end"),
}


def generate_launch_description() -> LaunchDescription:
    declarations = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "foresight.launch.py")),
        launch_arguments={"image_topic": LaunchConfiguration("image_topic"), "use_sim_time": "true"}.items(),
    )
    return LaunchDescription([*declarations, node, OpaqueFunction(function=play)])


def play(context: LaunchContext) -> list[Action]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    loop = ["--loop"] if given["loop"].lower() in ("true", "1") else []
    return [
        Node(
            package="cosmos_ros",
            executable="bag_player",
            arguments=[given["bag"], "--rate", given["rate"], "--wait-for", given["image_topic"], *loop],
            output="screen",
            emulate_tty=True,
        )
    ]
