"""A whole world model in miniature, and clips, rollouts and bags that are made on the spot."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, settings
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from safetensors.torch import save_file
from torch import Tensor, nn

from cosmos_ros.guardrail import Guardrail
from cosmos_ros.rollout import Clip, Crop, Decoding, GuardedRollout
from cosmos_ros.world_model import Transformer, TransformerConfig
from cosmos_ros.world_model.diffusion_decoder.config import DiffusionDecoderConfig, tensor_shapes
from cosmos_ros.world_model.diffusion_decoder.files import FAMILIES, Family
from cosmos_ros.world_model.text_encoder import EMBEDDINGS_FILE, write_embeddings

# A busy machine is no fault of what is tested, and the same code is tested on the same examples every time.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# A shell that starts this in the background has it ignore Ctrl-C, and with it every process whose answer to Ctrl-C is
# tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

NODE_TESTS = Path(__file__).with_name("node")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(NODE_TESTS):
            item.add_marker("dds")
    # The long files first, so that no worker is left with one of them in the end.
    long = {item.path for item in items if any(map(item.get_closest_marker, ("processes", "dds", "slow")))}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later garbage collection: it makes one of them take 0.35 s."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test without the marker that starts a process fails: `make test-fast` goes by the markers."""
    with pytest.MonkeyPatch.context() as patches:
        if not any(map(item.get_closest_marker, ("processes", "dds"))):
            for kind, start in ((subprocess.Popen, "__init__"), (BaseProcess, "start")):
                patches.setattr(kind, start, _start_of_a_process)
        return (yield)


def _start_of_a_process(*args: object, **kwargs: object) -> None:
    pytest.fail("this starts a process: mark the test with pytest.mark.processes")


