"""Where the package's own files lie: models/, data/, config/, launch/ and rviz/."""

import os
import tempfile
from pathlib import Path


def share_directory() -> Path:
    """`share/cosmos_ros` of the install that this module belongs to, or the checkout it is run from.

    The path is not resolved through links, so that `colcon build --symlink-install` finds its install space.
    """
    package = Path(__file__).absolute().parent
    for prefix in package.parents:
        share = prefix / "share" / "cosmos_ros"
        if (share / "models").is_dir():
            return share
    checkout = package.parent
    if (checkout / "models").is_dir():
        return checkout
    raise FileNotFoundError(f"cosmos_ros was installed without its models: no share/cosmos_ros above {package}")


def executable(name: str) -> Path:
    """A program of `ros2 run cosmos_ros`. Raises FileNotFoundError in a checkout that is not installed."""
    program = share_directory().parents[1] / "lib" / "cosmos_ros" / name
    if not program.is_file():
        raise FileNotFoundError(f"{program} is missing: install the package (pip install . or colcon build)")
    return program


def embedded_model() -> Path:
    """The directory of the small world model that ships with this package."""
    return share_directory() / "models" / "foresight-small"


def cache_directory() -> Path:
    """Where the package keeps what it can make again: $XDG_CACHE_HOME/cosmos_ros, by default in ~/.cache.

    A user without a home, as a container may run us as, keeps it among the temporary files.
    """
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place) / "cosmos_ros"
    try:
        return Path.home() / ".cache" / "cosmos_ros"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"cosmos_ros-{os.getuid()}"


def expanded(path: str) -> str:
    """The path with a leading ~ or ~user as that home; as it is where there is no such home."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        return path
