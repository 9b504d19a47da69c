"""The published blocklist: the reference's decision on every prompt, but for the faults that the module names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("better_profanity", reason="needs requirements/guardrail.txt")
pytest.importorskip("nltk", reason="needs requirements/guardrail.txt")

from better_profanity.better_profanity import Profanity  # noqa: E402
from better_profanity.varying_string import VaryingString  # noqa: E402

from cosmos_ros.errors import GuardrailUnavailable  # noqa: E402
from cosmos_ros.guardrail.cosmos.blocklist import COSMOS_1_0, PREDICT1, Blocklist, LookAlikes  # noqa: E402
from cosmos_ros.guardrail_report import Verdict  # noqa: E402

# Lists and prompts of our own; the decisions of cosmos-predict1 4ed35fa at (4, 0.5) and (6, 0.4) on them.
REFERENCE = json.loads((Path(__file__).parents[2] / "data" / "guardrail" / "blocklist_decisions.json").read_text())
MAP = Profanity().CHARS_MAPPING


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lists") / "blocklist"
    shutil.copytree(published / "blocklist" / "nltk_data", folder / "nltk_data")
    for name, entries in REFERENCE["lists"].items():
        (folder / name).mkdir()
        (folder / name / "words.txt").write_text("\n".join(entries) + "\n")
    return folder


def blocked(blocklist: Blocklist, prompt: str) -> bool:
    return blocklist.judge(prompt).verdict is Verdict.REFUSED


@pytest.mark.slow
@pytest.mark.parametrize("near, column", [(COSMOS_1_0, 1), (PREDICT1, 2)], ids=["Cosmos 1.0", "Predict1"])
def test_decisions_are_the_references(folder, near, column):
    blocklist = Blocklist(folder, near)
    differing = [row for row in REFERENCE["decisions"] if blocked(blocklist, row[0]) != row[column]]
    assert len(REFERENCE["decisions"]) > 400 and not differing


LISTS = {
    "custom": "turnip\nhot potato\n",
    "whitelist": "Tvrnip\n",
    "exact_match": "purple  Rain\na b\n$so\n$cas\n$cash\n$money\n",
}
BOTH, NONE, COSMOS = (True, True), (False, False), (True, False)


@pytest.mark.parametrize(
    "prompt, decisions",
    [
        ("a turnip, tvrnip", BOTH),
        ("a 7urnip", BOTH),
        ("a tvrnip", NONE),
        ("a (TVRNIP), please", NONE),
        ("hot potato tvrnip x", BOTH),  # the whitelisted word's mark is elsewhere
        ("purple\u65e5\u672crain", BOTH),
        ("a  \n b", BOTH),
        ("\ta B.", BOTH),
        ("purple. rain", COSMOS),
        ("pay $so now", NONE),
        ("pay $cas now", COSMOS),
        ("pay $cash now", COSMOS),
        ("pay $money now", BOTH),
    ],
)
def test_whitelist_white_space_and_lengths_count_as_in_the_reference(folder, tmp_path, prompt, decisions):
    """Decisions of cosmos-predict1 4ed35fa as above, on lists in which these matter."""
    for name, text in LISTS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.txt").write_text(text)
    (tmp_path / "nltk_data").symlink_to(folder / "nltk_data")
    assert tuple(blocked(Blocklist(tmp_path, near), prompt) for near in (COSMOS_1_0, PREDICT1)) == decisions


def test_an_asterisk_alone_is_no_offence(folder):
    blocklist = Blocklist(folder)
    assert not blocked(blocklist, "lift the * cube *")
    assert blocked(blocklist, "lift the t*rnip")


def test_a_whitelisted_word_behind_a_phrase_is_passed_over(folder):
    """The reference ends in an IndexError here: the phrase became one mark, so the last index is beyond the words."""
    assert blocked(Blocklist(folder), "a hot potato turnin")


def test_a_reason_names_list_and_entry(folder):
    blocklist = Blocklist(folder)
    assert blocklist.judge("a Turn1p").detail == "custom: a ████"
    assert blocklist.judge("two knives").detail == "custom, as a lemma: two ████"
    assert blocklist.judge("it is  PURPLE rain").detail == "exact_match: 'purple rain'"


def test_settings_tell_the_families_apart(folder):
    assert Blocklist(folder, COSMOS_1_0).settings != Blocklist(folder, PREDICT1).settings
    assert Blocklist(folder, COSMOS_1_0).weights == Blocklist(folder, PREDICT1).weights


def test_the_folders_own_words_are_read_from_every_file(folder, tmp_path):
    copy = tmp_path / "blocklist"
    shutil.copytree(folder, copy)
    (copy / "custom" / "more").write_text("gizmo")
    assert blocked(Blocklist(copy), "the gizmo") and not blocked(Blocklist(folder), "the gizmo")


def test_lists_that_decide_differently_never_share_a_hash(folder, tmp_path):
    """The same contents under other names: better-profanity finds look-alikes of what stands in `custom` alone."""
    one, other = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("one", "other"))
    (one / "custom" / "more").write_text("gizmo\nspoon\n")
    (other / "exact_match" / "more").write_text("gizmo\nspoon\n")
    guards = Blocklist(one), Blocklist(other)
    assert [blocked(guard, "a sp00n") for guard in guards] == [True, False]
    assert guards[0].weights != guards[1].weights


def test_a_whitelist_that_takes_back_all_of_custom_is_refused(folder, tmp_path):
    """The published code falls back to better-profanity's own list here."""
    copy = Path(shutil.copytree(folder, tmp_path / "blocklist"))
    shutil.copytree(copy / "custom", copy / "whitelist", dirs_exist_ok=True)
    with pytest.raises(GuardrailUnavailable, match="takes back every entry"):
        Blocklist(copy)


