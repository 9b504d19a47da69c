"""A tokenizer's files: where they are found, what is taken of them, and what is said where they are damaged."""

import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model import ModelSpec
from cosmos_ros.world_model.tokenizer.chunking import Chunking
from cosmos_ros.world_model.tokenizer.programs import find_tokenizer, program_files
from cosmos_ros.world_model.tokenizer.video_tokenizer import VideoTokenizer, tokenizer_need

CHUNKING = Chunking(latent_shape=(5, 2, 3), compression=(8, 16, 16))


class Means(nn.Module):
    def forward(self, frames):
        frames = torch.cat([frames[:, :, :1]] * 7 + [frames], dim=2)
        return frames.reshape(1, 3, -1, 8, 2, 16, 3, 16).mean(dim=[3, 5, 7])


class Quantizer(nn.Module):
    """Gives its outputs as the published one does, and keeps its table beside, where no checkpoint holds it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("implicit_codebook", torch.linspace(-1, 1, 64)[:, None], persistent=False)

    def forward(self, latent):
        tokens = torch.round((latent[:, 0].float() * 0.5 + 0.5).clamp(0, 1) * 63).int()
        codes = self.implicit_codebook[tokens.long()].movedim(-1, 1)
        return tokens, codes, torch.zeros_like(codes.mean(dim=[1, 2, 3], keepdim=True))


class InverseQuantizer(nn.Module):
    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, tokens):
        return self.quantizer.implicit_codebook[tokens].movedim(-1, 1)


class Patches(nn.Module):
    def forward(self, colours):
        frames = torch.cat([colours[:, :, :1], colours[:, :, 1:].repeat_interleave(8, dim=2)], dim=2)
        return frames.repeat_interleave(16, dim=3).repeat_interleave(16, dim=4)


class Network(nn.Module):
    """With the parts, their names and the outputs of the network from which the published three are traced."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.quant_conv, self.quantizer = Means(), nn.Conv3d(3, 1, 1), Quantizer()
        self.post_quant_conv, self.decoder = nn.Conv3d(1, 3, 1), Patches()

    def forward(self, frames):
        tokens, codes, loss = self.quantizer(self.quant_conv(self.encoder(frames)))
        return self.decoder(self.post_quant_conv(codes)), loss, tokens