LATENT_SHAPE = (5, 2, 4)  # so a frame is 32x64 pixels, and 9 frames are 16 of 40 tokens
LEVELS = 4  # per colour channel: a vocabulary of 64


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    """make_checkpoint(directory, ...): writes model, config and tokenizer there.

    step           pixel frames of a latent frame
    latent_frames  of a chunk
    """

    def make(
        directory: Path,
        frame_rate: float = 10.0,
        context_dim: int | None = None,
        step: int = 8,
        latent_frames: int = LATENT_SHAPE[0],
    ) -> Path:
        vocabulary = LEVELS**3
        shape = (latent_frames, *LATENT_SHAPE[1:])
        torch.manual_seed(0)
        transformer = Transformer(
            TransformerConfig(
                n_layers=2,
                dim=32,
                n_heads=4,
                n_kv_heads=2,
                head_dim=8,
                ffn_hidden=64,
                vocab_in=vocabulary + 64 * (context_dim is not None),
                vocab_out=vocabulary,
                latent_shape=shape,
                context_dim=context_dim,
            )
        )
        directory.mkdir(parents=True, exist_ok=True)
        save_file(transformer.state_dict(), directory / "model.safetensors")
        settings = {"latent_shape": shape, "frame_rate": frame_rate, "n_heads": 4, "name": "tiny"}
        settings |= {"compression": [step, 16, 16]} if step != 8 else {}
        (directory / "config.json").write_text(json.dumps(settings))
        _script_tokenizer(directory, step)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint, tmp_path_factory) -> Path:
    """A checkpoint that takes no prompt, at 10 Hz. Do not change its files: others use it too."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def known_prompt() -> str:
    """The only prompt whose embedding the tiny text checkpoint holds."""
    return "a robot arm moves a red cube over the table"


@pytest.fixture(scope="session")
def tiny_text_checkpoint(make_checkpoint, known_prompt, tmp_path_factory) -> Path:
    """A checkpoint that needs a prompt. Do not change its files."""
    directory = make_checkpoint(tmp_path_factory.mktemp("text_checkpoint") / "tiny", context_dim=16)
    write_embeddings(directory / EMBEDDINGS_FILE, {known_prompt: torch.randn(7, 16)})
    return directory


def _script_tokenizer(directory: Path, step: int) -> None:
    """encoder.jit and decoder.jit: a token is the mean colour of 16x16 pixels of one latent frame, in few levels."""

    class Encoder(nn.Module):
        def __init__(self, levels: int, step: int) -> None:
            super().__init__()
            self.levels, self.step = levels, step

        def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
            first, rest = frames[:, :, :1], frames[:, :, 1:]
            means = nn.functional.avg_pool3d(first, [1, 16, 16])
            if rest.shape[2] > 0:
                means = torch.cat([means, nn.functional.avg_pool3d(rest, [self.step, 16, 16])], dim=2)
            level = torch.round((means.float() * 0.5 + 0.5).clamp(0, 1) * (self.levels - 1)).long()
            tokens = (level[:, 0] * self.levels + level[:, 1]) * self.levels + level[:, 2]
            return tokens, level.float() / (self.levels - 1) * 2 - 1

    class Decoder(nn.Module):
        def __init__(self, levels: int, step: int) -> None:
            super().__init__()
            self.levels, self.step = levels, step

        def forward(self, tokens: Tensor) -> Tensor:
            n = self.levels
            level = torch.stack([tokens // (n * n), tokens // n % n, tokens % n], dim=1)
            colours = level.float() / (n - 1) * 2 - 1
            frames = torch.cat([colours[:, :, :1], colours[:, :, 1:].repeat_interleave(self.step, dim=2)], dim=2)
            return frames.repeat_interleave(16, dim=3).repeat_interleave(16, dim=4)

    torch.jit.script(Encoder(LEVELS, step)).save(str(directory / "encoder.jit"))
    torch.jit.script(Decoder(LEVELS, step)).save(str(directory / "decoder.jit"))


@pytest.fixture
def without_permission() -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """with without_permission(path): nobody may read it; a superuser, whom that does not stop, is somebody else."""

    @contextlib.contextmanager
    def forbidden(path: Path) -> Iterator[None]:
        user = os.geteuid()
        modes = {each: each.stat().st_mode for each in path.parents} | {path: path.stat().st_mode}
        for folder in path.parents:  # pytest's own are closed to everybody else
            if modes[folder] & 0o011 != 0o011:
                folder.chmod(modes[folder] | 0o011)
        path.chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)
            for each, mode in modes.items():
                if each.stat().st_mode != mode:
                    each.chmod(mode)

    return forbidden


START = 1_700_000_000_000_000_000


def moving_scene(n: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 [n, height, width, 3]: a textured ground and a broad bar that moves to the right, 2 pixels per frame.

    It goes on without end.
    """
    rng = np.random.default_rng(5)
    ground = np.kron(rng.integers(60, 180, (height // 4, width // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    x = np.arange(width)
    frames = []
    for i in range(n):
        bar = (x - 2 * i) % width < 3 * width // 8
        frames.append(np.where(bar[None, :, None], np.uint8([240, 90, 20]), ground))
    return np.stack(frames)


@pytest.fixture(scope="session", name="moving_scene")
def _moving_scene() -> Callable[..., np.ndarray]:
    return moving_scene


@pytest.fixture(scope="session")
def guardrail() -> Guardrail:
    spec = SimpleNamespace(
        directory=Path("none"), name="painted", published=False, takes_prompt=False, frame_size=(48, 64)
    )
    return Guardrail.for_model(spec)


@pytest.fixture
def guarded(guardrail):
    """(clip, rollout): 9 frames of a scene, and 24 more of them that went through the embedded guardrail."""

    def make(height: int = 48, width: int = 64, crop: Crop | None = None) -> tuple[Clip, GuardedRollout]:
        frames = moving_scene(33, height, width)
        clip = Clip(frames[:9], tuple(START + i * 100_000_000 for i in range(9)), 10.0)
        with guardrail.screen("", crop or Crop(0, 0, width, height)) as screening:
            screening.admit_prompt()
            screening.inspect(frames[9:])
            decoding = Decoding("float32", window=16, passes=480, frame_decoder="discrete", hypothesis=3)
            return clip, screening.release(clip, model="painted", seed=7, sample=2, decoding=decoding, timing=tuple)

    return make


TYPES = get_typestore(Stores.ROS2_JAZZY)


def image_message(frame: np.ndarray, stamp_ns: int, encoding: str):
    """A sensor_msgs/Image, or for "jpeg" and "png" a CompressedImage."""
    types = TYPES.types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
    header = types["std_msgs/msg/Header"](stamp, "camera_optical_frame")
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    if encoding in ("jpeg", "png"):
        data = cv2.imencode(f".{encoding}", bgr)[1]
        return types["sensor_msgs/msg/CompressedImage"](header, f"rgb8; {encoding} compressed bgr8", data)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) * np.uint16(257)
    pixels = {"rgb8": frame, "bgr8": bgr, "mono16": grey}[encoding]
    data = np.frombuffer(pixels.tobytes(), np.uint8)
    height, width = frame.shape[:2]
    return types["sensor_msgs/msg/Image"](header, height, width, encoding, 0, len(data) // height, data)


@pytest.fixture(scope="session")
def write_bag():
    """Writes frames as a rosbag2 bag; `encoding` is one for all or one per frame."""

    def write(
        path: Path,
        frames: np.ndarray,
        stamps_ns: list[int],
        *,
        topic: str = "/camera/image_raw",
        encoding: str | list[str] = "rgb8",
        storage: StoragePlugin = StoragePlugin.MCAP,
        compression: CompressionMode = CompressionMode.NONE,
        other_topics: tuple[str, ...] = (),
    ) -> Path:
        encodings = [encoding] * len(frames) if isinstance(encoding, str) else encoding
        messages = [image_message(*each) for each in zip(frames, stamps_ns, encodings, strict=True)]
        writer = Writer(path, version=9, storage_plugin=storage)
        if compression is not CompressionMode.NONE:
            writer.set_compression(compression, CompressionFormat.ZSTD)
        with writer:
            kind = messages[0].__msgtype__ if messages else "sensor_msgs/msg/Image"
            names = (topic, *other_topics)
            connections = [writer.add_connection(name, kind, typestore=TYPES) for name in names]
            for message, stamp in zip(messages, stamps_ns, strict=True):
                for connection in connections:
                    writer.write(connection, stamp, TYPES.serialize_cdr(message, message.__msgtype__))
        return path

    return write


@pytest.fixture(scope="session")
def alexnet_weights(tmp_path_factory) -> Path:
    """Random weights under the names and in the shapes of torchvision's alexnet-owt-7be5be79.pth."""
    generator = torch.Generator().manual_seed(3)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    state = {"classifier.6.bias": torch.zeros(1000)}
    for layer, shape in shapes.items():
        spread = (2 / np.prod(shape[1:])) ** 0.5
        state[f"features.{layer}.weight"] = spread * torch.randn(shape, generator=generator)
        state[f"features.{layer}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(state, path)
    return path


class TinyI3D(torch.nn.Module):
    """Called as the published I3D program is called; what it sees in a video is its mean colours at five times."""

    def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
        if rescale:
            x = x * 2 / 255 - 1
        if resize:
            x = F.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        if not return_features:
            raise RuntimeError("classes are not what is wanted")
        return F.adaptive_avg_pool3d(x, [5, 1, 1]).flatten(1)


@pytest.fixture(scope="session")
def i3d_weights(tmp_path_factory) -> Path:
    """A small program with the calling convention of i3d_torchscript.pt."""
    path = tmp_path_factory.mktemp("weights") / "i3d.pt"
    torch.jit.script(TinyI3D()).save(path)
    return path


class Colours(nn.Module):
    """Called as CV8x8x8's decoder is: a latent's first three channels are the colour of 8 frames of 8x8 pixels."""

    def forward(self, latents: Tensor) -> Tensor:
        colours = torch.tanh(latents[:, :3])
        frames = torch.cat([colours[:, :, :1], colours[:, :, 1:].repeat_interleave(8, dim=2)], dim=2)
        return frames.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)


@pytest.fixture(scope="session")
def write_diffusion_decoder() -> Callable[..., Path]:
    """write_diffusion_decoder(checkpoints, **sizes): a diffusion decoder and its tokenizer in the published files.

    family  which release's folders; sizes are those of DiffusionDecoderConfig that are not those of the tiny models'
    """

    def write(checkpoints: Path, family: Family = FAMILIES[0], **sizes: int) -> Path:
        tiny = {"n_blocks": 2, "dim": 32, "n_heads": 2, "head_dim": 16, "hidden": 48, "context_dim": 16}
        tiny |= {"modulation_dim": 8, "vocabulary": LEVELS**3, "token_channels": 4, "latent_channels": 16}
        generator = torch.Generator().manual_seed(0)
        weights = {}
        for name, shape in tensor_shapes(DiffusionDecoderConfig(**tiny | sizes)).items():
            noise = torch.randn(shape, generator=generator)
            weights[name] = 1 + 0.2 * noise if len(shape) == 1 else noise / (1 if "token" in name else shape[1] ** 0.5)
        unused = {"logvar.0.freqs": (128,), "logvar.0.phases": (128,), "logvar.1.weight": (1, 128)}
        weights |= {name: torch.randn(shape, generator=generator) for name, shape in unused.items()}
        weights["net.pos_embedder.seq"] = torch.arange(128.0)
        decoder, tokenizer = checkpoints / family.decoder, checkpoints / family.tokenizer
        decoder.mkdir(parents=True)
        tokenizer.mkdir(exist_ok=True)
        torch.save(weights, decoder / "model.pt")
        context = torch.randn(1, 12, (tiny | sizes)["context_dim"], generator=generator)
        torch.save({"context": context, "context_mask": torch.ones(1, 12)}, decoder / "aux_vars.pt")
        torch.jit.script(Colours()).save(str(tokenizer / "decoder.jit"))
        mean = 0.1 * torch.randn((tiny | sizes)["latent_channels"] * 16, generator=generator)
        torch.save((mean, 0.5 + torch.rand(len(mean), generator=generator)), tokenizer / "mean_std.pt")
        return decoder

    return write


@pytest.fixture(scope="session")
def diffusion_decoder(write_diffusion_decoder, tmp_path_factory) -> Path:
    """The folder of Cosmos 1.0's diffusion decoder, tiny, its tokenizer beside it. Do not change its files."""
    return write_diffusion_decoder(tmp_path_factory.mktemp("checkpoints"))
