"""What a Cosmos-1.0-Guardrail folder takes of the device, known from the files that its guards read."""

import os
from pathlib import Path

import pytest

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.cosmos.folder import needs_of
from cosmos_ros.guardrail.guard import sha256_of

LLAMA = "aegis/models--meta-llama--LlamaGuard-7b"
ADAPTER = "aegis/models--nvidia--Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0/snapshots/2"
SIGLIP = "video_content_safety_filter/models--google--siglip-so400m-patch14-384/snapshots/3"
OF_PROMPTS = {
    f"{LLAMA}/snapshots/1/model-00001-of-00002": 1000,
    f"{LLAMA}/snapshots/1/model-00002-of-00002": 200,
    f"{ADAPTER}/adapter_model": 30,
}


@pytest.fixture
def write(tmp_path):
    """write(files): so many bytes in each, below the guardrail's folder."""

    def write(files):
        for name, size in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(bytes(size))

    return write


def weights_counted(folder, takes_prompt=True):
    return {need.name: need.weights for need in needs_of(folder, takes_prompt)}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_of_a_guardrail_folder_the_files_count_that_its_guards_read(suffix, write, tmp_path):
    write({name + suffix: size for name, size in (OF_PROMPTS | {f"{SIGLIP}/model": 4000}).items()})
    write({"video_content_safety_filter/safety_filter.pt": 5, "face_blur_filter/Resnet50_Final.pth": 60})
    assert weights_counted(tmp_path) == {"prompt guard": 1230, "video guard": 4065}
    assert weights_counted(tmp_path, takes_prompt=False) == {"video guard": 4065}
    # Read by no guard: an older revision, other formats and other files than those that a guard asks for.
    write(
        {
            f"{LLAMA}/refs/main": 0,
            f"{LLAMA}/snapshots/0/model{suffix}": 7,
            f"{LLAMA}/snapshots/1/consolidated.pth": 7,
            f"{SIGLIP}/onnx/model{suffix}": 7,
            "face_blur_filter/mobilenet0.25_Final.pth": 7,
        }
    )
    (tmp_path / LLAMA / "refs" / "main").write_text("1")
    write({name + ".bin": 9 * size for name, size in OF_PROMPTS.items() if suffix != ".bin"})
    assert weights_counted(tmp_path) == {"prompt guard": 1230, "video guard": 4065}


def test_weights_that_a_cache_links_to_count_with_their_own_size(write, tmp_path):
    link = tmp_path / SIGLIP / "model.safetensors"
    write({f"{Path(SIGLIP).parents[1]}/blobs/1234": 4000, "face_blur_filter/Resnet50_Final.pth": 60})
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/1234")
    (link.parent / "circle.safetensors").symlink_to("circle.safetensors")
    assert weights_counted(tmp_path, takes_prompt=False) == {"video guard": 4060}


def test_a_guard_without_weights_is_told(write, tmp_path):
    write({f"{SIGLIP}/model.safetensors": 1, **{f"{name}.txt": 1 for name in OF_PROMPTS}})
    with pytest.raises(GuardrailUnavailable, match=r"snapshots/1 holds no weights"):
        weights_counted(tmp_path)


def test_a_pipe_among_a_guards_files_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "Resnet50_Final.pth")
    with pytest.raises(GuardrailUnavailable, match=r"Resnet50_Final\.pth is a named pipe"):
        sha256_of([tmp_path / "Resnet50_Final.pth"], tmp_path)
