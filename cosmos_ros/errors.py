"""Every way in which a prediction can be refused, each with the name of its constant in Predict.action."""

from __future__ import annotations

from cosmos_ros.guardrail_report import GuardrailReport


class ForesightError(Exception):
    """Base of all errors that a caller of `Foresight` or of the `Predict` action is told about.

    The message says what was wrong, what was expected and what to do.
    `code` is the name of the error code in action/Predict.action. `report` says what each guard had decided by then,
    where a screening had begun.
    """

    code = "INTERNAL"
    report: GuardrailReport | None = None


class InvalidGoal(ForesightError):
    """A request's field is out of range, or does not fit the loaded model."""

    code = "INVALID_GOAL"


class SettingError(ForesightError, ValueError):
    """A setting has a value that it cannot have, or is none: so set up, no model can be loaded."""

    code = "MODEL_UNAVAILABLE"


class NotActive(ForesightError):
    """The node is not active, or is shutting down."""

    code = "NOT_ACTIVE"


class Busy(ForesightError):
    """Another goal is running, and the node is set to reject."""

    code = "BUSY"


class NoFrames(ForesightError):
    """The buffer holds no frame that could serve."""

    code = "NO_FRAMES"


class StaleFrames(ForesightError):
    """The newest frame is too old to predict from."""

    code = "STALE_FRAMES"


class UnevenFrames(ForesightError):
    """A conditioning frame is missing at the model's rate."""

    code = "UNEVEN_FRAMES"


class GuardrailError(ForesightError):
    """Base of the guardrail's refusals."""


class PromptBlocked(GuardrailError):
    """The guardrail refused the prompt."""

    code = "BLOCKED_PROMPT"


class VideoBlocked(GuardrailError):
    """The guardrail refused the predicted frames."""

    code = "BLOCKED_VIDEO"


class GuardrailUnavailable(GuardrailError):
    """A guard is missing, failed, timed out or answered something unknown: nothing may leave."""

    code = "GUARDRAIL_UNAVAILABLE"


class ModelUnavailable(ForesightError):
    """The checkpoint is missing, damaged, or not what it should be."""

    code = "MODEL_UNAVAILABLE"


class NotFinite(ForesightError):
    """The model computed something that is no finite number: nothing of the rollout may leave."""

    code = "MODEL_UNAVAILABLE"


class RankLost(ForesightError):
    """One of the processes that run the model on several GPUs died or hung. The next prediction starts them anew."""


class OutOfMemory(ForesightError):
    """The device ran out of memory; what the goal held has been returned."""

    code = "OUT_OF_MEMORY"


class Canceled(ForesightError):
    """The caller asked to stop. Raised by an `on_progress` callback to end a prediction."""

    code = "CANCELED"


class Preempted(Canceled):
    """A newer goal took over."""

    code = "PREEMPTED"
