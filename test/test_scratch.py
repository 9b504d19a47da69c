"""Scratch folders leave nothing, however their program ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cosmos_ros import scratch
from cosmos_ros.scratch import scratch_folder

HOLDING = """
import sys, time
from cosmos_ros.scratch import scratch_folder
with scratch_folder("bag", sys.argv[1]) as folder:
    (folder / "file").write_text("large")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_folder_is_there_for_its_block_and_says_what_for(tmp_path):
    with scratch_folder("bag", str(tmp_path)) as folder:
        (folder / "file").touch()
        assert folder.name.startswith("cosmos_ros_bag_") and list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


def test_a_folder_whose_removal_is_broken_off_goes_when_the_program_ends(tmp_path, monkeypatch):
    removals, at_exit = [], []
    monkeypatch.setattr(scratch.atexit, "register", at_exit.append)

    def interrupted(folder, **_):
        removals.append(folder)
        if len(removals) == 1:
            raise KeyboardInterrupt
        Path(folder).rmdir()

    monkeypatch.setattr(scratch.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch_folder("bag", str(tmp_path)) as folder:
        assert folder.is_dir()
    (remove,) = at_exit
    remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
def test_what_a_killed_program_left_goes_with_the_next_one_and_what_is_held_stays(tmp_path):
    holding = [
        subprocess.Popen([sys.executable, "-c", HOLDING, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        killed, held = (Path(each.stdout.readline().strip()) for each in holding)
        holding[0].kill()
        holding[0].wait()
        somebodys = tmp_path / "cosmos_ros_evidence"
        somebodys.mkdir()
        (tmp_path / "cosmos_ros_link.scratch").symlink_to(somebodys)
        assert (killed / "file").exists()
        with scratch_folder("demo", str(tmp_path)):
            assert not killed.exists() and (held / "file").exists() and somebodys.exists()
        holding[1].send_signal(signal.SIGINT)
        holding[1].wait()
        assert not held.exists()
    finally:
        for each in holding:
            each.kill()
            each.communicate()


def test_a_folder_that_is_taken_for_stale_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    made = scratch.tempfile.mkdtemp
    taken = []

    def swept(*args):
        folder = made(*args)
        if not taken:
            taken.append(folder)
            scratch._remove_stale(tmp_path)
        return folder

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", swept)
    with scratch_folder("bag", str(tmp_path)) as folder:
        assert folder.is_dir() and not Path(taken[0]).exists()
