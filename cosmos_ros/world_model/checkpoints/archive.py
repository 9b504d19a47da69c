"""The zip archives that torch.save and TorchScript write, looked at before anything in them is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

from cosmos_ros.errors import ModelUnavailable

# PyTorch stores tensors as they are and compresses only source code, of which the published tokenizers have 1 MB.
MAX_EXPANSION = 64 << 20  # bytes that an archive may unpack to beyond its own size


def require_bounded(archive: zipfile.ZipFile) -> None:
    """Raises ModelUnavailable where the archive would unpack to much more than its own size, or names a file twice."""
    file = Path(str(archive.filename))
    names = [entry.filename.lower() for entry in archive.infolist()]  # PyTorch looks them up in any case
    if len(names) != len(set(names)):
        raise ModelUnavailable(f"{file} holds two files of one name; no archive of PyTorch does. Fetch it again")
    unpacked, size = sum(entry.file_size for entry in archive.infolist()), file.stat().st_size
    if unpacked > size + MAX_EXPANSION:
        raise ModelUnavailable(
            f"{file} would unpack from {size / 1e6:.1f} MB to {unpacked / 1e6:.1f} MB; PyTorch stores tensors "
            f"uncompressed, so that a checkpoint's grows by {MAX_EXPANSION / 1e6:.0f} MB at most. Fetch it again"
        )
