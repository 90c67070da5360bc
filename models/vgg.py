"""VGG for CIFAR-10 (Simonyan & Zisserman, 2015) with batch normalization and a single linear layer as classifier."""

from onnx import ModelProto

from models.builder import INPUT, GraphBuilder

POOL = 0
LAYERS = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL)


def vgg16_bn(seed: int) -> ModelProto:
    """Build VGG-16-BN: (batch, 3, 32, 32) to ``logits`` (batch, 10); bias-free convolutions.

    Layers are numbered as in ``features``, one flat sequence of convolutions, norms, activations and pools.
    """
    graph = GraphBuilder("vgg16-bn", (3, 32, 32), seed)
    x, index = INPUT, 0
    for width in LAYERS:
        if width == POOL:
            x = graph.max_pool(x, f"features.{index}", kernel=2, stride=2)
            index += 1
        else:
            x = graph.conv(x, f"features.{index}", width, kernel=3)
            x = graph.batch_norm(x, f"features.{index + 1}")
            x = graph.relu(x, f"features.{index + 2}")
            index += 3
    x = graph.flatten(x, "flatten")
    return graph.model(logits=graph.linear(x, "classifier", 10))
