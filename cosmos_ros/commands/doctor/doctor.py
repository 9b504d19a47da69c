"""`cosmos_ros doctor`: one line for each thing that this machine, robot and checkpoint have or lack, with its remedy.

It runs where PyTorch, ROS or both are missing, and says so: whatever needs them is imported only where it is looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from cosmos_ros.commands.doctor import machine, robot
from cosmos_ros.commands.doctor.finding import Finding, fail, note
from cosmos_ros.commands.flags import add_flags, config_of
from cosmos_ros.settings import SETTINGS, ClipConfig, ForesightConfig, NodeConfig, settings_of

if TYPE_CHECKING:
    from cosmos_ros.world_model import ModelSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="camera topic to listen to")
    camera = [SETTINGS["image_transport"], SETTINGS["image_reliability"]]
    add_flags(parser, "camera", [*settings_of(ClipConfig), *camera])
    add_flags(parser, "model", settings_of(ForesightConfig))


def run(args: argparse.Namespace) -> int:
    """Print every finding as it is made. Exit status 1 where one of them keeps the node from working.

    Raises SettingError.
    """
    status = 0
    for finding in findings(args):
        print(finding, flush=True)
        status |= finding.mark == "FAIL"
    return status


def findings(args: argparse.Namespace) -> Iterator[Finding]:
    config, clips = config_of(args, ForesightConfig), config_of(args, ClipConfig)
    node = config_of(args, NodeConfig)
    yield machine.python()
    yield from machine.torch_and_gpu()
    spec = yield from checkpoint(config)
    wanted = robot.Wanted(clips.frame_rate)
    if spec is not None:
        wanted = robot.Wanted(clips.frame_rate or spec.frame_rate, spec.conditioning_lengths)
    yield from robot.findings(args.image_topic, wanted, clips, node)
    yield machine.disk()
    with contextlib.suppress(ImportError):  # said above
        from cosmos_ros.commands.doctor import model

        yield from model.extras(spec, config.guardrail)


def checkpoint(config: ForesightConfig) -> Generator[Finding, None, ModelSpec | None]:
    """The checkpoint and what runs with it. Returns what the checkpoint is; None where that cannot be found out."""
    if sys.modules.get("torch") is None:  # it is missing, or broken
        yield note("checkpoint", "not looked at: that needs PyTorch")
        return None
    try:
        from cosmos_ros.commands.doctor import model

        spec, finding = model.checkpoint(config.checkpoint, config.frame_size)
        yield finding
        if spec is not None:
            spec = yield from model.model(spec, config)
    except ImportError as error:
        yield fail("packages", f"one cannot be imported: {error}", "pip install -r requirements/core.txt")
        return None
    return spec
