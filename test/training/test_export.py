"""What training writes: whole files with ordinary permissions, into a place that is looked at first."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from cosmos_ros import paths
from cosmos_ros.commands import cli
from cosmos_ros.errors import ModelUnavailable, SettingError
from cosmos_ros.training.export import (
    FILES,
    check_directory,
    export,
    load_exported,
    load_refiner,
    program_bytes,
    refiner_files,
    tokenizer_files,
    transformer_files,
)
from cosmos_ros.training.refiner_network import SET_APART, VECTORS, Refiner
from cosmos_ros.training.sizes import Sizes, TokenizerSizes
from cosmos_ros.training.tokenizer_network import VideoTokenizer
from cosmos_ros.world_model import Transformer

pytestmark = pytest.mark.slow  # as a whole

# A model that is exported, changed and exported again; then the kernel refuses, as a full disk does, in the middle of
# the first file, and then in the middle of the largest alone.
EXPORT = """
import resource, signal, sys
from pathlib import Path
from cosmos_ros.training.export import FILES, export, refiner_files, tokenizer_files, transformer_files
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.sizes import Sizes, TokenizerSizes
from cosmos_ros.training.tokenizer_network import VideoTokenizer
from cosmos_ros.world_model import Transformer, TransformerConfig

out = Path(sys.argv[1])
tiny = TokenizerSizes(channels=(4, 6, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), levels=(4, 3))
sizes = Sizes(frame_size=(160, 256), tokenizer=tiny)
tokenizer, refiner = VideoTokenizer(tiny), Refiner((4, 4, 4, 4))
transformer = Transformer(TransformerConfig(1, 16, 2, 1, 8, 16, 12, 12, latent_shape=(5, 10, 16)))

def files():
    return {
        **tokenizer_files(tokenizer), **refiner_files(refiner), **transformer_files(transformer, out.name, sizes),
    }

export(out, files())
before = {name: (out / name).read_bytes() for name in FILES}
for network in (tokenizer, refiner, transformer):
    for weight in network.parameters():
        weight.data += 1
