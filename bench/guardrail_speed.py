"""What the guards cost: Cosmos-1.0-Guardrail's networks at their real size, with weights of our own, on this device.

    PYTHONPATH=. python bench/guardrail_speed.py [--tiny] [--folder DIRECTORY]

Writes a folder of the published format (LlamaGuard-7b with an adapter, SigLIP so400m at 384, the classifier and
RetinaFace with a ResNet-50; 18 GB), loads it with the code that loads NVIDIA's, and times the prompt guard on a
200-word prompt and the video guards on 24 frames of 640x1024, as they come: 8 at a time. What the weights are does
not change the time, but for what the language model answers; it is made to answer "safe", "unsafe" with a category,
and never to stop. The blocklist runs on the CPU and is left out. The result goes to
bench/results/guardrail_<device>.json. `--tiny` shows within seconds that the script works.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from cosmos_ros.device.devices import resolve_device
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.guardrail.cosmos.aegis import ADAPTER, BASE, Aegis
from cosmos_ros.guardrail.cosmos.aegis_policy import question
from cosmos_ros.guardrail.cosmos.retinaface_detector import RetinaFaceDetector
from cosmos_ros.guardrail.cosmos.retinaface_network import RetinaFace
from cosmos_ros.guardrail.cosmos.video_content import CLASSES, ENCODER, HIDDEN, Classifier, VideoContentGuard, logits_of
from cosmos_ros.guardrail.face_blur import FaceBlur
from cosmos_ros.guardrail.guard import Guards
from cosmos_ros.guardrail.guardrail import Guardrail
from cosmos_ros.rollout import Clip, Crop

PROMPT = " ".join(["The arm of a robot moves over a wooden table and grips a red cube beside a blue cup ."] * 10)
WORDS = ("[UNK]", "</s>", "]", "safe", "unsafe", "\n", "O3", "on")
ANSWERS = {
    "safe": {"]": "safe", "safe": "</s>"},
    "unsafe": {"]": "unsafe", "unsafe": "\n", "\n": "O3", "O3": "</s>"},
    "100 tokens": {"]": "safe", "safe": "on", "on": "on"},
}
SIZES = {
    "real": {
        "llama": {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
        },
        "siglip": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        "frame": (640, 1024),
    },
    "tiny": {
        "llama": {
            "vocab_size": 1000,
            "hidden_size": 256,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4096,
        },
        "siglip": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "frame": (64, 96),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small networks, and nothing is kept")
    parser.add_argument("--folder", help="where the weights are written; default: a directory that is removed again")
    args = parser.parse_args()
    size = SIZES["tiny" if args.tiny else "real"]
    device = resolve_device("auto")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure(Path(folder), size, device)
    print(json.dumps(result, indent=2))
    if not args.tiny:
        name = re.sub(r"\W+", "-", result["device"]).strip("-").lower()
        file = Path(__file__).parent / "results" / f"guardrail_{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, size: dict, device: torch.device) -> dict:
    start = time.monotonic()
    write_aegis(folder / "aegis", size["llama"], device)
    write_video_content(folder / "video", size["siglip"], device)
    write_face_blur(folder / "faces")
    say(f"weights written in {time.monotonic() - start:.0f} s")
    start = time.monotonic()
    memory = DeviceMemory(device)
    content = VideoContentGuard(folder / "video", memory)
    faces = FaceBlur(RetinaFaceDetector(folder / "faces" / "Resnet50_Final.pth", memory), math.prod(size["frame"]))
    aegis = Aegis(folder / "aegis", memory)
    say(f"weights hashed and loaded in {time.monotonic() - start:.0f} s")
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "video_s": time_video(content, faces, size["frame"]),
        "logits_half_against_float32": logit_difference(content, size["frame"]),
        "prompt_s": time_prompt(aegis),
    }
    if device.type == "cuda":
        result["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    return result


# The measurements


def time_video(content: VideoContentGuard, faces: FaceBlur, frame: tuple[int, int]) -> dict:
    frames = np.random.default_rng(0).integers(0, 256, (24, *frame, 3), dtype=np.uint8)
    chunks = [frames[start : start + 8] for start in (0, 8, 16)]
    guardrail = Guardrail(Guards("speed", (), (content,), (faces,)), takes_prompt=False, timeout_s=600)
    clip = Clip(frames[:9], tuple(range(9)), 30.0)

    def goal() -> None:
        with guardrail.screen("", Crop(0, 0, frame[1], frame[0])) as screening:
            screening.admit_prompt()
            for chunk in chunks:
                screening.inspect(chunk)
            screening.release(clip, "a model", 0, tuple)

    times = {"first goal": once(guardrail.load) + once(goal)}
    times["24 frames through the guardrail"] = median(goal)
    times["of that video_content"] = median(lambda: [content.judge(chunk) for chunk in chunks])
    pixels = content._preparation(frames).to(content._device)
    with torch.inference_mode(), content._networks.in_use() as networks:
        times["video_content were it in float32"] = median(lambda: logits_of(networks, pixels, torch.float32).cpu())
    times["of that face_blur"] = median(lambda: [faces.filter(chunk) for chunk in chunks])
    return times


@torch.inference_mode()
def logit_difference(content: VideoContentGuard, frame: tuple[int, int]) -> float:
    """Largest difference of a logit that the encoder's half precision makes, on frames of smooth random colours."""
    rough = np.random.default_rng(1).integers(0, 256, (8, 5, 8, 3), dtype=np.uint8)
    frames = np.stack([cv2.resize(picture, frame[::-1], interpolation=cv2.INTER_CUBIC) for picture in rough])
    pixels = content._preparation(frames).to(content._device)
    half = torch.float16 if content._device.type == "cuda" else torch.bfloat16
    with content._networks.in_use() as networks:
        return float((logits_of(networks, pixels, half) - logits_of(networks, pixels, torch.float32)).abs().max())


