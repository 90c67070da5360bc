"""U-Net (Ronneberger et al., 2015) with batch normalization and size-preserving convolutions."""

from onnx import ModelProto

from models.builder import INPUT, GraphBuilder

WIDTHS = (32, 64, 128, 256)
BOTTLENECK_WIDTH = 512


def unet(seed: int) -> ModelProto:
    """Build a four-level U-Net: (batch, 3, 128, 128) to ``mask_logits`` (batch, 1, 128, 128)."""
    graph = GraphBuilder("unet", (3, 128, 128), seed)
    x, skips = INPUT, []
    for level, width in enumerate(WIDTHS, start=1):
        skips.append(_double_conv(graph, x, f"encoder{level}", width))
        x = graph.max_pool(skips[-1], f"pool{level}", kernel=2, stride=2)
    x = _double_conv(graph, x, "bottleneck", BOTTLENECK_WIDTH)
    for level, width in reversed(list(enumerate(WIDTHS, start=1))):
        x = graph.conv_transpose(x, f"upconv{level}", width)
        x = graph.concat([x, skips[level - 1]], f"concat{level}")
        x = _double_conv(graph, x, f"decoder{level}", width)
    return graph.model(mask_logits=graph.conv(x, "head", 1, kernel=1, bias=True))


def _double_conv(graph: GraphBuilder, x: str, name: str, width: int) -> str:
    for index in (1, 2):
        x = graph.conv(x, f"{name}.conv{index}", width, kernel=3)
        x = graph.batch_norm(x, f"{name}.bn{index}")
        x = graph.relu(x, f"{name}.relu{index}")
    return x
