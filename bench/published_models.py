"""The published models at their full size, with random weights: load time, memory and time per rollout in each mode.

    PYTHONPATH=. python bench/published_models.py --kinds 4B,12B --out DIRECTORY [--modes fast,balanced,low]
    PYTHONPATH=. python bench/published_models.py --kinds 4B --frame-decoder diffusion --out DIRECTORY
    PYTHONPATH=. python bench/published_models.py --table DIRECTORY

A mode auto-24 is `auto` on a card of 24 GB; fast+fp8 and fast+320x512 are `fast` with another dtype or frame size.
What configuring and activating take is measured in two processes, of which the first finds no compiled kernels. Every
measurement goes to DIRECTORY/published_<kind>.json as soon as it is made; --table prints all that are there in
Markdown. Included at their full size, with random weights: transformer, a stand-in for the DV8x16x16 tokenizer,
T5-11B's encoder, the guardrail's networks (LlamaGuard-7b, SigLIP so400m, RetinaFace) and, with --frame-decoder
diffusion, the diffusion decoder with a stand-in for CV8x8x8. Not included: the guardrail's blocklist, which runs on the
CPU in milliseconds. A rollout is 9 frames -> 24, of 640x1024 unless the mode says otherwise, after everything was
loaded, with a prompt that was never seen before where the model reads one. `--tiny` shows within seconds, also without
a GPU, that the script works.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import guardrail_speed
import numpy as np
import synthetic_checkpoint
import torch
from synthetic_checkpoint import LATENT_TOKENIZER, device_name, roomy_folder

from cosmos_ros import foresight as foresight_module
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import plan_memory
from cosmos_ros.foresight import Foresight, ForesightConfig
from cosmos_ros.guardrail import Guardrail
from cosmos_ros.guardrail.cosmos.aegis import Aegis
from cosmos_ros.guardrail.cosmos.retinaface_detector import RetinaFaceDetector
from cosmos_ros.guardrail.cosmos.video_content import VideoContentGuard
from cosmos_ros.guardrail.face_blur import FaceBlur
from cosmos_ros.guardrail.guard import Guards
from cosmos_ros.pipeline import PIPELINE, needs_of
from cosmos_ros.progress import Stage
from cosmos_ros.rollout import Clip
from cosmos_ros.training.sizes import TokenizerSizes
from cosmos_ros.world_model import TransformerConfig, load_transformer
from cosmos_ros.world_model.config import PUBLISHED_KINDS
from cosmos_ros.world_model.diffusion_decoder.config import PUBLISHED, DiffusionDecoderConfig

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MODES = ("fast", "balanced", "low")
CONTEXT = 1_000_000_000  # bytes that CUDA itself takes of a card
ROOM = 56_000_000_000  # bytes of the largest checkpoint, T5 and the guardrail
# Cards that the lowest mode must do with; PyTorch may then take what such a card has beside the CUDA context.
CARDS = {"4B": 16e9, "5B": 16e9, "12B": 24 * 2**30}
TINY = {
    "4B": TransformerConfig(2, 64, 4, 2, 16, 128, 64000, 64000, latent_shape=(5, 4, 4)),
    "5B": TransformerConfig(2, 64, 4, 2, 16, 128, 64064, 64000, latent_shape=(5, 4, 4), context_dim=16),
}
TINY_TOKENIZER = TokenizerSizes((8, 8, 16), (1, 2, 2), (2, 2, 2), levels=(8, 8, 8, 5, 5, 5))
TINY_DECODER = DiffusionDecoderConfig(2, 64, 2, 32, 128, 16, 16, 64000, 8, 16)
TINY_LATENTS = TokenizerSizes((8, 8), (1, 1), (1, 1), levels=(2,) * 16)
TINY_T5 = {"vocab_size": 192, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}


class Bench:
    """A folder of synthetic checkpoints, and what was measured on them."""

    def __init__(self, work: Path, out: Path, tiny: bool, frame_decoder: str) -> None:
        self.work, self.out, self.tiny, self.frame_decoder = work, out, tiny, frame_decoder
        self.size = guardrail_speed.SIZES["tiny" if tiny else "real"]
        self.guards: Guardrail | None = None

    def config(self, kind: str) -> TransformerConfig:
        return TINY[kind] if self.tiny else PUBLISHED_KINDS[kind].config

    def prepare(self, with_text: bool) -> None:
        """What all kinds share."""
        began = time.monotonic()
        tokenizer = TINY_TOKENIZER if self.tiny else synthetic_checkpoint.TOKENIZER
        synthetic_checkpoint.write_tokenizer(self.work / "Cosmos-1.0-Tokenizer-DV8x16x16", tokenizer)
        if with_text:
            sizes = TINY_T5 if self.tiny else synthetic_checkpoint.T5_11B
            synthetic_checkpoint.write_t5(self.work / "google-t5" / "t5-11b", DEVICE, sizes)
        if self.frame_decoder == "diffusion":
            sizes, latents = (TINY_DECODER, TINY_LATENTS) if self.tiny else (PUBLISHED, LATENT_TOKENIZER)
            synthetic_checkpoint.write_diffusion_decoder(self.work, sizes, latents, DEVICE)
        self.write_guardrail(with_text)
        self.read_guardrail(with_text)
        say(f"tokenizer, T5 and guardrail written and read in {time.monotonic() - began:.0f} s")

    def write_guardrail(self, with_text: bool) -> None:
        folder = self.work / "Cosmos-1.0-Guardrail"
        guardrail_speed.write_video_content(folder / "video_content_safety_filter", self.size["siglip"], DEVICE)
        guardrail_speed.write_face_blur(folder / "face_blur_filter")
        if with_text:
            guardrail_speed.write_aegis(folder / "aegis", self.size["llama"], DEVICE)

    def read_guardrail(self, with_text: bool) -> None:
        """The networks of Cosmos-1.0-Guardrail, loaded by the code that loads the real ones, answering "safe"."""
        folder = self.work / "Cosmos-1.0-Guardrail"
        self.memory = DeviceMemory(DEVICE)
        content = VideoContentGuard(folder / "video_content_safety_filter", self.memory)
        detector = RetinaFaceDetector(folder / "face_blur_filter" / "Resnet50_Final.pth", self.memory)
        faces = FaceBlur(detector, math.prod(self.size["frame"]))
        prompt_guards: tuple[Aegis, ...] = ()
        if with_text:
            aegis = Aegis(folder / "aegis", self.memory)
            output = aegis._model.network.get_output_embeddings().weight
            guardrail_speed.teach(output, aegis._tokenizer.get_vocab(), guardrail_speed.ANSWERS["safe"])
            prompt_guards = (aegis,)
        guards = Guards("bench", prompt_guards, (content,), (faces,))
        self.guards = Guardrail(guards, takes_prompt=with_text, timeout_s=60)

    def measure(self, kind: str, modes: list[str]) -> None:
        directory = self.work / PUBLISHED_KINDS[kind].name
        result: dict = {"kind": kind, "device": device_name(), "torch": torch.__version__, "modes": {}}
        began = time.monotonic()
        file = synthetic_checkpoint.write_transformer(directory, self.config(kind), DEVICE)
        if self.tiny:
            synthetic_checkpoint.write_settings(directory, {"latent_shape": [5, 4, 4]})
        say(f"{kind}: {file.stat().st_size / 1e9:.1f} GB written in {time.monotonic() - began:.0f} s")
        result["load"] = self.in_a_process("--measure-load", str(file))
        self.keep(result)
        with tempfile.TemporaryDirectory(dir=self.work) as empty:
            for when in ("first", "later"):
                found = self.in_a_process("--measure-start", str(directory), TRITON_CACHE_DIR=empty)
                result.setdefault("start", {})[when] = found
                self.keep(result)
        plans: dict[tuple, str] = {}
        for mode in modes:
            foresight = self.foresight(directory, mode)
            needs = needs_of(foresight.spec, guardrail=foresight.config.guardrail)
            card = self.card_of(mode, kind)
            free = int(1e12 if card is None else card - CONTEXT)
            plan = plan_memory(needs, PIPELINE, free, foresight.config.memory)
            foresight_module.free_memory = lambda _, free=free: free
            what = foresight.config.dtype, foresight.config.frame_size
            as_measured = plans.setdefault((plan.parked, plan.tables_on_host, what), mode)
            if as_measured != mode:  # this kind has nothing that this mode would treat otherwise
                result["modes"][mode] = {"same_plan_as": as_measured}
            else:
                result["modes"][mode] = self.measure_mode(foresight, kind, card) | {
                    "expected_peak_gb": round(plan.peak / 1e9, 2),
                    "parked": sorted(plan.parked),
                }
            self.keep(result)
            say(f"{kind} {mode}: {json.dumps(result['modes'][mode])}")
        shutil.rmtree(directory)

    def foresight(self, directory: Path, mode: str) -> Foresight:
        foresight_module.Guardrail.for_model = lambda *_, **__: self.guards  # hashed and read once, not per mode
        memory, *others = mode.split("+")
        foresight = Foresight(
            ForesightConfig(
                checkpoint=str(directory),
                guardrail=str(self.work / "Cosmos-1.0-Guardrail"),
                memory=memory.split("-")[0],
                dtype=next((each for each in others if "x" not in each), "auto"),
                frame_size=next((each for each in others if "x" in each), ""),
                guard_timeout=60,
                frame_decoder=self.frame_decoder,
            )
        )
        foresight._memory = self.memory  # of which the guards are parts
        return foresight

    def card_of(self, mode: str, kind: str) -> float | None:
        """Bytes of the card that a mode must do with; None: of this one."""
        if DEVICE.type != "cuda" or self.tiny:
            return None
        return float(mode.split("-")[1]) * 1e9 if "-" in mode else CARDS.get(kind) if mode == "low" else None

    def measure_mode(self, foresight: Foresight, kind: str, card: float | None) -> dict:
        """Load and one whole rollout, held to the card that it must do with."""
        if card:
            try:
                return self.run(foresight, kind, card) | {"held_to_gb": round(card / 1e9, 2)}
            except Exception as error:
                say(f"{kind} does not do with {card / 1e9:.1f} GB: {error}")
                foresight.unload()
                return self.run(foresight, kind, None) | {"not_held_to_gb": round(card / 1e9, 2)}
        return self.run(foresight, kind, None)

    def run(self, foresight: Foresight, kind: str, card: float | None) -> dict:
        hold_to(card)
        height, width = foresight.spec.frame_size
        frames = np.random.default_rng(0).integers(0, 256, (9, height, width, 3), dtype=np.uint8)
        clip = Clip(frames, tuple(40_000_000 * i for i in range(9)), 25.0)
        what = f"{kind} {foresight.config.memory}"  # makes prompts that no cache has met
        prompt = f"{what} {guardrail_speed.PROMPT}" if foresight.spec.takes_prompt else ""
        with Peak() as loading:
            began = time.monotonic()
            foresight.load()
            foresight._model.encode_text(what)  # T5 comes with its first prompt
            load_s = time.monotonic() - began
        with Peak() as peak:
            began = time.monotonic()
            rollout = foresight.predict(clip, prompt, seed=0)
            rollout_s = time.monotonic() - began
        foresight.unload()
        hold_to(None)
        stages = [time.stage for time in rollout.timing]
        after = rollout.timing[stages.index(Stage.GENERATING) + 1 :]
        assert rollout.frames.shape == (24, height, width, 3)
        return {
            "load_s": round(load_s, 2),
            "rollout_s": round(rollout_s, 2),
            "passes": rollout.decoding.passes,
            "after_the_last_token_s": round(sum(time.seconds for time in after), 3),
            "stages_s": {time.stage.name.lower(): round(time.seconds, 3) for time in rollout.timing},
            "peak_gpu_gb": round(max(peak.used, loading.used) / 1e9, 2),
            "peak_gpu_of_pytorch_gb": round(max(peak.reserved, loading.reserved) / 1e9, 2),
            "peak_gpu_of_loading_gb": round(loading.used / 1e9, 2),
        }

    def in_a_process(self, *arguments: str, **environment: str) -> dict:
        """What this script prints with these arguments, in a process of its own."""
        command = [sys.executable, __file__, *arguments, "--frame-decoder", self.frame_decoder]
        command += ["--tiny"] * self.tiny
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
        return json.loads(answer.stdout.splitlines()[-1])

    def keep(self, result: dict) -> None:
        (self.out / f"published_{result['kind']}{suffix_of(self.frame_decoder)}.json").write_text(
            json.dumps(result, indent=2) + "\n"
        )


class Peak:
    """The most GPU memory in use meanwhile, in bytes: by the device's own count, and of that by PyTorch."""

    def __enter__(self) -> Peak:
        self.used = self.reserved = 0
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
        if DEVICE.type == "cuda":
            self.reserved = torch.cuda.max_memory_reserved()

    def _look(self) -> None:
        while DEVICE.type == "cuda" and not self._over.wait(0.02):
            free, total = torch.cuda.mem_get_info()
            self.used = max(self.used, total - free)