def time_prompt(aegis: Aegis) -> dict:
    aegis._model.rest()
    tokens = len(aegis._tokenizer(question(PROMPT), add_special_tokens=False)["input_ids"])
    times: dict = {"tokens in the question": tokens}
    for name, follows in ANSWERS.items():
        teach(aegis._model.network.get_output_embeddings().weight, aegis._tokenizer.get_vocab(), follows)
        times.setdefault("first prompt", once(lambda: aegis.judge(PROMPT)))
        times[f"answer: {name}"] = median(lambda: aegis.judge(PROMPT))
    return times


def once(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return round(time.perf_counter() - start, 4)


def median(act: Callable[[], object]) -> float:
    return round(statistics.median(once(act) for _ in range(5)), 4)


def say(text: str) -> None:
    print(text, flush=True)


# The weights


def cached(cache: Path, repository: str) -> Path:
    snapshot = cache / ("models--" + repository.replace("/", "--")) / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    return snapshot


def write_aegis(folder: Path, size: dict, device: torch.device) -> None:
    """A Llama whose last word decides the next one: its residual stream carries the word's embedding unchanged."""
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = pre_tokenizers.Whitespace()
    words = dict.fromkeys([*WORDS, *(word for word, _ in pieces.pre_tokenize_str(question(PROMPT)))])
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pieces
    base = cached(folder, BASE)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="[UNK]").save_pretrained(base)

    config = LlamaConfig(**size, bos_token_id=0, eos_token_id=1, pad_token_id=1, tie_word_embeddings=False)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device), torch.no_grad():
        model = LlamaForCausalLM(config)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(config.vocab_size, config.hidden_size))
        model.lm_head.weight.zero_()
        model.save_pretrained(base, max_shard_size="5GB")
        parts = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=parts)).save_pretrained(
            cached(folder, ADAPTER)
        )
    torch.set_default_dtype(torch.float32)
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()


@torch.no_grad()
def teach(output: torch.Tensor, vocabulary: dict[str, int], follows: dict[str, str]) -> None:
    """Make the model's output layer [vocabulary, width] say which word follows which."""
    output.zero_()
    for word, following in follows.items():
        output[vocabulary[following], vocabulary[word]] = 100.0


def write_video_content(folder: Path, size: dict, device: torch.device) -> None:
    from transformers import SiglipConfig, SiglipVisionConfig, SiglipVisionModel

    snapshot = cached(folder, ENCODER)
    with torch.device(device):
        SiglipVisionModel(SiglipVisionConfig(**size)).save_pretrained(snapshot)
    SiglipConfig(vision_config=size).save_pretrained(snapshot)  # the published checkpoint is the whole SigLIP
    side = size["image_size"]
    preparation = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }
    (snapshot / "preprocessor_config.json").write_text(json.dumps(preparation))
    weights = Classifier(size["hidden_size"]).state_dict()
    weights[f"layers.{3 * len(HIDDEN)}.bias"] = torch.tensor([100.0] + [0.0] * (len(CLASSES) - 1))  # all is Safe
    torch.save({"model": {f"network.{name}": value for name, value in weights.items()}}, folder / "safety_filter.pt")


def write_face_blur(folder: Path) -> None:
    weights = RetinaFace().state_dict()
    for name, value in weights.items():
        if name.startswith("ClassHead"):  # two anchors, each no face and face: none is seen
            value.copy_(torch.tensor([3.0, 0.0, 3.0, 0.0])) if name.endswith("bias") else value.mul_(0.1)
    folder.mkdir()
    torch.save({f"module.{name}": value for name, value in weights.items()}, folder / "Resnet50_Final.pth")


if __name__ == "__main__":
    main()
