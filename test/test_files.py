"""Whole files: nothing is ever seen half-written, left behind, or made unreadable by its permissions."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cosmos_ros import files
from cosmos_ros.files import (
    append,
    check_folder,
    check_place,
    check_regular,
    link_or_copy,
    locked,
    write_together,
    write_whole,
)


@pytest.fixture(params=["nameless", "named"])
def every_way(request, monkeypatch):
    """On a file system that has O_TMPFILE, and on one that has not."""
    if request.param == "named":
        real = os.open

        def without_tmpfile(path, flags, *rest, **more):
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, *rest, **more)

        monkeypatch.setattr(files.os, "open", without_tmpfile)


def test_a_file_is_replaced_whole_with_ordinary_permissions(tmp_path, every_way):
    path = tmp_path / "new" / "file.txt"
    write_whole(path, "first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second" and list(path.parent.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_replaced_file_keeps_its_permissions_and_a_link_stays_a_link(tmp_path, every_way):
    (tmp_path / "secret").touch(0o640)
    (tmp_path / "link").symlink_to("secret")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "secret").read_text() == "new"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o640


def test_the_umask_is_never_set_not_even_for_a_moment(tmp_path, monkeypatch, every_way):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("another thread's file would be open to everybody"))
    write_whole(tmp_path / "file", b"")


def test_what_is_added_to_a_file_is_added_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    for line in ("first\n", "second\n"):
        append(path, line)
    written = os.write

    def full(handle: int, data: memoryview) -> int:
        if len(data) < 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(handle, data[:4])

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(files.NotWritten, match="lines could not be written .*the disk is full"):
        append(path, "third\n")
    assert path.read_text() == "first\nsecond\n"


@pytest.mark.parametrize("error", [None, errno.EXDEV])
def test_a_file_has_a_second_name_or_is_copied_onto_another_disk(tmp_path, monkeypatch, every_way, error):
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "there").write_text("old")
    link = os.link

    def refused(source, target, **more):
        if error and not str(source).startswith("/proc"):
            raise OSError(error, os.strerror(error))
        link(source, target, **more)

    monkeypatch.setattr(files.os, "link", refused)
    for _twice in range(2):
        link_or_copy(tmp_path / "link", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "content" and not (tmp_path / "there").is_symlink()
    assert (tmp_path / "there").samefile(tmp_path / "file") is (error is None)
    write_whole(tmp_path / "there", "new")
    assert (tmp_path / "file").read_text() == "content", "a replaced file leaves the other name's alone"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "there"}


REFUSED = """
import resource, signal, sys
from cosmos_ros.files import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(sys.argv[1], bytes(5000))
except OSError as error:
    print(error.errno, error.strerror)
"""


@pytest.mark.processes
def test_a_disk_that_refuses_leaves_the_old_file_and_no_half_one(tmp_path):
    """A limit on the file size makes the kernel refuse in the middle of writing, as a full disk does."""
    path = tmp_path / "file"
    path.write_text("old")
    run = subprocess.run([sys.executable, "-c", REFUSED, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"{errno.EFBIG} {path} could not be written")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only a superuser may mount a file system of 64 KiB")
@pytest.mark.processes
def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this machine does not let even a superuser mount a file system")
    try:
        path = tmp_path / "file"
        write_whole(path, "old")
        with pytest.raises(OSError, match="could not be written .*; the disk is full") as refused:
            write_whole(path, bytes(100_000))
        assert refused.value.errno == errno.ENOSPC
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_files_that_belong_together_replace_what_is_obsolete(tmp_path, every_way):
    new = {tmp_path / name: name for name in ("a", "b", "new/c")}
    for name in ("a", "old"):
        (tmp_path / name).write_text("old")
    write_together(new, [tmp_path / "nowhere", tmp_path / "old"])
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == new


def test_a_disk_that_refuses_one_of_the_files_that_belong_together_leaves_all_as_they_were(
    tmp_path, monkeypatch, every_way
):
    written = os.write

    def full(handle: int, data: memoryview) -> int:
        if data == b"b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(handle, data)

    monkeypatch.setattr(files.os, "write", full)
    before = {tmp_path / name: "old" for name in ("a", "old")}
    for path in before:
        path.write_text("old")
    with pytest.raises(OSError, match="b could not be written .*the disk is full"):
        write_together({tmp_path / name: name for name in "abc"}, [tmp_path / "old"])
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_what_is_obsolete_and_cannot_be_removed_leaves_all_as_they_were(tmp_path, every_way):
    (tmp_path / "a").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder is out of date and could not be removed"):
        write_together({tmp_path / "a": "new"}, [tmp_path / "folder"])
    assert (tmp_path / "a").read_text() == "old" and {path.name for path in tmp_path.iterdir()} == {"a", "folder"}


ENDLESS = """
import sys
from cosmos_ros.files import write_whole
print("begun", flush=True)
while True:
    write_whole(sys.argv[1], bytes(4_000_000))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.processes
