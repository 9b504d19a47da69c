"""`pip install .`: the CMake project that colcon builds, installed into a staging prefix and packed as a wheel.

The modules come from the staged site-packages, so that hand-written and generated ones form one package; the type
support libraries, headers, executables and share/ go beside them into the environment's prefix.
"""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def missing_tool():
    """What the build lacks on this machine, with its remedy; empty where nothing is missing."""
    for variable, compiler in (("CC", "cc"), ("CXX", "c++")):
        if not shutil.which(os.environ.get(variable, compiler)):
            return f"no C++ compiler ({compiler}) to compile the ROS interfaces; sudo apt install build-essential"
    if not (shutil.which("make") or shutil.which("ninja")):
        return "make is missing to compile the ROS interfaces; sudo apt install make"
    if not any((Path(prefix) / "share" / "rosidl_default_generators").is_dir() for prefix in ros_prefixes()):
        return (
            "no ROS 2 build chain found; python -m pip install -r requirements/ros.txt, "
            "or source an installed one (source /opt/ros/jazzy/setup.bash)"
        )
    return ""


def ros_prefixes():
    """Where ROS packages may be: a sourced installation first, then the wheels of this environment."""
    return [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]


def build_environment():
    """The environment in which CMake finds this interpreter's ROS 2."""
    environment = dict(os.environ)
    prefixes = os.pathsep.join(ros_prefixes())
    environment.update(AMENT_PREFIX_PATH=prefixes, CMAKE_PREFIX_PATH=prefixes)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    if (Path(sys.prefix) / "share" / "rosidl_default_generators").is_dir():
        # pip's build isolation hides the environment's packages, the ROS wheels' code generators among them.
        environment.pop("PYTHONPATH", None)
    return environment


class BuildWithCMake(build_py):
    """Build and stage the CMake project; hand its modules to the wheel and the rest to the prefix."""

    def run(self):
        if missing := missing_tool():
            raise SystemExit(f"cosmos_ros: {missing}")
        build = Path(self.get_finalized_command("build").build_temp).resolve()
        staging = build / "staging"
        shutil.rmtree(staging, ignore_errors=True)
        environment = build_environment() | {"DESTDIR": str(staging)}
        cmake(
            environment,
            "-S",
            ROOT,
            "-B",
            build / "cmake",
            f"-DCMAKE_INSTALL_PREFIX={sys.prefix}",
            "-DBUILD_TESTING=OFF",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DPYTHON_EXECUTABLE={sys.executable}",
        )
        cmake(environment, "--build", build / "cmake", "--parallel", os.cpu_count() or 1)
        cmake(environment, "--install", build / "cmake")
        self.pack(staging / Path(sys.prefix).relative_to("/"))

    def pack(self, prefix):
        """Modules into the wheel's package, everything else into data files that pip lays out under the prefix."""
        # site-packages, or dist-packages with Debian's interpreter.
        modules = next(prefix.glob("**/*-packages/cosmos_ros"))
        target = Path(self.build_lib) / "cosmos_ros"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(modules, target)
        # The console command in bin/ is an entry point of the wheel.
        elsewhere = {modules.parent, prefix / "bin"}
        files = sorted(f for f in prefix.rglob("*") if f.is_file() and elsewhere.isdisjoint(f.parents))
        self.distribution.data_files = [(str(f.parent.relative_to(prefix)), [str(f)]) for f in files]


def cmake(environment, *arguments):
    command = shutil.which("cmake", path=environment["PATH"])
    if command is None:
        raise SystemExit("cosmos_ros: cmake is missing; python -m pip install cmake")
    if status := subprocess.run([command, *map(str, arguments)], env=environment).returncode:
        raise SystemExit(f"cosmos_ros: cmake failed with status {status}; its message is above")


class PlatformDistribution(Distribution):
    def has_ext_modules(self):
        """The generated type support is compiled: the wheel belongs to this platform and interpreter."""
        return True


setup(
    version=ElementTree.parse(ROOT / "package.xml").findtext("version"),
    cmdclass={"build_py": BuildWithCMake},
    distclass=PlatformDistribution,
)
