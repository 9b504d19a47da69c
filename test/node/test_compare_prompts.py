"""examples/compare_prompts.py, as a planner's author would start it, against a live node with a tiny text model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import load_file, save_file

from cosmos_ros import images
from cosmos_ros.world_model.text_encoder import EMBEDDINGS_FILE, write_embeddings

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare_prompts.py"
PROMPTS = ("the arm lifts the cube", "the arm pushes the cube away")

pytestmark = [pytest.mark.dds, pytest.mark.processes]


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint, tmp_path_factory) -> Path:
    directory = make_checkpoint(tmp_path_factory.mktemp("two_prompts") / "tiny", context_dim=16)
    weights = load_file(directory / "model.safetensors")
    loud = {key: value * (50 if "cross_attention.wo" in key else 1) for key, value in weights.items()}
    save_file(loud, directory / "model.safetensors")  # so that the prompt decides
    generator = torch.Generator().manual_seed(4)
    embeddings = {prompt: torch.randn(7, 16, generator=generator) for prompt in PROMPTS}
    write_embeddings(directory / EMBEDDINGS_FILE, embeddings)
    return directory


@pytest.fixture(scope="module")
def node(domain, robot, running_node, ready, checkpoint):
    with running_node(domain, checkpoint=str(checkpoint)) as node:
        ready(node, robot)
        yield node


def test_the_prompt_whose_futures_come_closest_is_named(robot, node, tmp_path):
    robot.film(node)
    wanted = robot.predict(prompt=PROMPTS[1], include_frames=True, seed=0, samples=2).rollout
    goal_image = tmp_path / "goal.png"
    cv2.imwrite(str(goal_image), cv2.cvtColor(images.to_rgb(wanted.frames[-1]), cv2.COLOR_RGB2BGR))
    ran = subprocess.run(
        [sys.executable, EXAMPLE, goal_image, *PROMPTS, "--samples", "2", "--metric", "pixel"],
        env=os.environ | {"ROS_DOMAIN_ID": str(robot.domain)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    costs = {
        prompt: float(cost) for cost, prompt in re.findall(r"^ *([\d.]+), at the horizon .*   (.+)$", ran.stdout, re.M)
    }
    assert set(costs) == set(PROMPTS) and costs[PROMPTS[0]] != costs[PROMPTS[1]], ran.stdout
    assert f": {min(costs, key=costs.get)}" in ran.stdout.splitlines()[-1]


def test_what_the_node_refuses_is_said(robot, node, tmp_path):
    robot.film(node)
    goal_image = tmp_path / "goal.png"
    cv2.imwrite(str(goal_image), images.to_rgb(robot.image(0)))
    ran = subprocess.run(
        [sys.executable, EXAMPLE, goal_image, "a prompt that nobody embedded"],
        env=os.environ | {"ROS_DOMAIN_ID": str(robot.domain)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1 and "a prompt that nobody embedded" in ran.stderr
