"""Reading files that somebody else wrote: whatever is wrong with one is said in one way."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cosmos_ros.device.out_of_memory import is_out_of_memory
from cosmos_ros.errors import ForesightError, ModelUnavailable
from cosmos_ros.files import NotOrdinary


class Unusable(Exception):
    """What a reader of ours found wrong with a file; reads as a sentence that names it. `reading` adds the remedy."""


@contextmanager
def reading(
    path: str | Path,
    refusal: type[Exception] = ModelUnavailable,
    *,
    fault: str = "is damaged or cut short",
    remedy: str = "fetch it again",
) -> Iterator[None]:
    """Whatever a reader raises inside comes out as a refusal that names the path, the reason and the remedy.

    Libraries raise anything that a damaged file leads them to. What is already an answer passes as it is: a
    ForesightError, the refusal itself, and running out of memory.

    fault   what is said of a file that can be read and cannot be used
    remedy  what to do about a file that is missing or cannot be used
    """
    try:
        yield
    except (ForesightError, refusal):
        raise
    except NotOrdinary as error:
        raise refusal(str(error)) from error
    except Unusable as error:
        raise refusal(f"{error}; {remedy}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, OSError) and error.errno is not None and not _is_of_the_content(error):
            raise refusal(_of_the_disk(error, path, remedy)) from error
        raise refusal(f"{path} {fault} ({reason(error)}); {remedy}") from error


def reason(error: BaseException) -> str:
    """Kind and first line of an error, for a message."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _of_the_disk(error: OSError, path: str | Path, remedy: str) -> str:
    """What is said of a file that cannot be read; of a folder that is being read it may be one of the files."""
    file = error.filename or path
    if isinstance(error, FileNotFoundError):
        return f"{file} does not exist; {remedy}"
    if isinstance(error, PermissionError):
        return f"{file} cannot be read: {error.strerror}; let this user read it"
    return f"{file} cannot be read: {error.strerror}"


def _is_of_the_content(error: OSError) -> bool:
    """Whether it is not the disk's: the offsets in a damaged archive may point before its beginning (EINVAL)."""
    return error.errno == errno.EINVAL
