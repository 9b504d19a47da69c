"""Against the published diffusion decoder written down a second time: loops and formulas, nothing of the package.

It follows the description of the published network and of both releases' samplers, in float64. Both may misread that
description alike; for that they were compared with the published code on small random weights, outside of this suite.
"""

import math
from functools import cache
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from cosmos_ros.world_model.diffusion_decoder.config import PUBLISHED, tensor_shapes
from cosmos_ros.world_model.diffusion_decoder.decoder import load_diffusion_decoder
from cosmos_ros.world_model.diffusion_decoder.files import FAMILIES, load_diffusion_transformer

HEADS, HEAD = 2, 16
GRID = (8, 2, 3)  # patches of a chunk


class Published:
    """The network of a file, F(x, c_noise) of the EDM parametrisation."""

    def __init__(self, file):
        entries = torch.load(file, weights_only=True)
        self.w = {name.removeprefix("net.").removesuffix(".weight"): v.double() for name, v in entries.items()}
        self.blocks = len({name.split(".")[1] for name in self.w if name.startswith("blocks.")})

    def __call__(self, latents, c_noise, tokens, context):
        w = self.w
        rows, places = self.patches(latents, tokens), list(product(*map(range, GRID)))
        x = rows @ w["x_embedder.proj.1"].T
        half = x.shape[1] // 2
        turns = [c_noise * 10000.0 ** (-i / half) for i in range(half)]
        waves = torch.tensor([*map(math.cos, turns), *map(math.sin, turns)], dtype=torch.float64)
        shared = w["t_embedder.1.linear_2"] @ F.silu(w["t_embedder.1.linear_1"] @ waves)
        time = self.norm(waves, w["affline_norm"])
        for i in range(self.blocks):
            for part in range(3):
                at = f"blocks.block{i}.blocks.{part}"
                shift, scale, gate = self.modulation(at, time, shared).chunk(3)
                inner = self.centred(x) * (1 + scale) + shift
                if part == 2:
                    made = F.gelu(inner @ w[f"{at}.block.layer1"].T) @ w[f"{at}.block.layer2"].T
                else:
                    source, turned = (inner, places) if part == 0 else (context, None)
                    made = self.attention(f"{at}.block.attn", inner, source, turned)
                x = x + gate * made
        shift, scale = self.modulation("final_layer", time, shared[: 2 * len(time)]).chunk(2)
        out = (self.centred(x) * (1 + scale) + shift) @ w["final_layer.linear"].T
        video = torch.zeros_like(latents)
        for row, (t, h, w_) in zip(out, places, strict=True):
            for p, q in product(range(2), range(2)):
                video[:, t, 2 * h + p, 2 * w_ + q] = row.view(2, 2, -1)[p, q]
        return video

    def patches(self, latents, tokens):
        """[patches, 4 * channels] of latents, token embeddings enlarged twice, and a mask of zeros."""
        frames = [tuple(map(tuple, frame)) for frame in tokens.tolist()]
        rows = []
        for t, h, w in product(*map(range, GRID)):
            numbers = []
            for channel in latents:
                numbers += [channel[t, 2 * h + p, 2 * w + q] for p, q in product(range(2), range(2))]
            corners = [self.enlarged(frames[t], 2 * h + p, 2 * w + q) for p, q in product(range(2), range(2))]
            numbers += [corner[channel] for channel in range(len(corners[0])) for corner in corners]
            rows.append(numbers + [0.0] * 4)
        return torch.tensor(rows, dtype=torch.float64)

    @cache  # noqa: B019  (the network lives as long as its test)
    def enlarged(self, tokens, y, x):
        """The embedding at a latent pixel, linear between the tokens' centres."""
        total = 0
        for place_y, weight_y in self.between(y, len(tokens)):
            for place_x, weight_x in self.between(x, len(tokens[0])):
                total = total + weight_y * weight_x * self.w["token_embedder"][tokens[place_y][place_x]]
        return total

    def between(self, pixel, length):
        at = max((pixel + 0.5) / 2 - 0.5, 0.0)
        low = math.floor(at)
        return [(low, 1 - (at - low)), (min(low + 1, length - 1), at - low)]

    def attention(self, at, x, source, places):
        seen = []
        for head in range(HEADS):
            rows = slice(head * HEAD, (head + 1) * HEAD)
            query = self.norm(x @ self.w[f"{at}.to_q.0"][rows].T, self.w[f"{at}.to_q.1"])
            key = self.norm(source @ self.w[f"{at}.to_k.0"][rows].T, self.w[f"{at}.to_k.1"])
            if places is not None:
                query, key = self.turned(query, places), self.turned(key, places)
            scores = (query @ key.T / math.sqrt(HEAD)).softmax(dim=-1)
            seen.append(scores @ (source @ self.w[f"{at}.to_v.0"][rows].T))
        return torch.cat(seen, dim=-1) @ self.w[f"{at}.to_out.0"].T

    def turned(self, head, places):
        spatial = HEAD // 6 * 2
        sizes, stretches = (HEAD - 2 * spatial, spatial, spatial), (1.0, 1.5, 1.5)
        angles = []
        for place in places:
            row = []
            for at, size, stretch in zip(place, sizes, stretches, strict=True):
                theta = 10000.0 * stretch ** (size / (size - 2))
                row += [at * theta ** (-2 * i / size) for i in range(size // 2)]
            angles.append(row)
        angles = torch.tensor(angles, dtype=torch.float64)
        a, b = head.chunk(2, dim=-1)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)

    def modulation(self, at, time, shared):
        down, up = (self.w[f"{at}.adaLN_modulation.{i}"] for i in (1, 2))
        return up @ (down @ F.silu(time)) + shared

    def norm(self, x, weight):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def centred(self, x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def guided(network, tokens, context):
    """What the guided network takes for clean, of x at a noise level: Karras et al.'s table 1, sigma_data 0.5."""

    def clean(x, sigma):
        given, c_noise = x / math.sqrt(sigma**2 + 0.25), 0.25 * math.log(sigma)
        with_it = network(given, c_noise, tokens, context)
        without = network(given, c_noise, torch.zeros_like(tokens), torch.zeros_like(context))
        made = with_it + 1.8 * (with_it - without)
        return 0.25 / (sigma**2 + 0.25) * x + sigma * 0.5 / math.sqrt(sigma**2 + 0.25) * made

    return clean


def karras(count):
    return [(80 ** (1 / 7) + i / max(count - 1, 1) * (0.02 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(count)]


def predict1(noise, clean, steps):
    """Euler steps of the probability flow, the last one to a noise level of zero."""
    x, sigmas = noise * math.sqrt(80**2 + 1), [*karras(steps), 0.0]
    for here, there in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - clean(x, here)) / here
        x = x + slope * (there - here)
    return x


def cosmos_1(noise, clean, steps):
    """RES's multistep method, by its phi functions of the logarithmic step, then one look at the last level."""
    x, sigmas, before = noise * 80, karras(steps + 1), None
    for here, there in zip(sigmas[:-1], sigmas[1:], strict=True):
        seen = clean(x, here)
        if before is None:
            x = (here - there) / here * seen + there / here * x
        else:
            s, t, m = -math.log(here), -math.log(there), -math.log(before[1])
            h, c2 = t - s, (m - s) / (t - s)
            phi1 = (math.exp(-h) - 1) / -h
            phi2 = (phi1 - 1) / -h
            x = math.exp(-h) * x + h * ((phi1 - phi2 / c2) * seen + phi2 / c2 * before[0])
        before = (seen, here)
    return clean(x, 0.02)


@pytest.fixture(scope="module")
def given():
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(16, 8, 4, 6, generator=generator, dtype=torch.float64)
    tokens = torch.randint(64, (8, 2, 3), generator=generator)
    return noise, tokens, torch.randn(1, 5, 16, generator=generator, dtype=torch.float64)


def test_the_published_network_has_the_parameters_that_were_counted_in_nvidias_code():
    assert sum(math.prod(shape) for shape in tensor_shapes(PUBLISHED).values()) == 7_237_257_216


@torch.inference_mode()
@pytest.mark.parametrize("c_noise", [1.0955, -0.978])
def test_the_networks_output_is_that_of_the_description(c_noise, diffusion_decoder, given):
    latents, tokens, context = given
    network, published = load_diffusion_transformer(diffusion_decoder), Published(diffusion_decoder / "model.pt")
    both = torch.stack([latents, latents]).float()
    found = network(both, c_noise, torch.stack([tokens, tokens * 0]), context.float())
    with_it = published(latents, c_noise, tokens, context[0])
    without = published(latents, c_noise, tokens * 0, context[0] * 0)
    torch.testing.assert_close(found.double(), torch.stack([with_it, without]), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("steps", [15, 1])
@pytest.mark.parametrize(("family", "sampled"), [(FAMILIES[0], cosmos_1), (FAMILIES[1], predict1)])
def test_sampled_latents_are_those_of_the_description(family, sampled, steps, write_diffusion_decoder, given, tmp_path):
    noise, tokens, context = given
    folder = write_diffusion_decoder(tmp_path, family)
    decoder = load_diffusion_decoder(folder)
    reports = []
    clean = guided(Published(folder / "model.pt"), tokens, context[0])

    def counted(x, sigma):
        reports.append(sigma)
        return clean(x, sigma)

    expected = sampled(noise, counted, steps)
    found = decoder.denoise(tokens, noise.float(), context.float(), steps=steps)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    decoder.steps = steps
    assert len(reports) == decoder.evaluations(latent_frames=5)