def hold_to(card: float | None) -> None:
    """Let PyTorch take no more than a card of so many bytes would leave it beside the CUDA context."""
    if DEVICE.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(1.0 if card is None else (card - context) / total)


def report_start(bench: Bench, directory: Path) -> None:
    """Configure and activate, and print the seconds of both, as JSON. The guardrail's folder is there."""
    torch.ones(1, device=DEVICE)
    began = time.monotonic()
    bench.read_guardrail(with_text=False)
    foresight = bench.foresight(directory, "fast")
    configured = time.monotonic()
    foresight.load()
    took = {"configure_s": configured - began, "activate_s": time.monotonic() - configured}
    print(json.dumps({name: round(seconds, 2) for name, seconds in took.items()}))


def report_load(file: Path) -> None:
    """Load a transformer and print what took it how long, and how far the resident memory grew, as JSON."""
    torch.ones(1, device=DEVICE)
    before = resident("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    began = time.monotonic()
    model = load_transformer(file, device=DEVICE)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - began
    grown, size = resident("VmHWM") - before, file.stat().st_size
    assert not next(model.parameters()).is_meta
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "file_gb": round(size / 1e9, 2),
                "host_memory_grew_by_gb": round(grown / 1e9, 2),
                "of_the_file": round(grown / size, 3),
            }
        )
    )


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def suffix_of(frame_decoder: str) -> str:
    """Of a file of results."""
    return "" if frame_decoder == "discrete" else f"_{frame_decoder}"


