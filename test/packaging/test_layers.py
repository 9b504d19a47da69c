"""Imports run downwards and in no circle, and ROS stands at the two ends only: see the design in the README."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "cosmos_ros").rglob("*.py"))

# Rooms of one storey do not know each other; each may import from the storeys below.
STOREYS = [
    {"commands"},
    {"benchmarks"},
    {"node", "evaluation", "training"},
    {"planning"},
    {"foresight"},
    {"goal_checks", "pipeline"},
    {"guardrail", "world_model", "recordings", "metrics"},
]
GROUND = len(STOREYS)  # device, frame_buffer, images, rollout, errors, ...: these may import each other
GENERATED = {"action", "msg", "srv"}
ROS_PACKAGES = {
    "action_msgs",
    "ament_index_python",
    "builtin_interfaces",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "rcl_interfaces",
    "rclpy",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "unique_identifier_msgs",
}


def room(module: Path) -> str:
    return module.relative_to(ROOT / "cosmos_ros").parts[0].removesuffix(".py")


def storey(name: str) -> int:
    return next((i for i, names in enumerate(STOREYS) if name in names), GROUND)


def imports(module: Path) -> set[tuple[str, ...]]:
    """Dotted names that the module imports anywhere, in functions and for a type checker alone (TYPE_CHECKING) too.

    `from a import b` counts as a.b.
    """
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {tuple(name.split(".")) for name in names}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_imports_run_downwards(module):
    ours = room(module)
    for name in imports(module):
        if name[0] != "cosmos_ros" or len(name) < 2 or name[1] in GENERATED:
            continue
        theirs = name[1]
        downwards = storey(theirs) > storey(ours) or storey(theirs) == GROUND
        assert theirs == ours or downwards, f"{ours} imports {'.'.join(name)}, which does not lie below it"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_only_the_node_knows_ros(module):
    """rclpy and the generated messages; what a command asks of ROS it asks the node's room. `doctor` looks whether
    rclpy is there by name."""
    if room(module) == "node":
        return
    ros = [
        ".".join(name)
        for name in imports(module)
        if name[0] in ROS_PACKAGES or (name[0] == "cosmos_ros" and name[1:2] and name[1] in GENERATED)
    ]
    assert not ros, f"only cosmos_ros/node imports {', '.join(ros)}"


def modules_imported(module: Path) -> set[Path]:
    """Modules of this package that the module imports; a package stands for its __init__."""
    found = set()
    for name in imports(module):
        for length in (len(name), len(name) - 1):  # a.b.C is C out of a.b
            path = ROOT.joinpath(*name[:length])
            found |= {path.with_suffix(".py"), path / "__init__.py"} & set(MODULES)
    return found - {module}


def test_no_module_imports_itself_by_way_of_others():
    order = TopologicalSorter({module: modules_imported(module) for module in MODULES})
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " imports ".join(str(module.relative_to(ROOT)) for module in error.args[1]))


def test_the_guardrail_alone_holds_the_seal():
    holders = {str(m.relative_to(ROOT)) for m in MODULES if "_GUARDRAIL_SEAL" in m.read_text()}
    room = {f"cosmos_ros/guardrail/{name}.py" for name in ("screening", "stretches")}
    assert holders == {"cosmos_ros/rollout.py", *room}


def test_foresight_is_the_only_door_to_the_world_model():
    """Whoever could run the model without Foresight could pass pixels by the guardrail."""
    makers = {
        str(m.relative_to(ROOT))
        for m in MODULES
        if any(name[0] == "cosmos_ros" and name[-1] == "WorldModel" for name in imports(m))
    }
    assert makers <= {"cosmos_ros/foresight.py", "cosmos_ros/world_model/__init__.py"}


@pytest.mark.processes
@pytest.mark.parametrize(
    "module", ["settings", "launch_arguments", "node.bag_player", "node.predict_client", "node.camera_probe"]
)
def test_what_only_plays_asks_or_looks_needs_no_torch(module, tmp_path):
    """It starts in a fraction of the time, and `doctor` looks at a camera where PyTorch is missing."""
    program = f"import sys; sys.modules['torch'] = None; import cosmos_ros.{module}"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
