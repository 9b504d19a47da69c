"""The zip archives that torch.save and TorchScript write, looked at before anything in them is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

from cosmos_ros.files import check_regular
from cosmos_ros.reading import Unusable

# PyTorch stores tensors as they are and compresses only source code, of which the published tokenizers have 1 MB.
MAX_EXPANSION = 64 << 20  # bytes that an archive may unpack to beyond its own size


def require_bounded(archive: zipfile.ZipFile) -> None:
    """Raises Unusable where the archive would unpack to much more than its own size, or names a file twice."""
    file = Path(str(archive.filename))
    names = [entry.filename.lower() for entry in archive.infolist()]  # PyTorch looks them up in any case
    if len(names) != len(set(names)):
        raise Unusable(f"{file} holds two files of one name, as no archive of PyTorch does")
    unpacked, size = sum(entry.file_size for entry in archive.infolist()), file.stat().st_size
    if unpacked > size + MAX_EXPANSION:
        raise Unusable(
            f"{file} would unpack from {size / 1e6:.1f} MB to {unpacked / 1e6:.1f} MB, where PyTorch stores tensors "
            f"uncompressed, and an archive grows by {MAX_EXPANSION / 1e6:.0f} MB at most"
        )


def require_intact(file: Path) -> None:
    """Compare the checksums of all that an archive holds, which PyTorch does not do.

    Raises Unusable where they differ, and whatever zipfile raises of what is no archive.
    """
    check_regular(file)
    with zipfile.ZipFile(file) as archive:
        require_bounded(archive)
        if bad := archive.testzip():
            raise Unusable(f"{file} is damaged: {bad} in it does not match its checksum")