after = files()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (100, max(map(len, after.values())) - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        export(out, after)
    except OSError as error:
        print(error)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
"""


@pytest.mark.processes
def test_a_full_disk_leaves_the_model_that_was_there_and_no_mixture_of_two(tmp_path):
    (tmp_path / "plain").touch()
    run = subprocess.run([sys.executable, "-c", EXPORT, str(tmp_path / "model")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()] == [
        str(tmp_path / "model" / name) for name in ("encoder.jit", "refiner.jit")
    ]
    assert {path.stat().st_mode for path in (tmp_path / "model").iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_a_place_that_cannot_be_written_is_said_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert cli.main(["train", "all", "--out", str(tmp_path / "file"), "--bags", "/nowhere"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"cosmos_ros train: {tmp_path / 'file' / FILES[0]} could not be written")
    assert (tmp_path / "file").read_text() == "mine"
    check_directory(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_model_that_ships_is_what_the_default_sizes_make():
    """So that training can go on from it, and the code is the one by which it was made."""
    sizes, ships = Sizes(), paths.embedded_model()
    tokenizer = VideoTokenizer(sizes.tokenizer)
    refiner = Refiner(sizes.refiner_channels, sizes.refiner_hypotheses)
    transformer = Transformer(sizes.transformer)
    load_exported(ships, tokenizer, transformer, refiner)
    stored = torch.jit.load(str(ships / "refiner.jit")).float()
    decoded, camera = torch.rand(1, 3, 17, 96, 160), torch.rand(1, 3, 9, 120, 200)
    with torch.no_grad():
        assert torch.equal(stored(decoded, camera), refiner.eval()(decoded, camera))


def test_networks_of_another_architecture_are_not_filled(tmp_path):
    tiny = TokenizerSizes((4, 6), (1, 1), (1, 1), (4, 3))
    export(tmp_path, tokenizer_files(VideoTokenizer(tiny)))
    wider = VideoTokenizer(TokenizerSizes((4, 8), (1, 1), (1, 1), (4, 3)))
    with pytest.raises(SettingError, match="of another architecture than --config says.* Give the --config"):
        load_exported(tmp_path, wider, None, None)
    deeper = VideoTokenizer(TokenizerSizes((4, 6), (4, 4), (1, 1), (4, 3)))
    with pytest.raises(SettingError, match=r"Missing key.*\" and others\. Give the --config") as refused:
        load_exported(tmp_path, deeper, None, None)
    assert len(str(refused.value)) < 500 + len(str(tmp_path))
    sizes = Sizes(heads=12, key_value_heads=4)  # half as wide: the weights have the shapes of those that ship
    with pytest.raises(SettingError, match="of another architecture than --config says: n_heads is 6, not 12"):
        load_exported(paths.embedded_model(), VideoTokenizer(sizes.tokenizer), Transformer(sizes.transformer), None)


def test_a_transformer_is_read_whether_or_not_its_settings_lie_beside_it(tmp_path):
    sizes = Sizes(frame_size=(32, 48), tokenizer=TokenizerSizes((4, 6), (1, 1), (1, 1), (4, 3)), layers=1)
    there, wanted = Transformer(sizes.transformer), Transformer(sizes.transformer)
    export(tmp_path, transformer_files(there, "tiny", sizes))
    (tmp_path / "config.json").unlink()
    load_exported(tmp_path, VideoTokenizer(sizes.tokenizer), wanted, None)
    weights = wanted.state_dict()
    assert all(torch.equal(weights[name], weight.bfloat16().float()) for name, weight in there.state_dict().items())


def test_a_part_that_an_exported_model_lacks_stays_as_it_is(tmp_path):
    tiny = TokenizerSizes((4, 6), (1, 1), (1, 1), (4, 3))
    export(tmp_path, tokenizer_files(VideoTokenizer(tiny)))
    refiner = Refiner((4, 4, 4, 4))
    before = [weight.clone() for weight in refiner.parameters()]
    load_exported(tmp_path, VideoTokenizer(tiny), None, refiner)
    assert all(map(torch.equal, before, refiner.parameters()))


class OfBefore(torch.nn.Module):
    """A refiner's weights in a program as they were made before: without hypotheses, or with fewer vectors of each."""

    def __init__(self, refiner: Refiner, vectors: tuple[str, ...] = (), trusting: int | None = None) -> None:
        super().__init__()
        for name, child in refiner.named_children():
            self.add_module(name, child)
        for name in vectors:
            self.register_parameter(name, refiner.get_parameter(name))
            self.hypotheses = refiner.hypotheses
        if trusting is not None:
            self.trusting = trusting

    def forward(self, decoded: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        return decoded


@pytest.mark.parametrize("says", [True, False])
def test_a_refiner_of_one_hypothesis_becomes_the_first_of_several(tmp_path, says):
    alone = Refiner((4, 4, 4, 4)).eval()
    (tmp_path / "refiner.jit").write_bytes(program_bytes(alone if says else OfBefore(alone)))
    several = Refiner((4, 4, 4, 4), 3).eval()
    several.set_apart(seed=0)
    before = several.vectors_in.clone(), several.vectors_deep.clone()
    load_refiner(tmp_path, several)
    assert torch.equal(several.vectors_in, before[0]) and torch.equal(several.vectors_deep, before[1])
    decoded, camera = torch.rand(1, 3, 17, 32, 48), torch.rand(1, 3, 9, 40, 60)
    with torch.no_grad():
        assert torch.equal(several(decoded, camera), alone(decoded, camera))


@pytest.mark.parametrize(("trusting", "last"), [(2, 2), (None, 0)])
def test_a_refiner_of_before_lacks_vectors_and_maybe_the_hypothesis_that_trusts(tmp_path, trusting, last):
    before, now = (Refiner((4, 4, 4, 4), 3).eval() for _ in range(2))
    torch.nn.init.normal_(before.exit.weight)
    with torch.no_grad():
        for name in SET_APART:
            before.get_parameter(name).normal_()
    (tmp_path / "refiner.jit").write_bytes(program_bytes(OfBefore(before, SET_APART, trusting)))
    load_refiner(tmp_path, now)
    assert not any(now.get_parameter(name).any() for name in VECTORS if name not in SET_APART)
    decoded, camera = torch.rand(1, 3, 17, 32, 48), torch.rand(1, 3, 9, 40, 60)
    with torch.no_grad():
        was = [before(decoded, camera, number) for number in range(3)]
        assert not any(torch.equal(was[number], was[number - 1]) for number in range(3))
        for number, of_before in enumerate((0, 1, last)):
            assert torch.equal(now(decoded, camera, number), was[of_before])


def test_a_refiner_with_another_number_of_hypotheses_is_not_filled(tmp_path):
    export(tmp_path, refiner_files(Refiner((4, 4, 4, 4), 3)))
    load_refiner(tmp_path, Refiner((4, 4, 4, 4), 3))
    for number in (1, 2, 8):
        with pytest.raises(SettingError, match=f"of another architecture .* refiner_hypotheses is 3, not {number}"):
            load_refiner(tmp_path, Refiner((4, 4, 4, 4), number))


@pytest.mark.parametrize(
    ("made", "said"),
    [(lambda file: file.symlink_to("nowhere"), "does not exist; .*train that part anew"), (Path.mkdir, "is a folder")],
)
def test_a_refiner_that_was_lost_is_told_and_not_trained_anew(tmp_path, made, said):
    made(tmp_path / "refiner.jit")
    with pytest.raises(ModelUnavailable, match=f"refiner.jit {said}"):
        load_refiner(tmp_path, Refiner((4, 4, 4, 4)))


def test_the_same_weights_give_the_same_file_and_nearly_the_same_pixels(tmp_path):
    torch.manual_seed(0)
    refiner = Refiner((4, 4, 4, 4)).eval()
    for weight in refiner.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    for name in ("one", "other"):
        export(tmp_path / name, refiner_files(refiner))
    assert (tmp_path / "one" / "refiner.jit").read_bytes() == (tmp_path / "other" / "refiner.jit").read_bytes()
    stored = torch.jit.load(str(tmp_path / "one" / "refiner.jit")).float()
    assert (stored.hypotheses, stored.trusting) == (1, 0)
    decoded, camera = torch.rand(1, 3, 17, 32, 48), torch.rand(1, 3, 9, 40, 60)
    with torch.no_grad():
        assert (stored(decoded, camera) - refiner(decoded, camera)).abs().max() < 0.02


def test_a_program_does_not_say_where_its_sources_lay(tmp_path):
    export(tmp_path, refiner_files(Refiner((4, 4, 4, 4))))
    with zipfile.ZipFile(tmp_path / "refiner.jit") as archive:
        assert not any(
            str(paths.__file__).rpartition("/")[0].encode() in archive.read(name) for name in archive.namelist()
        )
