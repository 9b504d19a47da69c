"""Play a recording into the node: ros2 launch cosmos_ros replay.launch.py [bag:=DIR] [image_topic:=TOPIC]

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

from cosmos_ros.launch_arguments import recording, speed
from cosmos_ros.settings import truth

SHARE = Path(__file__).absolute().parents[1]
ARGUMENTS = {
    "bag": (str(SHARE / "data" / "sample_bag"), "Directory of a rosbag2 recording, MCAP or SQLite, or its file."),
    "image_topic": ("/camera/image_raw/compressed", "The recorded camera topic."),
    "rate": ("1.0", "Times the recorded speed."),
    "loop": ("false", "Begin again at the end. [true or false]"),
    "use_sim_time": ("true", "The node's time is the recording's, else the computer's. [true or false]"),
}


def generate_launch_description() -> LaunchDescription:
    declarations = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    # What is declared here and what the user gives reaches it as well: an include shares the launch's arguments.
    node = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(SHARE / "launch" / "foresight.launch.py")))
    return LaunchDescription([*declarations, node, OpaqueFunction(function=play)])


def play(context: LaunchContext) -> list[Action]:
    """The player. Raises SettingError for an argument that cannot be what it is."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    bag, rate = recording(given["bag"]), speed(given["rate"])
    loop = ["--loop"] if truth("loop", given["loop"]) else []
    return [
        Node(
            package="cosmos_ros",
            executable="bag_player",
            arguments=[bag, "--rate", rate, "--wait-for", given["image_topic"], *loop],
            output="screen",
            emulate_tty=True,
        )
    ]
