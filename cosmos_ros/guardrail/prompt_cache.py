"""Prompts that were judged before are not judged again under the same weights."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from cosmos_ros.guardrail.guard import Judgement, PromptGuard


class VerdictCache:
    """The last `size` verdicts on prompts, by guard, weights' hash, settings and text. Failures are never kept."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._verdicts: OrderedDict[str, Judgement] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, guard: PromptGuard, prompt: str) -> Judgement | None:
        with self._lock:
            return self._verdicts.get(_key(guard, prompt))

    def put(self, guard: PromptGuard, prompt: str, judgement: Judgement) -> None:
        with self._lock:
            self._verdicts[_key(guard, prompt)] = judgement
            while len(self._verdicts) > self._size:
                self._verdicts.popitem(last=False)


def _key(guard: PromptGuard, prompt: str) -> str:
    parts = (guard.name, guard.weights, guard.settings, prompt)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


VERDICTS = VerdictCache()
