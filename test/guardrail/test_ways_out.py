"""Every way from the world model to a file or a publisher leads through the guardrail: read from the package's source.

Two rules. What decodes tokens to pixels is a short list of modules, and none of them lets pixels out: Foresight hands
them to the guardrail, training makes numbers of them. Everywhere else, what makes a file, a message or bytes of pixels
takes them in a type that says where they come from (a GuardedRollout, a Clip of the camera's frames), never as bare
arrays: those could come from anywhere. What stands against a rule is listed here with its reason, or fails.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cosmos_ros"

# What makes files, messages or bytes of pixels.
OUTLETS = {
    "imwrite",
    "imwritemulti",
    "imencode",
    "imencodemulti",
    "VideoWriter",  # OpenCV
    "from_ndarray",
    "fromarray",  # PyAV, PIL
    "imsave",
    "mimsave",
    "mimwrite",
    "get_writer",
    "save_image",
    "write_png",
    "write_jpeg",
    "write_video",
    "tobytes",
    "tofile",
    "memoryview",
    "b64encode",
    "pickle.dump",
    "pickle.dumps",
    "torch.save",
    "numpy.save",
    "numpy.savez",
    "numpy.savez_compressed",
    "numpy.savetxt",
    "numpy.memmap",
    "Image",
    "CompressedImage",
    "publish",  # ROS
}

# What makes pixels of tokens, and what holds it.
DECODERS = {"WorldModel", "VideoTokenizer", "IndicesToPixels", "torch.jit.load", "decode"}

# Bare pixels, or what says nothing of what it is. A function is neither.
BARE = re.compile(r"^$|\b(ndarray|Tensor|ArrayLike|Any|object)\b|^(list|tuple|Sequence|Iterable|Iterator)$")

# Holds pixels, and says where they come from.
OF_KNOWN_ORIGIN = {
    "cosmos_ros.rollout.Clip": "what a camera saw",
    "cosmos_ros.rollout.GuardedRollout": "what the guardrail let out",
    "cosmos_ros.recordings.rollout_writer.PublishedRollout": "what a node's guardrail let out, from a client's files",
}

MAY_DECODE_TOKENS = {
    "cosmos_ros.foresight": "hands every decoded frame to the guardrail: tested below",
    "cosmos_ros.world_model": "the model itself, which foresight alone imports: test_layers.py",
    "cosmos_ros.world_model.world_model": "the model itself",
    "cosmos_ros.world_model.frame_decoder": "the model itself: hands frames on to world_model",
    "cosmos_ros.world_model.tokenizer.video_tokenizer": "the model itself",
    "cosmos_ros.torchscript": "loads programs for the tokenizer and the metrics",
    "cosmos_ros.training.tokenizer_network": "the tokenizer that is trained",
    "cosmos_ros.commands.train": "hands the networks on, to be trained, exported and measured",
    "cosmos_ros.training.tokenizer": "makes losses and PSNR of reconstructions",
    "cosmos_ros.training.transformer": "encodes alone",
    "cosmos_ros.training.export": "writes weights",
    "cosmos_ros.training.evaluation": "makes PSNR of reconstructions and rollouts",
}
DECODE_SOMETHING_ELSE = {
    "cosmos_ros.guardrail.cosmos.aegis": "text: the answer of a language model",
    "cosmos_ros.guardrail.cosmos.retinaface_detector": "boxes around faces",
}

MAY_LET_OUT_BARE_PIXELS = {
    "cosmos_ros.images.compress": "makes bytes for its caller, who is judged in turn",
    "cosmos_ros.training.sample_bag.image_message": "what MuJoCo renders, for the sample bag",
}
LET_NOTHING_OUT = {
    "cosmos_ros.images._compressed_info": "reads the bytes of a message that came in",
    "cosmos_ros.guardrail.screening._frozen": "copies, so that nobody can write to what was judged",
}

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Function:
    """A function or method: the annotations of what it is given, its object's fields included, and all names in use."""

    module: str
    name: str
    takes: tuple[str, ...]
    uses: frozenset[str]

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def public(self) -> bool:
        return not any(re.match(r"_(?!_)", part) for part in self.name.split("."))

    @property
    def called(self) -> str:
        """The name by which others use it: a function's or class's whole one, a public method's own."""
        cls, _, name = self.name.rpartition(".")
        if name == "__init__":
            return f"{self.module}.{cls}"
        return name if cls and self.public else f"{self.module}.{name}"

    def lets_out(self, outlets: set[str]) -> bool:
        return not outlets.isdisjoint(self.uses | {f"{self.module}.{name}" for name in self.uses})


