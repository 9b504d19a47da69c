"""Cosmos-1.0-Guardrail's blocklist: its word lists, profanity matching, lemmas and near matches.

Decisions are the published code's on every prompt, except for three of its faults. A prompt that holds an asterisk is
not refused for it (the published code finds its own censor mark in it wherever standard output is no terminal). A
whitelisted word behind a phrase that was censored as one no longer ends in an IndexError; it is passed over. Blank
lines are no entries (the published code takes one in `exact_match` as part of every prompt, and refuses them all).
"""

from __future__ import annotations

import math
import re
import string
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.cosmos.lemmas import Lemmatizer
from cosmos_ros.guardrail.cosmos.local_models import huggingface
from cosmos_ros.guardrail.guard import PASSED, Judgement, PromptGuard, sha256_of
from cosmos_ros.guardrail_report import Verdict

CENSORED = "\u2588"  # no prompt can hold it: prompts are reduced to ASCII first


@dataclass(frozen=True)
class NearMatch:
    """When words of a prompt are as good as an entry of `exact_match`: the entry has at least `min_chars` characters,
    and difflib's ratio allows for `letters` of them to differ."""

    min_chars: int
    letters: float


COSMOS_1_0 = NearMatch(min_chars=4, letters=0.5)
PREDICT1 = NearMatch(min_chars=6, letters=0.4)


class Blocklist(PromptGuard):
    """The lists in `custom`, `whitelist` and `exact_match` of a folder, with the WordNet of its `nltk_data`.

    Raises GuardrailUnavailable where a list or the nltk data is missing, empty (the whitelist may be), or cannot be
    read, and where `better-profanity` or `nltk` is not installed.
    """

    name = "blocklist"

    def __init__(self, folder: Path, near: NearMatch = COSMOS_1_0) -> None:
        custom = _read_list(folder / "custom")
        exact = _read_list(folder / "exact_match")
        for name, entries in (("custom", custom), ("exact_match", exact)):
            if not any(map(_can_match, entries)):
                raise GuardrailUnavailable(f"the blocklist {folder / name} has no entry that a prompt could hold")
        self._whitelist = {entry.lower() for entry in _read_list(folder / "whitelist")}
        self._profanity = _profanity(custom, self._whitelist)
        self._lemmatize = Lemmatizer(folder / "nltk_data")
        self._exact = [_Entry(entry, near) for entry in exact]
        self.weights = sha256_of((path for path in folder.rglob("*") if path.is_file()), folder)
        self.settings = f"{near.min_chars}, {near.letters}"

    def judge(self, prompt: str) -> Judgement:
        if not prompt:
            return Judgement(Verdict.REFUSED, "an empty prompt")
        prompt = re.sub(r"[^\x00-\x7F]+", " ", prompt)
        for reading, text in (("custom", prompt), ("custom, as a lemma", self._lemmatize(prompt))):
            if censored := self._censored(text):
                return Judgement(Verdict.REFUSED, f"{reading}: {censored}")
        entry = self._exact_match(prompt)
        return PASSED if entry is None else Judgement(Verdict.REFUSED, f"exact_match: {entry!r}")

    def _censored(self, text: str) -> str:
        """The text with what is blocked struck out, or "" where nothing is.

        A whitelisted word takes back the mark at its index among the words. Behind a phrase that became
        one mark the indices no longer agree; that too is as published.
        """
        marked = self._profanity.censor(text, censor_char=CENSORED).split()
        for index, word in enumerate(text.split()):
            if index < len(marked) and word.strip(string.punctuation).lower() in self._whitelist:
                marked[index] = word
        censored = " ".join(marked)
        return censored if CENSORED in censored else ""

    def _exact_match(self, prompt: str) -> str | None:
        text = re.sub(r"\s+", " ", prompt).strip().lower()
        windows = _Windows(text.split())
        return next((entry.text for entry in self._exact if entry.matches(text, windows)), None)


