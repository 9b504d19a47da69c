"""A model in training that was made elsewhere: its tokenizer stays as published, its transformer is cut over the ranks.

NVIDIA's are the largest of these; any checkpoint in their layout will do, whatever its tokenizer's programs consist of.
The refiner is ours, of the size that --config says, and is trained on rollouts of the checkpoint.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_ros.device.devices import default_dtype
from cosmos_ros.device.out_of_memory import return_memory
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.errors import ModelUnavailable, SettingError
from cosmos_ros.files import NotWritten, link_or_copy, write_whole
from cosmos_ros.torchscript import load_program
from cosmos_ros.training.average import local
from cosmos_ros.training.checkpoint import Unfinished
from cosmos_ros.training.datasets.clips import as_seen
from cosmos_ros.training.datasets.corpus import Corpus, Storage
from cosmos_ros.training.evaluation import evaluate
from cosmos_ros.training.export import export, load_refiner, refiner_files, write_weights
from cosmos_ros.training.fine_tuning import PublishedLoss, fine_tuning
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.loop import Recipe
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.rollouts import Chunk, Windows, kept_chunks, refined_rollouts, roll_out, round_trips_of
from cosmos_ros.training.run import Options
from cosmos_ros.training.sharding import fill, gathered, require_fit, sharded
from cosmos_ros.training.sizes import PublishedSizes
from cosmos_ros.training.transformer import token_corpus
from cosmos_ros.world_model import ModelSpec, Sampling, load_transformer
from cosmos_ros.world_model.checkpoints.transformer_weights import is_weights_name, read_settings
from cosmos_ros.world_model.checkpoints.weight_files import TensorHeader
from cosmos_ros.world_model.model_spec import PUBLISHED_NAMES
from cosmos_ros.world_model.refiner import PROGRAM
from cosmos_ros.world_model.text_encoder import CONTEXT_LENGTH, EMBEDDINGS_FILE, TextEncoder
from cosmos_ros.world_model.tokenizer.programs import find_tokenizer, program_files
from cosmos_ros.world_model.tokenizer.video_tokenizer import VideoTokenizer

HELD_OUT = 16  # clips, at most
MEASURED = 8  # of these, by rollouts; a rollout of the 12B takes a minute and a half
SAMPLES = 4  # rollouts of a window that the refiner is trained on
REFINED_AT_ONCE, REFINED_IN_A_STEP = 1, 4  # windows
CPU = torch.device("cpu")


class FrozenTokenizer:
    """The published programs, one clip at a time and in the precision in which the node runs them."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        directory = find_tokenizer(spec.directory)
        vocabulary, dtype = spec.config.vocab_out, default_dtype(device)
        self._programs = VideoTokenizer.load(directory, spec.chunking, vocabulary, device, dtype)

    def tokenize(self, video: Tensor) -> Tensor:
        """[N, 3, 33, H, W] in [-1, 1] -> int64 [N, 5 h w]."""
        return torch.stack([self._programs.encode(clip[None]) for clip in video])

    def decode(self, tokens: Tensor) -> Tensor:
        """int64 [N, 5, h, w] -> float32 [N, 3, 33, H, W] in [-1, 1]."""
        return torch.stack([self._programs.pixels(clip.flatten()).float() for clip in tokens]).clamp(-1, 1)


