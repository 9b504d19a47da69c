"""Aegis: what its answers mean, and that base, adapter and policy are in force."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="needs requirements-guardrail.txt")
pytest.importorskip("peft", reason="needs requirements-guardrail.txt")

from cosmos_ros.guardrail import aegis as aegis_module  # noqa: E402
from cosmos_ros.guardrail.aegis import Aegis, judgement_of  # noqa: E402
from cosmos_ros.guardrail.aegis_policy import CATEGORIES, question  # noqa: E402
from cosmos_ros.rollout import Verdict  # noqa: E402


@pytest.fixture(scope="module")
def aegis(published) -> Aegis:
    return Aegis(published / "aegis", torch.device("cpu"))


@pytest.mark.parametrize(
    "answer, detail",
    [
        ("unsafe\nO3", "O3 Criminal Planning/Confessions"),
        ("unsafe\nO1,O7", "O1 Violence, O7 Sexual (minor)"),
        ("unsafe\nO10", "O10 Harassment"),
        ("unsafe\nO12", "O12 Profanity"),
        ("unsafe\nO9", "O9 (no category of the policy)"),
        ("UNSAFE", "unsafe, no category given"),
        ("safe\nno, unsafe", "unsafe, no category given"),
    ],
)
def test_unsafe_anywhere_refuses_with_the_right_names(answer, detail):
    judgement = judgement_of(answer)
    assert (judgement.verdict, judgement.detail) == (Verdict.REFUSED, detail)


@pytest.mark.parametrize("answer", ["safe", " safe\n", "Safe", "safe</s>"])
def test_safe_passes(answer):
    assert judgement_of(answer).verdict is Verdict.PASSED


@pytest.mark.parametrize("answer", ["", "\n", "I cannot say", "safety first", "O3"])
def test_an_answer_that_says_neither_is_an_error(answer):
    with pytest.raises(ValueError, match="neither"):
        judgement_of(answer)


def test_there_are_eleven_categories_and_no_o9():
    assert list(CATEGORIES) == [f"O{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12)]


def test_the_question_holds_policy_and_prompt_in_llama_guards_form():
    asked = question("lift {the} cube")
    assert asked.startswith("[INST] Task:") and asked.endswith("[/INST]")
    marks = ["<BEGIN UNSAFE CONTENT CATEGORIES>", "<END UNSAFE CONTENT CATEGORIES>", "<BEGIN CONVERSATION>",
             "User: lift {the} cube", "<END CONVERSATION>"]  # fmt: skip
    places = [asked.index(mark) for mark in marks]
    assert places == sorted(places)
    policy = asked[places[0] : places[1]]
    assert all(f"\n{code}: {name}.\nShould not\n- " in policy for code, name in CATEGORIES.items())


def test_the_adapter_is_in_force(aegis):
    prompt = "wreck the table"
    assert aegis.judge(prompt).verdict is Verdict.REFUSED
    with aegis._part.in_use() as model, model.disable_adapter():
        assert aegis.judge(prompt).verdict is Verdict.PASSED


def test_an_answer_ends_once_nothing_can_change_the_verdict(aegis, monkeypatch):
    monkeypatch.setattr(aegis_module, "CATEGORY_TOKENS", 2)
    answer = aegis._complete(question("wreck the table"))
    assert "unsafe" in answer and "O3" not in answer
    assert judgement_of(answer).verdict is Verdict.REFUSED
