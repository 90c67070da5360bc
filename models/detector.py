"""A small anchor-free detector in the manner of YOLOv8 (Jocher et al., 2023).

Its blocks are cross-stage partial blocks that keep every intermediate result (after Wang et al., 2020), fast spatial
pyramid pooling (after He et al., 2015) and a path aggregation neck (Liu et al., 2018).
"""

from onnx import ModelProto

from models.builder import INPUT, GraphBuilder

CLASSES = 20
BOX_SIDES = 4
STEM_WIDTH = 16
# Output channels and bottlenecks of the backbone stages, which end at strides 4, 8, 16 and 32.
STAGES = ((32, 1), (64, 2), (128, 2), (256, 1))


def detector(seed: int) -> ModelProto:
    """Build the detector: (batch, 3, 128, 128) to one map per stride s, (batch, 24, 128 / s, 128 / s).

    The outputs are ``stride8``, ``stride16`` and ``stride32``; a map's channels are four box sides and twenty classes.
    """
    graph = GraphBuilder("detector", (3, 128, 128), seed)
    fine, middle, coarse = _neck(graph, *_backbone(graph))
    return graph.model(
        stride8=_head(graph, fine, "heads.8"),
        stride16=_head(graph, middle, "heads.16"),
        stride32=_head(graph, coarse, "heads.32"),
    )


def _backbone(graph: GraphBuilder) -> tuple[str, str, str]:
    """Return the feature maps at strides 8, 16 and 32."""
    x = _conv_bn_silu(graph, INPUT, "backbone.stem", STEM_WIDTH, kernel=3, stride=2)
    maps = []
    for stage, (width, depth) in enumerate(STAGES, start=1):
        x = _conv_bn_silu(graph, x, f"backbone.down{stage}", width, kernel=3, stride=2)
        x = _partial_block(graph, x, f"backbone.stage{stage}", width, depth, residual=True)
        maps.append(x)
    _, fine, middle, coarse = maps
    return fine, middle, _pyramid_pooling(graph, coarse, "backbone.sppf")


def _neck(graph: GraphBuilder, fine: str, middle: str, coarse: str) -> tuple[str, str, str]:
    """Pass coarse context up to the fine maps, then fine detail back down; shapes are kept."""
    middle_up = _fuse(graph, graph.upsample(coarse, "neck.up1.resize"), middle, "neck.up1")
    fine_out = _fuse(graph, graph.upsample(middle_up, "neck.up2.resize"), fine, "neck.up2")
    middle_out = _fuse(graph, _downsample(graph, fine_out, "neck.down1.conv"), middle_up, "neck.down1")
    coarse_out = _fuse(graph, _downsample(graph, middle_out, "neck.down2.conv"), coarse, "neck.down2")
    return fine_out, middle_out, coarse_out


def _fuse(graph: GraphBuilder, x: str, lateral: str, name: str) -> str:
    joined = graph.concat([x, lateral], f"{name}.concat")
    return _partial_block(graph, joined, f"{name}.block", graph.channels[lateral], depth=1, residual=False)


def _downsample(graph: GraphBuilder, x: str, name: str) -> str:
    return _conv_bn_silu(graph, x, name, graph.channels[x], kernel=3, stride=2)


def _partial_block(graph: GraphBuilder, x: str, name: str, width: int, depth: int, residual: bool) -> str:
    """Send half the channels through a chain of bottlenecks and merge both halves with every link of the chain."""
    x = _conv_bn_silu(graph, x, f"{name}.enter", width, kernel=1)
    parts = list(graph.halves(x, f"{name}.split"))
    for index in range(depth):
        parts.append(_bottleneck(graph, parts[-1], f"{name}.{index}", residual))
    return _conv_bn_silu(graph, graph.concat(parts, f"{name}.concat"), f"{name}.leave", width, kernel=1)


def _bottleneck(graph: GraphBuilder, x: str, name: str, residual: bool) -> str:
    width = graph.channels[x]
    out = _conv_bn_silu(graph, x, f"{name}.first", width, kernel=3)
    out = _conv_bn_silu(graph, out, f"{name}.second", width, kernel=3)
    return graph.add(x, out, f"{name}.add") if residual else out


def _pyramid_pooling(graph: GraphBuilder, x: str, name: str) -> str:
    """Join the map with its maxima over growing windows; pools in a chain see 5, 9 and 13 pixels."""
    width = graph.channels[x]
    levels = [_conv_bn_silu(graph, x, f"{name}.enter", width // 2, kernel=1)]
    for index in (1, 2, 3):
        levels.append(graph.max_pool(levels[-1], f"{name}.pool{index}", kernel=5, stride=1))
    return _conv_bn_silu(graph, graph.concat(levels, f"{name}.concat"), f"{name}.leave", width, kernel=1)


def _head(graph: GraphBuilder, x: str, name: str) -> str:
    x = _conv_bn_silu(graph, x, f"{name}.hidden", graph.channels[x], kernel=3)
    return graph.conv(x, f"{name}.predict", BOX_SIDES + CLASSES, kernel=1, bias=True)


def _conv_bn_silu(graph: GraphBuilder, x: str, name: str, width: int, kernel: int, stride: int = 1) -> str:
    x = graph.conv(x, f"{name}.conv", width, kernel, stride=stride)
    return graph.silu(graph.batch_norm(x, f"{name}.bn"), f"{name}.silu")
