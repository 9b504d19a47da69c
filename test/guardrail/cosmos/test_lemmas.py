"""The blocklist's lemmas: nltk's own, from the data of the folder that was given and of no other."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("nltk", reason="needs requirements/guardrail.txt")

from nltk.corpus.reader.wordnet import WordNetCorpusReader  # noqa: E402

from cosmos_ros.errors import GuardrailUnavailable  # noqa: E402
from cosmos_ros.guardrail.cosmos.lemmas import Lemmatizer, _is_entry  # noqa: E402

INDEX, IRREGULAR = "corpora/wordnet/index.noun", "corpora/wordnet/noun.exc"
ENGLISH = "tokenizers/punkt_tab/english"


@pytest.fixture
def data(published, tmp_path) -> Path:
    """A copy of the folder's nltk_data."""
    return Path(shutil.copytree(published / "blocklist" / "nltk_data", tmp_path / "nltk_data"))


def nltks_lemma(word: str, nouns: set[str], irregular: dict[str, list[str]]) -> str:
    """As nltk.WordNetLemmatizer gives it, with a reader that was filled by hand."""
    reader = WordNetCorpusReader.__new__(WordNetCorpusReader)
    reader._lemma_pos_offset_map = {noun: {"n": [1]} for noun in nouns}
    reader._exception_map = {"n": irregular}
    lemmas = reader._morphy(word, "n")
    return min(lemmas, key=len) if lemmas else word


STEM = st.sampled_from(["x", "wol"])  # few, so that words meet
END = st.sampled_from(["", "s", "es", "ses", "ies", "ves", "men", "man", "ches", "y", "f"])
WORD = st.builds(str.__add__, STEM, END)


@given(word=WORD, nouns=st.sets(WORD, min_size=1), irregular=st.dictionaries(WORD, st.lists(WORD, min_size=1)))
def test_lemmas_are_nltks(published, word, nouns, irregular):
    lemmatizer = Lemmatizer(published / "blocklist" / "nltk_data")
    lemmatizer._nouns, lemmatizer._irregular = nouns, irregular
    assert lemmatizer.lemma(word) == nltks_lemma(word, nouns, irregular)


def test_words_are_split_by_sentence_as_word_tokenize_does(published):
    """An abbreviation that the folder knows ends no sentence, and keeps its period."""
    lemmas = Lemmatizer(published / "blocklist" / "nltk_data")("It isn't approx. Two knives. Turnips, moreover.")
    assert lemmas == "It is n't approx. Two knife . Turnips , moreover ."


def emptied(data: bytes) -> bytes:
    return b""


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without_its_last_bytes(data: bytes) -> bytes:
    return data[:-5]


def cut_behind_its_licence(data: bytes) -> bytes:
    return data.splitlines(keepends=True)[0]


def garbled(data: bytes) -> bytes:
    return b"\xff\xfe not what it was \x80" * 20


def prose(data: bytes) -> bytes:
    return b"not\twhat\tit\twas\n"


FAULTS: list[tuple[str, Callable[[bytes], bytes]]] = [
    *((INDEX, fault) for fault in (emptied, halved, without_its_last_bytes, cut_behind_its_licence, garbled, prose)),
    *((IRREGULAR, fault) for fault in (emptied, halved, without_its_last_bytes, garbled)),
    *(
        (f"{ENGLISH}/{name}", fault)
        for fault in (emptied, garbled, prose)
        for name in ("abbrev_types.txt", "sent_starters.txt", "collocations.tab", "ortho_context.tab")
    ),
]


@pytest.mark.parametrize("name, fault", FAULTS)
def test_damage_is_noticed_though_whole_data_was_read_before(published, data, name, fault):
    Lemmatizer(published / "blocklist" / "nltk_data")("two knives")
    (data / name).write_bytes(fault((data / name).read_bytes()))
    with pytest.raises(GuardrailUnavailable, match=str(data / name)):
        Lemmatizer(data)


@pytest.mark.parametrize("name", [INDEX, IRREGULAR, "corpora", ENGLISH, f"{ENGLISH}/ortho_context.tab"])
def test_what_is_missing_is_not_taken_from_elsewhere(published, data, name, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [str(published / "blocklist" / "nltk_data")])
    (data / name).rename(data / "away")
    with pytest.raises(GuardrailUnavailable, match=r"nltk_data.* (does not exist|cannot be used).*; it needs"):
        Lemmatizer(data)


def test_two_folders_lemmatize_each_by_its_own_data(published, data):
    (data / IRREGULAR).write_text("turnipim turnip\n")
    one, other = Lemmatizer(published / "blocklist" / "nltk_data"), Lemmatizer(data)
    assert (one("knives turnipim"), other("knives turnipim")) == ("knife turnipim", "knives turnip")


def test_packages_may_be_zip_files(data):
    expected = Lemmatizer(data)("two knives. However, turnips")
    for package in (data / "corpora" / "wordnet", data / "tokenizers" / "punkt_tab"):
        shutil.make_archive(str(package), "zip", package.parent, package.name)
        shutil.rmtree(package)
    assert Lemmatizer(data)("two knives. However, turnips") == expected
    whole = (data / "corpora" / "wordnet.zip").read_bytes()
    (data / "corpora" / "wordnet.zip").write_bytes(whole[: len(whole) // 2])
    assert not zipfile.is_zipfile(data / "corpora" / "wordnet.zip")
    with pytest.raises(GuardrailUnavailable, match="zip"):
        Lemmatizer(data)


@pytest.mark.parametrize("line", ["knife n 1 2 @ ~ 1 1 00000042", "a'man n 2 0 2 0 08499550 00000001"])
def test_an_entry_that_lost_any_of_its_fields_is_none(line):
    fields = line.split()
    assert _is_entry(fields)
    assert not any(_is_entry(fields[:index] + fields[index + 1 :]) for index in range(len(fields)))
    assert not _is_entry([*fields[:-1], fields[-1][:-1]])
