"""colcon build, with and without --symlink-install, and pip install give the same package; each runs.

What pip installed is the environment that runs these tests.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def colcon_build(place: Path, *options: str) -> Path:
    """Build the checkout as a workspace of one package. Returns its prefix."""
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
            place / "install",
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
    return place / "install" / "cosmos_ros"


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
def colcon(tmp_path_factory):
    place = tmp_path_factory.mktemp("colcon")
    prefix = colcon_build(place)
    return prefix, files_below(prefix), shell_environment(place / "install" / "local_setup.bash")


@pytest.fixture(scope="module")
def colcon_symlink(tmp_path_factory):
    place = tmp_path_factory.mktemp("colcon_symlink")
    prefix = colcon_build(place, "--symlink-install")
    return prefix, files_below(prefix), shell_environment(place / "install" / "local_setup.bash")


@pytest.fixture
def installed(request):
    return request.getfixturevalue(request.param)


def test_pip_and_colcon_install_the_same_files(pip, colcon):
    assert pip[1] == colcon[1]


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
from cosmos_ros.msg import GuardDecision, GuardrailStatus, Rollout, StageTime
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
        "models/foresight-small/config.json",
        "data/sample_bag/metadata.yaml",
    ):
        assert (share / part).is_file()


@pytest.mark.parametrize("installed", ["pip", "colcon"], indirect=True)
def test_the_node_runs_and_answers_a_goal(installed, tmp_path):
    """`cosmos_ros demo` starts lib/cosmos_ros/{foresight_node,bag_player,predict_client}: what `ros2 run` would."""
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