class Methods(nn.Module):
    """An autoencoder of another make, that says itself what its halves are."""

    def __init__(self, encoder: torch.jit.ScriptModule, decoder: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.front, self.back = encoder, decoder

    def forward(self, frames: Tensor) -> Tensor:
        return self.back(self.encode(frames)[0])

    @torch.jit.export
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.front(frames)

    @torch.jit.export
    def decode(self, tokens: Tensor) -> Tensor:
        return self.back(tokens)


def traced(network):
    """encoder.jit and decoder.jit of a network."""
    parts = dict(network.named_children()) | {"inv_quant": InverseQuantizer(network.quantizer)}
    encoder, decoder = (
        nn.Sequential(OrderedDict((name, parts[name]) for name in names))
        for names in (["encoder", "quant_conv", "quantizer"], ["inv_quant", "post_quant_conv", "decoder"])
    )
    frames, tokens = torch.zeros(1, 3, 33, 32, 48), torch.zeros(1, 5, 2, 3, dtype=torch.long)
    return torch.jit.trace(encoder, frames), torch.jit.trace(decoder, tokens)


def write(directory):
    encoder, decoder = traced(Network())
    directory.mkdir(exist_ok=True)
    encoder.save(directory / "encoder.jit")
    decoder.save(directory / "decoder.jit")
    return directory


def load(directory, dtype=torch.float32):
    return VideoTokenizer.load(directory, CHUNKING, 128, torch.device("cpu"), dtype)


def assert_same(tokenizer, expected):
    assert tokenizer.looks_only_backwards == expected.looks_only_backwards
    random = torch.Generator().manual_seed(4)
    clip = torch.rand(1, 3, 9, 32, 48, generator=random) * 2 - 1
    assert torch.equal(tokenizer.encode(clip), expected.encode(clip))
    tokens = torch.randint(0, 64, (30,), generator=random)
    frames = torch.cat(list(expected.decode(tokens, 9)))
    assert frames.float().std() > 1
    assert torch.equal(torch.cat(list(tokenizer.decode(tokens, 9))), frames)


# --- what is taken of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_published_autoencoder_alone_does_what_encoder_and_decoder_do(dtype, tmp_path):
    torch.jit.trace(Network(), torch.zeros(1, 3, 33, 32, 48)).save(tmp_path / "autoencoder.jit")
    assert find_tokenizer(tmp_path) == tmp_path
    alone = load(tmp_path, dtype)
    assert alone.looks_only_backwards
    assert_same(alone, load(write(tmp_path / "pair"), dtype))
    # The model may know more tokens than the table has: decoder.jit's arithmetic begins anew there.
    tokens = torch.arange(30)
    beyond, expected = alone.decode(tokens + 64, 9), alone.decode(tokens, 9)
    assert torch.equal(torch.cat(list(beyond)), torch.cat(list(expected)))


def test_an_autoencoder_with_the_methods_encode_and_decode_is_taken(tmp_path):
    torch.jit.script(Methods(*traced(Network()))).save(tmp_path / "autoencoder.jit")
    assert_same(load(tmp_path), load(write(tmp_path / "pair")))


def test_encoder_and_decoder_go_before_an_autoencoder_beside_them(tmp_path):
    (write(tmp_path) / "autoencoder.jit").write_text("not even looked at")
    assert program_files(tmp_path) == [tmp_path / "encoder.jit", tmp_path / "decoder.jit"]
    assert_same(load(tmp_path), load(write(tmp_path / "pair")))


@pytest.mark.parametrize("name", ["encoder.jit", "decoder.jit"])
def test_an_autoencoder_stands_in_for_a_missing_half(name, tmp_path):
    (write(tmp_path) / name).unlink()
    torch.jit.trace(Network(), torch.zeros(1, 3, 33, 32, 48)).save(tmp_path / "autoencoder.jit")
    assert program_files(tmp_path) == [tmp_path / "autoencoder.jit"]
    assert_same(load(tmp_path), load(write(tmp_path / "pair")))


def test_an_autoencoder_that_keeps_its_halves_to_itself_is_refused(tmp_path):
    torch.jit.trace(Patches(), torch.zeros(1, 3, 5, 2, 3)).save(tmp_path / "autoencoder.jit")
    said = r"autoencoder.jit holds no separate encode and decode.* fetch encoder.jit and decoder.jit with `hf download"
    with pytest.raises(ModelUnavailable, match=said):
        load(tmp_path)


# --- what is said where they are damaged ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part", "tensor", "value"),
    [
        *(("encoder.jit", "quant_conv", "weight", float(value)) for value in ("nan", "inf", "-inf")),
        ("decoder.jit", "post_quant_conv", "bias", float("inf")),
        ("encoder.jit", "quantizer", "implicit_codebook", float("nan")),  # a buffer: infinities may be a mask
    ],
)
def test_a_weight_that_is_not_finite_is_named(name, part, tensor, value, tmp_path):
    network = Network()
    encoder, decoder = traced(network)
    getattr(network.get_submodule(part), tensor).data.view(-1)[-1] = value
    encoder.save(tmp_path / "encoder.jit")
    decoder.save(tmp_path / "decoder.jit")
    said = rf"{tmp_path / name} is damaged: 1 of its weights and buffers are not finite, first {part}.{tensor}$"
    with pytest.raises(ModelUnavailable, match=said):
        load(tmp_path)


