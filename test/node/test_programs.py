"""The programs as a robot runs them: processes of their own, over real DDS, stopped by a signal."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cosmos_ros.action import Predict
from rclpy.action import ActionServer
from rclpy.lifecycle import TransitionCallbackReturn

START_NS, PERIOD_NS = 1_700_000_000 * 10**9, 100_000_000
TOPIC = "/camera/image_raw"


def test_the_whole_road_through_three_programs(start, tmp_path, tiny_checkpoint, write_bag, moving_scene):
    # Long, and kept whole: it may take processes seconds to find each other, and whoever comes late asks late.
    stamps = [START_NS + i * PERIOD_NS for i in range(300)]
    bag, out = write_bag(tmp_path / "bag", moving_scene(300, 48, 100), stamps, topic=TOPIC), tmp_path / "out"
    sim_time = ["--ros-args", "-p", "use_sim_time:=true"]
    node = start(
        "foresight_node",
        *sim_time,
        "-p",
        f"checkpoint:={tiny_checkpoint}",
        "-r",
        f"image:={TOPIC}",
        "-p",
        "image_reliability:=reliable",
        "-p",
        "history:=60.0",
    )
    player = start("bag_player", bag, "--rate", "2", "--wait-for", TOPIC)
    until = START_NS + 20 * PERIOD_NS + 1
    client = start("predict_client", "--until", until, "--seed", 5, "--patience", 120, "--out", out, *sim_time)
    assert client.wait(240) == 0, client.said() + node.said()
    frames, summary = np.load(out / "frames.npy"), json.loads((out / "rollout.json").read_text())
    assert frames.shape == (24, 48, 96, 3) and frames.dtype == np.uint8
    assert summary["conditioning_stamps_ns"] == [START_NS + i * PERIOD_NS for i in range(12, 21)]
    assert summary["stamps_ns"][0] == START_NS + 21 * PERIOD_NS
    assert (summary["seed"], summary["model"], summary["guardrail"]["profile"]) == (5, "tiny", "embedded")
    player.send_signal(signal.SIGINT)
    assert player.wait(120) == 0, player.said()
    node.send_signal(signal.SIGTERM)  # once; SIGINT ends it in others
    assert node.wait(120) == 0, node.said()
    assert "Traceback" not in node.said()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=lambda stop: stop.name)
def test_a_node_that_is_stopped_answers_its_goals_first(start, domain, tiny_checkpoint, wait_for, running_robot, stop):
    with running_robot(domain, "stopping") as robot:
        parameters = {"checkpoint": tiny_checkpoint, "when_busy": "queue", "max_age": 0.0, "history": 600.0}
        given = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        node = start("foresight_node", "--ros-args", "-r", "__ns:=/stopping", *given)
        wait_for(lambda: "activate: done" in node.said(), "the active node")
        wait_for(robot.images.get_subscription_count, "its subscription")
        stamps = itertools.count(START_NS, PERIOD_NS)

        def predicted() -> bool:
            """Nine more images, then a goal: the first ones may go before the node has found this camera."""
            for stamp in itertools.islice(stamps, 9):
                robot.images.publish(robot.image(stamp))
            return robot.predict().error_code == Predict.Result.NONE

        wait_for(predicted, "nine frames in the buffer")
        goals = [robot.send() for _ in range(8)]  # services keep ten answers for a client
        results = [robot.executor.create_task(goal.get_result_async) for goal in goals]
        wait_for(lambda: any(each.done() and each.result().done() for each in results), "the first answers")
        node.send_signal(stop)
        time.sleep(0.05)
        node.send_signal(stop)  # as somebody who does not like to wait
        answers = [robot.done(robot.done(each)).result for each in results]
        assert node.wait(120) == 0, node.said()
    refused = [answer for answer in answers if answer.error_code != Predict.Result.NONE]
    assert refused, "it served all goals before the signal came"
    assert {(answer.error_code, answer.error_msg) for answer in refused} == {
        (Predict.Result.NOT_ACTIVE, "the node is shutting down")
    }
    for unwanted in ("Traceback", "never retrieved", "failed unexpectedly"):
        assert unwanted not in node.said()


def test_a_parameter_out_of_range_ends_the_node_with_one_line(start):
    node = start("foresight_node", "--ros-args", "-p", "when_busy:=panic")
    assert node.wait(120) == 1
    assert "when_busy must be one of reject, preempt, queue" in node.said() and "Traceback" not in node.said()


def test_the_client_says_that_nobody_is_there(start):
    client = start("predict_client", "--patience", "0.5")
    assert client.wait(120) == 2
    assert "no node served foresight/predict" in client.said()


def test_a_client_waits_for_the_state_and_sends_one_goal(start, rig, wait_for, tiny_checkpoint):
    robot, node = rig(checkpoint=str(tiny_checkpoint), autostart=False)
    client = start("predict_client", "--patience", "120", "--ros-args", "-r", f"__ns:=/{robot.namespace}")
    wait_for(lambda: node.count_clients(f"/{robot.namespace}/foresight/get_state"), "the client")
    time.sleep(1.0)  # in which it would have asked several times
    assert client.poll() is None and not robot.warnings(node, "goal aborted")
    assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    wait_for(robot.images.get_subscription_count, "the camera's subscription")
    robot.film(node)
    assert client.wait(120) == 0, client.said()
    assert len(robot.warnings(node, "goal aborted")) <= 2, "where it asked before the film was complete"


def test_a_client_of_a_node_that_does_not_start_is_told_why(start, rig, tmp_path, wait_for):
    robot, node = rig(checkpoint=str(tmp_path / "nowhere"))
    wait_for(lambda: robot.warnings(node, "could not configure"), "the failure")
    client = start("predict_client", "--patience", "5", "--ros-args", "-r", f"__ns:=/{robot.namespace}")
    assert client.wait(120) == 1
    assert "NOT_ACTIVE: the node is not active: it could not configure: MODEL_UNAVAILABLE" in client.said()


def test_the_client_asks_for_nothing_where_it_could_not_write_the_answer(start, tmp_path):
    (tmp_path / "file").touch()
    client = start("predict_client", "--out", tmp_path / "file", "--patience", "600")
    assert client.wait(120) == 1
    assert "frames.npy could not be written" in client.said() and "choose another folder" in client.said()


def test_the_client_tells_the_error(start, robot, node):
    robot.film(node)
    client = start("predict_client", "--top-p", "3", "--patience", "120")
    assert client.wait(120) == 1
    assert "INVALID_GOAL: top_p must lie in (0, 1]; got 3.0" in client.said()


def test_a_client_that_waits_for_a_node_ends_when_it_is_interrupted(start, wait_for):
    client = start("predict_client", "--until", 2**62, "--patience", "600")
    wait_for(lambda: _handles(client.pid, signal.SIGTERM), "the client's handler")
    client.send_signal(signal.SIGTERM)
    assert client.wait(120) == 130, client.said()
    assert "Traceback" not in client.said()


def _handles(pid: int, number: int) -> bool:
    """Whether a process has installed a handler for a signal (Linux: /proc)."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(caught[1], 16) >> (number - 1) & 1)


