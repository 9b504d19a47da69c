"""The embedded profile's prompt guard: our own word lists, as whole words, with look-alike letters."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.embedded import lists as embedded_lists
from cosmos_ros.guardrail.guard import PASSED, Judgement, PromptGuard
from cosmos_ros.guardrail_report import Verdict

# What may stand for a letter. A prompt is folded to plain ASCII first, so accents and full-width letters are gone.
LOOK_ALIKES = {
    "a": "a@4*",
    "b": "b8",
    "e": "e3*",
    "g": "g9",
    "i": "i1l!|*",
    "l": "l1i|",
    "o": "o0*",
    "s": "s5$",
    "t": "t7+",
    "u": "uv*",
    "v": "vu",
    "z": "z2",
}
HOMOGLYPHS = str.maketrans("аеорсухіѕјԁɡαεορυι", "aeopcyxisjdgaeopui")  # Cyrillic and Greek letters that look Latin


class EmbeddedBlocklist(PromptGuard):
    """Refuses prompts that hold an entry of our own lists, as whole words, in any case, with look-alike letters."""

    name = "blocklist"

    def __init__(self, lists: Mapping[str, tuple[str, ...]] = embedded_lists.BLOCKED) -> None:
        self._patterns = {category: _pattern(entries) for category, entries in lists.items() if entries}
        if not self._patterns:
            raise GuardrailUnavailable("the embedded blocklist is empty")
        self.weights = hashlib.sha256(json.dumps(dict(lists)).encode()).hexdigest()

    def judge(self, prompt: str) -> Judgement:
        text = _fold(prompt)
        if not text.strip():
            return Judgement(Verdict.REFUSED, "a prompt without a word that can be read")
        for category, pattern in self._patterns.items():
            if hit := pattern.search(text):
                return Judgement(Verdict.REFUSED, f"{category}: {hit.group()!r}")
        return PASSED


def _fold(prompt: str) -> str:
    """Plain lower-case ASCII as far as the letters allow."""
    plain = unicodedata.normalize("NFKD", prompt.casefold().translate(HOMOGLYPHS))
    return plain.encode("ascii", "ignore").decode()


def _pattern(entries: tuple[str, ...]) -> re.Pattern[str]:
    words = (r"[\W_]+".join(map(_word_pattern, re.split(r"[\s-]+", entry))) for entry in entries)
    return re.compile(r"(?<![a-z0-9])(?:" + "|".join(words) + r")(?![a-z0-9])")


def _word_pattern(word: str) -> str:
    return "".join(f"[{re.escape(LOOK_ALIKES.get(letter, letter))}]" for letter in word)
