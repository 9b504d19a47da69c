"""Whatever the package imports is declared: by rosdep key in package.xml, for pip in a requirements file."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "cosmos_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]

# import -> (distribution in a requirements file, rosdep key in package.xml); None: there is none to name.
THIRD_PARTY = {
    "av": ("av", None),
    "better_profanity": ("better-profanity", None),
    "cv2": ("opencv-python-headless", "python3-opencv"),
    "google": ("protobuf", None),
    "jinja2": ("jinja2", "python3-jinja2"),
    "lz4": ("lz4", None),
    "mujoco": ("mujoco", None),
    "nltk": ("nltk", None),
    "numpy": ("numpy", "python3-numpy"),
    "peft": ("peft", None),
    "PIL": ("pillow", None),
    "pycolmap": ("pycolmap", None),
    "ray": ("ray", None),
    "rosbags": ("rosbags", "python3-rosbags-pip"),
    "safetensors": ("safetensors", None),
    "sentencepiece": ("sentencepiece", None),
    "scipy": ("scipy", "python3-scipy"),
    "skimage": ("scikit-image", "python3-skimage"),
    "torch": ("torch", "python3-pytorch-pip"),
    "tqdm": ("tqdm", "python3-tqdm"),
    "transformers": ("transformers", "python3-transformers-pip"),
    "triton": ("torch", "python3-pytorch-pip"),  # comes with the CUDA build
    "yaml": ("pyyaml", "python3-yaml"),
    "zstandard": ("zstandard", None),
}
# Installed with ROS, not by pip; imported only where it is there.
ROS = {
    "action_msgs",
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
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
# Keys that rosdistro had in August 2026 (rosdep/python.yaml and the packages released into Jazzy), of those that a
# package like this one could name.
ROSDEP_KEYS = ROS | {
    "ament_cmake",
    "image_transport_plugins",
    "rosidl_default_generators",
    "rosidl_default_runtime",
    "rviz2",
    "python3-numpy",
    "python3-opencv",
    "python3-yaml",
    "python3-skimage",
    "python3-scipy",
    "python3-jinja2",
    "python3-matplotlib",
    "python3-pil",
    "python3-imageio",
    "python3-tqdm",
    "python3-pydantic",
    "python3-protobuf",
    "python3-pytest",
    "python3-torch",
    "python3-torchvision",
    "python3-torchvision-pip",
    "python3-pytorch-pip",
    "python3-transformers-pip",
    "python3-huggingface-hub-pip",
    "python3-einops-pip",
    "python3-timm-pip",
    "python3-onnxruntime-pip",
    "python3-rosbags-pip",
}


def package_keys() -> set[str]:
    root = ElementTree.parse(ROOT / "package.xml").getroot()
    return {element.text.strip() for element in root if element.tag.endswith("depend")}


def requirements(path: Path) -> dict[str, str]:
    """distribution -> version specifier."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return {m[1].lower(): m[2].strip() for line in lines if (m := re.match(r"(\w[\w.-]*)(.*)", line))}


def imported_packages() -> set[str]:
    packages = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                packages |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                packages.add(node.module.split(".")[0])
    return packages - sys.stdlib_module_names - {"cosmos_ros"}


def test_every_key_exists():
    assert package_keys() <= ROSDEP_KEYS


@pytest.mark.parametrize("package", sorted(imported_packages()))
def test_every_import_is_declared(package):
    if package in ROS:
        assert package in package_keys(), f"package.xml names no {package}"
        return
    assert package in THIRD_PARTY, f"say in this table how {package} is installed"
    distribution, key = THIRD_PARTY[package]
    declared = {name for path in (ROOT / "requirements").glob("*.txt") for name in requirements(path)}
    assert distribution in declared, f"no requirements file names {distribution}"
    assert key is None or key in package_keys(), f"package.xml names no {key}"


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_every_requirement_says_which_versions_serve(path):
    loose = [name for name, versions in requirements(path).items() if not versions]
    assert not loose, f"{path.name}: {', '.join(loose)} without a version"


def test_ros_wheels_are_pinned_to_one_distribution():
    """Unpinned, the index gives Kilted's packages, and mixes them with Jazzy's."""
    wheels = {n: v for n, v in requirements(ROOT / "requirements" / "ros.txt").items() if n.startswith("ros-")}
    assert wheels["ros-rclpy"] == "==7.1.6"
    assert all(versions.startswith("==") for versions in wheels.values())
