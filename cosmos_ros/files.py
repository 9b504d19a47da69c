"""Files that are written whole or not at all, and files that may be opened: the one way in which anything is written.

A file is written without a name (O_TMPFILE) and given one when it is complete, so that Ctrl-C, SIGTERM and even
SIGKILL leave nothing behind. File systems that cannot do that (NFS, FAT) get a hidden draft next to the file instead,
which is removed again unless the process is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EACCES: "this user may not write there: choose another folder",
    errno.EPERM: "this user may not write there: choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of its path is a file: choose another folder",
    errno.EEXIST: "a part of its path is a file: choose another folder",
    errno.EISDIR: "it is a folder: choose another name",
}
# What open() says of O_TMPFILE where the file system, or the kernel, does not know it.
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
# What os.link() says where it cannot: between two file systems, on one that has none, of somebody else's file.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
COPIED_AT_ONCE = 16 << 20  # bytes
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotWritten(OSError):
    """A file that could not be written; reads as a sentence with the remedy. `errno` says why."""

    def __str__(self) -> str:
        return self.strerror or ""


class NotOrdinary(OSError):
    """Something that is no ordinary file; reads as a sentence."""

    def __str__(self) -> str:
        return self.strerror or ""


def write_whole(path: str | Path, data: bytes | memoryview | str) -> None:
    """Write the file so that readers find the old one or the new one, never half of it. Makes the folder.

    A new file gets the permissions that the umask leaves, a replaced one keeps its own; a symbolic link stays one.
    Raises NotWritten, an OSError, where that cannot be done; the old file is then as it was.
    """
    with writing(path) as draft:
        draft.write(data)


def write_together(files: Mapping[Path, bytes | memoryview | str], obsolete: Iterable[Path] = ()) -> None:
    """Write files that belong together, each as write_whole does, and remove obsolete ones that would not fit them.

    All are complete on the disk before the first takes its place. So a disk that refuses leaves everything as it was.
    The last one given takes its place first: who finds the first one finds all. Raises NotWritten.
    """
    with contextlib.ExitStack() as stack:
        for path, data in files.items():  # the stack ends with what it began with
            draft = stack.enter_context(writing(path))
            draft.write(data)
            os.fsync(draft.handle)  # some file systems say only now that they are full
        for path in obsolete:
            _remove(path)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[Draft]:
    """Write a file piece by piece, as `write_whole` does it at once: it is there when the block has ended."""
    path = Path(path)
    with _explained(path):
        target = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _draft(target) as draft:
            yield draft


def append(path: Path, text: str) -> None:
    """Add text at a file's end, all of it or nothing; makes the file where it is missing. Raises NotWritten."""
    with _explained(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            before = os.fstat(handle).st_size
            try:
                Draft(handle).write(text)
            except OSError:
                with contextlib.suppress(OSError):  # of what has no length, such as a device
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Make the folder, and let no other process that locks it go on before the block has ended. Raises NotWritten.

    wait  for a process that holds it; else BlockingIOError is raised

    A process that is killed holds nothing. On a file system without locks nobody is kept out.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(lock)


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file, links followed, under another name too: without taking room where both lie on one file system.

    Ours are replaced and never overwritten in place, so that neither changes with the other. Raises NotWritten.
    """
    draft = _draft_beside(target)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(source), draft)
            draft.replace(target)
            draft.unlink(missing_ok=True)  # where both were the same file already
            return
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        with source.open("rb") as content, _draft(target) as copy:
            while piece := content.read(COPIED_AT_ONCE):
                copy.write(piece)


def check_place(path: str | Path) -> None:
    """Raise the NotWritten that writing this file would end in, as far as that can be known before; writes nothing.

    To be called before the work whose result goes there.
    """
    path = Path(path)
    with _explained(path):
        _try_draft(_target(path))


def check_folder(folder: str | Path) -> None:
    """As check_place does, of a folder for files that have no names yet."""
    folder = Path(folder)
    with _explained(folder):
        _try_draft(folder / "any")


def check_regular(path: str | Path) -> None:
    """Raise NotOrdinary, an OSError, unless this is an ordinary file, or a link to one.

    Opening a pipe or a device may never end.
    """
    path = Path(path)
    if (kind := stat.S_IFMT(path.stat().st_mode)) != stat.S_IFREG:
        raise NotOrdinary(errno.EINVAL, f"{path} is {_KINDS.get(kind, 'no ordinary file')}, not an ordinary file")


class Draft:
    """What will become the file: `write` takes all of it, or raises OSError."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def write(self, data: bytes | memoryview | str) -> None:
        rest = memoryview(data.encode() if isinstance(data, str) else data).cast("B")
        while rest:
            rest = rest[os.write(self.handle, rest) :]


@contextlib.contextmanager
def _draft(target: Path) -> Iterator[Draft]:
    """A draft that takes the target's place at the end, unless an exception comes before."""
    # Named before it is there: whenever a signal comes, the name is known by which to remove it.
    draft, handle = _draft_beside(target), None
    try:
        handle, named = _open_draft(draft)
        if target.exists():
            os.fchmod(handle, stat.S_IMODE(target.stat().st_mode))
        yield Draft(handle)
        os.fsync(handle)
        if not named:
            # The name can be given to a file without one, but only a rename replaces another file.
            _give_name(handle, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _open_draft(draft: Path) -> tuple[int, bool]:
    """An empty file to write to: its descriptor, and whether it has the draft's name already, or none yet."""
    # The kernel applies the umask: reading it would mean setting it, for all threads.
    with contextlib.suppress(AttributeError):  # systems without O_TMPFILE
        try:
            return os.open(draft.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666), False
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
    return os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666), True


def _try_draft(target: Path) -> None:
    """Begin a draft of this file, in the nearest folder that is there, and give it up again. Raises OSError."""
    folder, to_come = target.parent, [target.name]
    while not folder.exists():
        folder, to_come = folder.parent, [folder.name, *to_come]
    for name in to_come:  # in a folder that is not there yet no name is looked at, not even one that is too long
        with contextlib.suppress(FileNotFoundError):
            (folder / name).stat()
    # What the permission bits say is not all: file systems are mounted read-only, and root may write everywhere.
    draft = _draft_beside(folder / target.name)
    try:
        os.close(_open_draft(draft)[0])
    finally:
        draft.unlink(missing_ok=True)


def _give_name(handle: int, path: Path) -> None:
    """Link an open file that has no name."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # With a folder's descriptor Python calls linkat(), which follows the link in /proc to the file itself.
        os.link(f"/proc/self/fd/{handle}", path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritten(error.errno, f"{path} is out of date and could not be removed ({error.strerror})") from error


def _draft_beside(target: Path) -> Path:
    return target.parent / f".{target.name[:200]}.{secrets.token_hex(4)}.draft"


def _target(path: Path) -> Path:
    """The file that the path names, links followed. Raises OSError where something else than a file lies there."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists():
        check_regular(target)
    return target


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Any OSError as a NotWritten, unless it is one already, of another file."""
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or errno.EIO)
        remedy = _REMEDIES.get(error.errno or 0, "choose another place, or see what is wrong with this one")
        raise NotWritten(error.errno, f"{path} could not be written ({reason}); {remedy}") from error