@pytest.mark.parametrize("name", ["encoder.jit", "decoder.jit"])
def test_a_missing_or_damaged_program_is_named(name, tmp_path):
    file = write(tmp_path) / name
    program = file.read_bytes()
    torch.save({"weight": torch.zeros(3)}, file)
    with pytest.raises(ModelUnavailable, match=f"{name} is no TorchScript program"):
        load(tmp_path)
    file.write_bytes(program[: len(program) // 2])
    with pytest.raises(
        ModelUnavailable,
        match=rf"{name} is no .* cut short \(BadZipFile.* fetch encoder.jit",
    ):
        load(tmp_path)
    file.unlink()
    with pytest.raises(ModelUnavailable, match=f"{name} does not exist; .*hf download"):
        load(tmp_path)
    file.mkdir()
    with pytest.raises(ModelUnavailable, match=f"{name} is a folder, not an ordinary file"):
        load(tmp_path)


class TwoMethods(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return self.doubled(frames)

    def doubled(self, frames: Tensor) -> Tensor:
        return torch.mul(frames, 2)


def with_damaged_source(file):
    """A program whose source names what there is not, and whose map to the lines of its source is broken: TorchScript
    aborts the process when it wants to say which method called the one with the mistake."""
    torch.jit.script(TwoMethods()).save(file)
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as uncompressed:
        for name, content in contents.items():
            uncompressed.writestr(name, content)
    damaged = file.read_bytes()
    for name, content in contents.items():
        if name.endswith(".py"):
            damaged = damaged.replace(content, content.replace(b"torch.", b"torcz."))
        if name.endswith(".debug_pkl"):
            damaged = damaged.replace(content, content[:100].ljust(len(content), b"0"))
    return damaged


def test_an_archive_that_tells_to_look_before_its_beginning_is_damaged(tmp_path):
    file = write(tmp_path) / "encoder.jit"
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(tmp_path / "plain", "w") as plain:
        plain.writestr("version", archive.read("encoder/version"))
    content = (tmp_path / "plain").read_bytes()
    at = len(content) - 6  # where the archive's last record says where the list of its files begins
    (offset,) = struct.unpack_from("<I", content, at)
    file.write_bytes(content[:at] + struct.pack("<I", offset + 1) + content[at + 4 :])
    with pytest.raises(
        ModelUnavailable,
        match=r"encoder.jit is no .* cut short \(.*fetch encoder.jit",
    ):
        load(tmp_path)


def damaged(program, seed):
    """A few bytes changed, and every third file cut short."""
    chance, damaged = random.Random(seed), bytearray(program)
    for _ in range(chance.choice([1, 4])):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return damaged[: chance.randrange(len(damaged))] if seed % 3 == 0 else damaged


LOAD_ALL = """
import sys, torch
from pathlib import Path
from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model.tokenizer.chunking import Chunking
from cosmos_ros.world_model.tokenizer.video_tokenizer import VideoTokenizer
for directory in map(Path, sys.argv[1:]):
    try:
        chunking = Chunking(latent_shape=(5, 2, 3), compression=(8, 16, 16))
        VideoTokenizer.load(directory, chunking, 64, torch.device("cpu"), torch.float32)
        print("loaded")
    except ModelUnavailable as error:
        print("refused", error)
"""


@pytest.mark.processes
def test_no_damage_gives_anything_but_a_refusal(tmp_path):
    """In a process of its own, which it must not end."""
    whole = write(tmp_path / "whole")
    program = (whole / "encoder.jit").read_bytes()
    damages = [with_damaged_source(tmp_path / "patches.jit"), *(damaged(program, seed) for seed in range(100))]
    directories = [tmp_path / str(n) for n in range(len(damages))]
    for directory, damage in zip(directories, damages, strict=True):
        directory.mkdir()
        (directory / "decoder.jit").symlink_to(whole / "decoder.jit")
        (directory / "encoder.jit").write_bytes(damage)
    done = subprocess.run([sys.executable, "-c", LOAD_ALL, *directories], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends = done.stdout.splitlines()
    assert len(ends) == 101 and sum(end.startswith("refused") for end in ends) > 50
    assert f"{directories[0]}/encoder.jit is damaged" in ends[0]
    assert "does not match its checksum; fetch encoder.jit" in ends[0]


# --- where it is found ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "Cosmos-Predict1-4B",
        "Cosmos-Predict1-4B/tokenizer",
        "Cosmos-1.0-Tokenizer-DV8x16x16",
        "Cosmos-Tokenize1-DV8x16x16-720p",
    ],
)
def test_it_is_found_in_the_checkpoint_and_beside_it(place, tmp_path, monkeypatch):
    checkpoint = tmp_path / "Cosmos-Predict1-4B"
    checkpoint.mkdir()
    write(tmp_path / place)
    assert find_tokenizer(checkpoint) == tmp_path / place
    monkeypatch.chdir(checkpoint)
    assert find_tokenizer(checkpoint.relative_to(checkpoint)).absolute() == tmp_path / place


def test_the_directory_that_was_named_is_the_only_one_looked_into(tmp_path):
    write(tmp_path / "here")
    (tmp_path / "there").mkdir()
    assert find_tokenizer(tmp_path / "here", tmp_path / "here") == tmp_path / "here"
    with pytest.raises(ModelUnavailable, match="there"):
        find_tokenizer(tmp_path / "here", tmp_path / "there")


def test_where_it_is_nowhere_the_message_says_what_to_fetch(tmp_path):
    said = r"no encoder.jit and decoder.jit.*hf download nvidia/Cosmos-1.0-Tokenizer-DV8x16x16"
    with pytest.raises(ModelUnavailable, match=said):
        find_tokenizer(tmp_path)
    with pytest.raises(ModelUnavailable, match=said):
        find_tokenizer(tmp_path, tmp_path / "missing")


def test_a_directory_that_may_not_be_looked_into_is_named_with_the_reason(tmp_path, without_permission):
    directory = write(tmp_path / "tokenizer")
    with without_permission(directory):
        for search in (lambda: find_tokenizer(tmp_path, directory), lambda: load(directory)):
            with pytest.raises(ModelUnavailable, match=f"{directory}.*Permission denied"):
                search()


def test_an_autoencoder_counts_where_it_is_what_is_loaded(tiny_checkpoint, tmp_path):
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    chunking = ModelSpec.of_checkpoint(directory).chunking
    (directory / "autoencoder.jit").write_bytes(bytes(1234))
    both = sum((directory / name).stat().st_size for name in ("encoder.jit", "decoder.jit"))
    assert tokenizer_need(directory, chunking, bytes_per_weight=4).weights == both
    (directory / "decoder.jit").unlink()
    assert tokenizer_need(directory, chunking, bytes_per_weight=4).weights == 1234
