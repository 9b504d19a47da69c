"""The guardrail: every prompt and every predicted frame passes it, and it fails closed."""

from cosmos_ros.guardrail.guardrail import Guardrail

__all__ = ["Guardrail"]
