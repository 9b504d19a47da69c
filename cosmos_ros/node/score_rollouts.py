"""The service `~/score`: what the rollouts of finished goals cost against a goal image."""

from __future__ import annotations

import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import RegionOfInterest
from unique_identifier_msgs.msg import UUID

from cosmos_ros import images
from cosmos_ros.errors import InvalidGoal, ModelUnavailable
from cosmos_ros.foresight import Foresight
from cosmos_ros.images import BadImage
from cosmos_ros.msg import GoalCost
from cosmos_ros.planning import Cost, compare, score
from cosmos_ros.planning.scores import QUANTILES, UNITS
from cosmos_ros.rollout import Crop, GuardedRollout
from cosmos_ros.srv import ScoreRollouts

Size = tuple[int, int]  # height, width


class UnknownGoal(Exception):
    """A goal whose rollouts are not kept."""


class KeptRollouts:
    """The rollouts of the last goals, with the camera's image size. Thread-safe.

    keep  how many goals, as the parameter is now
    """

    def __init__(self, keep: Callable[[], int]) -> None:
        self._keep = keep
        self._goals: OrderedDict[bytes, tuple[Sequence[GuardedRollout], Size]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, goal_id: bytes, rollouts: Sequence[GuardedRollout], camera_size: Size) -> None:
        with self._lock:
            self._goals[goal_id] = (rollouts, camera_size)
            self._let_go()

    def of(self, goal_ids: Sequence[bytes]) -> list[tuple[bytes, Sequence[GuardedRollout], Size]]:
        """Those of the goals, or of all. Raises UnknownGoal."""
        with self._lock:
            self._let_go()  # `keep` may be less by now
            kept = dict(self._goals)
        if gone := [goal_id.hex() for goal_id in goal_ids if goal_id not in kept]:
            raise UnknownGoal(f"goals {', '.join(gone)} are not kept; {self._what_is(kept)}")
        if not kept:
            raise UnknownGoal(f"no goal's rollouts are kept; {self._what_is(kept)}")
        return [(goal_id, *kept[goal_id]) for goal_id in (goal_ids or kept)]

    def clear(self) -> None:
        with self._lock:
            self._goals.clear()

    def _let_go(self) -> None:
        while len(self._goals) > self._keep():
            self._goals.popitem(last=False)

    def _what_is(self, kept: dict) -> str:
        ids = ", ".join(goal_id.hex() for goal_id in kept) or "none"
        return f"kept are the last {self._keep()} that gave a rollout (`keep_rollouts`): {ids}"


class ScoreService:
    """Serves `~/score` while the node is active."""

    def __init__(
        self, node: LifecycleNode, kept: KeptRollouts, is_active: Callable[[], bool], foresight: Callable[[], Foresight]
    ) -> None:
        self._log, self._kept, self._is_active = node.get_logger().get_child("score"), kept, is_active
        self._foresight = foresight
        group = MutuallyExclusiveCallbackGroup()
        node.create_service(ScoreRollouts, "~/score", self._answer, callback_group=group)

    def _answer(self, request: ScoreRollouts.Request, response: ScoreRollouts.Response) -> ScoreRollouts.Response:
        try:
            if not self._is_active():
                response.error_code, response.error_msg = response.NOT_ACTIVE, "the node is not active"
            else:
                self._score(request, response)
        except UnknownGoal as error:
            response.error_code, response.error_msg = response.UNKNOWN_GOAL, str(error)
        except (InvalidGoal, BadImage, ModelUnavailable) as error:
            response.error_code, response.error_msg = response.INVALID_REQUEST, str(error)
        except Exception as error:
            self._log.error(f"a score failed unexpectedly:\n{traceback.format_exc()}")
            response.error_code, response.error_msg = response.INTERNAL, f"{type(error).__name__}: {error}"
        return response

    def _score(self, request: ScoreRollouts.Request, response: ScoreRollouts.Response) -> None:
        goals = self._kept.of([bytes(goal_id.uuid) for goal_id in request.goal_ids])
        metric, quantiles = request.metric or "pixel", tuple(map(float, request.quantiles)) or QUANTILES
        codes = self._foresight().codes
        image = images.to_rgb(request.goal_image)
        costs = []
        for _, rollouts, camera_size in goals:
            seen, region = as_the_model_sees(image, request.region, rollouts[0].crop, camera_size)
            costs.append(score(rollouts, seen, region=region, metric=metric, quantiles=quantiles, codes=codes))
        best = compare(costs)
        response.metric, response.unit = metric, UNITS[metric]
        response.costs = [_message(*goal[:2], cost) for goal, cost in zip(goals, costs, strict=True)]
        response.best, response.confidence = best.best, best.confidence


def as_the_model_sees(
    image: np.ndarray, region: RegionOfInterest, crop: Crop, camera_size: Size
) -> tuple[np.ndarray, Crop | None]:
    """The part of a goal image, which may be of the camera's size, that a rollout shows; and the region within it."""
    shift_x = shift_y = 0
    if image.shape[:2] == camera_size:
        image, shift_x, shift_y = crop.of(image), crop.x, crop.y
    if not (region.width or region.height or region.x_offset or region.y_offset):
        return image, None
    return image, Crop(region.x_offset - shift_x, region.y_offset - shift_y, region.width, region.height)


def _message(goal_id: bytes, rollouts: Sequence[GuardedRollout], cost: Cost) -> GoalCost:
    return GoalCost(
        goal_id=UUID(uuid=list(goal_id)),
        prompt=rollouts[0].prompt,
        samples=len(rollouts),
        frames=cost.costs.shape[1],
        cost=cost.total,
        mean=cost.mean.tolist(),
        quantiles=cost.quantiles.ravel().tolist(),
    )
