"""A model's pixels leave through the guardrail alone: who may hold a decoder, and who may make a GuardedRollout.

The rules are read from the package's source; that every decoded frame is judged is seen in a prediction.
"""

from __future__ import annotations

import ast
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from cosmos_ros import Clip, Foresight
from cosmos_ros.errors import VideoBlocked
from cosmos_ros.guardrail.guard import Judgement
from cosmos_ros.guardrail.screening import Screening
from cosmos_ros.guardrail_report import Verdict

PACKAGE = Path(__file__).parents[2] / "cosmos_ros"
DECODERS = {
    "WorldModel",
    "VideoTokenizer",
    "Refiner",
    "FrameDecoder",
    "IndicesToPixels",
    "torch.jit.load",
    "load_program",
}
MAY_HOLD_A_DECODER = {
    "foresight.py": "hands every frame that it decodes to the guardrail",
    "world_model": "the model itself; Foresight is the only door to it, see test_layers.py",
    "training": "makes numbers of what it decodes, and draws its pictures through Foresight",
    "commands/train.py": "hands the networks to training",
    "metrics/perceptual.py": "loads a network that makes features of frames, no decoder",
    "torchscript.py": "loads a program for one of these",
}
# Whoever holds a decoder has none of what writes or sends pictures.
WAYS_OUT = {"cv2", "av", "PIL", "imageio", "rclpy", "cosmos_ros.images", "cosmos_ros.recordings", "cosmos_ros.node"}
MODULES = {str(file.relative_to(PACKAGE)): ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.Module) -> set[str]:
    """Dotted names of all that a module imports, by their own names: `from a import b as c` counts as a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def holds_a_decoder(tree: ast.Module) -> bool:
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = imported(tree) | defined | used
    return any(name in DECODERS or name.rpartition(".")[2] in DECODERS for name in names)


def imports_a_way_out(tree: ast.Module) -> set[str]:
    return {name for name in imported(tree) if any(f"{name}.".startswith(f"{way}.") for way in WAYS_OUT)}


HOLDERS = [name for name, tree in MODULES.items() if holds_a_decoder(tree)]


def test_who_holds_a_decoder():
    strangers = [name for name in HOLDERS if not {name, *map(str, Path(name).parents)} & MAY_HOLD_A_DECODER.keys()]
    assert not strangers
    assert {"foresight.py", "world_model/world_model.py"} < set(HOLDERS)


@pytest.mark.parametrize("name", HOLDERS)
def test_who_holds_a_decoder_holds_no_way_out(name):
    assert not imports_a_way_out(MODULES[name])


@pytest.mark.parametrize("name", MODULES)
def test_nobody_takes_the_model_out_of_foresight(name):
    """A model is reached as `self._model` by its owner, and not through anything else."""
    nodes = [node for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute) and node.attr == "_model"]
    assert {ast.unparse(node) for node in nodes} <= {"self._model"}


def test_who_makes_a_guarded_rollout():
    calls = [
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "GuardedRollout"
    ]
    assert calls == ["guardrail/screening.py", "guardrail/stretches.py"], "of judged frames, and of guarded rollouts"


@pytest.mark.parametrize(
    "source",
    [
        "from cosmos_ros.world_model import WorldModel as Model",
        "import cosmos_ros.world_model.world_model as room\nmodel = room.WorldModel",
        "def load():\n  from cosmos_ros.world_model.tokenizer.video_tokenizer import VideoTokenizer",
        "from torch.jit import load",
        "import torch\ndecoder = torch.jit.load('decoder.jit')",
    ],
)
def test_a_new_holder_would_be_found(source):
    assert holds_a_decoder(ast.parse(source))


@pytest.mark.parametrize("source", ["import cv2", "from cosmos_ros import recordings", "import av.video"])
def test_a_new_way_out_would_be_found(source):
    assert imports_a_way_out(ast.parse(source))


def test_a_rollout_that_is_refused_early_is_not_generated_to_its_end(tiny_checkpoint, monkeypatch):
    foresight = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})
    foresight.load()
    ready: list[int] = []
    inspect = Screening.inspect

    def inspect_and_wait_for_the_verdict(screening: Screening, *frames: np.ndarray | None) -> None:
        inspect(screening, *frames)
        ready.clear()
        with suppress(VideoBlocked):
            screening._video_thread.wait()

    refusal = Judgement(Verdict.REFUSED, "Solid_Colour", frame=0)
    monkeypatch.setattr(foresight.guardrail.guards.content[0], "judge", lambda frames: refusal)
    monkeypatch.setattr(Screening, "inspect", inspect_and_wait_for_the_verdict)
    frames = np.random.default_rng(7).integers(0, 256, (9, 48, 64, 3), dtype=np.uint8)
    clip = Clip(frames, tuple(k * 100_000_000 for k in range(9)), 10.0)
    with pytest.raises(VideoBlocked, match="refused predicted frame 1: Solid_Colour"):
        foresight.predict(clip, on_progress=lambda progress: ready.append(progress.frames_ready))
    assert len(ready) <= 1, "the step after the refused frames is the last"


@pytest.mark.parametrize(
    ("n", "predicting", "asked"),
    [(9, "predict", {}), (1, "predict", {}), (9, "predict", {"frames": 56}), (33, "reconstruct", {})],
)
def test_every_frame_that_leaves_was_given_to_every_guard(tiny_checkpoint, monkeypatch, n, predicting, asked):
    foresight = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})
    guards = foresight.guardrail.guards
    judged: list[np.ndarray] = []
    filtered: list[np.ndarray] = []
    judge, pixelate = guards.content[0].judge, guards.filters[0].filter
    frames = np.random.default_rng(7).integers(0, 256, (n, 48, 64, 3), dtype=np.uint8)
    clip = Clip(frames, tuple(k * 100_000_000 for k in range(n)), 10.0)
    foresight.load()
    monkeypatch.setattr(guards.content[0], "judge", lambda group: judged.append(group) or judge(group))
    monkeypatch.setattr(guards.filters[0], "filter", lambda group: filtered.append(group) or pixelate(group))
    rollout = getattr(foresight, predicting)(clip, **asked)
    assert rollout.guardrail.decisions[-1].verdict is Verdict.PASSED, "nothing was pixelated in these frames"
    for seen in (judged, filtered):
        assert np.array_equal(np.concatenate(seen), rollout.frames)
