"""One file of weights: what its header tells, and that nothing but ModelUnavailable comes of a bad one."""

import os
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.torch_archive import MAX_EXPANSION
from cosmos_ros.world_model.checkpoints.weight_files import (
    drop_pages,
    is_directory,
    map_tensors,
    names_in,
    read_headers,
)

WEIGHTS = {
    "model.norm.weight": torch.linspace(0, 1, 6),
    "model.output.weight": torch.linspace(0, 1, 24).view(4, 6).bfloat16(),
}
FILES = {"model.pt": torch.save, "model.safetensors": save_file}


@pytest.fixture(params=FILES)
def file(request, tmp_path):
    return tmp_path / request.param


def write(file, weights):
    FILES[file.name](weights, file)


def refusal(file):
    with pytest.raises(ModelUnavailable) as refused:
        map_tensors(file)
    with pytest.raises(ModelUnavailable):
        read_headers(file)
    return str(refused.value)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_names_come_without_prefix_and_without_extra_state(prefix, file):
    weights = {prefix + name.removeprefix("model."): tensor for name, tensor in WEIGHTS.items()}
    write(file, weights | {f"{prefix}layers.0._extra_state": torch.zeros(3)})
    assert read_headers(file) == {"norm.weight": ((6,), "float32"), "output.weight": ((4, 6), "bfloat16")}
    tensors = map_tensors(file)
    assert {f"model.{name}" for name in tensors} == WEIGHTS.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, WEIGHTS[f"model.{name}"], rtol=0, atol=0)


def test_a_name_that_is_there_with_and_without_prefix_is_refused(file):
    write(file, WEIGHTS | {"norm.weight": torch.zeros(6)})
    assert re.search("with and without `model.` in front: norm.weight", refusal(file))


@pytest.mark.parametrize(
    ("tensor", "torch_says", "safetensors_says"),
    [
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "float8_e4m3fn", "F8_E4M3"),
        (torch.zeros(2, dtype=torch.complex64), "complex64", "C64"),
        (torch.zeros(2, dtype=torch.int8), "int8", "I8"),
        (torch.zeros(2, dtype=torch.bool), "bool", "BOOL"),
        (torch.zeros(2, dtype=torch.float64), "float64", "float64"),
        (torch.zeros(2, dtype=torch.float16), "float16", "float16"),
    ],
)
def test_every_dtype_goes_by_its_own_name(tensor, torch_says, safetensors_says, file):
    write(file, {"norm.weight": tensor})
    assert read_headers(file)["norm.weight"] == ((2,), torch_says if file.suffix == ".pt" else safetensors_says)


