"""What torch.save makes is written whole, and a full disk is said as what it is."""

from __future__ import annotations

import errno

import pytest
import torch

from cosmos_ros.files import Draft, NotWritten
from cosmos_ros.torch_archive import save_whole


def test_what_is_saved_comes_back_and_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "state.pt"
    save_whole(file, {"weights": torch.arange(100_000), "step": 7})
    before = torch.load(file, weights_only=True)
    assert before["step"] == 7 and torch.equal(before["weights"], torch.arange(100_000))
    write, written = Draft.write, []

    def full(self: Draft, data: bytes) -> None:
        written.append(len(data))
        if sum(written) > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(Draft, "write", full)
    with pytest.raises(NotWritten, match="the disk is full"):
        save_whole(file, {"weights": torch.ones(100_000)})
    assert torch.load(file, weights_only=True)["step"] == 7 and list(tmp_path.iterdir()) == [file]
