"""What training writes: whole files with ordinary permissions, into a place that is looked at first."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cosmos_ros.commands import cli
from cosmos_ros.training.export import FILES, check_directory

# A model that is exported twice; the second time the kernel refuses in the middle of each file, as a full disk does.
EXPORT = """
import resource, signal, sys
from pathlib import Path
from cosmos_ros.training.export import FILES, export_tokenizer, export_transformer
from cosmos_ros.training.tokenizer_network import TokenizerConfig, VideoTokenizer
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig
out = Path(sys.argv[1])
sizes = TokenizerConfig(channels=(4, 6, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), levels=(4, 3))
tokenizer = VideoTokenizer(sizes)
transformer = Transformer(TransformerConfig(1, 16, 2, 1, 8, 16, 12, 12, latent_shape=(5, 10, 16)))
exports = [
    lambda: export_tokenizer(tokenizer, out),
    lambda: export_transformer(transformer, out, Sampling(0, 1.0, 0.8)),
]
for export in exports:
    export()
before = {name: (out / name).read_bytes() for name in FILES}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for export in exports:
    try:
        export()
    except OSError as error:
        print(error)
assert {path.name: path.read_bytes() for path in out.iterdir()} == before
"""


@pytest.mark.processes
def test_a_full_disk_leaves_the_model_that_was_there(tmp_path):
    (tmp_path / "plain").touch()
    run = subprocess.run([sys.executable, "-c", EXPORT, str(tmp_path / "model")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()] == [
        str(tmp_path / "model" / name) for name in ("encoder.jit", "model.safetensors")
    ]
    assert {path.stat().st_mode for path in (tmp_path / "model").iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_a_place_that_cannot_be_written_is_said_before_anything_is_trained(tmp_path, capsys):
    pytest.importorskip("mujoco")
    (tmp_path / "file").write_text("mine")
    assert cli.main(["train", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"cosmos_ros train: {tmp_path / 'file' / FILES[0]} could not be written")
    assert (tmp_path / "file").read_text() == "mine"
    check_directory(tmp_path / "new")
    assert not (tmp_path / "new").exists()