NO_PLAIN_TENSORS = {
    "sparse_coo on cpu": lambda: torch.eye(2).to_sparse(),
    "strided on meta": lambda: torch.empty(2, device="meta"),
    "qint8": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "int and no tensor": lambda: 5,
    "list and no tensor": lambda: [torch.ones(2)],
    "NoneType and no tensor": lambda: None,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("said", NO_PLAIN_TENSORS)
def test_what_is_no_plain_tensor_is_told(said, tmp_path):
    torch.save({"norm.weight": NO_PLAIN_TENSORS[said]()}, tmp_path / "model.pt")
    assert read_headers(tmp_path / "model.pt")["norm.weight"].dtype == said


def memory_of_files():
    """Bytes of mapped files that are this process's at the moment."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssFile:")[1].split()[0])


def test_pages_of_what_was_copied_are_dropped_and_can_be_read_again(file):
    write(file, {"a": torch.ones(2_000_000), "b": torch.full((2_000_000,), 2.0)})
    before, tensors = memory_of_files(), map_tensors(file)
    assert tensors["a"].sum() == 2_000_000 and memory_of_files() > before + 7_000_000
    drop_pages(tensors["a"])
    assert memory_of_files() < before + 1_000_000
    assert tensors["a"].sum() == 2_000_000 and tensors["b"].sum() == 4_000_000


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Tensor", "list", "tuple", "NoneType"])
def test_what_is_no_dictionary_is_told(kind, tmp_path):
    things = {"Tensor": torch.zeros(2), "list": [torch.zeros(2)], "tuple": (torch.zeros(2), 1), "NoneType": None}
    torch.save(things[kind], tmp_path / "model.pt")
    assert f"holds {kind}, not a dictionary of named tensors" in refusal(tmp_path / "model.pt")


def test_a_torchscript_program_is_named_for_what_it_is(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    assert "TorchScript" in refusal(tmp_path / "model.pt")


def test_a_file_under_the_other_formats_name_is_told(tmp_path):
    torch.save(WEIGHTS, tmp_path / "model.safetensors")
    assert "a file of torch.save under another name; call it model.pt" in refusal(tmp_path / "model.safetensors")
    save_file(WEIGHTS, tmp_path / "model.pt")
    assert "a safetensors file under another name; call it model.safetensors" in refusal(tmp_path / "model.pt")


def test_pytorchs_old_format_is_told(file):
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=False)
    assert "before 1.6" in refusal(file) and "torch.save it again" in refusal(file)


def test_a_git_lfs_pointer_is_told(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123\n")
    assert "git lfs pull" in refusal(file)


@pytest.mark.parametrize("size", [0, 5, 0.5, -30])
def test_a_file_cut_short_is_refused(size, file):
    write(file, WEIGHTS)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(size * len(whole)) if size == 0.5 else size])
    assert re.search("(cut short|damaged).*download it again", refusal(file))


def test_a_file_of_noise_is_refused(file):
    file.write_bytes(bytes(range(256)) * 50)
    assert "damaged" in refusal(file) and "download it again" in refusal(file)


class Payload:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save(WEIGHTS | {"model.extra": Payload()}, tmp_path / "model.pt")
    assert "could run code" in refusal(tmp_path / "model.pt")


def test_a_missing_file_is_refused(file):
    assert f"{file} does not exist" in refusal(file)
    with pytest.raises(ModelUnavailable, match="does not exist"):
        is_directory(file)


@pytest.fixture
def open_parents(tmp_path):
    """So that somebody else gets as far as the directory itself."""
    for parent in tmp_path.parents:
        with suppress(PermissionError):
            parent.chmod(parent.stat().st_mode | 0o111)


def test_a_file_without_read_permission_is_refused(file, open_parents, without_permission):
    write(file, WEIGHTS)
    with without_permission(file):
        assert f"{file} cannot be read: Permission denied" in refusal(file)


def test_a_directory_without_permission_is_refused(tmp_path, open_parents, without_permission):
    (tmp_path / "inside").mkdir()
    with without_permission(tmp_path):
        for look, place in ((is_directory, tmp_path / "inside"), (names_in, tmp_path)):
            with pytest.raises(ModelUnavailable, match=f"{place} cannot be read: Permission denied"):
                look(place)


def test_an_archive_that_unpacks_to_much_more_than_its_size_is_not_unpacked(tmp_path):
    file = tmp_path / "model.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(MAX_EXPANSION + 1_000_000))
    with pytest.raises(ModelUnavailable, match=r"would unpack from 0.1 MB to 68.1 MB"):
        read_headers(file)


def test_an_archive_that_counts_its_bytes_many_times_is_not_unpacked(tmp_path):
    """A hundred names for the same megabyte."""
    file = tmp_path / "model.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data/0", bytes(1_000_000))
        for copy in range(1, 100):
            entry = zipfile.ZipInfo(f"model/data/{copy}")
            first = archive.filelist[0]
            for field in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(entry, field, getattr(first, field))
            archive.filelist.append(entry)
    with pytest.raises(ModelUnavailable, match=r"would unpack from 1.0 MB to 100.0 MB"):
        read_headers(file)


def test_a_name_that_an_archive_holds_twice_is_refused(tmp_path):
    file = tmp_path / "model.pt"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("model/data.pkl", "model/DATA.pkl"):
            archive.writestr(name, b"which one?")
    with pytest.raises(ModelUnavailable, match="holds two files of one name"):
        read_headers(file)


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    file = tmp_path / "model.safetensors"
    with file.open("wb") as opened:
        opened.write((1 << 32).to_bytes(8, "little"))
        opened.truncate(1 << 33)
    with pytest.raises(ModelUnavailable, match="its header would be 4294967296 bytes long"):
        read_headers(file)
