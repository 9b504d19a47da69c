"""`cosmos_ros doctor`: one line for each thing that this machine, robot and checkpoint have or lack, with its remedy.

It runs where PyTorch, ROS or both are missing, and says so: whatever needs them is imported only where it is looked at.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cosmos_ros.commands.ros_processes import MIDDLEWARE_REMEDY, middleware_fault
from cosmos_ros.errors import ForesightError, ModelUnavailable
from cosmos_ros.paths import cache_directory

if TYPE_CHECKING:
    from cosmos_ros.commands.doctor.robot import CameraReport
    from cosmos_ros.device.plan import MemoryPlan
    from cosmos_ros.world_model import ModelSpec

SUPPORTED_PYTHON = ((3, 10), (3, 13))
ROOM_FOR_CACHES = 2_000_000_000  # bytes: prompt embeddings, and what a build leaves

CACHE_REMEDY = "set XDG_CACHE_HOME to a directory that this user may write"
# Of the model's rate, by which a camera may be slower: over the 8 periods of a clip 5 % add up to 0.4 of a period,
# and each frame may lie half a period from its time.
SLOWER = 0.05


@dataclass(frozen=True)
class Extra:
    """Packages, by the names to import, that something needs beside the core."""

    purpose: str
    packages: tuple[str, ...]
    remedy: str


TEXT = "pip install -r requirements/text.txt"
GUARDRAIL = "pip install -r requirements/guardrail.txt"
T5 = Extra("T5, which reads the prompts of Video2World checkpoints", ("transformers", "sentencepiece"), TEXT)
VIDEO_GUARD = Extra("the published video guard", ("transformers",), GUARDRAIL)
PROMPT_GUARD = Extra("the published prompt guard", ("transformers", "peft", "nltk", "better_profanity"), GUARDRAIL)
EXTRAS = (T5, VIDEO_GUARD, PROMPT_GUARD)


@dataclass(frozen=True)
class Finding:
    """One line: what was found, and what to do about it.

    mark   "ok", "note" for what is only worth knowing, "FAIL" for what keeps the node from working
    """

    mark: str
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        text = " ".join(filter(None, map(str.strip, self.text.splitlines())))  # an error's may be several lines
        line = f"{self.mark:<5} {self.subject:<11} {text}"
        return f"{line} -> {self.remedy}" if self.remedy else line


def ok(subject: str, text: str) -> Finding:
    return Finding("ok", subject, text)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding("note", subject, text, remedy)


def fail(subject: str, text: str, remedy: str = "") -> Finding:
    """`remedy` is empty where the text, an error's message, already says what to do."""
    return Finding("FAIL", subject, text, remedy)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="", metavar="DIR", help="world model to judge; default: the small one")
    parser.add_argument("--tokenizer", default="", metavar="DIR", help="its tokenizer; default: in or beside it")
    parser.add_argument("--guardrail", default="", metavar="DIR", help="its guardrail; default: beside or in it")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="over how many GPUs the transformer is cut")
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="camera topic to listen to")


def run(args: argparse.Namespace) -> int:
    """Print every finding as it is made. Exit status 1 where one of them keeps the node from working."""
    status = 0
    for finding in findings(args):
        print(finding, flush=True)
        status |= finding.mark == "FAIL"
    return status


def findings(args: argparse.Namespace) -> Iterator[Finding]:
    yield python()
    yield from torch_and_gpu()
    spec = None
    try:
        spec, finding = checkpoint(args.checkpoint)
        yield finding
        if spec is not None:
            yield from model(spec, args)
    except ImportError as error:
        yield fail("packages", f"one cannot be imported: {error}", "pip install -r requirements/core.txt")
    yield from ros(args.image_topic, spec.frame_rate if spec else 0.0)
    yield disk()
    yield from extras(needed_extras(spec, args.guardrail) if spec else ())


def python() -> Finding:
    low, high = SUPPORTED_PYTHON
    text = f"{platform.python_version()} ({sys.executable})"
    if low <= sys.version_info[:2] <= high:
        return ok("python", text)
    return fail("python", text, "use Python {}.{} to {}.{}".format(*low, *high))


