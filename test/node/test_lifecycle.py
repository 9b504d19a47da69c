"""The managed node: it starts itself; if that fails, it stays alive, says why, and tries again on request."""

from __future__ import annotations

import gc
import json
import re
import shutil

import pytest
import torch
from cosmos_ros.action import Predict
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from safetensors.torch import load_file, save_file

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import plan_memory
from cosmos_ros.pipeline import PIPELINE
from cosmos_ros.world_model import Transformer
from cosmos_ros.world_model.config import PUBLISHED_KINDS

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
RESULT = Predict.Result


def set_parameter(robot, name, value):
    parameters = [Parameter(name, value=value).to_parameter_msg()]
    return robot.call(SetParameters, "foresight/set_parameters", parameters=parameters).results[0]


def diagnosed(robot, node, wait_for, subject, message=""):
    """The node's status on a subject, once its message holds this text."""
    heard = []
    subscription = robot.ros.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)
    name = f"{node.get_fully_qualified_name()[1:]}: {subject}"

    def found():
        statuses = [status for array in list(heard) for status in array.status if status.name == name]
        return next((status for status in statuses if message in status.message), None)

    try:
        return wait_for(found, f"a status {name} with {message!r}")
    finally:
        robot.ros.destroy_subscription(subscription)


def namespaces(robot):
    """Where in the graph a node of this name is."""
    return [namespace for name, namespace in robot.ros.get_node_names_and_namespaces() if name == "foresight"]


