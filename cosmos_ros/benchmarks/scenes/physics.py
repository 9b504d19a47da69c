"""The eight kinds of scene of the paper's physics benchmark (arXiv:2501.03575, section 5.3.2), in its order."""

from __future__ import annotations

from collections.abc import Mapping

from cosmos_ros.benchmarks.scenes.dominoes import dominoes
from cosmos_ros.benchmarks.scenes.falling import free_fall
from cosmos_ros.benchmarks.scenes.gyroscope import gyroscope
from cosmos_ros.benchmarks.scenes.seesaw import seesaw
from cosmos_ros.benchmarks.scenes.slopes import tilted_slope, u_shaped_slope
from cosmos_ros.benchmarks.scenes.stacks import stable_stack, unstable_stack
from cosmos_ros.benchmarks.scenes.staged import Stage

PHYSICS: Mapping[str, Stage] = {
    "free_fall": free_fall,
    "tilted_slope": tilted_slope,
    "u_shaped_slope": u_shaped_slope,
    "stable_stack": stable_stack,
    "unstable_stack": unstable_stack,
    "dominoes": dominoes,
    "seesaw": seesaw,
    "gyroscope": gyroscope,
}
