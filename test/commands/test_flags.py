"""Flags made from the settings: one for each, read by the same check, with the old names for a while."""

from __future__ import annotations

import argparse

import pytest

from cosmos_ros.commands.flags import add_flags, config_of, require
from cosmos_ros.errors import SettingError
from cosmos_ros.settings import SETTINGS, ClipConfig, ForesightConfig, NodeConfig, SamplingConfig, settings_of


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_flags(parser, "all", SETTINGS.values())
    return parser


def test_no_flag_given_is_every_default(parser):
    args = parser.parse_args([])
    assert config_of(args, ForesightConfig) == ForesightConfig() and config_of(args, NodeConfig) == NodeConfig()


def test_flags_are_read_as_the_settings(parser):
    args = parser.parse_args(["--checkpoint", "1e5", "--gpus", "2", "--temperature", "-1", "--autostart", "false"])
    assert config_of(args, ForesightConfig) == ForesightConfig(checkpoint="1e5", gpus=2)
    assert config_of(args, SamplingConfig) == SamplingConfig() and not config_of(args, NodeConfig).autostart


def test_a_value_that_cannot_be_is_the_settings_own_error(parser):
    with pytest.raises(SettingError, match="gpus must be a whole number from 1 to 64; got 'many'"):
        config_of(parser.parse_args(["--gpus", "many"]), ForesightConfig)
    with pytest.raises(SettingError, match="frame_rate must be a number from 0 to 240 Hz, but not between 0 and 0.01"):
        config_of(parser.parse_args(["--frame-rate", "1e-300"]), ClipConfig)


@pytest.mark.parametrize(
    ("every", "says"),
    [
        (0.0, "positive and finite"),
        (float("nan"), "positive and finite"),
        (float("inf"), "positive and finite"),
        (1e-12, "at least 0.001 s; got 1e-12"),
    ],
)
def test_a_step_that_is_no_whole_number_of_nanoseconds_is_refused(every, says):
    with pytest.raises(SettingError, match=f"--every must be {says}"):
        require(argparse.Namespace(every=every), steps=("every",))


def test_every_flag_explains_itself(parser):
    words = " ".join(parser.format_help().split())
    for setting in settings_of(ForesightConfig):
        assert f"{setting.flag} " in words and setting.description.split(".")[0] in words.replace("- ", "-")
    assert "--model" not in words


def test_an_old_name_works_with_a_warning(parser, caplog):
    args = parser.parse_args(["--model", "somewhere"])
    assert config_of(args, ForesightConfig).checkpoint == "somewhere"
    assert "--model is now called --checkpoint" in caplog.text