def modules() -> dict[str, str]:
    """Source of every module of the package."""
    return {
        ".".join(("cosmos_ros", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): file.read_text()
        for file in sorted(PACKAGE.rglob("*.py"))
    }


def real_names(tree: ast.Module) -> dict[str, str]:
    """Whole names of what the module imports, under whatever name: np -> numpy, jit -> torch.jit."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def names_used(nodes: list[ast.stmt], real: dict[str, str]) -> frozenset[str]:
    """Names and attributes, each by its whole name and by the last part of it, and message types in strings.

    A `decode` without arguments makes text of bytes, and does not count.
    """
    inside = [inner for outer in nodes for inner in ast.walk(outer)]
    bare_calls = {node.func for node in inside if isinstance(node, ast.Call) and not node.args and not node.keywords}
    names: set[str] = set()
    for node in inside:
        if isinstance(node, ast.Name):
            names |= whole_and_last(real.get(node.id, node.id))
        elif isinstance(node, ast.Attribute) and not (node.attr == "decode" and node in bare_calls):
            first, _, rest = ast.unparse(node).partition(".")
            names |= whole_and_last(f"{real.get(first, first)}.{rest}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("sensor_msgs/"):
            names.add(str(node.value).rpartition("/")[2])
    return frozenset(names)


def whole_and_last(name: str) -> set[str]:
    return {name, name.rpartition(".")[2]}


def annotations(arguments: ast.arguments) -> tuple[str, ...]:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg]
    return tuple(
        ast.unparse(each.annotation) if each.annotation else ""
        for each in every
        if each is not None and each.arg not in ("self", "cls")
    )


def functions(module: str, source: str) -> Iterator[Function]:
    """Every function and method, with what is nested in it; what runs on import counts as one given anything."""
    tree = ast.parse(source)
    real = real_names(tree)
    for node in tree.body:
        if isinstance(node, FUNCTION):
            yield Function(module, node.name, annotations(node.args), names_used(node.body, real))
        elif isinstance(node, ast.ClassDef):
            for method in (inner for inner in node.body if isinstance(inner, FUNCTION)):
                takes = annotations(method.args) + held_by(node)
                yield Function(module, f"{node.name}.{method.name}", takes, names_used(method.body, real))
        elif isinstance(node, (ast.Expr, ast.For, ast.If, ast.With, ast.Try)) or holds_lambda(node):
            yield Function(module, "on import", ("",), names_used([node], real))


def holds_lambda(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Lambda) for inner in ast.walk(node))


def held_by(cls: ast.ClassDef) -> tuple[str, ...]:
    """The annotations of what an object of the class is made of."""
    fields = tuple(ast.unparse(node.annotation) for node in cls.body if isinstance(node, ast.AnnAssign))
    made = (node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return fields + tuple(each for init in made for each in annotations(init.args))


class Holders:
    """The package's classes whose objects are made of bare pixels, or of an object of such a class."""

    def __init__(self, sources: dict[str, str]) -> None:
        trees = {module: ast.parse(source) for module, source in sources.items()}
        # Where a name that a module uses is defined: two classes may have the same.
        self._homes = {module: homes(module, tree) for module, tree in trees.items()}
        self._found: set[str] = set()
        classes = {
            f"{module}.{node.name}": (module, held_by(node))
            for module, tree in trees.items()
            for node in tree.body
            if isinstance(node, ast.ClassDef)
        }
        while (
            more := {
                name for name, (module, held) in classes.items() if any(self.is_bare(module, each) for each in held)
            }
            - self._found
            - set(OF_KNOWN_ORIGIN)
        ):
            self._found |= more

    def is_bare(self, module: str, annotation: str) -> bool:
        """Whether what a module annotates like this may be, or hold, bare pixels."""
        if annotation.startswith("Callable["):
            return False
        names = re.findall(r"\w+", annotation)
        return bool(BARE.search(annotation)) or any(self._homes[module].get(name) in self._found for name in names)


def homes(module: str, tree: ast.Module) -> dict[str, str]:
    """Whole names of the classes that a module can name."""
    return real_names(tree) | {
        node.name: f"{module}.{node.name}" for node in tree.body if isinstance(node, ast.ClassDef)
    }


def leaks(sources: dict[str, str]) -> tuple[list[Function], set[str]]:
    """The functions that let out bare pixels which they are given, by whatever way; and all names that let pixels out.

    A private one's name counts in its own module.
    """
    holders = Holders(sources)
    given_bare = [
        function
        for module, source in sources.items()
        for function in functions(module, source)
        if function.path not in LET_NOTHING_OUT and any(holders.is_bare(module, each) for each in function.takes)
    ]
    found: list[Function] = []
    outlets = set(OUTLETS)
    while more := [function for function in given_bare if function not in found and function.lets_out(outlets)]:
        found += more
        outlets |= {function.called for function in more}
    return found, outlets


def takers_of_bare_pixels(sources: dict[str, str]) -> set[str]:
    """The public ones."""
    return {function.path for function in leaks(sources)[0] if function.public}


def decoding(sources: dict[str, str]) -> set[str]:
    """The modules that make pixels of tokens, or hold what does."""
    trees = {module: ast.parse(source) for module, source in sources.items()}
    return {module for module, tree in trees.items() if DECODERS & names_used(tree.body, real_names(tree))}


def reaching_for_private_names(sources: dict[str, str]) -> set[str]:
    """Names with an underscore that a module takes from another: what is private to a module is judged within it."""
    return {
        f"{module}: {name}"
        for module, source in sources.items()
        for node in ast.walk(ast.parse(source))
        for name in names_taken_from_others(node)
        if re.match(r"_(?!_)", name)
    }


def names_taken_from_others(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cosmos_ros"):
        return [alias.name for alias in node.names]
    # An attribute of what is called like a module: rollout_writer._png
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MODULE_NAMES:
        return [node.attr]
    return []


SOURCES = modules()
MODULE_NAMES = {module.rpartition(".")[2] for module in SOURCES}
NEW = "cosmos_ros.replay.new"


def test_the_list_of_what_decodes_is_complete_and_not_too_long():
    assert decoding(SOURCES) == MAY_DECODE_TOKENS.keys() | DECODE_SOMETHING_ELSE.keys()


def test_what_decodes_tokens_lets_no_pixels_out():
    """Nor does it, but for Foresight, call them a camera's."""
    _, outlets = leaks(SOURCES)
    for module in MAY_DECODE_TOKENS:
        forbidden = outlets if module == "cosmos_ros.foresight" else outlets | {"Clip", "_GUARDRAIL_SEAL"}
        assert not [each.path for each in functions(module, SOURCES[module]) if each.lets_out(forbidden)]


def test_nothing_public_lets_out_bare_pixels():
    assert takers_of_bare_pixels(SOURCES) == set(MAY_LET_OUT_BARE_PIXELS)


def test_nothing_is_excused_without_need():
    """A function that is no more, or lets nothing out any more, is excused from nothing."""
    named = {each.path: each for module, source in SOURCES.items() for each in functions(module, source)}
    for path in LET_NOTHING_OUT:
        assert named[path].lets_out(OUTLETS)


def test_what_is_private_to_a_module_is_used_in_it_alone():
    assert reaching_for_private_names(SOURCES) == {"cosmos_ros.guardrail.screening: _GUARDRAIL_SEAL"}


def test_what_foresight_decodes_goes_to_the_guards_and_nowhere_else():
    """Every `model.decode` feeds a loop of `screening.inspect` alone, in a function that returns a GuardedRollout.

    The decoded frames are named twice from there on: as the loop's target, and as what inspect is given.
    """
    tree = ast.parse(SOURCES["cosmos_ros.foresight"])
    decodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "decode"]
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For) and "model.decode(" in ast.unparse(node.iter)]
    assert len(loops) == len(decodes) > 0
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for loop in (node for node in ast.walk(function) if node in loops):
            frames = loop.target.id
            uses = [name for name in ast.walk(function) if isinstance(name, ast.Name) and name.id == frames]
            assert ast.unparse(loop.body[0]) == f"screening.inspect({frames})"
            assert len([use for use in uses if use.lineno >= loop.lineno]) == 2
            assert ast.unparse(function.returns) == "GuardedRollout"


