"""What a TorchScript program may do: compute. One that could do more is refused before anything of it runs.

TorchScript is code. Its operators can map a file into memory and write to it (`torch.from_file`), save files
(`torch.save`) and call other processes, and a class with `__setstate__` runs while the program is being loaded. So the
source in the archive is searched before it is loaded: whatever a program calls is named there.
"""

from __future__ import annotations

import ast
import io
import token
import tokenize
from collections.abc import Iterator
from pathlib import Path

import torch

from cosmos_ros.reading import Unusable
from cosmos_ros.torch_archive import require_intact

# Of operators that are called as ops.<namespace>.<name>: PyTorch's arithmetic. Other libraries, and the parts of
# PyTorch that talk to other processes, have namespaces of their own (image::write_file, for one).
NAMESPACES = ("aten", "prim", "quantized")
# Names that a program must not contain -> what it could do with them.
FORBIDDEN = {
    "from_file": "map files into memory and write to them",
    "save": "write files",
    "rpc_async": "call other processes",
    "rpc_sync": "call other processes",
    "rpc_remote": "call other processes",
    "PythonOp": "end the process: it stands for Python code, which no file holds",
    "IgnoredPythonOp": "call Python",
    "__setstate__": "run code while it is being loaded",
    "classes": "use torch.classes, which are native code",
}
LAYOUT = {token.NEWLINE, token.NL, token.COMMENT, token.INDENT, token.DEDENT}


def load_program(file: Path, device: torch.device | str) -> torch.jit.ScriptModule:
    """A program, in eval mode, that only computes.

    Raises Unusable where it is damaged or could do more, and whatever TorchScript raises of what is no program.
    """
    require_sound(file)
    return torch.jit.load(file, map_location=device).eval()


def require_sound(file: Path) -> None:
    """Look into a program's file before anything of it runs. Raises as load_program does."""
    require_intact(file)  # damage can make TorchScript abort the process
    _require_harmless(file)


def _require_harmless(file: Path) -> None:
    """Raises Unusable where a TorchScript program contains code that could do more than compute.

    The archive is read by the reader that will load it, so that both see the same source.
    """
    reader = torch._C.PyTorchFileReader(str(file))
    for name in reader.get_all_records():
        power = None
        if name.lower().endswith(".py"):
            power = _power_of(reader.get_record(name).decode())
        elif name.lower().endswith(".pkl") and b"torch.classes" in reader.get_record(name):
            power = FORBIDDEN["classes"]
        if power:
            raise Unusable(
                f"{file} is refused: it holds a program that could {power} (in {name}), and a network only computes"
            )


def _power_of(source: str) -> str | None:
    """What code could do that it must not; None where it only computes."""
    if any(not character.isprintable() and character != "\n" for character in source):
        return "hide what it does behind control characters"
    tokens = [(each.type, each.string) for each in _tokens(source)]
    for index, (kind, text) in enumerate(tokens):
        # `getattr` takes a name as text, which may be written in escapes or in pieces.
        name = ast.literal_eval(text) if kind == token.STRING else text
        if name in FORBIDDEN:
            return FORBIDDEN[name]
        following = [text for _, text in tokens[index + 1 : index + 3]]
        if kind == token.STRING and tokens[index + 1][0] == token.STRING:
            return "hide what it calls by writing names in pieces"
        is_ops = text == "ops" and tokens[index - 1][1] != "."
        if is_ops and not (following[0] == "." and following[1] in NAMESPACES):
            return "call operators that are not PyTorch's own"
    return None


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    """Serialized TorchScript has Python's tokens. The last one is the end marker."""
    for each in tokenize.generate_tokens(io.StringIO(source).readline):
        if each.type not in LAYOUT:
            yield each
