"""Does the node keep its promises for hours? A camera, the continuous mode, and clients that send, cancel and preempt.

    python bench/soak.py [--seconds 600] [--rate 30] [--size 640x1024] [--continuous-rate 1] [--clients 2]
                         [--checkpoint DIR] [--out bench/results/soak.json]

Counted are camera images that the buffer did not get, goals without an answer or with two, the answers by error code,
and latencies (of rollouts, and from a cancel request to the answer). Every client draws what it does from its own seed;
the policy for busy times (`when_busy`) is drawn anew every few seconds. All processes use
config/fastdds_large_images.xml, as the README advises for images of this size, with its memory policy.

The node's resident memory is compared between two rests, after a fifth of the load and after all of it. Under load it
goes up and down with the rollouts that are kept, from 16 MB to 94 MB each. At a rest the same goals are sent and
the results of earlier ones have expired, so that what the node holds is the same, except camera images of 2 MB that
are just on their way, and what they freed; so the least of twenty looks counts. Shared memory is listed by itself: each
process's segment has the size that the profile gives it, 64 MB, and more and more of its pages have been used once.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from action_msgs.msg import GoalStatus, GoalStatusArray
from camera_rate import Client, buffered
from cosmos_ros.action import Predict
from machine import machine
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile

from cosmos_ros.commands.ros_processes import free_domain
from cosmos_ros.node.predict_action import RESULT_TIMEOUT_S
from cosmos_ros.paths import executable, share_directory
from cosmos_ros.queue import REST_PERIOD_S

ANSWER_S = 120.0  # a goal without an answer by then has none
LOAD_SHARES = (0.2, 0.8)  # of the time, each before a rest
REST_S = 120.0  # what a rest may take
LOOKS, LOOK_S = 20, 0.5  # at the memory
KEPT = 4  # goals whose rollouts the node keeps: `keep_rollouts` as it is by default
FAILURES = 20  # goals in a row of a rest that give no rollout: the node is broken, or the guardrail refuses everything
ENDS = (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED)
CODES = {getattr(Predict.Result, n): n for n in dir(type(Predict.Result)) if n.isupper() and not n.startswith("_")}


def act(seed: int, seconds: float) -> None:
    """The process of one client: goals at random until the time is over; prints what became of them, as JSON."""
    dice, client = random.Random(seed), Client()
    codes: collections.Counter[str] = collections.Counter()
    rollout_s, cancel_s, unanswered = [], [], 0
    client.action.wait_for_server()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        goal = Predict.Goal(
            condition=dice.choice([Predict.Goal.VIDEO, Predict.Goal.IMAGE]),
            samples=dice.choice([0, 1, 2]),
            frames=dice.choice([0, 8]),
            temperature=1.0,
            include_frames=dice.random() < 0.2,
        )
        began, cancel_at, canceled = time.monotonic(), None, None
        sent = client.action.send_goal_async(goal)
        rclpy.spin_until_future_complete(client, sent)
        answer = sent.result().get_result_async()
        if dice.random() < 0.5:
            cancel_at = began + dice.uniform(0, 1)
        while not answer.done() and time.monotonic() < began + ANSWER_S:
            rclpy.spin_once(client, timeout_sec=0.02)
            if cancel_at is not None and canceled is None and time.monotonic() >= cancel_at:
                sent.result().cancel_goal_async()
                canceled = time.monotonic()
        if not answer.done():
            unanswered += 1
            continue
        code = CODES[answer.result().result.error_code]
        codes[code] += 1
        if code == "NONE":
            rollout_s.append(time.monotonic() - began)
        elif code == "CANCELED" and canceled is not None:
            cancel_s.append(time.monotonic() - canceled)
        time.sleep(dice.uniform(0, 0.5))
    print(json.dumps({"codes": codes, "unanswered": unanswered, "rollout_s": rollout_s, "cancel_s": cancel_s}))


class Overseer(Client):
    """Changes the policy, and counts how often each goal ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[bytes, set[int]] = collections.defaultdict(set)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(GoalStatusArray, "foresight/predict/_action/status", self._on_status, latched)
        self._parameters = self.create_client(SetParameters, "foresight/set_parameters")

    def set(self, **values: object) -> None:
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        )
        rclpy.spin_until_future_complete(self, self._parameters.call_async(request))

    def listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            rclpy.spin_once(self, timeout_sec=0.1)

    def have_predicted(self, n: int, seed: int) -> int:
        """Goals with seeds from this one on until n have succeeded, which the guardrail decides; the next seed.

        Raises RuntimeError where FAILURES in a row fail, TimeoutError where one gets no answer.
        """
        failures = 0
        while n:
            sent = self.action.send_goal_async(Predict.Goal(samples=2, temperature=1.0, seed=seed))
            answer = self._done(self._done(sent).get_result_async()).result
            seed += 1
            if answer.error_code == Predict.Result.NONE:
                n, failures = n - 1, 0
                continue
            failures += 1
            if failures == FAILURES:
                why = f"the last with {CODES[answer.error_code]}: {answer.error_msg}"
                raise RuntimeError(f"{failures} goals in a row of a rest failed, {why}; the node's log says more")
        return seed

    def _done(self, future: rclpy.Future) -> Any:
        rclpy.spin_until_future_complete(self, future, timeout_sec=ANSWER_S)
        if not future.done():
            raise TimeoutError(f"a goal of a rest has no answer after {ANSWER_S:g} s; the node's log may say why")
        return future.result()

    def _on_status(self, message: GoalStatusArray) -> None:
        for each in message.status_list:
            if each.status in ENDS:
                self.ends[bytes(each.goal_info.goal_id.uuid)].add(each.status)


