"""The launch files, loaded and resolved by the real launch packages where these are installed; RViz's file as YAML."""

from __future__ import annotations

import itertools

import ament_index_python.packages
import pytest
import rclpy
import yaml
from rclpy.context import Context

from cosmos_ros.errors import SettingError
from cosmos_ros.launch_arguments import rviz_remappings
from cosmos_ros.node.parameters import Parameters
from cosmos_ros.paths import share_directory
from cosmos_ros.settings import SETTINGS

SHARE = share_directory()
pytestmark = pytest.mark.dds  # a node's parameters are read by a node
NO_LAUNCH = "launch and launch_ros are not on PyPI: source an installed ROS 2 to run this"


@pytest.fixture
def description():
    """description(file, **arguments) -> (the launch context, the entities of the file)"""
    launch = pytest.importorskip("launch", reason=NO_LAUNCH)
    sources = pytest.importorskip("launch.launch_description_sources", reason=NO_LAUNCH)

    def load(file, **arguments):
        context = launch.LaunchContext()
        context.launch_configurations.update(arguments)
        source = sources.PythonLaunchDescriptionSource(str(SHARE / "launch" / file))
        return context, list(source.get_launch_description(context).entities)

    return load


@pytest.fixture
def resolve(description):
    """resolve(file, **arguments) -> {executable: what launch would start it with} of all that the file starts"""
    launch_ros = pytest.importorskip("launch_ros.actions", reason=NO_LAUNCH)

    def resolve(file, **arguments):
        context, waiting = description(file, **arguments)
        started = {}
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
        "parameter files": [file for file, is_file in node._Node__expanded_parameter_arguments if is_file],
    }


@pytest.fixture
def parameters(resolve):
    """parameters(file, **arguments) -> the values that a node has which is started with what launch passes on"""
    context = Context()

    def values(file, **arguments):
        node = resolve(file, **arguments)["foresight_node"]
        passed = [word for path in node["parameter files"] for word in ("--params-file", path)]
        namespace, _, name = node["name"].rpartition("/")
        rclpy.init(context=context, args=["--ros-args", *passed, "-r", f"__ns:={namespace or '/'}"])
        ros = rclpy.create_node(name, context=context)
        declared = Parameters(ros, is_configured=lambda: False)
        return {name: declared[name] for name in (*SETTINGS, "use_sim_time")}

    yield values
    rclpy.try_shutdown(context=context)


def test_the_node_hears_the_camera_it_is_given(resolve):
    started = resolve("foresight.launch.py", image_topic="/front/image_raw")
    assert set(started) == {"foresight_node"}
    node = started["foresight_node"]
    assert node["name"] == "/foresight"
    assert node["remappings"] == {"image": "/front/image_raw", "camera_info": "/front/camera_info"}


def test_compressed_images_have_their_camera_info_beside_the_raw_ones(resolve):
    started = resolve("foresight.launch.py", image_topic="/front/image_raw/compressed", image_transport="compressed")
    assert started["foresight_node"]["remappings"]["camera_info"] == "/front/camera_info"


def test_every_setting_is_an_argument(description):
    actions = pytest.importorskip("launch.actions", reason=NO_LAUNCH)
    _, entities = description("foresight.launch.py")
    declared = {each.name: each for each in entities if isinstance(each, actions.DeclareLaunchArgument)}
    assert declared.keys() >= SETTINGS.keys()
    assert declared["gpus"].description.startswith(SETTINGS["gpus"].description)


def test_without_arguments_the_node_has_what_the_shipped_file_says(parameters):
    defaults = {name: setting.default for name, setting in SETTINGS.items()}
    assert parameters("foresight.launch.py") == defaults | {"use_sim_time": False}


@pytest.mark.parametrize("namespace", ["", "robot1"])
def test_what_is_given_reaches_the_node_and_goes_before_the_file(parameters, tmp_path, namespace):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    gpus: 2\n    memory: low\n")
    values = parameters(
        "foresight.launch.py", params_file=str(file), namespace=namespace, checkpoint="1e5", gpus="4", device="cuda:1"
    )
    assert (values["checkpoint"], values["gpus"], values["memory"], values["device"]) == ("1e5", 4, "low", "cuda:1")


@pytest.mark.parametrize(
    ("file", "given", "words"),
    [
        ("foresight.launch.py", {"gpus": "four"}, "gpus must be a whole number from 1 to 64; got 'four'"),
        ("foresight.launch.py", {"rviz": "maybe"}, "rviz must be true or false; got 'maybe'"),
        ("foresight.launch.py", {"params_file": "/nowhere.yaml"}, "params_file must be a file"),
        ("replay.launch.py", {"rate": "fast"}, "rate must be a number above 0; got 'fast'"),
        ("replay.launch.py", {"loop": "twice"}, "loop must be true or false; got 'twice'"),
        ("replay.launch.py", {"bag": "/nowhere"}, "bag must be a rosbag2 recording; there is none at /nowhere"),
        ("replay.launch.py", {"gpus": "four"}, "gpus must be"),
    ],
)
def test_what_cannot_be_names_itself_and_nothing_starts(resolve, file, given, words):
    with pytest.raises(SettingError, match=words):
        resolve(file, **given)


