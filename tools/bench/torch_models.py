"""Architectures in torch, as published, to compare gradients with: sizes as for ImageNet, weights drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Activation = type[nn.Module] | None


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: Activation = nn.ReLU) -> nn.Sequential:
    """Convolution, padded to keep the size at stride 1, batch normalization, activation."""
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Sum(nn.Module):
    """Branches that are added."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of what the branches make of x."""
        first, *rest = self.branches
        result: Tensor = first(x)
        for branch in rest:
            result = result + branch(x)
        return result


def classifier(channels: int, classes: int = 1000) -> nn.Sequential:
    """Global average and linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet18() -> nn.Module:
    """He et al., 2016."""
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        body = nn.Sequential(conv_bn(channels, width, 3, stride), conv_bn(width, width, 3, act=None))
        same = stride == 1 and channels == width
        shortcut = nn.Identity() if same else conv_bn(channels, width, 1, stride, act=None)
        layers += [Sum(body, shortcut), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, classifier(512))


def resnet50() -> nn.Module:
    """He et al., 2016, the stride in the 3x3 convolutions."""
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, depth, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for k in range(depth):
            stride = first if k == 0 else 1
            enter, leave = conv_bn(channels, width, 1), conv_bn(width, 4 * width, 1, act=None)
            body = nn.Sequential(enter, conv_bn(width, width, 3, stride), leave)
            shortcut = nn.Identity() if k else conv_bn(channels, 4 * width, 1, stride, act=None)
            layers += [Sum(body, shortcut), nn.ReLU()]
            channels = 4 * width
    return nn.Sequential(*layers, classifier(2048))


def mobilenet_v2() -> nn.Module:
    """Sandler et al., 2018."""
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=nn.ReLU6)]
    channels = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, width, depth, first in stages:
        for k in range(depth):
            stride, hidden = first if k == 0 else 1, channels * expand
            widen = [conv_bn(channels, hidden, 1, act=nn.ReLU6)] if expand > 1 else []
            depthwise = conv_bn(hidden, hidden, 3, stride, hidden, act=nn.ReLU6)
            body = nn.Sequential(*widen, depthwise, conv_bn(hidden, width, 1, act=None))
            layers.append(Sum(body, nn.Identity()) if stride == 1 and channels == width else body)
            channels = width
    return nn.Sequential(*layers, conv_bn(320, 1280, 1, act=nn.ReLU6), classifier(1280))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), nn.SiLU(), nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x, each channel scaled."""
        return x * self.layers(x)