def torch_and_gpu() -> Iterator[Finding]:
    torch, finding = imported("torch", "PyTorch", "pip install 'torch>=2.6'; pytorch.org names the build for your GPU")
    yield finding
    if torch is None:
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            try:
                free, total = torch.cuda.mem_get_info(index)
                yield ok("GPU", f"{torch.cuda.get_device_name(index)}: {gigabytes(free)} of {gigabytes(total)} free")
            except RuntimeError as error:
                yield fail("GPU", f"cuda:{index} does not answer: {error}", "see what nvidia-smi says of it")
    elif Path("/proc/driver/nvidia/version").is_file() or shutil.which("nvidia-smi"):
        yield fail(
            "GPU",
            "PyTorch sees none, though there is an NVIDIA driver",
            "install a CUDA build of PyTorch that this driver supports",
        )
    else:
        yield note("GPU", "none; only a small model is quick on the CPU")


def checkpoint(directory: str) -> tuple[ModelSpec | None, Finding]:
    if sys.modules.get("torch") is None:  # it is missing, or broken
        return None, note("checkpoint", "not looked at: that needs PyTorch")
    from cosmos_ros.world_model import ModelSpec

    try:
        spec = ModelSpec.of_checkpoint(directory)
    except (ForesightError, OSError) as error:
        return None, fail("checkpoint", str(error))
    height, width = spec.frame_size
    what = f"{width}x{height} at {spec.frame_rate:g} Hz, {'reads a prompt' if spec.takes_prompt else 'takes no prompt'}"
    return spec, ok("checkpoint", f"{spec.name}: {what}; {spec.directory}")


def model(spec: ModelSpec, args: argparse.Namespace) -> Iterator[Finding]:
    """What the checkpoint runs with, and where that fits."""
    found = list(parts(spec, args))
    yield from found
    if any(finding.mark == "FAIL" for finding in found):
        yield note("memory", "not planned: that needs all parts")
    else:
        yield from memory(spec, args)


def parts(spec: ModelSpec, args: argparse.Namespace) -> Iterator[Finding]:
    """What the checkpoint runs with."""
    yield tokenizer(spec, args.tokenizer)
    yield guardrail(spec, args.guardrail)
    if spec.takes_prompt:
        yield text(spec)
    if args.gpus != 1:
        yield from shares(spec, args.gpus)


def tokenizer(spec: ModelSpec, directory: str) -> Finding:
    from cosmos_ros.world_model.tokenizer.programs import FETCH, find_tokenizer, program_files

    def look() -> str:
        home = find_tokenizer(spec.directory, directory)
        files = program_files(home)
        # A TorchScript program is a zip archive, with its table of contents at the end: one cut short is none.
        if faults := [file.name for file in files if not zipfile.is_zipfile(file)]:
            raise ModelUnavailable(
                f"{home}: {', '.join(faults)} missing, unreadable, cut short or no TorchScript program; {FETCH}"
            )
        return f"{' and '.join(file.name for file in files)} in {home}"

    return judged("tokenizer", look)


def guardrail(spec: ModelSpec, folder: str) -> Finding:
    from cosmos_ros.guardrail.cosmos.folder import find_folder, require_whole
    from cosmos_ros.guardrail.embedded.profile import EMBEDDED

    def look() -> str:
        if not (spec.published or folder):
            return f"the {EMBEDDED} one, which comes with this package"
        home = find_folder(spec.directory, folder)
        require_whole(home, spec.takes_prompt)
        return str(home)

    return judged("guardrail", look)


def text(spec: ModelSpec) -> Finding:
    """What turns prompts into the model's context."""
    from cosmos_ros.world_model.text_encoder import EMBEDDINGS_FILE, TextEncoder, t5_bytes

    def look() -> str:
        encoder = TextEncoder.for_checkpoint(spec.directory, width=spec.config.context_dim or 0)
        t5 = f"T5 of {gigabytes(t5_bytes(encoder.folder))} in {encoder.folder}" if encoder.folder else "no T5"
        return f"{t5}; prompts in {EMBEDDINGS_FILE}: {len(encoder.given)}" if encoder.given else t5

    return judged("text", look)


