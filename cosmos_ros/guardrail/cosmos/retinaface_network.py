"""RetinaFace with a ResNet-50 (Deng et al., arXiv:1905.00641; He et al., arXiv:1512.03385): the network alone.

Module names give the keys of the published `Resnet50_Final.pth`. The landmark heads of that file are left out:
nothing here needs them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, bottlenecks, stride
EXPANSION = 4
CHANNELS = 256  # of the feature pyramid
ANCHORS = 2  # per cell


def _apply(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return module(x)


def _conv_norm(inputs: int, outputs: int, kernel: int, *after: nn.Module) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *after)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions around a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """Images [n, 3, h, w] -> features at 1/8, 1/16 and 1/32 of their size."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for number, (width, blocks, stride) in enumerate(STAGES, start=1):
            stage = [Bottleneck(inputs, width, stride)]
            inputs = width * EXPANSION
            stage += [Bottleneck(inputs, width, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), kernel_size=3, stride=2, padding=1)
        x = self.layer1(x)
        features = []
        for layer in (self.layer2, self.layer3, self.layer4):
            features.append(x := layer(x))
        return features


class FeaturePyramid(nn.Module):
    """Brings the three features to one width and adds the coarser to the finer."""

    output1: nn.Module
    output2: nn.Module
    output3: nn.Module

    def __init__(self) -> None:
        super().__init__()
        for number, (width, _, _) in enumerate(STAGES[1:], start=1):
            self.add_module(f"output{number}", _conv_norm(width * EXPANSION, CHANNELS, 1, nn.ReLU()))
        self.merge1 = _conv_norm(CHANNELS, CHANNELS, 3, nn.ReLU())
        self.merge2 = _conv_norm(CHANNELS, CHANNELS, 3, nn.ReLU())

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        fine, middle, coarse = self.output1(features[0]), self.output2(features[1]), self.output3(features[2])
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[-2:], mode="nearest"))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[-2:], mode="nearest"))
        return [fine, middle, coarse]


class ContextModule(nn.Module):
    """SSH's context module (Najibi et al., arXiv:1708.03979): 3x3, 5x5 and 7x7 fields of view, side by side."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = CHANNELS // 2, CHANNELS // 4
        self.conv3X3 = _conv_norm(CHANNELS, half, 3)
        self.conv5X5_1 = _conv_norm(CHANNELS, quarter, 3, nn.ReLU())
        self.conv5X5_2 = _conv_norm(quarter, quarter, 3)
        self.conv7X7_2 = _conv_norm(quarter, quarter, 3, nn.ReLU())
        self.conv7x7_3 = _conv_norm(quarter, quarter, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shared = self.conv5X5_1(x)
        views = self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))
        return F.relu(torch.cat(views, dim=1))


class Head(nn.Module):
    """`outputs` numbers for each anchor: features [n, 256, h, w] -> [n, h * w * 2, outputs]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self._outputs = outputs
        self.conv1x1 = nn.Conv2d(CHANNELS, ANCHORS * outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(len(x), -1, self._outputs)


class RetinaFace(nn.Module):
    """Images float32 [n, 3, h, w], BGR less the mean -> offsets [n, anchors, 4] and face probabilities [n, anchors]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet50()
        self.fpn = FeaturePyramid()
        self.ssh1, self.ssh2, self.ssh3 = (ContextModule() for _ in range(3))
        self.ClassHead = nn.ModuleList(Head(2) for _ in range(3))
        self.BboxHead = nn.ModuleList(Head(4) for _ in range(3))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pyramid = self.fpn(self.body(images))
        features = [ssh(level) for ssh, level in zip((self.ssh1, self.ssh2, self.ssh3), pyramid, strict=True)]
        offsets = torch.cat(list(map(_apply, self.BboxHead, features)), dim=1)
        logits = torch.cat(list(map(_apply, self.ClassHead, features)), dim=1)
        return offsets, logits.softmax(dim=-1)[..., 1]
