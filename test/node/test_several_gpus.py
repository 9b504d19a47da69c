"""The node with its transformer cut over two processes."""

import os
import signal

from cosmos_ros.action import Predict


def test_a_goal_fails_with_the_process_that_dies_and_the_next_one_succeeds(rig, ready, tiny_checkpoint, monkeypatch):
    robot, node = rig(checkpoint=str(tiny_checkpoint), device="cpu", gpus=2)
    ready(node, robot)
    robot.film(node)
    assert robot.predict().error_code == Predict.Result.NONE
    group = node._configured.foresight._model._engine._group
    begin = group.begin

    def begin_and_kill(*goal):
        os.kill(group._processes[1].pid, signal.SIGSTOP)  # else it might be through with the goal before it dies
        sent = begin(*goal)
        os.kill(group._processes[1].pid, signal.SIGKILL)
        return sent

    monkeypatch.setattr(group, "begin", begin_and_kill)
    assert "rank 1 on cpu died (SIGKILL)" in robot.expect(Predict.Result.INTERNAL).error_msg
    robot.film(node)
    assert robot.predict().error_code == Predict.Result.NONE
