"""Aegis: LlamaGuard-7b with NVIDIA's adapter reads the prompt and says whether it is safe.

Unlike the published code it fails closed: an exception, or an answer that is neither safe nor unsafe, refuses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.cosmos.aegis_policy import CATEGORIES, question
from cosmos_ros.guardrail.cosmos.local_models import huggingface
from cosmos_ros.guardrail.guard import PASSED, PROMPT_GUARD, Judgement, PromptGuard, require_finite, sha256_of
from cosmos_ros.guardrail_report import Verdict

BASE = "meta-llama/LlamaGuard-7b"
ADAPTER = "nvidia/Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0"
MAX_NEW_TOKENS = 100
CATEGORY_TOKENS = 24  # for the line of categories, once the verdict is there


class Aegis(PromptGuard):
    """The model out of a folder in Hugging Face's cache layout, in bfloat16, as published.

    Raises GuardrailUnavailable where the folder does not hold base and adapter whole, with finite weights, and where
    `transformers` or `peft` is not installed.
    """

    name = "aegis"

    def __init__(self, folder: Path, memory: DeviceMemory) -> None:
        transformers = huggingface.transformers()
        base, adapter = huggingface.snapshot(folder, BASE), huggingface.snapshot(folder, ADAPTER)
        self.weights = sha256_of(huggingface.files_of(base) + huggingface.files_of(adapter), folder)
        self._device = memory.device
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(base), local_files_only=True)
        model = huggingface.load(transformers.AutoModelForCausalLM, base, dtype=torch.bfloat16)
        model.register_forward_hook(_require_finite_logits)
        model = _adapted(model, adapter)
        require_finite(folder, model)
        self._model = memory.hold(PROMPT_GUARD, model)
        self.parts = (self._model,)

    def judge(self, prompt: str) -> Judgement:
        return judgement_of(self._complete(question(prompt)))

    @torch.inference_mode()
    def _complete(self, text: str) -> str:
        """The model's answer, cut short once nothing in it can change the verdict."""
        asked = self._tokenizer([text], add_special_tokens=False, return_tensors="pt").to(self._device)
        length = asked["input_ids"].shape[1]

        def decided(tokens: torch.Tensor, _: Any) -> torch.Tensor:
            answer = self._answer(tokens, length)
            done = "unsafe" in answer.lower() and (
                answer.strip().count("\n") > 1 or tokens.shape[1] - length >= CATEGORY_TOKENS
            )
            return torch.full((len(tokens),), done, device=tokens.device)

        with self._model.in_use() as model:
            tokens = model.generate(
                **asked,
                max_new_tokens=MAX_NEW_TOKENS,
                pad_token_id=self._tokenizer.eos_token_id,
                stopping_criteria=[decided],
            )
        return self._answer(tokens, length)

    def _answer(self, tokens: torch.Tensor, length: int) -> str:
        return self._tokenizer.decode(tokens[0, length:], skip_special_tokens=True)


def judgement_of(completion: str) -> Judgement:
    """What an answer of the model means. "unsafe" anywhere in it refuses.

    Raises ValueError where it says neither safe nor unsafe.
    """
    if "unsafe" in completion.lower():
        codes = re.findall(r"O\d+", completion)
        named = [f"{code} {CATEGORIES.get(code, '(no category of the policy)')}" for code in codes]
        return Judgement(Verdict.REFUSED, ", ".join(named) or "unsafe, no category given")
    if re.match(r"\s*safe\b", completion, re.IGNORECASE):
        return PASSED
    raise ValueError(f"the answer is neither safe nor unsafe: {completion[:80]!r}")


def _adapted(model: Any, adapter: Path) -> Any:
    """The model under the adapter. Raises GuardrailUnavailable where not every one of its weights was found."""
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise huggingface.not_installed("peft") from error
    adapted = PeftModel.from_pretrained(model, str(adapter), local_files_only=True).to(torch.bfloat16).eval()
    if _names_in(adapter) != set(get_peft_model_state_dict(adapted)):
        raise GuardrailUnavailable(f"the adapter in {adapter} does not fit the model; its weights were not all found")
    return adapted


def _names_in(adapter: Path) -> set[str]:
    """The weights that peft reads, by name."""
    from safetensors import safe_open

    kind = huggingface.weights_kind(adapter)
    file = adapter / f"adapter_model{kind}"
    if kind == ".bin":
        return set(torch.load(file, map_location="cpu", weights_only=True))
    with safe_open(str(file), framework="pt") as opened:
        return set(opened.keys())


def _require_finite_logits(_module: Any, _inputs: Any, output: Any) -> None:
    """A hook behind the model: generate() would take the first NaN for the likeliest word."""
    if not torch.isfinite(output.logits).all():
        raise ValueError("the model's logits are not finite")
