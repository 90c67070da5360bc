"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2016)."""

from collections.abc import Callable, Sequence
from functools import partial

from onnx import ModelProto

from models.builder import INPUT, GraphBuilder

# Both append to a graph and return a tensor, given: graph, input tensor, name, output channels, stride.
Block = Callable[[GraphBuilder, str, str, int, int], str]
Shortcut = Callable[[GraphBuilder, str, str, int, int], str]


def resnet20(seed: int) -> ModelProto:
    """Build ResNet-20 for CIFAR-10: (batch, 3, 32, 32) to ``logits`` (batch, 10); parameter-free shortcuts."""
    return _cifar_resnet("resnet20", 3, seed)


def resnet56(seed: int) -> ModelProto:
    """Build ResNet-56 for CIFAR-10: (batch, 3, 32, 32) to ``logits`` (batch, 10); parameter-free shortcuts."""
    return _cifar_resnet("resnet56", 9, seed)


def resnet18(seed: int) -> ModelProto:
    """Build ResNet-18 for Tiny ImageNet: (batch, 3, 64, 64) to ``logits`` (batch, 200).

    The usual small-image variant: a 3x3 stem of stride 1 without max-pool.
    """
    graph = GraphBuilder("resnet18", (3, 64, 64), seed)
    x = _stem(graph, width=64, kernel=3, stride=1)
    block = partial(_basic_block, shortcut=_projection)
    x = _stages(graph, x, block, widths=(64, 128, 256, 512), depths=(2, 2, 2, 2))
    return _classify(graph, x, classes=200)


def resnet50(seed: int) -> ModelProto:
    """Build ResNet-50 for ImageNet: (batch, 3, 224, 224) to ``logits`` (batch, 1000).

    Version 1.5: a downsampling bottleneck strides in its 3x3 convolution (Goyal et al., 2017).
    """
    graph = GraphBuilder("resnet50", (3, 224, 224), seed)
    x = _stem(graph, width=64, kernel=7, stride=2)
    x = graph.max_pool(x, "maxpool", kernel=3, stride=2)
    x = _stages(graph, x, _bottleneck, widths=(256, 512, 1024, 2048), depths=(3, 4, 6, 3))
    return _classify(graph, x, classes=1000)


def _cifar_resnet(name: str, blocks: int, seed: int) -> ModelProto:
    graph = GraphBuilder(name, (3, 32, 32), seed)
    x = _stem(graph, width=16, kernel=3, stride=1)
    block = partial(_basic_block, shortcut=_slice_and_pad)
    x = _stages(graph, x, block, widths=(16, 32, 64), depths=(blocks, blocks, blocks))
    return _classify(graph, x, classes=10)


def _stem(graph: GraphBuilder, width: int, kernel: int, stride: int) -> str:
    x = graph.conv(INPUT, "conv1", width, kernel, stride=stride)
    return graph.relu(graph.batch_norm(x, "bn1"), "relu")


def _stages(graph: GraphBuilder, x: str, block: Block, widths: Sequence[int], depths: Sequence[int]) -> str:
    """Stack ``depths[i]`` blocks of ``widths[i]`` channels; every stage but the first halves the resolution."""
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for index in range(depth):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(graph, x, f"layer{stage}.{index}", width, stride)
    return x


def _classify(graph: GraphBuilder, x: str, classes: int) -> ModelProto:
    x = graph.flatten(graph.global_average_pool(x, "avgpool"), "flatten")
    return graph.model(logits=graph.linear(x, "fc", classes))


def _basic_block(graph: GraphBuilder, x: str, name: str, width: int, stride: int, shortcut: Shortcut) -> str:
    out = _conv_bn(graph, x, name, 1, width, kernel=3, stride=stride)
    out = graph.relu(out, f"{name}.relu1")
    out = _conv_bn(graph, out, name, 2, width, kernel=3)
    return _join(graph, out, x, name, stride, shortcut)


def _bottleneck(graph: GraphBuilder, x: str, name: str, width: int, stride: int) -> str:
    out = _conv_bn(graph, x, name, 1, width // 4, kernel=1)
    out = graph.relu(out, f"{name}.relu1")
    out = _conv_bn(graph, out, name, 2, width // 4, kernel=3, stride=stride)
    out = graph.relu(out, f"{name}.relu2")
    out = _conv_bn(graph, out, name, 3, width, kernel=1)
    return _join(graph, out, x, name, stride, _projection)


def _conv_bn(graph: GraphBuilder, x: str, name: str, index: int, width: int, kernel: int, stride: int = 1) -> str:
    x = graph.conv(x, f"{name}.conv{index}", width, kernel, stride=stride)
    return graph.batch_norm(x, f"{name}.bn{index}")


def _join(graph: GraphBuilder, out: str, x: str, name: str, stride: int, shortcut: Shortcut) -> str:
    """Add the block's input to its output; only a change of shape needs more than the identity."""
    width = graph.channels[out]
    if stride != 1 or graph.channels[x] != width:
        x = shortcut(graph, x, name, width, stride)
    return graph.relu(graph.add(out, x, f"{name}.add"), f"{name}.relu")


def _slice_and_pad(graph: GraphBuilder, x: str, name: str, width: int, stride: int) -> str:
    """Shortcut of option A: every other pixel, the missing channels zero; it is only ever needed at stride 2."""
    x = graph.every_other_pixel(x, f"{name}.shortcut.slice")
    return graph.pad_channels(x, f"{name}.shortcut.pad", width)


def _projection(graph: GraphBuilder, x: str, name: str, width: int, stride: int) -> str:
    """Shortcut of option B: a 1x1 convolution with its own batch normalization."""
    x = graph.conv(x, f"{name}.downsample.0", width, kernel=1, stride=stride)
    return graph.batch_norm(x, f"{name}.downsample.1")
