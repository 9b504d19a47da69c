"""What the doctor says of the machine."""

from __future__ import annotations

import pytest

from cosmos_ros.commands.doctor import machine


def test_what_is_out_of_bounds_is_a_fault(monkeypatch):
    monkeypatch.setattr(machine, "SUPPORTED_PYTHON", ((3, 99), (3, 99)))
    monkeypatch.setattr(machine, "ROOM_FOR_CACHES", 10**18)
    assert machine.python().mark == machine.disk().mark == "FAIL"
    assert "use Python 3.99 to 3.99" in str(machine.python())


@pytest.mark.parametrize("place", ["x" * 300, "file"])
def test_a_cache_that_cannot_be_used_is_told_with_the_remedy(place, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    found = machine.disk()
    assert found.mark == "note" and "nothing can be kept" in found.text and place in found.text
    assert "set XDG_CACHE_HOME" in found.remedy