def shares(spec: ModelSpec, gpus: int) -> Iterator[Finding]:
    """Whether the transformer can be cut over so many GPUs; whether they have room is part of the memory's plan."""
    import torch

    from cosmos_ros.world_model.tensor_parallel.sharded_transformer import require_divisible

    try:
        require_divisible(spec.config, gpus)
    except ForesightError as error:
        yield fail("GPUs", str(error))
        return
    if not torch.cuda.is_available():
        yield note("GPUs", f"PyTorch sees none: {gpus} processes would share the CPU", "leave --gpus out")


def judged(subject: str, look: Callable[[], str]) -> Finding:
    """What `look` says of a part, or why the node would refuse it: the error that it raises."""
    try:
        return ok(subject, look())
    except ForesightError as error:
        return fail(subject, str(error))
    except OSError as error:
        return fail(subject, str(error), "see that this user can read it")


def memory(spec: ModelSpec, args: argparse.Namespace) -> Iterator[Finding]:
    """What fits in which mode, with the peak that is expected."""
    import torch

    from cosmos_ros.device.devices import free_memory
    from cosmos_ros.device.plan import MODES, plan_memory
    from cosmos_ros.foresight import PIPELINE, needs_of
    from cosmos_ros.world_model.tensor_parallel.sharded_transformer import TRANSFORMER_SHARE

    on_gpu = torch.cuda.is_available()
    try:
        needs = needs_of(
            spec,
            tokenizer=args.tokenizer,
            guardrail=args.guardrail,
            bytes_per_weight=2 if on_gpu else 4,
            gpus=args.gpus if on_gpu else 1,
        )
    except (ForesightError, OSError) as error:
        yield fail("memory", str(error))
        return
    host = available_host_memory()
    if on_gpu:
        try:
            free = [free_memory(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
        except RuntimeError:
            yield note("memory", "not planned: a GPU does not answer")
            return
        if args.gpus > 1:
            share = next(need.weights for need in needs if need.name == TRANSFORMER_SHARE)
            yield ranks(args.gpus, share, free)
        yield from modes({mode: plan_memory(needs, PIPELINE, free[0], mode) for mode in MODES}, host)
        return
    peak = plan_memory(needs, PIPELINE, free=host, mode="fast").peak
    text = f"expected peak {gigabytes(peak)} on the CPU of {gigabytes(host)} available"
    yield ok("memory", text) if peak <= host else fail("memory", text, "use a GPU, or a smaller checkpoint")


def ranks(gpus: int, share: int, free: Sequence[int]) -> Finding:
    """Whether each of the first `gpus` GPUs, with so many bytes free, has room for its share of the transformer."""
    text = f"cut over {gpus} GPUs the transformer takes {gigabytes(share)} of each"
    if gpus > len(free):
        return fail("GPUs", f"{text}, and PyTorch sees {len(free)}", "ask for fewer")
    full = [f"GPU {index} has {gigabytes(room)} free" for index, room in enumerate(free[:gpus]) if room < share]
    if full:
        return fail("GPUs", f"{text}; {', '.join(full)}", "free memory there, or use more GPUs")
    return ok("GPUs", text)


def modes(plans: Mapping[str, MemoryPlan], host: int) -> Iterator[Finding]:
    """What the plan of each mode means for a GPU, with so many bytes of host memory available."""
    for plan in plans.values():
        yield ok("memory", str(plan)) if plan.fits else note("memory", str(plan), "does not fit")
    if not plans["auto"].fits:
        yield fail("memory", "no mode fits", "free memory on the GPU, use several, or run a smaller checkpoint")
    elif plans["auto"].host > host:
        yield fail(
            "memory",
            f"{gigabytes(host)} of host memory are available, auto parks {gigabytes(plans['auto'].host)} there",
            "free host memory",
        )


def ros(topic: str, model_rate: float) -> Iterator[Finding]:
    """The middleware, then the camera's topic, or which there are."""
    # Before anything else: where the middleware is missing, importing rclpy ends the process.
    if importlib.util.find_spec("rclpy") and (fault := middleware_fault(os.environ)):
        yield fail("ROS", fault, MIDDLEWARE_REMEDY)
        return
    rclpy, finding = imported("rclpy", "ROS", "source /opt/ros/jazzy/setup.bash or pip install -r requirements/ros.txt")
    if rclpy is None:
        yield finding
        return
    try:
        from cosmos_ros.commands.doctor import robot

        distribution, domain = os.environ.get("ROS_DISTRO", "from wheels"), os.environ.get("ROS_DOMAIN_ID", "0")
        yield ok("ROS", f"{distribution}, RMW {robot.middleware()}, domain {domain}")
        if topic:
            yield from camera(topic, robot.camera(topic), model_rate)
        elif topics := robot.image_topics():
            yield note("camera", f"image topics: {', '.join(topics)}", "name one with --image-topic")
        else:
            yield note("camera", "no image topic is published", "start the camera; check ROS_DOMAIN_ID")
    except ValueError as error:
        yield fail("camera", str(error), "name the topic as `ros2 topic list` does")
    except (ImportError, RuntimeError) as error:
        yield fail("ROS", f"{type(error).__name__}: {error}", "install this package and its interfaces: pip install .")


def camera(topic: str, seen: CameraReport, model_rate: float) -> Iterator[Finding]:
    """What was seen of a camera, and what it means for the node."""
    if not seen.publishers:
        yield fail("camera", f"nobody publishes {topic}", "start the camera; check the topic and ROS_DOMAIN_ID")
        return
    if not seen.transport:
        yield fail("camera", f"{topic} carries {', '.join(seen.types)}", "name a topic of sensor_msgs/Image")
        return
    qos = f"{topic} ({seen.transport}): publisher's QoS {seen.theirs}, ours {seen.ours}"
    yield ok("camera", qos) if seen.compatible else fail("camera", qos, "set image_reliability: auto")
    if seen.transport == "compressed":
        yield note("camera", f"{topic} is compressed", "set image_transport: compressed")
    rates = f"{seen.rate:.2f} images/s" + (f"; the model's rate is {model_rate:g} Hz" if model_rate else "")
    if not seen.images:
        yield fail("camera", f"{topic}: no image arrived", "see that the camera runs and the network lets it through")
    elif not seen.usable:
        yield fail("camera", f"{topic}: {seen.images}", "publish an encoding that the README lists")
    elif seen.rate < (1 - SLOWER) * model_rate:
        yield fail("camera", f"{topic}: {seen.images}, {rates}", "raise the camera's rate, or set frame_rate to it")
    else:
        yield ok("camera", f"{topic}: {seen.images}, {rates}")


def disk() -> Finding:
    """Whether there is room for what is kept between runs. The node runs without, and encodes prompts anew."""
    place = cache_directory()
    try:
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
    except OSError as error:
        return note("disk", f"nothing can be kept between runs: {error}", CACHE_REMEDY)
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        return note("disk", f"nothing can be kept between runs: {place} takes no files of this user", CACHE_REMEDY)
    text = f"{gigabytes(free)} free in {place}"
    return ok("disk", text) if free > ROOM_FOR_CACHES else fail("disk", text, "free some, or set XDG_CACHE_HOME")


def needed_extras(spec: ModelSpec, guardrail: str) -> set[Extra]:
    """Of EXTRAS those without which the node does not run this checkpoint."""
    from cosmos_ros.world_model.text_encoder import EMBEDDINGS_FILE

    needed = set()
    if spec.published or guardrail:
        needed |= {VIDEO_GUARD, PROMPT_GUARD} if spec.takes_prompt else {VIDEO_GUARD}
    if spec.takes_prompt and not (spec.directory / EMBEDDINGS_FILE).is_file():
        needed.add(T5)
    return needed


def extras(needed: Collection[Extra]) -> Iterator[Finding]:
    """Packages that are missing: a fault for those of `needed`, worth knowing for the others."""
    for extra in EXTRAS:
        if missing := [name for name in extra.packages if importlib.util.find_spec(name) is None]:
            judge = fail if extra in needed else note
            yield judge("extra", f"{', '.join(missing)} missing, for {extra.purpose}", extra.remedy)


def imported(module: str, name: str, remedy: str) -> tuple[ModuleType | None, Finding]:
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a broken installation may raise anything at import
        return None, fail(name, f"cannot be imported ({type(error).__name__}: {error})", remedy)
    return found, ok(name, str(getattr(found, "__version__", "installed")))


def available_host_memory() -> int:
    """Bytes that this process may still take, as the kernel reckons."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB"
