"""colcon build, with and without --symlink-install, and pip install give the same package; each runs.

What pip installed is the environment that runs these tests.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
MODULES = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
# What colcon itself and egg-info add beside the package.
COLCONS = ("share/colcon-core/", "share/cosmos_ros/hook/", "share/cosmos_ros/package.", f"{MODULES}/cosmos_ros-")

ACTIVE = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def shell_environment(*scripts: Path) -> dict[str, str]:
    """The environment of a shell in which this interpreter's environment is active and these are sourced."""
    sourced = " && ".join([*(f". {script}" for script in scripts), "env -0"])
    output = subprocess.run(["bash", "-c", sourced], env=ACTIVE, capture_output=True, check=True, text=True).stdout
    return dict(entry.split("=", 1) for entry in output.split("\0") if entry)


def colcon_build(place: Path, install: str, *options: str) -> tuple[Path, set[str], dict[str, str]]:
    """Build the checkout as a workspace of one package. Returns (prefix, files, environment)."""
    prefixes = os.pathsep.join(filter(None, [os.environ.get("AMENT_PREFIX_PATH"), sys.prefix]))
    python = f"-DPython3_EXECUTABLE={sys.executable}", f"-DPYTHON_EXECUTABLE={sys.executable}"
    done = subprocess.run(
        [
            Path(sys.executable).with_name("colcon"),
            "--log-base",
            place / "log",
            "build",
            "--base-paths",
            ROOT,
            "--build-base",
            place / "build",
            "--install-base",
            place / install,
            *options,
            "--cmake-args",
            "-DBUILD_TESTING=OFF",
            *python,
        ],
        env={**ACTIVE, "AMENT_PREFIX_PATH": prefixes, "CMAKE_PREFIX_PATH": prefixes},
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    prefix = place / install / "cosmos_ros"
    return prefix, files_below(prefix), shell_environment(place / install / "local_setup.bash")


def files_below(prefix: Path) -> set[str]:
    files = (str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir())
    return {name for name in files if "__pycache__" not in name and not name.startswith(COLCONS)}


@pytest.fixture(scope="module")
def pip():
    """(prefix, files, environment) of the package in this environment."""
    distribution = importlib.metadata.distribution("cosmos_ros")
    if distribution.read_text("INSTALLER") is None:
        pytest.skip("cosmos_ros is not installed by pip here; `make test` sees to that")
    paths = (Path(os.path.normpath(file.locate())) for file in distribution.files)
    names = (str(path.relative_to(sys.prefix)) for path in paths)
    files = {name for name in names if "__pycache__" not in name and not name.startswith(COLCONS)}
    return Path(sys.prefix), files, ACTIVE


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Where colcon builds: both installs come from one build folder, as in a workspace, so that it compiles once."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def colcon(workspace):
    return colcon_build(workspace, "install")


@pytest.fixture(scope="module")
def colcon_symlink(colcon, workspace):
    # ament_cmake_python puts a link where the other install's build left a folder.
    shutil.rmtree(workspace / "build" / "cosmos_ros" / "ament_cmake_python")
    return colcon_build(workspace, "install_symlink", "--symlink-install")


@pytest.fixture
def installed(request):
    return request.getfixturevalue(request.param)


def test_pip_and_colcon_install_the_same_files(pip, colcon):
    assert pip[1] == colcon[1]


def test_pip_and_ros_are_given_the_same_metadata(pip):
    ros = ElementTree.parse(ROOT / "package.xml").getroot()
    told = importlib.metadata.metadata("cosmos_ros")
    for field in ("name", "version", "description", "license"):
        assert told[{"description": "summary"}.get(field, field)] == ros.findtext(field)
    core = {line.split("#")[0].strip() for line in (ROOT / "requirements" / "core.txt").read_text().splitlines()}
    assert set(map(Requirement, told.get_all("Requires-Dist"))) == set(map(Requirement, core - {""}))


def test_symlinks_change_nothing(colcon, colcon_symlink):
    # rosidl's C sources lie among the headers of an ordinary install only; nobody includes them.
    sources = {name for name in colcon[1] if name.startswith("include/") and name.endswith((".c", ".cpp"))}
    assert colcon_symlink[1] == colcon[1] - sources
    module = colcon_symlink[0] / MODULES / "cosmos_ros" / "foresight.py"
    assert module.samefile(ROOT / "cosmos_ros" / "foresight.py")


@pytest.mark.parametrize("installed", ["pip", "colcon", "colcon_symlink"], indirect=True)
def test_one_import_package_holds_interfaces_and_modules(installed):
    prefix, _, environment = installed
    code = """
import json, cosmos_ros, cosmos_ros.paths, cosmos_ros.node.parameters
from cosmos_ros.action import Predict
from cosmos_ros.msg import GoalCost, GuardDecision, GuardrailStatus, Rollout, StageTime, Surprise
from cosmos_ros.srv import ScoreRollouts
ScoreRollouts.Request.__class__.__import_type_support__()
Predict.Goal.__class__.__import_type_support__()
print(json.dumps([cosmos_ros.__file__, str(cosmos_ros.paths.share_directory())]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=prefix, capture_output=True, text=True, check=True
    )
    module, share = map(Path, json.loads(done.stdout))
    assert module == prefix / MODULES / "cosmos_ros" / "__init__.py"
    assert share == prefix / "share" / "cosmos_ros"
    for part in (
        "launch/foresight.launch.py",
        "launch/replay.launch.py",
        "config/foresight.yaml",
        "rviz/foresight.rviz",
        "foxglove/foresight.json",
        "models/foresight-small/config.json",
        "data/sample_bag/metadata.yaml",
    ):
        assert (share / part).is_file()


# How each program is run without a robot: a node answers to ROS's arguments alone.
ARGUMENTS = {"foresight_node": (["--ros-args", "-p", "when_busy:=banana"], 1, "when_busy")}


@pytest.mark.parametrize("installed", ["pip", "colcon", "colcon_symlink"], indirect=True)
def test_every_program_runs(installed, tmp_path):
    prefix, _, environment = installed
    programs = [prefix / "bin" / "cosmos_ros", *sorted((prefix / "lib" / "cosmos_ros").iterdir())]
    assert len(programs) > len(ARGUMENTS) + 1
    for program in programs:
        arguments, status, says = ARGUMENTS.get(program.name, (["--help"], 0, "usage: "))
        done = subprocess.run([program, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == status, f"{program}: {done.stdout}{done.stderr}"
        assert says in done.stdout + done.stderr


@pytest.mark.parametrize("installed", ["colcon_symlink"], indirect=True)
def test_the_node_runs_and_answers_a_goal(installed, tmp_path):
    """`cosmos_ros demo` starts lib/cosmos_ros/{foresight_node,bag_player,predict_client}: what `ros2 run` would.

    The demo of what pip installed is in test/commands/test_demo.py; the other colcon install differs from this one in
    copies for links.
    """
    prefix, _, environment = installed
    done = subprocess.run(
        [prefix / "bin" / "cosmos_ros", "demo", "--out", tmp_path],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((tmp_path / "rollout.json").read_text())["stamps_ns"]) == 24
