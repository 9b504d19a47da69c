"""A Cosmos-1.0-Guardrail folder of the published format with tiny weights of our own, read by the code for real ones.

Its guards can be told what to answer: the language model says "unsafe" of a prompt with the word `wreck` (through
its adapter: the base alone says "safe" of everything), the video classifier calls white frames Violence, and the
blocklist knows a few harmless words.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_ros.guardrail import watched_thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FRAME = (64, 96)

LISTS = {
    "custom/vegetables.txt": "turnip\nbad apple\n",
    "custom/tools": "Hammer\n",
    "whitelist/words.txt": "Hamner\n",
    "exact_match/phrases.txt": "purple rain\nc.i.a.\n",
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_blocklist(folder: Path) -> None:
    for name, text in LISTS.items():
        write(folder / name, text)
    wordnet = folder / "nltk_data" / "corpora" / "wordnet"
    licence = "  1 This file is our own, and looks like one of WordNet 3.0  \n"
    write(wordnet / "index.noun", licence + "knife n 2 2 @ ~ 2 1 00000042 00000099  \nturnip n 1 0 1 0 00000042  \n")
    write(wordnet / "noun.exc", "knives knife\n")
    punkt = folder / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    write(punkt / "abbrev_types.txt", "approx")  # as published, the last line has no end
    write(punkt / "sent_starters.txt", "moreover\nhowever")
    write(punkt / "collocations.tab", "st\tpetersburg")
    write(punkt / "ortho_context.tab", "moreover\t46")


def cached(cache: Path, repository: str) -> Path:
    """A snapshot's folder in a cache of Hugging Face's layout."""
    home = cache / ("models--" + repository.replace("/", "--"))
    write(home / "refs" / "main", COMMIT)
    (home / "snapshots" / COMMIT).mkdir(parents=True)
    return home / "snapshots" / COMMIT


def write_aegis(folder: Path) -> None:
    """A Llama whose next word follows from its last one, and an adapter through which it hears the word `wreck`."""
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["[UNK]", "</s>", "]", "safe", "unsafe", "\n", "O1", "O3", ",", "wreck"]
    of = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(of, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    base = cached(folder, "meta-llama/LlamaGuard-7b")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="[UNK]")
    fast.save_pretrained(base)

    width, heard = 16, 15  # a word is one dimension; the last dimension is what attention heard
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        layer = model.model.layers[0]
        for norm in (layer.input_layernorm, layer.post_attention_layernorm, model.model.norm):
            norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(len(words), width))
        layer.self_attn.o_proj.weight.copy_(torch.eye(width))
        follows = {"safe": "]", "\n": "unsafe", "O1": "\n", ",": "O1", "O3": ",", "</s>": "O3"}
        for word, last in follows.items():
            model.lm_head.weight[of[word], of[last]] = 1.0 if word == "safe" else 1e4
        model.lm_head.weight[of["</s>"], of["safe"]] = 1e4
        model.lm_head.weight[of["unsafe"], heard] = 1.0
    model.to(torch.bfloat16).save_pretrained(base)

    lora = get_peft_model(model.float(), LoraConfig(r=1, lora_alpha=1, target_modules=["v_proj"]))
    with torch.no_grad():
        value = lora.base_model.model.model.layers[0].self_attn.v_proj
        value.lora_A["default"].weight.zero_()[0, of["wreck"]] = 1000.0
        value.lora_B["default"].weight.zero_()[heard, 0] = 10.0
    lora.save_pretrained(cached(folder, "nvidia/Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0"))


def write_video_content(folder: Path) -> None:
    """A SigLIP of two small layers, and a classifier to which white frames are Violence."""
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**tower, "image_size": 28, "patch_size": 14},
        text_config={**tower, "vocab_size": 16, "max_position_embeddings": 8, "projection_size": 32},
    )
    model = SiglipModel(config).eval()
    snapshot = cached(folder, "google/siglip-so400m-patch14-384")
    model.save_pretrained(snapshot)
    preparation = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 28, "width": 28},
    }
    write(snapshot / "preprocessor_config.json", json.dumps(preparation))

    with torch.no_grad():
        pictures = torch.stack([torch.ones(3, 28, 28), torch.zeros(3, 28, 28)])
        white, grey = torch.nn.functional.normalize(model.vision_model(pictures).pooler_output)
    towards_white = (white - grey) / (white - grey).norm() ** 2
    sizes = (32, 512, 256, 7)
    weights = {f"network.layers.{3 * i}.weight": torch.zeros(sizes[i + 1], sizes[i]) for i in range(3)}
    weights |= {f"network.layers.{3 * i}.bias": torch.zeros(sizes[i + 1]) for i in range(3)}
    for layer, n in ((1, 512), (4, 256)):
        norm = {
            "weight": torch.ones(n),
            "bias": torch.zeros(n),
            "running_mean": torch.zeros(n),
            "running_var": torch.ones(n),
            "num_batches_tracked": torch.tensor(1),
        }
        weights |= {f"network.layers.{layer}.{name}": value for name, value in norm.items()}
    weights["network.layers.0.weight"][0] = towards_white
    weights["network.layers.0.bias"][0] = -towards_white @ (white + grey) / 2
    weights["network.layers.3.weight"][0, 0] = 1.0
    weights["network.layers.6.weight"][2, 0] = 100.0
    weights["network.layers.6.bias"][0] = 5.0
    torch.save({"model": weights}, folder / "safety_filter.pt")


def write_face_blur(folder: Path) -> None:
    """A RetinaFace at random, with statistics in its norms, that sees no face."""
    from cosmos_ros.guardrail.cosmos.retinaface_network import RetinaFace

    torch.manual_seed(0)
    weights = RetinaFace().state_dict()
    for name, value in weights.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.startswith("ClassHead") and name.endswith("bias"):
            value.copy_(torch.tensor([9.0, 0.0, 9.0, 0.0]))  # no face, face; for each of two anchors
        elif name.startswith("ClassHead"):
            value.mul_(0.01)
    folder.mkdir(parents=True)
    stored = {f"module.{name}": value.half() if value.is_floating_point() else value for name, value in weights.items()}
    torch.save(stored, folder / "Resnet50_Final.pth")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole folder. Not to be changed: see `damaged`."""
    for package in ("transformers", "peft", "nltk", "better_profanity"):
        pytest.importorskip(package, reason="needs requirements/guardrail.txt")
    folder = tmp_path_factory.mktemp("checkpoints") / "Cosmos-1.0-Guardrail"
    write_blocklist(folder / "blocklist")
    write_aegis(folder / "aegis")
    write_video_content(folder / "video_content_safety_filter")
    write_face_blur(folder / "face_blur_filter")
    return folder


@pytest.fixture
def damaged(published: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change; the large file of it is a link."""
    folder = tmp_path / "Cosmos-1.0-Guardrail"
    shutil.copytree(published, folder, ignore=shutil.ignore_patterns("face_blur_filter"))
    (folder / "face_blur_filter").mkdir()
    (folder / "face_blur_filter" / "Resnet50_Final.pth").symlink_to(published / "face_blur_filter/Resnet50_Final.pth")
    return folder


class Clock:
    """Goes as it does, and ahead by what it is wound."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def wind(self, seconds: float) -> None:
        self._ahead_s += seconds

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s


@pytest.fixture
def wound(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test of the guards' time: `watched_thread.time.wind(s)` lets it pass.

    So however slow a busy machine is, the guards that do answer are in time, and the one that does not is too late.
    """
    monkeypatch.setattr(watched_thread, "time", Clock())


@pytest.fixture(scope="session")
def noise():
    """Frames uint8 [n, 64, 96, 3] at random."""

    def make(n: int = 8, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (n, *FRAME, 3), dtype=np.uint8)

    return make
