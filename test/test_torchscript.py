"""Programs that would do more than compute are refused before anything of them has run."""

import zipfile

import pytest
import torch
from torch import Tensor, nn

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.reading import Unusable
from cosmos_ros.torchscript import FORBIDDEN, NAMESPACES, require_sound
from cosmos_ros.world_model.tokenizer.programs import load_programs

VICTIM = b"what the robot must keep"


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """A file beside the program, in the working directory, so that programs can name it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").write_bytes(VICTIM)
    return tmp_path / "victim"


def overwrite(frames: Tensor) -> Tensor:
    file = torch.from_file("victim", True, 24, dtype=torch.uint8)
    return frames + file.copy_(torch.zeros(24, dtype=torch.uint8)).sum()


class InForward(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return overwrite(frames)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = InForward()

    def forward(self, frames: Tensor) -> Tensor:
        return self.part(frames) if bool(frames.sum() > 0) else frames


class OtherMethod(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames

    @torch.jit.export
    def decode(self, frames: Tensor) -> Tensor:
        return overwrite(frames)


class Forked(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(overwrite, frames))


class Helper:
    def __init__(self) -> None:
        self.factor = 1

    def run(self, frames: Tensor) -> Tensor:
        return overwrite(frames) * self.factor


@torch.jit.interface
class Runs:
    def run(self, frames: Tensor) -> Tensor:
        pass


class BehindAnInterface(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        helper: Runs = Helper()
        return helper.run(frames)


class Saves(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        torch.save(frames, "victim")
        return frames


class WhileLoading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = torch.zeros(24, dtype=torch.uint8)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.bytes, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.training = state[1]
        self.bytes = torch.from_file("victim", True, 24, dtype=torch.uint8).copy_(state[0])

    def forward(self, frames: Tensor) -> Tensor:
        return frames


HOSTILE = [InForward, Inner, OtherMethod, Forked, BehindAnInterface, Saves, WhileLoading]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_program_that_touches_files_is_refused_before_it_runs(kind, victim, tmp_path):
    for name in ("encoder.jit", "decoder.jit"):
        torch.jit.script(kind()).save(tmp_path / name)
    with pytest.raises(
        ModelUnavailable, match=r"encoder.jit is refused: it holds a program that could (map|write|run)"
    ):
        load_programs(tmp_path, torch.device("cpu"), torch.float32)
    assert victim.read_bytes() == VICTIM


def test_without_the_look_a_program_would_write_while_it_is_loaded(victim, tmp_path):
    """What the look is for; fails where PyTorch no longer runs `__setstate__`."""
    torch.jit.script(WhileLoading()).save(tmp_path / "program.jit")
    torch.jit.load(tmp_path / "program.jit")
    assert victim.read_bytes() != VICTIM


class Plain(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return torch.mul(frames, 2)


def with_source(file, change):
    """A harmless program whose source was changed by hand; checksums and all fit."""
    torch.jit.script(Plain()).save(file)
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, change(content.decode()) if name.endswith(".py") else content)
    return file


CALL = "torch.mul(frames, 2)"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('torch.from_file("victim", True, 24)', "map files"),
        ('frames.from_file("victim")', "map files"),
        ('ops.aten.from_file("victim", True, 24)', "map files"),
        ('getattr(torch, "from_file")("victim", True, 24)', "map files"),
        ('getattr(torch, "from\\x5ffile")("victim", True, 24)', "map files"),
        ('getattr(torch, "from_" "file")("victim", True, 24)', "in pieces"),
        ("ops.image.write_file(frames)", "not PyTorch's own"),
        ("ops . image . write_file(frames)", "not PyTorch's own"),
        ("ops.c10d.broadcast_(frames)", "not PyTorch's own"),
        ("ops.prim.PythonOp(frames)", "end the process"),
        ("ops.prim.IgnoredPythonOp(frames)", "call Python"),
        ("rpc_sync(frames)", "call other processes"),
        ("torch.classes.native.Thing(frames)", "native code"),
        ("torch.mul(frames, 2)\x0c", "control characters"),
    ],
)
def test_source_written_by_hand_hides_nothing(call, said, victim, tmp_path):
    file = with_source(tmp_path / "encoder.jit", lambda source: source.replace(CALL, call))
    with pytest.raises(Unusable, match=said):
        require_sound(file)
    assert victim.read_bytes() == VICTIM


def test_a_program_that_only_computes_passes(tmp_path):
    require_sound(with_source(tmp_path / "encoder.jit", lambda source: source))
    file = with_source(tmp_path / "encoder.jit", lambda source: source.replace(CALL, "ops.prim.data(frames)"))
    require_sound(file)


def test_every_operator_of_the_permitted_namespaces_that_could_reach_a_file_is_forbidden():
    """By its arguments: a newer PyTorch may bring another one."""
    schemas = torch._C._jit_get_all_schemas()
    ours = [schema for schema in schemas if schema.name.partition("::")[0] in NAMESPACES]
    assert len(ours) > 3000
    suspects = {
        schema.name.partition("::")[2]
        for schema in ours
        if "rpc_" in schema.name
        or any(str(each.type) == "str" and ("file" in each.name or "path" in each.name) for each in schema.arguments)
    }
    assert suspects == set(FORBIDDEN) - {"__setstate__", "classes", "PythonOp", "IgnoredPythonOp"}