class LookAlikes:
    """A set of words that also holds every spelling with look-alike characters, as better-profanity writes them.

    It replaces that library's own list, which is compared entry by entry and takes seconds for a long prompt. Here a
    lookup walks a tree of the entries.
    """

    END = ""

    def __init__(self, words: Iterable[str], look_alikes: dict[str, tuple[str, ...]]) -> None:
        self._letters: dict[str, set[str]] = defaultdict(set)  # what a character in a text may stand for
        for letter, characters in look_alikes.items():
            for character in characters:
                self._letters[character].add(letter)
        self._mapped = set(look_alikes)
        self._root: dict = {}
        self._size = 0
        for word in words:
            self._add(word)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, word: str) -> bool:
        nodes = [self._root]
        for character in word:
            letters = self._letters.get(character, set())
            if character not in self._mapped:
                letters = letters | {character}
            nodes = [node[letter] for node in nodes for letter in letters if letter in node]
        return any(self.END in node for node in nodes)

    def _add(self, word: str) -> None:
        node = self._root
        for letter in word:
            node = node.setdefault(letter, {})
        node[self.END] = {}
        self._size += 1


class _Windows:
    """Runs of consecutive words of a prompt, found by how many words and how many characters they have."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._of: dict[int, dict[int, set[str]]] = {}

    def of(self, n_words: int) -> dict[int, set[str]]:
        """All runs of n words, by their length in characters."""
        if n_words not in self._of:
            runs: dict[int, set[str]] = defaultdict(set)
            for start in range(len(self._words) - n_words + 1):
                run = " ".join(self._words[start : start + n_words])
                runs[len(run)].add(run)
            self._of[n_words] = runs
        return self._of[n_words]


class _Entry:
    """One line of `exact_match`."""

    def __init__(self, text: str, near: NearMatch) -> None:
        self.text = text
        self._word = re.sub(r"\s+", " ", text).strip().lower()
        self._whole_word = re.compile(r"\b" + re.escape(self._word) + r"\b")
        long_enough = len(self._word) >= near.min_chars
        self._ratio = (len(self._word) - near.letters) / len(self._word) if long_enough else math.inf

    def matches(self, text: str, windows: _Windows) -> bool:
        if self._word in text and self._whole_word.search(text):
            return True
        return self._ratio <= 1.0 and self._near_match(windows)

    def _near_match(self, windows: _Windows) -> bool:
        word, matcher = self._word, SequenceMatcher(None, b=self._word)
        for length, runs in windows.of(len(word.split())).items():
            # The ratio is 2 * matches / both lengths. Of runs too short or too long no letter need be looked at.
            if 2.0 * min(length, len(word)) / (length + len(word)) < self._ratio:
                continue
            if word in runs:
                return True
            if length == len(word) and 2.0 * (length - 1) / (2 * length) < self._ratio:
                continue
            for run in runs:
                matcher.set_seq1(run)
                if matcher.quick_ratio() >= self._ratio and matcher.ratio() >= self._ratio:
                    return True
        return False


def _read_list(folder: Path) -> list[str]:
    """Every line of every file in the folder, stripped, without blank ones and a byte order mark."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        lines = [line.strip() for file in files for line in file.read_text(encoding="utf-8-sig").split("\n")]
        return [line for line in lines if line]
    except (OSError, UnicodeDecodeError) as error:
        raise GuardrailUnavailable(f"the blocklist {folder} cannot be read: {error}") from error


def _can_match(entry: str) -> bool:
    """Whether a prompt could hold the entry: prompts are reduced to ASCII first."""
    return entry.isascii() and re.search(r"[A-Za-z0-9]", entry) is not None


def _profanity(custom: list[str], whitelist: set[str]) -> Any:
    """A better_profanity.Profanity that censors custom's entries, except those in the whitelist."""
    try:
        from better_profanity import Profanity
    except ImportError as error:
        raise huggingface.not_installed("better-profanity") from error
    # Made with its own list first, as published: the longest phrase there counts for how far phrases are looked for.
    profanity = Profanity()
    profanity.load_censor_words(custom, whitelist_words=list(whitelist))
    words = {word.lower() for word in custom} - whitelist
    if not any(map(_can_match, words)):
        raise GuardrailUnavailable("the blocklist's whitelist takes back every entry of custom")
    profanity.CENSOR_WORDSET = LookAlikes(words, profanity.CHARS_MAPPING)
    return profanity