def efficientnet_b0() -> nn.Module:
    """Tan and Le, 2019."""
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=nn.SiLU)]
    channels = 32
    stages = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )
    for expand, kernel, first, width, depth in stages:
        for k in range(depth):
            stride, hidden = first if k == 0 else 1, channels * expand
            widen = [conv_bn(channels, hidden, 1, act=nn.SiLU)] if expand > 1 else []
            depthwise = conv_bn(hidden, hidden, kernel, stride, hidden, act=nn.SiLU)
            body = nn.Sequential(*widen, depthwise, Gate(hidden, max(1, channels // 4)), conv_bn(hidden, width, 1, act=None))
            layers.append(Sum(body, nn.Identity()) if stride == 1 and channels == width else body)
            channels = width
    return nn.Sequential(*layers, conv_bn(320, 1280, 1, act=nn.SiLU), classifier(1280))


class Shuffle(nn.Module):
    """A unit of ShuffleNetV2: split (or two branches where the size halves), concatenation, channel shuffle."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, self.stride = outputs // 2, stride
        entry = inputs if stride > 1 else half
        self.main = nn.Sequential(conv_bn(entry, half, 1), conv_bn(half, half, 3, stride, half, act=None), conv_bn(half, half, 1))
        self.side = (
            nn.Sequential(conv_bn(inputs, inputs, 3, stride, inputs, act=None), conv_bn(inputs, half, 1)) if stride > 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the shuffled channels of both branches."""
        left, right = (self.side(x), x) if self.side is not None else x.chunk(2, 1)
        x = torch.cat([left, self.main(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v2() -> nn.Module:
    """Ma et al., 2018, 1.0x."""
    layers: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for width, depth in ((116, 4), (232, 8), (464, 4)):
        for k in range(depth):
            layers.append(Shuffle(channels, width, 2 if k == 0 else 1))
            channels = width
    return nn.Sequential(*layers, conv_bn(464, 1024, 1), classifier(1024))


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalized."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then a perceptron per position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(0.2 * torch.rand(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x and what the block adds."""
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x + self.scale * y


def convnext_tiny() -> nn.Module:
    """Liu et al., 2022."""
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96)]
    channels = 96
    for width, depth in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if width != channels:
            layers += [ChannelNorm(channels), nn.Conv2d(channels, width, 2, 2)]
        layers += [ConvNeXtBlock(width) for _ in range(depth)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), ChannelNorm(768), nn.Flatten(), nn.Linear(768, 1000))


class ViTBlock(nn.Module):
    """Self-attention and a perceptron, each after a normalization."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, tokens, width)."""
        n, t, c = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        x = x + self.out(y)
        return x + self.mlp(self.after(x))


class ViT(nn.Module):
    """Dosovitskiy et al., 2021, in the size of DeiT-tiny."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 192) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (size // 16) ** 2 + 1, 192) * 0.02)
        self.blocks = nn.Sequential(*[ViTBlock(192, 3) for _ in range(12)])
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, classes)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class UNet(nn.Module):
    """Ronneberger et al., 2015, a quarter as wide, padded and normalized."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 128, 256)
        self.down = nn.ModuleList(self._double(a, b) for a, b in pairwise((3, *widths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(self._double(2 * a, a) for a in widths[:-1])
        self.last = nn.Conv2d(16, 1, 1)

    def _double(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(inputs, outputs, 3), conv_bn(outputs, outputs, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 1, h, w)."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for up, merge, skip in reversed(list(zip(self.up, self.merge, skips[:-1], strict=True))):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.last(x)


class C2f(nn.Module):
    """A stage of YOLOv8: split, a chain of bottlenecks, all concatenated."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        half = outputs // 2
        self.enter = conv_bn(inputs, outputs, 1, act=nn.SiLU)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_bn(half, half, 3, act=nn.SiLU), conv_bn(half, half, 3, act=nn.SiLU)) for _ in range(depth)
        )
        self.leave = conv_bn((2 + depth) * half, outputs, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, h, w)."""
        found = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            found.append(found[-1] + block(found[-1]))
        return self.leave(torch.cat(found, 1))


class Detector(nn.Module):
    """A detector in the manner of YOLOv8n: C2f stages, pyramid pooling, a top-down path with resizing, two heads."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.SiLU
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2, act=act), conv_bn(16, 32, 3, 2, act=act), C2f(32, 32, 1))
        self.middle = nn.Sequential(conv_bn(32, 64, 3, 2, act=act), C2f(64, 64, 2))
        self.deep = nn.Sequential(conv_bn(64, 128, 3, 2, act=act), C2f(128, 128, 1))
        self.squeeze, self.pool, self.spread = conv_bn(128, 64, 1, act=act), nn.MaxPool2d(5, 1, 2), conv_bn(256, 128, 1, act=act)
        self.top = C2f(192, 64, 1)
        self.heads = nn.ModuleList(nn.Conv2d(width, 3 * 85, 1) for width in (64, 128))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, boxes, 85)."""
        near = self.middle(self.stem(x))
        far = self.squeeze(self.deep(near))
        pooled = [far]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        far = self.spread(torch.cat(pooled, 1))
        near = self.top(torch.cat([F.interpolate(far, scale_factor=2.0, mode="nearest"), near], 1))
        boxes = []
        for head, features in zip(self.heads, (near, far), strict=True):
            raw = head(features)
            n, _, h, w = raw.shape
            raw = raw.view(n, 3, 85, h, w).permute(0, 1, 3, 4, 2).reshape(n, -1, 85)
            place, size, rest = raw.split((2, 2, 81), 2)
            boxes.append(torch.cat([place.sigmoid() * 2, (size.sigmoid() * 2) ** 2, rest.sigmoid()], 2))
        return torch.cat(boxes, 1)


MODELS: dict[str, Callable[[], Any]] = {
    "ResNet-18": resnet18,
    "ResNet-50": resnet50,
    "MobileNetV2": mobilenet_v2,
    "EfficientNet-B0": efficientnet_b0,
    "ShuffleNetV2": shufflenet_v2,
    "ConvNeXt-T": convnext_tiny,
    "ViT": ViT,
    "U-Net": UNet,
    "Detector": Detector,
}


def build(name: str) -> nn.Module:
    """Return a network in inference mode, its weights and statistics random and no two alike."""
    torch.manual_seed(0)
    module: nn.Module = MODELS[name]()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, 0, 0.1)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and layer.bias is not None:
            nn.init.normal_(layer.bias, 0, 0.1)
    return module.eval()
