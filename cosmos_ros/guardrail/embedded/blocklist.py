"""The embedded profile's prompt guard: our own word lists, as whole words, with look-alike letters."""

from __future__ import annotations

import hashlib
import json
import re
import string
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
UNREADABLE = "\0"  # in the place of what is no plain letter, digit, sign or space


class EmbeddedBlocklist(PromptGuard):
    """Refuses prompts that hold an entry of our own lists, as whole words, in any case, with look-alike letters."""

    name = "blocklist"

    def __init__(self, lists: Mapping[str, tuple[str, ...]] = embedded_lists.BLOCKED) -> None:
        if not lists or not all(lists.values()):
            raise GuardrailUnavailable("the embedded blocklist is empty, or has an empty category")
        self._patterns = {category: _pattern(entries) for category, entries in lists.items()}
        self.weights = hashlib.sha256(json.dumps(dict(lists)).encode()).hexdigest()

    def judge(self, prompt: str) -> Judgement:
        text = _plain(prompt)
        if not re.search("[a-z0-9]", text):
            return Judgement(Verdict.REFUSED, "a prompt without a word that can be read")
        for category, pattern in self._patterns.items():
            if hit := pattern.search(text):
                return Judgement(Verdict.REFUSED, f"{category}: {hit.group().replace(UNREADABLE, '')!r}")
        return PASSED


def _plain(prompt: str) -> str:
    """The prompt in lower-case ASCII without accents; each character that has no such form becomes UNREADABLE.

    These are dashes, arrows, quotes, letters of other scripts, zero-width and control characters. They may stand
    between two words or hide within one, and the patterns read them both ways.
    """
    # Compatibility forms first, so that those of capitals are folded too; folding may compose letters again.
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", prompt).casefold().translate(HOMOGLYPHS))
    return "".join(
        letter if letter in string.printable else UNREADABLE for letter in plain if not unicodedata.combining(letter)
    )


def _pattern(entries: tuple[str, ...]) -> re.Pattern[str]:
    """Matches any of the entries as whole words. Raises GuardrailUnavailable where one of them is no words."""
    if wrong := [entry for entry in entries if not re.fullmatch(r"[a-z0-9]+([ -][a-z0-9]+)*", entry)]:
        raise GuardrailUnavailable(f"the embedded blocklist's entry {wrong[0]!r} is not lower-case words")
    words = (r"[\W_]+".join(map(_word_pattern, re.split(r"[\s-]+", entry))) for entry in entries)
    return re.compile(r"(?<![a-z0-9])(?:" + "|".join(words) + r")(?![a-z0-9])")


def _word_pattern(word: str) -> str:
    return f"{UNREADABLE}*".join(f"[{re.escape(LOOK_ALIKES.get(letter, letter))}]" for letter in word)
