"""The refiner's network: `cosmos_ros.world_model.refiner` states its contract and runs it.

One pass of a U-Net at half of the model's resolution plans a whole group of 8 frames: for each frame three optical
flows, a choice among six pictures (the camera's last frame in place; the same moved, twice; its first frame moved; its
first frame in place; the decoded frame), and a small residual. The plan is enlarged to the camera's resolution and
carried out there, so that what is copied stays as sharp as the camera. Where that changes the camera's last frame by
less than a camera's noise, the last frame stays. Flow and choice in one network: DMVFN (arXiv:2303.09875); a decoder
that sees the context: iVideoGPT (arXiv:2405.15223).

Where the future is open one plan can only blend. So the network has several hypotheses: number 0 is the best single
guess, the others are alternatives, each with vectors of its own that are added on the way to the plan (multiple choice
learning: Guzman-Rivera et al. 2012; arXiv:1612.00197). The last of them trusts the tokens: where rollouts train the
others, it has only seen true ones. `hypotheses` says how they are trained.

Everything here can be scripted with torch.jit.script, and what comes of it runs in older releases of PyTorch: hence the
operators below F.interpolate, which takes all that it could call into the program, the newest ones too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.training.sizes import TIME_COMPRESSION
from cosmos_ros.training.tokenizer_network import ChannelNorm, nothing

LOOKS = 4  # conditioning frames that the network sees: the last, 1 and 3 before it, the first
FLOWS = 3  # of the last frame, twice, and of the first
CHOICES = 6
PER_FRAME = 2 * FLOWS + CHOICES + 3
FLOW_UNIT = 8.0  # model pixels
# Changes of this size, in the mean of a place of the plan, are a camera's noise; from twice as much on they are kept.
NOISE = 1.5 / 127.5
PLACE = 4  # model pixels, along each axis
# What the hypotheses' vectors are multiplied by. An optimiser moves all weights by the same small steps, and these have
# far to go: the plans of hypotheses that are alike do not compete.
REACH = 8.0
HYPOTHESIS_STD = 0.5 / REACH  # of the vectors once set apart: their plans differ visibly
SET_APART = ("vectors_in", "vectors_deep")
VECTORS = (*SET_APART, "vectors_up2", "vectors_up1", "vectors_up0")  # the weights that only hypotheses have


class Block2d(nn.Module):
    """A residual block; it begins as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.n1, self.c1 = ChannelNorm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.n2, self.c2 = ChannelNorm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        nothing(self.c2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.c2(F.silu(self.n2(self.c1(F.silu(self.n1(x))))))


class Attention2d(nn.Module):
    """One head over all places of a picture; it begins as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.project_in = nn.Linear(channels, 3 * channels, bias=False)
        self.project_out = nn.Linear(channels, channels, bias=False)
        nn.init.zeros_(self.project_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.project_in(tokens).chunk(3, dim=-1)
        scores = (q @ k.transpose(1, 2)).float() / math.sqrt(tokens.shape[2])
        y = self.project_out(scores.softmax(-1).to(v.dtype) @ v)
        return x + y.transpose(1, 2).unflatten(2, (x.shape[2], x.shape[3]))


class Refiner(nn.Module):
    """decoded [B, 3, m, h, w], conditioning [B, 3, n, H, W] -> the newest group [B, 3, 8, H, W], all in [-1, 1].

    channels    at 1/2, 1/4, 1/8 and 1/16 of the model's size
    hypotheses  how many there are; `forward` takes the number of one of them; `trusting` is that of the last
    """

    def __init__(self, channels: tuple[int, int, int, int], hypotheses: int = 1) -> None:
        super().__init__()
        # TorchScript sees no constants of the module.
        self.group, self.per_frame, self.unit = TIME_COMPRESSION, PER_FRAME, FLOW_UNIT
        self.flows, self.choices = FLOWS, CHOICES
        self.noise, self.place = NOISE, PLACE
        self.hypotheses, self.trusting, self.reach = hypotheses, hypotheses - 1, REACH
        c0, c1, c2, c3 = channels
        self.entrance = nn.Conv2d(4 * (3 * (TIME_COMPRESSION + 2 + LOOKS) + 2), c0, 3, padding=1)
        self.in0 = nn.Sequential(Block2d(c0), Block2d(c0))
        self.down1 = nn.Conv2d(c0, c1, 3, stride=2, padding=1)
        self.in1 = nn.Sequential(Block2d(c1), Block2d(c1))
        self.down2 = nn.Conv2d(c1, c2, 3, stride=2, padding=1)
        self.in2 = nn.Sequential(Block2d(c2))
        self.down3 = nn.Conv2d(c2, c3, 3, stride=2, padding=1)
        self.in3 = nn.Sequential(Block2d(c3), Attention2d(c3), Block2d(c3))
        self.up2 = nn.Conv2d(c3 + c2, c2, 1)
        self.out2 = nn.Sequential(Block2d(c2))
        self.up1 = nn.Conv2d(c2 + c1, c1, 1)
        self.out1 = nn.Sequential(Block2d(c1), Block2d(c1))
        self.up0 = nn.Conv2d(c1 + c0, c0, 1)
        self.out0 = nn.Sequential(Block2d(c0), Block2d(c0))
        self.exit_norm = ChannelNorm(c0)
        self.exit = nn.Conv2d(c0, 4 * TIME_COMPRESSION * PER_FRAME, 3, padding=1)
        nothing(self.exit)
        nn.init.normal_(self.exit.weight, std=1e-3)
        # Begins near "nothing moves": channel c of the picture is exit channels 4c .. 4c+3.
        with torch.no_grad():
            self.exit.get_parameter("bias").view(TIME_COMPRESSION, PER_FRAME, 4)[:, 2 * FLOWS] = 1.5
        # Number 0 has none, so that a refiner of one hypothesis is what number 0 of several begins as. All others give
        # what it gives until they compete: a model of which nothing else was trained must not refine by random vectors.
        self.vectors_in = nn.Parameter(torch.zeros(hypotheses - 1, c0))
        self.vectors_deep = nn.Parameter(torch.zeros(hypotheses - 1, c3))
        self.vectors_up2 = nn.Parameter(torch.zeros(hypotheses - 1, c2))
        self.vectors_up1 = nn.Parameter(torch.zeros(hypotheses - 1, c1))
        self.vectors_up0 = nn.Parameter(torch.zeros(hypotheses - 1, c0))

    @torch.no_grad()
    @torch.jit.unused
    def set_apart(self, seed: int) -> None:
        """Give those that compete vectors to begin with, the same for the same seed, where they are still all alike."""
        generator = torch.Generator().manual_seed(seed)
        vectors = [self.get_parameter(name)[:-1] for name in SET_APART]
        if not any(each.any() for each in vectors):
            for each in vectors:
                each.copy_(HYPOTHESIS_STD * torch.randn(each.shape, generator=generator))

    @torch.no_grad()
    @torch.jit.unused
    def trust_as_the_first(self) -> None:
        """Let the trusting one give what number 0 gives."""
        for name in VECTORS:
            self.get_parameter(name)[-1].zero_()

    @torch.jit.unused
    def sure(self, n: int, generator: torch.Generator) -> Tensor:
        """Who learns from n round trips where rollouts are few, number 0 or the trusting one by lot: int64 [n]."""
        return (self.trusting * torch.randint(2, (n,), generator=generator)).to(self.exit.weight.device)

    def forward(self, decoded: Tensor, conditioning: Tensor, hypothesis: int = 0) -> Tensor:
        n = conditioning.shape[2]
        same = torch.full([decoded.shape[0]], hypothesis, dtype=torch.int64, device=decoded.device)
        plan = self.plan(self.look(decoded, conditioning), same).float()
        group = decoded[:, :, decoded.shape[2] - self.group :].float()
        last, first = conditioning[:, :, n - 1].float(), conditioning[:, :, 0].float()
        at_once = self.group if last.is_cuda else 1  # a CPU has memory for eight to make anew each time
        made: list[Tensor] = []
        for k in range(0, self.group, at_once):
            part = plan[:, k * self.per_frame : (k + at_once) * self.per_frame]
            refined = self.compose(part, group[:, :, k : k + at_once], last, first)
            made.append(self.settle(refined, last, part))
        return torch.cat(made, dim=2)

    def look(self, decoded: Tensor, conditioning: Tensor) -> Tensor:
        """What the network sees, at the model's own resolution."""
        m, n, h, w = decoded.shape[2], conditioning.shape[2], decoded.shape[3], decoded.shape[4]
        seen = []
        for back in (0, 1, 3, n - 1):
            frame = conditioning[:, :, max(n - 1 - back, 0)]
            if frame.shape[2] != h or frame.shape[3] != w:
                frame = torch._C._nn._upsample_bilinear2d_aa(frame, [h, w], False, None, None)
            seen.append(frame)
        group = decoded[:, :, m - self.group :].transpose(1, 2).flatten(1, 2)
        last = seen[0]
        planes = torch.cat(
            [torch.full_like(last[:, :1], (m - n) / 32.0), torch.full_like(last[:, :1], float(n > 1))], dim=1
        )
        x = torch.cat([group] + seen + [decoded[:, :, n - 1], decoded[:, :, m - self.group - 1], planes], dim=1)
        return x.to(self.exit.weight.dtype)

    def plan(self, x: Tensor, hypothesis: Tensor) -> Tensor:
        """Flows, choices and residual of every frame, [B, 8*15, h, w].

        hypothesis  each row's, int64 [B]
        """
        x0 = self.entrance(F.pixel_unshuffle(x, 2))
        x0 = self.in0(shifted(x0, self.reach * self.vectors_in, hypothesis))
        x1 = self.in1(self.down1(x0))
        x2 = self.in2(self.down2(x1))
        x3 = self.in3(shifted(self.down3(x2), self.reach * self.vectors_deep, hypothesis))
        y = self.up2(torch.cat([grown(x3), x2], 1))
        y = self.out2(shifted(y, self.reach * self.vectors_up2, hypothesis))
        y = self.up1(torch.cat([grown(y), x1], 1))
        y = self.out1(shifted(y, self.reach * self.vectors_up1, hypothesis))
        y = self.up0(torch.cat([grown(y), x0], 1))
        y = self.out0(shifted(y, self.reach * self.vectors_up0, hypothesis))
        return F.pixel_shuffle(self.exit(F.silu(self.exit_norm(y))), 2)

    def compose(self, plan: Tensor, group: Tensor, last: Tensor, first: Tensor) -> Tensor:
        """Carry out the plan of decoded frames [B, 3, g, h, w] with the camera's last and first frames [B, 3, H, W]."""
        plan = plan.unflatten(1, (group.shape[2], self.per_frame))
        b, g, h, w = plan.shape[0], plan.shape[1], plan.shape[3], plan.shape[4]
        height, width = last.shape[2], last.shape[3]
        flat = plan.flatten(0, 1)
        moving = group.transpose(1, 2).flatten(0, 1)  # [B*8, 3, h, w]
        if h != height or w != width:
            both = torch._C._nn.upsample_bilinear2d(torch.cat([flat, moving], 1), [height, width], False, None, None)
            flat, moving = both[:, : self.per_frame], both[:, self.per_frame :]
        weight = flat[:, 2 * self.flows : 2 * self.flows + self.choices].softmax(1)
        y = torch.linspace(-1 + 1.0 / height, 1 - 1.0 / height, height, device=plan.device)
        x = torch.linspace(-1 + 1.0 / width, 1 - 1.0 / width, width, device=plan.device)
        base = torch.stack([x[None, :].expand(height, width), y[:, None].expand(height, width)], dim=-1)
        scale = torch.tensor([2 * self.unit / w, 2 * self.unit / h], device=plan.device)
        last, first = repeated(last, g), repeated(first, g)
        out = weight[:, 0:1] * last + weight[:, 4:5] * first + weight[:, 5:6] * moving
        for i in range(self.flows):
            flow = flat[:, 2 * i : 2 * i + 2].permute(0, 2, 3, 1) * scale
            source = first if i == 2 else last
            moved = F.grid_sample(source, base + flow, mode="bilinear", padding_mode="border", align_corners=False)
            out = out + weight[:, i + 1 : i + 2] * moved
        out = out + flat[:, 2 * self.flows + self.choices :]
        return out.unflatten(0, (b, g)).transpose(1, 2)

    def settle(self, refined: Tensor, last: Tensor, plan: Tensor) -> Tensor:
        """The camera's last frame [B, 3, H, W] where refined frames [B, 3, g, H, W] hardly differ from it.

        A quiet scene's pixels are then exactly the camera's, and do not shimmer. Training goes without this: no
        gradient would come from where nothing moves yet.
        """
        height, width = last.shape[2], last.shape[3]
        change = refined - last[:, :, None]
        places = [plan.shape[2] // self.place, plan.shape[3] // self.place]
        size = F.adaptive_avg_pool2d(change.abs().amax(1), places)
        size = F.avg_pool2d(size, 3, 1, 1, False, False)
        share = (size / self.noise - 1).clamp(0, 1)
        share = torch._C._nn.upsample_bilinear2d(share, [height, width], False, None, None)
        return last[:, :, None] + share[:, None] * change


def shifted(x: Tensor, vectors: Tensor, hypothesis: Tensor) -> Tensor:
    """x [B, c, h, w] and each row's vector: zeros for number 0, then those of vectors [hypotheses - 1, c].

    All vectors take part, whichever are looked up: each has a gradient in every step, as training on several devices
    expects it.
    """
    nothing_added = torch.zeros([1, vectors.shape[1]], dtype=vectors.dtype, device=vectors.device)
    return x + torch.cat([nothing_added, vectors])[hypothesis][:, :, None, None].to(x.dtype)


def grown(x: Tensor) -> Tensor:
    return torch._C._nn.upsample_nearest2d(x, [2 * x.shape[2], 2 * x.shape[3]], None, None)


def repeated(x: Tensor, n: int) -> Tensor:
    return x[:, None].expand(-1, n, -1, -1, -1).flatten(0, 1)