def truncate(checkpoint):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def reshape(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights["output.weight"] = weights["output.weight"][:, :-1].contiguous()
    save_file(weights, checkpoint / "model.safetensors")


def lose_the_decoder(checkpoint):
    (checkpoint / "decoder.jit").unlink()


def cut_the_encoder(checkpoint):
    (checkpoint / "encoder.jit").write_bytes((checkpoint / "encoder.jit").read_bytes()[:1000])


def poison(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights["norm.weight"][0] = float("nan")
    save_file(weights, checkpoint / "model.safetensors")


def lose_it(checkpoint):
    shutil.rmtree(checkpoint)


DAMAGES = {
    "unconfigured": [truncate, lose_it, reshape],  # seen at configure, in the headers
    "inactive": [lose_the_decoder, cut_the_encoder, poison],
}


@pytest.mark.parametrize(("state", "damage"), [(state, d) for state, damages in DAMAGES.items() for d in damages])
def test_a_damaged_checkpoint_is_named_and_a_good_one_serves_afterwards(
    rig, ready, wait_for, tiny_checkpoint, tmp_path, state, damage
):
    checkpoint = tmp_path / "damaged"
    shutil.copytree(tiny_checkpoint, checkpoint)
    damage(checkpoint)
    robot, node = rig(checkpoint=str(checkpoint))
    wait_for(lambda: node._trouble, "the failure")
    assert robot.state() == state
    assert "MODEL_UNAVAILABLE" in node._trouble and str(checkpoint) in node._trouble
    assert len(robot.warnings(node, node._trouble)) == 1
    status = diagnosed(robot, node, wait_for, "node", "MODEL_UNAVAILABLE")
    assert status.level == DiagnosticStatus.ERROR
    assert "not active" in robot.expect(RESULT.NOT_ACTIVE).error_msg

    if state == "inactive":
        assert "clean up" in set_parameter(robot, "checkpoint", str(tiny_checkpoint)).reason
        assert robot.change_state(CLEANUP)
    assert set_parameter(robot, "checkpoint", str(tiny_checkpoint)).successful
    assert robot.change_state(CONFIGURE) and robot.change_state(ACTIVATE)
    ready(node, robot)
    robot.film(node)
    assert robot.predict().error_code == RESULT.NONE
    assert diagnosed(robot, node, wait_for, "node", "active").level == DiagnosticStatus.OK


def test_a_published_checkpoint_without_its_guardrail_is_refused_at_configure(rig, wait_for, tmp_path):
    """By its shapes: the directory's name does not say that it is NVIDIA's. Nothing but the headers is there."""
    checkpoint = tmp_path / "renamed"
    checkpoint.mkdir()
    with torch.device("meta"):
        shapes = Transformer(PUBLISHED_KINDS["4B"].config).state_dict()
    write_headers(checkpoint / "model.safetensors", {name: list(tensor.shape) for name, tensor in shapes.items()})
    robot, node = rig(checkpoint=str(checkpoint))
    wait_for(lambda: node._trouble, "the refusal")
    assert robot.state() == "unconfigured"
    assert "GUARDRAIL_UNAVAILABLE" in node._trouble and "nvidia/Cosmos-1.0-Guardrail" in node._trouble


def write_headers(file, shapes):
    """A safetensors file of bfloat16 zeros that takes no space on disk (a hole)."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + offset)


def test_without_autostart_a_manager_leads_it_through_its_states(rig, ready, tiny_checkpoint):
    robot, node = rig(checkpoint=str(tiny_checkpoint), autostart=False)
    assert robot.state() == "unconfigured"
    robot.expect(RESULT.NOT_ACTIVE)
    assert robot.change_state(CONFIGURE) and robot.state() == "inactive"
    assert not node._configured.foresight.loaded, "the GPU is not touched before activate"
    robot.expect(RESULT.NOT_ACTIVE)
    assert robot.change_state(ACTIVATE) and robot.state() == "active"
    ready(node, robot)
    robot.film(node)
    assert robot.predict().error_code == RESULT.NONE
    assert robot.change_state(DEACTIVATE) and not node._configured.foresight.loaded
    assert robot.change_state(CLEANUP) and robot.state() == "unconfigured"
    assert set_parameter(robot, "frame_rate", 5.0).successful
    assert robot.change_state(CONFIGURE) and robot.change_state(ACTIVATE)
    assert node._configured.buffer.frame_rate == 5.0
    assert robot.change_state(Transition.TRANSITION_ACTIVE_SHUTDOWN) and robot.state() == "finalized"
    robot.expect(RESULT.NOT_ACTIVE)


def test_impossible_transitions_are_refused_and_survived(rig, wait_for, tiny_checkpoint):
    robot, node = rig(checkpoint=str(tiny_checkpoint))
    wait_for(lambda: node.state == "active", "the active node")
    for impossible in (CONFIGURE, ACTIVATE, CLEANUP, 99):
        assert not robot.change_state(impossible)
    assert robot.state() == "active"


def test_a_slow_history_is_stretched_to_a_whole_clip(rig, wait_for, tiny_checkpoint):
    robot, node = rig(checkpoint=str(tiny_checkpoint), frame_rate=1.0, history=0.5)
    wait_for(lambda: node.state == "active", "the active node")
    assert node._configured.buffer.history_ns == 9_000_000_000


def test_a_destroyed_node_leaves_the_graph_at_once(robot, domain, running_node, wait_for):
    gc.disable()
    try:
        with running_node(domain, "passing", autostart=False) as node:
            wait_for(lambda: "/passing" in namespaces(robot), "the node in the graph")
            assert node.state == "unconfigured"
        wait_for(lambda: "/passing" not in namespaces(robot), "the node's leave")
    finally:
        gc.enable()


def test_diagnostics_tell_the_posture_and_the_camera(rig, ready, wait_for, tiny_checkpoint):
    robot, node = rig(checkpoint=str(tiny_checkpoint))
    ready(node, robot)
    robot.film(node)
    assert robot.predict().error_code == RESULT.NONE
    assert robot.expect(RESULT.INVALID_GOAL, top_p=2.0).rollout.guardrail.profile == "embedded"

    guardrail = {v.key: v.value for v in diagnosed(robot, node, wait_for, "guardrail", "embedded").values}
    weights = {key: value for key, value in guardrail.items() if key.endswith("SHA-256")}
    assert {"blocklist SHA-256", "degenerate_video SHA-256", "face_blur SHA-256"} == set(weights)
    assert all(len(digest) == 64 for digest in weights.values())
    assert re.fullmatch(r"PASSED in [0-9.]+ ms", guardrail["degenerate_video last"])

    camera = {v.key: v.value for v in diagnosed(robot, node, wait_for, "camera", "images/s").values}
    assert camera["buffered frames"] == "9" and camera["images added"] == "9"
    assert camera["topic"].endswith("/image") and camera["reliability"] == "reliable"
    assert diagnosed(robot, node, wait_for, "model", "tiny, loaded").level == DiagnosticStatus.OK
    goals = {v.key: v.value for v in diagnosed(robot, node, wait_for, "goals").values}
    assert goals["last error"].startswith("INVALID_GOAL: top_p")


def test_what_the_package_logs_stands_in_the_nodes_log(rig, ready, wait_for, tiny_checkpoint):
    """The memory plan, for one: a node on the CPU makes none, so it is made here."""
    robot, node = rig(checkpoint=str(tiny_checkpoint))
    ready(node, robot)
    DeviceMemory("cpu", plan_memory((), PIPELINE, free=10**9, mode="fast"))
    DeviceMemory("cpu", plan_memory((), PIPELINE, free=0, mode="low"))

    def heard(level: int, text: str) -> list:
        return [said for said in robot.logged(node) if said.level == level and text in said.msg]

    wait_for(lambda: heard(20, "memory fast: expected peak"), "the plan")
    wait_for(lambda: heard(30, "memory low: expected peak"), "the plan that does not fit, as a warning")
