"""A prompt's words as lemmas, by nltk's algorithms on the WordNet and Punkt data of one folder.

nltk itself keeps one WordNet and one Punkt for the whole process, from whichever folder it found first, or from a cache
of its own. Here the data is read from the folder whose hash the guard reports, and a damaged file is noticed. Only
WordNet's nouns are read: nltk's reader needs all of its files, and seconds to read them.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.cosmos.local_models import huggingface
from cosmos_ros.reading import reading

Folder = Path | zipfile.Path


class Lemmatizer:
    """nltk's word_tokenize and WordNetLemmatizer on an `nltk_data` folder, its packages unpacked or as zip files.

    Raises GuardrailUnavailable where `corpora/wordnet` or `tokenizers/punkt_tab` is missing, empty or damaged, and
    where `nltk` is not installed.
    """

    def __init__(self, nltk_data: Path) -> None:
        try:
            from nltk.corpus.reader.wordnet import NOUN, WordNetCorpusReader
            from nltk.tokenize import NLTKWordTokenizer
        except ImportError as error:
            raise huggingface.not_installed("nltk") from error
        self._endings = WordNetCorpusReader.MORPHOLOGICAL_SUBSTITUTIONS[NOUN]
        self._words = NLTKWordTokenizer()
        remedy = "it needs corpora/wordnet and tokenizers/punkt_tab, whole"
        with reading(nltk_data, GuardrailUnavailable, fault="cannot be used", remedy=remedy):
            wordnet = _package(nltk_data / "corpora" / "wordnet")
            self._nouns = _nouns(wordnet / "index.noun")
            self._irregular = _irregular(wordnet / "noun.exc")
            self._sentences = _sentence_tokenizer(_package(nltk_data / "tokenizers" / "punkt_tab") / "english")

    def __call__(self, text: str) -> str:
        """The text's words, each as the lemma of a noun where it is one, joined by spaces."""
        sentences = self._sentences.tokenize(text)
        return " ".join(self.lemma(word) for sentence in sentences for word in self._words.tokenize(sentence))

    def lemma(self, word: str) -> str:
        """The shortest noun that the word is a form of, by WordNet's rules (morphy); else the word itself."""
        stems = self._irregular.get(word) or [
            word[: -len(ending)] + singular for ending, singular in self._endings if word.endswith(ending)
        ]
        return min((form for form in (word, *stems) if form in self._nouns), key=len, default=word)


def _package(folder: Path) -> Folder:
    """A package of nltk's data: the folder, or the one inside the zip file of its name."""
    archive = folder.with_name(f"{folder.name}.zip")
    return folder if folder.is_dir() or not archive.is_file() else zipfile.Path(archive) / folder.name


def _nouns(index: Folder) -> set[str]:
    nouns = set()
    for number, line in enumerate(_lines(index), start=1):
        if line.startswith(" "):  # the licence
            continue
        if not _is_entry(fields := line.split()):
            raise ValueError(f"line {number} of {index} is no entry: {line[:60]!r}")
        nouns.add(fields[0])
    if not nouns:
        raise ValueError(f"{index} has no entries")
    return nouns


def _is_entry(fields: list[str]) -> bool:
    """Whether a line has WordNet's form, wndb(5WN): lemma, pos, senses n, pointers p, p symbols, n, tagged, n offsets
    of eight digits."""
    try:
        senses, pointers = int(fields[2]), int(fields[3])
        offsets = fields[pointers + 6 :]
        complete = fields[1] == "n" and int(fields[pointers + 4]) == len(offsets) == senses > 0
    except (ValueError, IndexError):
        return False
    return complete and all(len(offset) == 8 and offset.isdigit() for offset in offsets)


def _irregular(exceptions: Folder) -> dict[str, list[str]]:
    """Forms that no rule gives, and what they are forms of."""
    words = [line.split() for line in _lines(exceptions)]
    if not words or min(map(len, words)) < 2:
        raise ValueError(f"{exceptions} is empty, or has a line that does not name a form and its noun")
    return {form: stems for form, *stems in words}


def _sentence_tokenizer(language: Folder) -> Any:
    """An nltk.tokenize.punkt.PunktSentenceTokenizer with the parameters of one language's folder."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = {word for (word,) in _rows(language / "abbrev_types.txt", columns=1)}
    parameters.sent_starters = {word for (word,) in _rows(language / "sent_starters.txt", columns=1)}
    parameters.collocations = set(_rows(language / "collocations.tab", columns=2))
    contexts = _rows(language / "ortho_context.tab", columns=2)
    parameters.ortho_context = defaultdict(int, {word: int(flags) for word, flags in contexts})
    return PunktSentenceTokenizer(parameters)


def _rows(table: Folder, columns: int) -> list[tuple[str, ...]]:
    rows = [tuple(line.split("\t")) for line in _text(table).removesuffix("\n").split("\n")]
    if any(len(row) != columns or not all(row) for row in rows):
        raise ValueError(f"{table} is empty, or has a line that is not of {columns} columns")
    return rows


def _lines(file: Folder) -> list[str]:
    """The lines of a file of WordNet, the last of which ends as the others do."""
    text = _text(file)
    if not text.endswith("\n"):
        raise ValueError(f"{file} is empty, or was cut")
    return text.splitlines()


def _text(file: Folder) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text: {error.reason}") from error