class PublishedModel:
    """The checkpoint `options.init`, of which one stage trains the transformer or the refiner.

    Raises SettingError where the checkpoint or `out` cannot be trained with or into, OutOfMemory and NotWritten where
    the GPUs or the disk are too small: before anything is read or loaded.
    """

    pictured = False  # the guardrail takes as much memory as the training

    def __init__(
        self,
        out: Path,
        stage: str,
        sizes: PublishedSizes,
        options: Options,
        ranks: Ranks,
        unfinished: Unfinished,
        journal: Journal,
    ) -> None:
        self.out, self.stage, self.sizes, self.options = out, stage, sizes, options
        self.ranks, self.unfinished, self.journal = ranks, unfinished, journal
        assert options.init is not None
        spec = sizes.applied(ModelSpec.of_checkpoint(options.init))
        self.spec, self._source = spec, spec.checkpoint
        self.sampling = Sampling(options.seed, spec.temperature, spec.top_p)
        if options.prompt and not spec.takes_prompt:
            raise SettingError(f"--prompt: {spec.name} reads no prompt")
        self._weights = out / ("model" + self._source.files[0].suffix)  # shards become one file, replaced in one go
        self._require_free_place()
        if stage == "world-model":
            require_fit(spec.config, ranks, spec.name)
            self._require_disk()
        self._loss: PublishedLoss | None = None
        self._refiner: Refiner | None = None

    @property
    def storage(self) -> Storage:
        """Frames of this size do not all fit the device; the refiner sees them larger than the model."""
        times = self.sizes.camera_times if self.stage == "refiner" else 1.0
        return Storage(times, on_host=True, held_out=HELD_OUT)

    def recipe(self, stage: str, corpus: Corpus) -> Recipe:
        return {"world-model": self._world_model, "refiner": self._refine}[stage](corpus)

    def export(self, stage: str = "") -> None:
        if stage == "world-model" and self._loss is not None:
            self._export_weights(self._loss)
        elif stage == "refiner" and self._refiner is not None and self.ranks.is_first:
            export(self.out, refiner_files(self._refiner))
        elif not stage and self.ranks.is_first and not self.unfinished.state:
            self._lay_out()

    def state(self) -> dict[str, Any]:
        if self._refiner is None:
            return {}
        return {"refiner": {name: weight.cpu() for name, weight in self._refiner.state_dict().items()}}

    def part(self) -> dict[str, Any] | None:
        if self._loss is None:
            return None
        return {"weights": {name: local(weight) for name, weight in self._loss.transformer.named_parameters()}}

    def millions(self) -> dict[str, float]:
        weights = sum(torch.Size(shape).numel() for shape in self._source.shapes.values())
        found = {"transformer": weights / 1e6}
        if self._refiner is not None:
            found["refiner"] = sum(weight.numel() for weight in self._refiner.parameters()) / 1e6
        return found

    def measure(self, held_out: Tensor) -> dict[str, float]:
        self._loss = None  # the rollouts need the room
        return_memory()
        device = self.ranks.device
        tokenizer, shape = FrozenTokenizer(self.spec, device), self.spec.config.latent_shape
        transformer = load_transformer(self.out, device=device)
        program = self.out / PROGRAM
        refine = load_program(program, device).to(torch.float32) if program.is_file() else None
        return evaluate(
            lambda video: tokenizer.tokenize(video).view(-1, *shape),
            tokenizer.decode,
            refine,
            transformer,
            held_out[:MEASURED],
            self.spec.frame_size,
            self.sampling,
            self._made_context(),
            batch=1,
        )

    def _world_model(self, corpus: Corpus) -> Recipe:
        config, options, size = self.spec.config, self.options, self.spec.frame_size

        def make() -> tuple[Tensor, Tensor]:
            tokenize = FrozenTokenizer(self.spec, self.ranks.device).tokenize
            seen = (as_seen(clip[None].to(self.ranks.device), size) for clip in corpus.held_out)
            held_out = torch.cat([tokenize(clip).int().cpu() for clip in seen])
            tokens = token_corpus(
                tokenize, corpus.store, size, corpus.shares, options.windows, options.seed, self.ranks.rank, batch=1
            )
            return tokens.cpu(), held_out

        tokens, held_out = self.unfinished.cached(f"tokens-{self.ranks.rank}", make)
        self.journal.note("tokenized", windows=len(tokens))
        context = self._context()
        return_memory()  # of the tokenizer
        self._loss = sharded(config, self.ranks, context)
        transformer = self._loss.transformer
        if (kept := self.unfinished.state.pop("weights", None)) is None:
            fill(transformer, self._source, self.ranks)
        else:
            with torch.no_grad():
                for name, parameter in transformer.named_parameters():
                    local(parameter).copy_(kept[name])
        steps, batch = options.steps["world-model"], options.batches["world-model"]
        return fine_tuning(self._loss, tokens, held_out, steps, batch, self.sizes.learning_rate)

    def _refine(self, corpus: Corpus) -> Recipe:
        options, ranks, spec = self.options, self.ranks, self.spec
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(options.seed)
        self._refiner = Refiner(self.sizes.refiner_channels, self.sizes.refiner_hypotheses)
        load_refiner(spec.directory, self._refiner)
        if "refiner" in self.unfinished.state:
            self._refiner.load_state_dict(self.unfinished.state["refiner"])
        self._refiner.to(ranks.device)
        tokenizer = FrozenTokenizer(spec, ranks.device)
        windows = Windows(corpus.store, spec.frame_size, corpus.shares, REFINED_AT_ONCE, self.sizes.camera_times)
        seeds = range(ranks.rank * options.windows, (ranks.rank + 1) * options.windows)
        context = self._context()
        n_rolled = min(options.rollouts // SAMPLES, len(seeds))

        def make() -> list[Chunk]:
            made = round_trips_of(tokenizer.tokenize, windows, seeds[n_rolled:], spec.config.latent_shape)
            if n_rolled:
                transformer = load_transformer(self._source, spec.config, device=ranks.device)
                made += roll_out(
                    tokenizer.tokenize,
                    tokenizer.decode,
                    transformer,
                    windows,
                    seeds[:n_rolled],
                    self.sampling,
                    SAMPLES,
                    context,
                )
            return made

        chunks = kept_chunks(self.unfinished, ranks, make)
        return_memory()  # of the transformer
        self.journal.note("rolled out", windows=n_rolled, of_each=SAMPLES, round_trips=len(chunks) - n_rolled)
        steps = options.steps["refiner"]
        return refined_rollouts(
            self._refiner, tokenizer.decode, chunks, windows, steps, options.seed, REFINED_IN_A_STEP
        )

    def _context(self) -> Tensor | None:
        """As _made_context gives it; the first rank makes it, and every rank waits for that."""
        if self.ranks.is_first:
            self._made_context()
        self.ranks.wait()
        return self._made_context()

    def _made_context(self) -> Tensor | None:
        """The prompt's embedding, bfloat16 [1, 512, context_dim] on the device; None for a model without text."""
        width = self.spec.config.context_dim
        if width is None:
            return None

        def make() -> Tensor:
            try:
                memory = DeviceMemory(self.ranks.device)
                encoder = TextEncoder.for_checkpoint(self.spec.directory, width=width, memory=memory)
                return encoder.encode(self.options.prompt)
            except ModelUnavailable:
                if self.options.prompt:
                    raise
                self.journal.note("prompt", embedding="zeros, as there is no T5")
                return torch.zeros(1, CONTEXT_LENGTH, width, dtype=torch.bfloat16)

        context: Tensor = self.unfinished.cached("context", make)
        return context.to(self.ranks.device)

    def _export_weights(self, loss: PublishedLoss) -> None:
        """Put together one by one, and written by the first rank in the precision that each tensor had."""
        weights = gathered(loss.transformer)
        if not self.ranks.is_first:
            deque(weights, maxlen=0)
            return
        headers = self._headers([name for name, _ in loss.transformer.named_parameters()])
        dtypes = {name: getattr(torch, header.dtype) for name, header in headers.items()}
        write_weights(self._weights, headers, ((name, w.to(dtypes[name]).cpu()) for name, w in weights))

    def _headers(self, names: list[str]) -> dict[str, TensorHeader]:
        shapes, first = self._source.shapes, self._source.ranks[0]
        return {name: TensorHeader(shapes[name], first[name].dtype) for name in names}

    def _lay_out(self) -> None:
        """All that the node loads, as it is before training: under a second name rather than copied."""
        spec = self.spec
        for file in program_files(find_tokenizer(spec.directory)):
            link_or_copy(file, self.out / file.name)
        for file in (spec.directory / EMBEDDINGS_FILE, spec.directory / PROGRAM):
            if file.is_file():
                link_or_copy(file, self.out / file.name)
        files = self._source.files
        if len(files) == 1 or self.stage == "refiner":
            for file in files:
                link_or_copy(file, self.out / file.name)
        else:
            mapped, headers = self._source.mapped(), self._headers(list(self._source.ranks[0]))
            wholes = (
                (name, self._source.merged(name, parts, CPU, parts[0].dtype).contiguous())
                for name, parts in mapped.items()
            )
            write_weights(self._weights, headers, wholes)
        # The name says whose model it is, and so under which guardrail it runs, also where its tensors do not.
        name = spec.directory.name if spec.published and not spec.name.startswith(PUBLISHED_NAMES) else spec.name
        settings = read_settings(spec.directory) | {
            "name": name,
            "latent_shape": list(spec.config.latent_shape),
            "compression": list(spec.compression),
            "frame_rate": spec.frame_rate,
            "temperature": spec.temperature,
            "top_p": spec.top_p,
        }
        write_whole(self.out / "config.json", json.dumps(settings, indent=2) + "\n")

    def _require_free_place(self) -> None:
        """Raises SettingError where `out` holds the checkpoint itself, or weights that would be taken for these."""
        if self.out.exists() and self.out.samefile(self.spec.directory):
            raise SettingError(f"--out and --init are the same directory, {self.out}; name another one for --out")
        own = {file.name for file in self._source.files} if self.stage == "refiner" else {self._weights.name}
        others = sorted(
            file.name
            for file in (self.out.iterdir() if self.out.exists() else ())
            if is_weights_name(file.name) and file.name not in own
        )
        if others:
            raise SettingError(f"{self.out} holds other weights, {', '.join(others)}; choose an empty directory")

    def _require_disk(self) -> None:
        """Raises NotWritten where there is no room: each checkpoint is written before the one before it is removed."""
        folder = self.out
        while not folder.exists():
            folder = folder.parent
        weights = sum(torch.Size(shape).numel() for shape in self._source.shapes.values())
        of_file = sum(file.stat().st_size for file in self._source.files)
        need, free = 2 * of_file + 2 * 12 * weights, shutil.disk_usage(folder).free
        if self.ranks.is_first and need > free and not self.unfinished.state:
            raise NotWritten(
                errno.ENOSPC,
                f"{self.out}: training {self.spec.name} takes up to {need / 1e9:.1f} GB there (weights, and what a run "
                f"that was killed goes on from), and {free / 1e9:.1f} GB are free; choose another disk",
            )
