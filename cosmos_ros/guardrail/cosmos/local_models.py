"""Models in Hugging Face's layout, for the guardrail: one that is not whole is a guardrail that is missing."""

from __future__ import annotations

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.huggingface import LocalModels

huggingface = LocalModels(GuardrailUnavailable, user="Cosmos-1.0-Guardrail", requirements="requirements/guardrail.txt")