def measure(options: argparse.Namespace) -> dict:
    """Run all processes to their end; what the module's docstring lists."""
    os.environ |= {
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(share_directory() / "config" / "fastdds_large_images.xml"),
        "RMW_FASTRTPS_USE_QOS_FROM_XML": "1",
    }
    parameters = {"checkpoint": f'"{options.checkpoint}"', "history": 1.0, "max_age": 0.0}
    given = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    node = subprocess.Popen([sys.executable, executable("foresight_node"), "--ros-args", *given])
    rclpy.init()
    overseer, dice, load_rss, rest_rss, clients, others = Overseer(), random.Random(0), [], [], [], []
    try:
        overseer.wait_until(lambda: overseer.values.get("state") == "active")
        film = {"rate": options.rate, "size": options.size, "seconds": options.seconds + 2 * REST_S}
        camera = start(
            Path(__file__).with_name("camera_rate.py"),
            "--camera",
            *(word for name, value in film.items() for word in (f"--{name}", value)),
        )
        others.append(camera)
        overseer.wait_until(lambda: buffered(overseer.values) > options.rate)
        for share in LOAD_SHARES:
            overseer.set(continuous_rate=float(options.continuous_rate))
            seeds = range(len(clients), len(clients) + options.clients)
            leg = [start(__file__, "--client", seed, "--seconds", share * options.seconds) for seed in seeds]
            clients += leg
            others += leg
            while any(client.poll() is None for client in leg):
                if node.poll() is not None:
                    raise RuntimeError(f"the node ended under load, with status {node.returncode}; its log says more")
                overseer.set(when_busy=dice.choice(["reject", "preempt", "queue"]))
                load_rss.append(sum(resident_mb(node.pid)))
                overseer.listen(5)
            rest_rss.append(rest(overseer, node.pid))
        overseer.wait_until(lambda: camera.poll() is not None, 4 * REST_S)
        overseer.values.clear()
        overseer.wait_until(lambda: "images added" in overseer.values)
    finally:
        for process in others:
            process.kill()  # nothing where it has ended
        node.terminate()
        status = node.wait()
    heard = [json.loads(client.stdout.read()) for client in clients]
    return summary(overseer, heard, json.loads(camera.stdout.read())) | {
        "resident_mb_most_under_load": round(max(load_rss), 1),
        "resident_mb_at_rest": [round(own, 1) for own, _ in rest_rss],
        "resident_growth_percent": round(100 * (rest_rss[-1][0] / rest_rss[0][0] - 1), 2),
        "shared_mb_at_rest": [round(shared, 1) for _, shared in rest_rss],
        "node_exit_status": status,
    }