IMPORTS = """
import pickle
from dataclasses import dataclass
import cv2, av, numpy as np
from cv2 import imencode as squeeze
from cosmos_ros import images
from cosmos_ros.rollout import Clip, GuardedRollout
"""


def beside_the_images(source: str) -> dict[str, str]:
    """A new module, and of the package what it calls."""
    return {NEW: IMPORTS + source} | {name: SOURCES[name] for name in ("cosmos_ros.images", "cosmos_ros.rollout")}


@pytest.mark.parametrize(
    "source",
    [
        "def write(path: Path, frames: np.ndarray): cv2.imwrite(str(path), frames[0])",
        "def write(path: Path, frames): cv2.imwrite(str(path), frames[0])",
        "def write(path: Path, *frames: Tensor): np.save(path, frames)",
        "def code(frames: Sequence[np.ndarray]): return [squeeze('.png', frame) for frame in frames]",
        "def code(frame: np.ndarray): return images.compress(frame)[1]",
        "def message(frame: np.ndarray, header: Header) -> Image: return Image(header=header, data=frame.data)",
        "def show(node: Node, frames: Any): node.timer(lambda: node.publisher.publish(frames[0]))",
        "def _png(frame: np.ndarray): return squeeze('.png', frame)\n"
        "def save(path: Path, frames: list[np.ndarray]): path.write_bytes(b''.join(map(_png, frames)))",
        "class Film:\n"
        "  def __init__(self, frames: np.ndarray): self.frames = frames\n"
        "  def save(self, path: Path): self.frames.tofile(path)",
        "@dataclass\nclass Film:\n  frames: np.ndarray\n"
        "@dataclass\nclass Reel:\n  films: list[Film]\n"
        "def save(path: Path, reel: Reel): path.write_bytes(pickle.dumps(reel))",
        "async def write(path: Path, frames: np.ndarray): np.save(path, frames)",
        "write = lambda path, frames: np.save(path, frames)",
        "for k in range(9): cv2.imwrite(f'{k}.png', np.load('frames.npy')[k])",
    ],
)
def test_a_new_way_out_would_be_found(source):
    assert any(path.startswith(f"{NEW}.") for path in takers_of_bare_pixels(beside_the_images(source)))


