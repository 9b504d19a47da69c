"""One good goal over real DDS, and all that it puts on the topics."""

from __future__ import annotations

from cosmos_ros.action import Predict


def test_a_video_goal_gives_24_guarded_frames(robot, node):
    stamps = robot.film(node)
    result = robot.predict(include_frames=True)
    assert result.error_code == Predict.Result.NONE, result.error_msg
    assert len(result.rollout.frames) == 24
