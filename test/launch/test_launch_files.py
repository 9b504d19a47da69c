"""The launch files, loaded and resolved by the real launch packages where these are installed; RViz's file as YAML."""

from __future__ import annotations

import itertools

import pytest
import yaml

from cosmos_ros.paths import share_directory

SHARE = share_directory()
NO_LAUNCH = "launch and launch_ros are not on PyPI: source an installed ROS 2 to run this"


@pytest.fixture
def resolve():
    """resolve(file, **arguments) -> {executable: its name, arguments and remappings} of all that it would start"""
    launch = pytest.importorskip("launch", reason=NO_LAUNCH)
    launch_ros = pytest.importorskip("launch_ros.actions", reason=NO_LAUNCH)
    sources = pytest.importorskip("launch.launch_description_sources", reason=NO_LAUNCH)

    def resolve(file, **arguments):
        context = launch.LaunchContext()
        context.launch_configurations.update(arguments)
        source = sources.PythonLaunchDescriptionSource(str(SHARE / "launch" / file))
        started, waiting = {}, list(source.get_launch_description(context).entities)
        while waiting:
            entity = waiting.pop(0)
            if isinstance(entity, launch_ros.Node):
                started[entity.node_executable] = described(entity, context)
                continue
            entities = entity.visit(context) or []
            waiting = [*entities, *waiting]
        return started

    return resolve


def described(node, context) -> dict:
    node._perform_substitutions(context)
    # Without the program itself: RViz need not be installed. What follows --ros-args is known only once it runs.
    words = ("".join(part.perform(context) for part in argument) for argument in node.cmd[1:])
    return {
        "name": node.node_name,
        "arguments": list(itertools.takewhile(lambda word: word != "--ros-args", words)),
        "remappings": dict(node.expanded_remapping_rules or []),
    }


def test_the_node_hears_the_camera_it_is_given(resolve):
    started = resolve("foresight.launch.py", image_topic="/front/image_raw")
    assert set(started) == {"foresight_node"}
    node = started["foresight_node"]
    assert node["name"] == "/foresight"
    assert node["remappings"] == {"image": "/front/image_raw", "camera_info": "/front/camera_info"}


def test_compressed_images_have_their_camera_info_beside_the_raw_ones(resolve):
    started = resolve("foresight.launch.py", image_topic="/front/image_raw/compressed", image_transport="compressed")
    assert started["foresight_node"]["remappings"]["camera_info"] == "/front/camera_info"


def test_rviz_comes_on_demand_and_follows_namespace_and_camera(resolve):
    started = resolve("foresight.launch.py", image_topic="/front/image_raw", namespace="robot1", rviz="true")
    assert started["foresight_node"]["name"] == "/robot1/foresight"
    assert started["rviz2"]["remappings"]["/image"] == "/front/image_raw"
    assert str(SHARE / "rviz" / "foresight.rviz") in started["rviz2"]["arguments"]


def test_replay_plays_the_sample_bag_into_the_node(resolve):
    started = resolve("replay.launch.py", rate="2.0")
    assert set(started) == {"foresight_node", "bag_player"}
    assert started["foresight_node"]["remappings"]["image"] == "/camera/image_raw"
    bag = str(SHARE / "data" / "sample_bag")
    assert started["bag_player"]["arguments"] == [bag, "--rate", "2.0", "--wait-for", "/camera/image_raw"]


def test_rviz_shows_camera_rollout_and_contact_sheet():
    config = yaml.safe_load((SHARE / "rviz" / "foresight.rviz").read_text())
    displays = {display["Name"]: display for display in config["Visualization Manager"]["Displays"]}
    assert {d["Class"] for d in displays.values()} == {"rviz_default_plugins/Image"}
    topics = {name: (d["Topic"]["Value"], d["Topic"]["Reliability Policy"]) for name, d in displays.items()}
    assert topics == {
        "Camera": ("/image", "Best Effort"),
        "Rollout": ("/foresight/image", "Reliable"),
        "Contact sheet": ("/foresight/contact_sheet", "Reliable"),
    }
