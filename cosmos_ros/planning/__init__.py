"""What a planner makes of guarded rollouts: what they would cost against a goal. No ROS."""

from cosmos_ros.planning.scores import Comparison, Cost, compare, score

__all__ = ["Comparison", "Cost", "compare", "score"]