def rest(overseer: Overseer, node: int) -> tuple[float, float]:
    """The node's resident memory when it holds what a few whole goals leave."""
    overseer.set(continuous_rate=0.0, when_busy="queue")
    seed = overseer.have_predicted(KEPT, seed=0)
    overseer.listen(RESULT_TIMEOUT_S + 2)
    overseer.have_predicted(1, seed)  # at which the middleware lets go of what has expired
    overseer.listen(2 * REST_PERIOD_S)  # in which the node gives back what is free
    looks = []
    for _ in range(LOOKS):
        overseer.listen(LOOK_S)
        looks.append(resident_mb(node))
    return min(looks)


def summary(overseer: Overseer, clients: list[dict], camera: dict) -> dict:
    codes: collections.Counter[str] = collections.Counter()
    for client in clients:
        codes.update(client["codes"])
    return {
        "images_published": camera["published"],
        "images_lost": camera["published"] - buffered(overseer.values),
        "goals": sum(codes.values()),
        "goals_by_code": dict(codes),
        "goals_without_an_answer": sum(client["unanswered"] for client in clients),
        "goals_that_ended_twice": sum(len(ends) > 1 for ends in overseer.ends.values()),
        "continuous": {key: value for key, value in overseer.values.items() if key.startswith("predictions ")},
        "rollout_s": percentiles([s for client in clients for s in client["rollout_s"]]),
        "cancel_to_answer_s": percentiles([s for client in clients for s in client["cancel_s"]]),
    }


def table(result: dict) -> str:
    """The figures of a result as docs/soak.md shows them, in Markdown."""
    rests, shared = result["resident_mb_at_rest"], result["shared_mb_at_rest"]
    lost, twice = result["images_lost"], result["goals_that_ended_twice"]
    codes = ", ".join(f"{count} {code}" for code, count in sorted(result["goals_by_code"].items(), key=lambda c: -c[1]))
    rows = [
        ("camera images published, lost", f"{result['images_published']:,}, {lost}"),
        ("goals, without an answer, ended twice", f"{result['goals']:,}, {result['goals_without_an_answer']}, {twice}"),
        ("answers", codes),
        *((f"continuous {what}", count) for what, count in result["continuous"].items()),
        *(
            (f"{what}, median / 95 % / 99 %", " / ".join(f"{1e3 * s:,.0f} ms" for s in result[key].values()))
            for what, key in (("goal to rollout", "rollout_s"), ("cancel to answer", "cancel_to_answer_s"))
        ),
        ("the node's memory at the first and second rest", f"{rests[0]:,.0f} and {rests[1]:,.0f} MB"),
        ("growth", f"{result['resident_growth_percent']} %"),
        ("shared memory of which pages have been used", f"{shared[0]:,.0f} and {shared[1]:,.0f} MB"),
        ("the most under load, with shared memory", f"{result['resident_mb_most_under_load']:,.0f} MB"),
    ]
    head = (
        f"| {result['seconds']:g} s of load, {result['size']} at {result['rate']:g} Hz, {result['clients']} clients | |"
    )
    return "\n".join([head, "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def percentiles(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {name: round(cuts[at - 1], 3) for name, at in (("p50", 50), ("p95", 95), ("p99", 99))}


def resident_mb(pid: int) -> tuple[float, float]:
    """The process's own memory, and the shared."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    own, files, shared = (int(status[f"Rss{kind}"].split()[0]) * 1024 / 1e6 for kind in ("Anon", "File", "Shmem"))
    return own + files, shared


def start(script: Path | str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of load")
    parser.add_argument("--rate", type=float, default=30.0, help="of the camera, Hz")
    parser.add_argument("--size", default="640x1024", help="height x width")
    parser.add_argument("--continuous-rate", type=float, default=1.0, help="Hz")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client is not None:
        rclpy.init()
        act(options.client, options.seconds)
        return
    names = ("seconds", "rate", "size", "continuous_rate", "clients", "checkpoint")
    result = machine() | {name: getattr(options, name) for name in names} | measure(options)
    print(json.dumps(result, indent=2), table(result), sep="\n\n")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
