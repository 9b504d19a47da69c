"""The zip archives that torch.save and TorchScript write: looked at before they are unpacked, and written whole."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from cosmos_ros.files import Draft, check_regular, writing
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


def save_whole(path: Path, content: Any) -> None:
    """What torch.save makes of the content, as the whole file or not at all; without a second copy of it in memory.

    Raises NotWritten, an OSError.
    """
    import torch  # not by those who only look

    with writing(path) as draft:
        sink = _Sink(draft)
        torch.save(content, sink)
        if sink.error is not None:
            raise sink.error


class _Sink:
    """What torch.save writes to. It reports a full disk as damage to its archive: so the error waits until it ended."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self.error is None:
            try:
                self._draft.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """All is written at once."""
