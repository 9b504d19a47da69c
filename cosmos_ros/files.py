"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EACCES: "this user may not write there: choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
}


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write beside the path, then rename onto it: readers never see half a file, and a failure leaves the old one.

    Makes the folder. Raises OSError with the remedy where the disk refuses.
    """
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            partial = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        remedy = _REMEDIES.get(error.errno, "choose another folder, or see what is wrong with this one")
        message = f"{path} could not be written ({os.strerror(error.errno or errno.EIO)}); {remedy}"
        raise OSError(error.errno, message) from error


def _umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