@pytest.fixture
def rviz2(monkeypatch):
    """rviz2 is installed, whatever this machine has."""
    monkeypatch.setattr(ament_index_python.packages, "get_package_prefix", lambda name: "/opt/ros/jazzy")


def test_rviz_comes_on_demand_and_follows_namespace_and_camera(resolve, rviz2):
    started = resolve("foresight.launch.py", image_topic="/front/image_raw", namespace="robot1", rviz="true")
    assert started["foresight_node"]["name"] == "/robot1/foresight"
    assert started["rviz2"]["remappings"]["/image"] == "/front/image_raw"
    assert str(SHARE / "rviz" / "foresight.rviz") in started["rviz2"]["arguments"]


def test_without_rviz_the_node_starts_with_a_warning(resolve, monkeypatch, caplog):
    log = pytest.importorskip("launch.logging", reason=NO_LAUNCH).get_logger("foresight")
    monkeypatch.setattr(log, "handlers", [caplog.handler])  # launch's own go past pytest's

    def absent(name):
        raise ament_index_python.packages.PackageNotFoundError(name)

    monkeypatch.setattr(ament_index_python.packages, "get_package_prefix", absent)
    assert set(resolve("foresight.launch.py", rviz="true")) == {"foresight_node"}
    assert "rviz2 is not installed" in caplog.text and "WARNING" in caplog.text


def test_replay_plays_the_sample_bag_into_the_node(resolve):
    started = resolve("replay.launch.py", rate="2.0")
    assert set(started) == {"foresight_node", "bag_player"}
    topic = "/camera/image_raw/compressed"
    assert started["foresight_node"]["remappings"]["image"] == topic
    assert started["foresight_node"]["remappings"]["camera_info"] == "/camera/camera_info"
    bag = str(SHARE / "data" / "sample_bag")
    assert started["bag_player"]["arguments"] == [bag, "--rate", "2.0", "--wait-for", topic]


@pytest.mark.parametrize(
    ("arguments", "transport"),
    [
        ({"image_topic": "/front/image_raw/compressed"}, "compressed"),
        ({"image_topic": "/front/image_raw"}, "raw"),
        ({"image_topic": "/odd/compressed", "image_transport": "raw"}, "raw"),
    ],
)
def test_the_topics_name_says_how_its_images_come_unless_the_user_does(parameters, arguments, transport):
    assert parameters("foresight.launch.py", **arguments)["image_transport"] == transport


def test_replay_runs_on_the_recordings_time_unless_it_is_told_not_to(parameters):
    assert parameters("replay.launch.py")["use_sim_time"] is True


def test_replay_can_run_on_the_computers_time(parameters):
    values = parameters("replay.launch.py", use_sim_time="false", max_age="0")
    assert values["use_sim_time"] is False and values["max_age"] == 0.0


def displays() -> dict[str, dict]:
    config = yaml.safe_load((SHARE / "rviz" / "foresight.rviz").read_text())
    return {display["Name"]: display for display in config["Visualization Manager"]["Displays"]}


def shown_in_rviz() -> dict[str, tuple[str, str]]:
    return {name: (d["Topic"]["Value"], d["Topic"]["Reliability Policy"]) for name, d in displays().items()}


def test_rviz_shows_the_camera_and_every_image_of_the_node():
    assert {d["Class"] for d in displays().values()} == {"rviz_default_plugins/Image"}
    assert shown_in_rviz() == {
        "Camera": ("/image", "Best Effort"),
        "Rollout": ("/foresight/image", "Reliable"),
        "Frame for now": ("/foresight/image_now", "Reliable"),
        "Mean": ("/foresight/mean", "Reliable"),
        "Contact sheet": ("/foresight/contact_sheet", "Reliable"),
        "Uncertainty": ("/foresight/uncertainty", "Reliable"),
        "Surprise": ("/foresight/surprise/map", "Reliable"),
    }


def test_all_that_rviz_shows_follows_the_namespace():
    remapped = dict(rviz_remappings("/front/image_raw/compressed"))
    assert remapped.keys() == {topic for topic, _ in shown_in_rviz().values()}
    assert remapped.pop("/image") == "/front/image_raw"
    assert all(target == topic.removeprefix("/") for topic, target in remapped.items())