def test_a_process_that_is_ended_while_it_writes_leaves_no_draft(tmp_path, number):
    for _ in range(4):
        run = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path / "file")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        run.stdout.readline()
        run.send_signal(number)
        assert run.wait() != 0
        run.stdout.close()
        assert {path.name for path in tmp_path.iterdir()} <= {"file"}


def test_an_interruption_while_a_named_draft_is_written_leaves_none(tmp_path, monkeypatch, every_way):
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"data")
    assert not list(tmp_path.iterdir())


def test_many_threads_that_write_one_file_leave_one_whole_file(tmp_path, every_way):
    threads = [threading.Thread(target=write_whole, args=(tmp_path / "file", bytes([i]) * 100_000)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = (tmp_path / "file").read_bytes()
    assert data == data[:1] * 100_000 and list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize("door", [check_place, lambda path: write_whole(path, b"")], ids=["check_place", "write_whole"])
def test_a_place_that_cannot_be_written_is_said_with_the_remedy(tmp_path, without_permission, door, every_way):
    (tmp_path / "plain").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for place, why in {
        tmp_path / "plain" / "file": "choose another folder",
        tmp_path / "folder": "it is a folder: choose another name",
        tmp_path / "pipe": "is a named pipe, not an ordinary file",
    }.items():
        with pytest.raises(OSError, match=f"could not be written .*{why}"):
            door(place)
    with (
        without_permission(tmp_path / "folder"),
        pytest.raises(OSError, match="this user may not write there: choose another folder"),
    ):
        door(tmp_path / "folder" / "file")
    with pytest.raises(OSError, match="plain could not be written .*choose another folder"):
        check_folder(tmp_path / "plain")
    for check in (check_place, check_folder):
        with pytest.raises(OSError, match="could not be written .*name too long"):
            check(tmp_path / "new" / ("n" * 256) / "deeper")


def test_a_place_is_checked_without_a_trace(tmp_path, every_way):
    check_place(tmp_path / "new" / "folder" / "file")
    check_place(tmp_path / "file")
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())


def test_what_is_no_ordinary_file_is_said_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "plain").touch()
    (tmp_path / "link").symlink_to("plain")
    check_regular(tmp_path / "link")
    for path, kind in {tmp_path / "pipe": "a named pipe", tmp_path: "a folder", Path("/dev/zero"): "a device"}.items():
        with pytest.raises(OSError, match=f"is {kind}, not an ordinary file"):
            check_regular(path)
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "nowhere")


@pytest.mark.parametrize("act", [check_place, lambda path: write_whole(path, "text")], ids=["check", "write"])
def test_an_interrupt_as_soon_as_the_draft_is_there_leaves_nothing(tmp_path, every_way, monkeypatch, act):
    opened = os.open

    def interrupted(*args, **more):
        os.close(opened(*args, **more))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", interrupted)
        with pytest.raises(KeyboardInterrupt):
            act(tmp_path / "file.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_locked_folder_keeps_others_who_lock_it_out_until_the_end(tmp_path):
    with locked(tmp_path / "a" / "b"):
        pass
    other = os.open(tmp_path / "a" / "b", os.O_RDONLY)
    try:
        with locked(tmp_path / "a" / "b"), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(other)
    (tmp_path / "file").touch()
    with pytest.raises(files.NotWritten, match="a part of its path is a file"), locked(tmp_path / "file"):
        pass


def test_of_files_written_together_the_first_one_comes_last(tmp_path, monkeypatch):
    """Who waits for it finds the others there."""
    named = []
    give_name = files._give_name
    monkeypatch.setattr(files, "_give_name", lambda handle, path: (named.append(path), give_name(handle, path)))
    files.write_together({tmp_path / name: name for name in ("facts", "frames")})
    assert [path.name.split(".")[1] for path in named] == ["frames", "facts"]
