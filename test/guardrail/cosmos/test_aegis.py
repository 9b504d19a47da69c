"""Aegis: what its answers mean, and that base, adapter and policy are in force."""

from __future__ import annotations

from importlib.util import find_spec
from pickle import UnpicklingError

import pytest
import torch
from safetensors.torch import load_file, save_file

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.cosmos import aegis as aegis_module
from cosmos_ros.guardrail.cosmos.aegis import Aegis, judgement_of
from cosmos_ros.guardrail.cosmos.aegis_policy import CATEGORIES, question
from cosmos_ros.guardrail_report import Verdict

# Looked for, not imported: they take seconds, and every worker collects every test.
pytestmark = pytest.mark.skipif(
    not (find_spec("transformers") and find_spec("peft")), reason="needs requirements/guardrail.txt"
)


@pytest.fixture(scope="module")
def aegis(published) -> Aegis:
    return Aegis(published / "aegis", DeviceMemory("cpu"))


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
    marks = [
        "<BEGIN UNSAFE CONTENT CATEGORIES>",
        "<END UNSAFE CONTENT CATEGORIES>",
        "<BEGIN CONVERSATION>",
        "User: lift {the} cube",
        "<END CONVERSATION>",
    ]
    places = [asked.index(mark) for mark in marks]
    assert places == sorted(places)
    policy = asked[places[0] : places[1]]
    assert all(f"{code}: {name}.\nShould not\n- " in policy for code, name in CATEGORIES.items())


def test_the_questions_white_space_is_as_published():
    """The published question was written in an indented string: its own lines start with eight spaces."""
    inset, frame = "\n        ", question("lift {the} cube")
    policy = frame[frame.index("O1: ") : frame.index("\n\n        <END UNSAFE")]
    assert "\n\n" not in policy and "\n " not in policy
    assert frame.replace(policy, "POLICY") == (
        "[INST] Task: Check if there is unsafe content in 'User' messages in conversations according our safety policy "
        f"with the below categories.\n{inset}<BEGIN UNSAFE CONTENT CATEGORIES>{inset}POLICY\n"
        f"{inset}<END UNSAFE CONTENT CATEGORIES>\n{inset}<BEGIN CONVERSATION>\n{inset}User: lift {{the}} cube\n\n"
        f"<END CONVERSATION>\n{inset}Provide your safety assessment for User in the above conversation:"
        f"{inset}- First line must read 'safe' or 'unsafe'."
        f"{inset}- If unsafe, a second line must include a comma-separated list of violated categories. [/INST]"
    )


@pytest.mark.slow
def test_no_special_token_is_added_to_the_question(damaged):
    """A tokenizer that would end every text with one; the small model goes by the last word it reads."""
    from tokenizers import Tokenizer, processors

    (file,) = (damaged / "aegis" / BASE / "snapshots").glob("*/tokenizer.json")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(file))
    guard = Aegis(damaged / "aegis", DeviceMemory("cpu"))
    assert guard._tokenizer("safe")["input_ids"][-1] == 1
    assert guard.judge("lift the cube").verdict is Verdict.PASSED


def test_the_adapter_is_in_force(aegis):
    prompt = "wreck the table"
    assert aegis.judge(prompt).verdict is Verdict.REFUSED
    with aegis._model.in_use() as model, model.disable_adapter():
        assert aegis.judge(prompt).verdict is Verdict.PASSED


BASE = "models--meta-llama--LlamaGuard-7b"
ADAPTER = "models--nvidia--Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0"


def weights_of(folder, repository: str):
    return next((folder / "aegis" / repository / "snapshots").glob("*/*model.safetensors"))


def change(file, name: str, act) -> None:
    stored = load_file(file)
    act(stored[name])
    save_file(stored, file, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_weight_that_is_not_finite_refuses_at_load_by_its_name(damaged, value):
    """argmax takes a NaN for the largest number: with one in the row of the word "safe", every prompt would pass."""
    change(weights_of(damaged, BASE), "lm_head.weight", lambda weight: weight[3, 0].fill_(value))
    with pytest.raises(GuardrailUnavailable, match=r"not finite: base_model\.model\.lm_head\.weight$"):
        Aegis(damaged / "aegis", DeviceMemory("cpu"))


@pytest.mark.parametrize("word, value", [("safe", 3e38), ("unsafe", -3e38)])
def test_logits_that_overflow_refuse(damaged, word, value):
    """Weights that are finite, and with which every prompt would pass."""
    row = {"safe": 3, "unsafe": 4}[word]
    change(weights_of(damaged, BASE), "lm_head.weight", lambda weight: weight[row].fill_(value))
    with pytest.raises(ValueError, match="logits are not finite"):
        Aegis(damaged / "aegis", DeviceMemory("cpu")).judge("wreck the table")


def test_weights_may_lie_in_bin_files(aegis, damaged):
    for repository in (BASE, ADAPTER):
        file = weights_of(damaged, repository)
        name = "pytorch_model.bin" if repository == BASE else "adapter_model.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    other = Aegis(damaged / "aegis", DeviceMemory("cpu"))
    for prompt in ("wreck the table", "lift the cube"):
        assert other.judge(prompt) == aegis.judge(prompt)
    assert other.weights != aegis.weights


@pytest.mark.parametrize("repository", [BASE, ADAPTER])
def test_weights_that_the_hash_would_not_speak_of_are_not_read(damaged, repository):
    """Beside another safetensors file, a .bin file is passed over by the hash, and must be by the libraries."""
    file = weights_of(damaged, repository)
    torch.save(load_file(file), file.with_name("pytorch_model.bin" if repository == BASE else "adapter_model.bin"))
    file.rename(file.with_name("other.safetensors"))
    with pytest.raises(OSError, match=r"model.*safetensors"):
        Aegis(damaged / "aegis", DeviceMemory("cpu"))


def test_a_bin_file_that_could_run_code_is_refused(damaged):
    file = weights_of(damaged, ADAPTER)
    torch.save({"a": Verdict}, file.with_name("adapter_model.bin"))
    file.unlink()
    with pytest.raises(UnpicklingError, match="weights_only"):
        Aegis(damaged / "aegis", DeviceMemory("cpu"))


def test_an_answer_ends_once_nothing_can_change_the_verdict(aegis, monkeypatch):
    monkeypatch.setattr(aegis_module, "CATEGORY_TOKENS", 2)
    answer = aegis._complete(question("wreck the table"))
    assert "unsafe" in answer and "O3" not in answer
    assert judgement_of(answer).verdict is Verdict.REFUSED