def test_an_interrupted_client_cancels_its_goal(start, robot, node, monkeypatch, wait_for):
    held, go = threading.Event(), threading.Event()
    model = node._configured.foresight._model
    roll_out = model.roll_out

    def braked(*args, **kwargs):
        for step in roll_out(*args, **kwargs):
            held.set()
            assert go.wait(120)
            yield step

    monkeypatch.setattr(model, "roll_out", braked)
    robot.film(node)
    client = start("predict_client", "--patience", "120")
    assert held.wait(120), client.said()
    wait_for(lambda: "generating" in client.said(), "the client's progress")
    client.send_signal(signal.SIGINT)
    assert client.wait(120) == 1, client.said()
    assert "CANCELED" in client.said()
    go.set()


def test_a_client_whose_node_goes_away_with_its_goal_says_so(start, robot, wait_for):
    accepted = []
    server = ActionServer(
        robot.ros,
        Predict,
        "/leaving/foresight/predict",
        lambda goal: Predict.Result(),
        handle_accepted_callback=accepted.append,
    )
    client = start("predict_client", "--patience", "120", "--ros-args", "-r", "__ns:=/leaving")
    wait_for(lambda: accepted, "the goal")
    server.destroy()
    assert client.wait(120) == 2, client.said()
    assert "went away with the goal" in client.said() and "Traceback" not in client.said()


def test_a_directory_without_read_permission_is_named_and_the_node_lives(start, tmp_path, tiny_checkpoint, wait_for):
    checkpoint = tmp_path / "locked"
    shutil.copytree(tiny_checkpoint, checkpoint)
    checkpoint.chmod(0)
    # Root may read everything, unless it lays that right down.
    humbled = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    if humbled and not shutil.which("setpriv"):
        pytest.skip("as root this needs setpriv (util-linux)")
    try:
        node = start("foresight_node", "--ros-args", "-p", f"checkpoint:={checkpoint}", through=humbled)
        wait_for(lambda: "could not configure: " in node.said() or node.poll() is not None, "the refusal")
        assert node.poll() is None, node.said()
        assert f"MODEL_UNAVAILABLE: {checkpoint}" in node.said() and "ermission" in node.said()
        node.send_signal(signal.SIGINT)
        assert node.wait(120) == 0
    finally:
        checkpoint.chmod(0o700)