@pytest.mark.parametrize("text", ["\ndrax\n", "drax\n\n", " \t\r\n\r\ndrax", "\ufeffdrax\n", "\u65e5\u672c\n\ndrax"])
@pytest.mark.parametrize("name", ["a", "z"])
def test_a_blank_line_switches_no_entry_off(folder, tmp_path, text, name):
    """Neither in its own file nor in those before and behind it; nor does it take a mark back from the whitelist."""
    copy = Path(shutil.copytree(folder, tmp_path / "blocklist"))
    for kind in ("custom", "whitelist", "exact_match"):
        (copy / kind / f"{name}.txt").write_text(text if kind != "whitelist" else "\n \n", encoding="utf-8")
    for kind in ("custom", "exact_match"):
        (copy / kind / "m.txt").write_text(f"gizmo{kind}\n")
    blocklist = Blocklist(copy)
    assert all(blocked(blocklist, prompt) for prompt in ("the drax", "a gizmocustom", "a gizmoexact_match"))
    assert blocked(blocklist, "a hot potato -- drax") and not blocked(blocklist, "a harmless cube")


@pytest.mark.parametrize("kind", ["custom", "exact_match"])
@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "\u65e5\u672c\n", "\u65e51\nm\u00fcrder\n", "--\n***\n"])
def test_a_list_that_no_prompt_can_match_is_refused(folder, tmp_path, kind, text):
    copy = Path(shutil.copytree(folder, tmp_path / "blocklist"))
    shutil.rmtree(copy / kind)
    (copy / kind).mkdir()
    (copy / kind / "words.txt").write_text(text, encoding="utf-8")
    with pytest.raises(GuardrailUnavailable, match=f"{kind} has no entry"):
        Blocklist(copy)


LETTERS = st.text(alphabet="aeiouvlstxz@$*01347", max_size=6)


@given(entries=st.lists(LETTERS.filter(bool), min_size=1, max_size=5), word=LETTERS)
def test_look_alikes_are_better_profanitys(entries, word):
    slow = [VaryingString(entry, char_map=MAP) for entry in entries]
    assert (word in LookAlikes(entries, MAP)) == any(entry == word for entry in slow)


def test_an_empty_set_of_look_alikes_is_empty():
    """better-profanity falls back to a list of its own where its set is empty."""
    assert not LookAlikes([], MAP) and len(LookAlikes(["a", "b"], MAP)) == 2