@pytest.mark.parametrize(
    "source",
    [
        "def write(path: Path, rollout: GuardedRollout): cv2.imwrite(str(path), rollout.frames[0])",
        "def write(path: Path, clip: Clip): np.save(path, clip.frames)",
        "def mean(frames: np.ndarray) -> float: return float(frames.mean())",
        "def save(path: Path, text: str): path.write_text(text)",
    ],
)
def test_what_says_where_its_pixels_come_from_is_let_be(source):
    assert takers_of_bare_pixels(beside_the_images(source)) <= set(MAY_LET_OUT_BARE_PIXELS)


@pytest.mark.parametrize(
    "source",
    [
        "from cosmos_ros.world_model import WorldModel",
        "import cosmos_ros.world_model.world_model as room\nmodel = room.WorldModel",
        "def load():\n  from cosmos_ros.world_model.world_model import WorldModel as Model\n  return Model",
        "from cosmos_ros.world_model.tokenizer.video_tokenizer import VideoTokenizer",
        "def peek(foresight: Foresight): return list(foresight._model.decode(tokens, 9))",
        "from torch import jit\ndecoder = jit.load('decoder.jit')",
        "import torch as t\ndecoder = t.jit.load('decoder.jit')",
    ],
)
def test_a_new_decoder_would_be_found(source):
    assert decoding({NEW: source}) == {NEW}


@pytest.mark.parametrize(
    "source",
    [
        "from cosmos_ros.recordings.rollout_writer import _png",
        "from cosmos_ros.rollout import _GUARDRAIL_SEAL",
        "def code(frames: np.ndarray): return rollout_writer._png(frames)",
    ],
)
def test_a_new_use_of_what_is_private_would_be_found(source):
    assert reaching_for_private_names({NEW: source})
