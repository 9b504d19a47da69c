"""Where the package keeps and finds its files."""

import os
import pwd
from pathlib import Path

import pytest

from cosmos_ros.paths import cache_directory


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user whom the system does not know, as in a container started with a bare number."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    unknown = max(user.pw_uid for user in pwd.getpwall()) + 1
    monkeypatch.setattr(os, "getuid", lambda: unknown)
    return unknown


def test_the_cache_lies_in_the_users_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/robot")
    assert cache_directory() == Path("/home/robot/.cache/cosmos_ros")


def test_the_cache_lies_where_it_is_told(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/data/cache")
    assert cache_directory() == Path("/data/cache/cosmos_ros")


def test_a_user_without_a_home_has_a_cache_all_the_same(nobody, tmp_path):
    assert cache_directory() == tmp_path / f"cosmos_ros-{nobody}"
