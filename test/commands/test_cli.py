"""What all commands have in common, as a user meets them."""

from __future__ import annotations

import argparse
import importlib

import pytest

from cosmos_ros.commands import cli

# A whole command line of each command that writes, except for --out; nothing that it names is there.
WRITING = {
    "demo": [],
    "predict": ["nowhere.mp4", "--checkpoint", "nowhere"],
    "evaluate": ["nowhere.mp4", "--checkpoint", "nowhere"],
    "benchmark": ["failures", "nowhere.mp4", "--checkpoint", "nowhere"],
    "calibrate": ["nowhere.mp4", "--checkpoint", "nowhere"],
    "train": ["all", "--bags", "nowhere.mp4"],
}


def writes(name: str) -> bool:
    parser = argparse.ArgumentParser()
    importlib.import_module(cli.COMMANDS[name][0]).add_arguments(parser)
    return any("--out" in action.option_strings for action in parser._actions)


@pytest.mark.parametrize("name", filter(writes, cli.COMMANDS))
def test_a_place_that_cannot_be_written_is_said_before_anything_is_looked_at(name, tmp_path, capsys):
    (tmp_path / "plain").touch()
    assert cli.main([name, *WRITING[name], "--out", str(tmp_path / "plain" / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"cosmos_ros {name}: ") and said.count("\n") == 1
    assert "could not be written" in said and "a part of its path is a file: choose another folder" in said
    assert [file.name for file in tmp_path.iterdir()] == ["plain"]
