"""Whatever a reader raises comes out as one refusal that says what was wrong and what to do."""

import errno
import zipfile

import pytest
import torch

from cosmos_ros.errors import GuardrailUnavailable, InvalidGoal, ModelUnavailable
from cosmos_ros.reading import Unusable, reading


class BadThing(Exception):
    pass


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            ValueError("no\nand more"),
            r"^model is damaged or cut short \(ValueError: no\); fetch it again$",
        ),
        (zipfile.BadZipFile("File is not a zip file"), r"\(BadZipFile: File is not a zip file\)"),
        (KeyError(), r"\(KeyError:\)"),
        (FileNotFoundError(errno.ENOENT, "No such file", "model/part"), "^model/part does not exist; fetch it again$"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "^model does not exist; fetch it again$"),
        (FileNotFoundError("in an archive"), r"^model is damaged or cut short \(FileNotFoundError: in an archive\)"),
        (PermissionError(errno.EACCES, "Permission denied", "model"), "Permission denied; let this user read it$"),
        (OSError(errno.EIO, "Input/output error"), "^model cannot be read: Input/output error$"),
        (OSError(errno.EINVAL, "Invalid argument"), "^model is damaged or cut short"),
        (Unusable("model holds nothing"), "^model holds nothing; fetch it again$"),
    ],
)
def test_a_refusal_says_what_was_wrong_and_what_to_do(raised, said):
    for refusal in (ModelUnavailable, GuardrailUnavailable, BadThing):
        with pytest.raises(refusal, match=said), reading("model", refusal):
            raise raised


@pytest.mark.parametrize("raised", [InvalidGoal("x"), BadThing("x"), MemoryError(), torch.OutOfMemoryError("x")])
def test_what_is_an_answer_already_passes_as_it_is(raised):
    with pytest.raises(type(raised)) as found, reading("model", BadThing):
        raise raised
    assert found.value is raised


def test_fault_and_remedy_are_the_callers():
    with (
        pytest.raises(BadThing, match=r"^model cannot serve \(ValueError: x\); take another$"),
        reading("model", BadThing, fault="cannot serve", remedy="take another"),
    ):
        raise ValueError("x")
