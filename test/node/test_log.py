"""Warnings: once per cause and what it says, again after it was well, and never one per frame."""

from __future__ import annotations

from rcl_interfaces.msg import Log

from cosmos_ros.node.log import MOST_TEXTS, WELL_S, Complaints


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def complaints():
    said, clock = [], Clock()
    return Complaints(said.append, clock), said, clock


def test_what_goes_on_is_said_once():
    complain, said, clock = complaints()
    for _ in range(1000):
        complain.say("silence", "nobody publishes it")
        clock.now += WELL_S / 2
    assert said == ["nobody publishes it"]


def test_another_reason_is_another_warning():
    complain, said, clock = complaints()
    for text in ("nobody publishes it", "its type is wrong", "nobody publishes it"):
        complain.say("silence", text)
    assert said == ["nobody publishes it", "its type is wrong"]


def test_after_it_was_well_it_is_said_again():
    complain, said, clock = complaints()
    complain.say("size", "too large")
    clock.now += WELL_S + 1
    complain.say("size", "too large")
    complain.well("size")
    complain.say("size", "too large")
    assert said == 3 * ["too large"]


def test_numbers_that_change_do_not_make_it_new():
    complain, said, clock = complaints()
    for age in range(100):
        complain.say("silence", f"for {age} s")
    assert said == ["for 0 s"]


def test_a_fault_that_differs_from_frame_to_frame_does_not_fill_the_log():
    complain, said, clock = complaints()
    for size in range(1000):
        complain.say("size", "strange " * size)
        clock.now += 0.03
    n = len(said)
    assert n <= MOST_TEXTS * (1 + 1000 * 0.03 / WELL_S)
    complain.say("encoding", "unknown")
    assert len(said) == n + 1, "another cause is heard"


def test_what_each_part_of_the_node_logs_is_on_rosout(rig, wait_for):
    robot, node = rig(autostart=False)
    heard = []
    robot.ros.create_subscription(Log, "/rosout", heard.append, 1000)
    logger = node.get_logger()
    parts = [logger, logger.get_child("camera"), node._action._log]

    def all_heard() -> bool:
        """Said again, as the first may go before the subscription is known."""
        for part in parts:
            part.info("here")
        return {said.name for said in heard if said.msg == "here"} >= {part.name for part in parts}

    wait_for(all_heard, "every part")