def table(folder: Path, frame_decoder: str) -> str:
    """All results of a folder with that decoder in Markdown."""
    files = folder.glob(f"published_*B{suffix_of(frame_decoder)}.json")
    results = {file.stem.split("_")[1]: json.loads(file.read_text()) for file in files}
    lines = [f"Measured on one {next(iter(results.values()))['device']}.", ""] if results else []
    lines += [
        "| model | " + " | ".join(f"`{mode}`: GPU memory, time" for mode in MODES) + " | load | host memory |",
        "| --- |" + " --- |" * (len(MODES) + 2),
    ]
    for kind in sorted(results, key=lambda kind: int(kind.removesuffix("B"))):
        modes, load = results[kind]["modes"], results[kind]["load"]
        cells = []
        for mode in MODES:
            measured = modes.get(mode, {})
            measured = modes[measured["same_plan_as"]] if "same_plan_as" in measured else measured
            cells.append(f"{measured['peak_gpu_gb']:.1f} GB, {measured['rollout_s']:.1f} s" if measured else "not run")
        cells += [f"{load['seconds']:.1f} s", f"{load['of_the_file']:.2f} x the file"]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default="4B,5B,12B,13B", help="separated by commas")
    parser.add_argument("--modes", default=",".join(MODES), help="separated by commas")
    parser.add_argument("--frame-decoder", default="discrete", choices=("discrete", "diffusion"))
    parser.add_argument("--work", type=Path, help="for the checkpoints; default: shared memory, else a temporary one")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="where the results go")
    parser.add_argument("--table", type=Path, metavar="DIRECTORY", help="print the results that are there, and end")
    parser.add_argument("--tiny", action="store_true", help="small networks, to show that the script works")
    parser.add_argument("--measure-load", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--measure-start", type=Path, metavar="DIRECTORY", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print(table(args.table, args.frame_decoder))
        return
    if args.measure_load:
        report_load(args.measure_load)
        return
    if args.measure_start:
        report_start(Bench(args.measure_start.parent, args.out, args.tiny, args.frame_decoder), args.measure_start)
        return
    kinds = args.kinds.split(",")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work or roomy_folder(ROOM)) as work:
        os.environ["XDG_CACHE_HOME"] = f"{work}/cache"
        bench = Bench(Path(work), args.out, args.tiny, args.frame_decoder)
        bench.prepare(with_text=any(bench.config(kind).has_text for kind in kinds))
        for kind in kinds:
            bench.measure(kind, args.modes.split(","))
    print(table(args.out, args.frame_decoder))


if __name__ == "__main__":
    main()
