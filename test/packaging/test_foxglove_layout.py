"""The Foxglove layout: every panel shows something that the node publishes. Opening it needs Foxglove itself."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from cosmos_ros.msg import Surprise

from cosmos_ros.paths import share_directory

CAMERA = {"/camera/image_raw/compressed", "/camera/camera_info"}
NODE = {
    f"/foresight/{topic}"
    for topic in ("image/compressed", "camera_info", "image_now", "mean", "uncertainty", "surprise/map")
}


@pytest.fixture(scope="module")
def layout() -> dict:
    return json.loads((share_directory() / "foxglove" / "foresight.json").read_text())


def panels(tree: dict | str) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
        return
    assert tree["direction"] in ("row", "column")
    yield from panels(tree["first"])
    yield from panels(tree["second"])


def test_every_panel_has_a_place_and_a_configuration(layout):
    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])


def test_images_are_the_cameras_and_the_nodes(layout):
    modes = [panel["imageMode"] for panel in layout["configById"].values() if "imageMode" in panel]
    shown = [mode[key] for mode in modes for key in ("imageTopic", "calibrationTopic") if key in mode]
    assert sorted(shown) == sorted(CAMERA | NODE)


def test_plots_draw_fields_of_the_surprise(layout):
    lines = [line for panel in layout["configById"].values() for line in panel.get("paths", ())]
    assert lines and all(line["enabled"] for line in lines)
    for line in lines:
        topic, field = line["value"].split(".")
        assert topic == "/foresight/surprise" and field in Surprise.get_fields_and_field_types()
