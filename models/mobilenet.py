"""MobileNetV2 (Sandler et al., "Inverted Residuals and Linear Bottlenecks", 2018)."""

from onnx import ModelProto

from models.builder import INPUT, GraphBuilder

# Table 2 of the paper: expansion factor, output channels, repetitions, stride of the first repetition.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenetv2(seed: int) -> ModelProto:
    """Build MobileNetV2 at width 1.0 for ImageNet: (batch, 3, 224, 224) to ``logits`` (batch, 1000)."""
    graph = GraphBuilder("mobilenetv2", (3, 224, 224), seed)
    x = _conv_bn_relu6(graph, INPUT, "features.0", 32, kernel=3, stride=2)
    index = 1
    for expansion, width, repetitions, first_stride in STAGES:
        for repetition in range(repetitions):
            stride = first_stride if repetition == 0 else 1
            x = _inverted_residual(graph, x, f"features.{index}", width, expansion, stride)
            index += 1
    x = _conv_bn_relu6(graph, x, f"features.{index}", 1280, kernel=1)
    x = graph.flatten(graph.global_average_pool(x, "avgpool"), "flatten")
    return graph.model(logits=graph.linear(x, "classifier", 1000))


def _inverted_residual(graph: GraphBuilder, x: str, name: str, width: int, expansion: int, stride: int) -> str:
    """Expand by 1x1, filter depthwise by 3x3, project linearly by 1x1; add the input where shapes agree."""
    hidden = graph.channels[x] * expansion
    out = x
    if expansion != 1:
        out = _conv_bn_relu6(graph, out, f"{name}.expand", hidden, kernel=1)
    out = _conv_bn_relu6(graph, out, f"{name}.depthwise", hidden, kernel=3, stride=stride, groups=hidden)
    out = graph.conv(out, f"{name}.project.conv", width, kernel=1)
    out = graph.batch_norm(out, f"{name}.project.bn")
    if stride == 1 and graph.channels[x] == width:
        out = graph.add(x, out, f"{name}.add")
    return out


def _conv_bn_relu6(graph: GraphBuilder, x: str, name: str, width: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
    x = graph.conv(x, f"{name}.conv", width, kernel, stride=stride, groups=groups)
    return graph.relu6(graph.batch_norm(x, f"{name}.bn"), f"{name}.relu6")
