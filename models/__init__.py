"""Standard networks as freshly initialized ONNX graphs.

``build(name, seed)`` returns a float32 model with batch normalization kept as nodes and one input ``input`` whose
batch dimension is free. The seed fixes every byte of the model (for a given release of numpy and onnx).
"""

from collections.abc import Callable
from typing import NamedTuple

from onnx import ModelProto

from models.builder import parameter_count
from models.detector import detector
from models.mobilenet import mobilenetv2
from models.resnet import resnet18, resnet20, resnet50, resnet56
from models.unet import unet
from models.vgg import vgg16_bn

__all__ = ["NAMES", "NETWORKS", "Network", "build", "parameter_count"]


class Network(NamedTuple):
    """A registered network: the function from seed to model, and one phrase about it."""

    build: Callable[[int], ModelProto]
    description: str


NETWORKS = {
    "vgg16-bn": Network(vgg16_bn, "CIFAR-10 classifier, a plain chain of convolutions"),
    "resnet20": Network(resnet20, "CIFAR-10 classifier, sliced and zero-padded shortcuts"),
    "resnet56": Network(resnet56, "CIFAR-10 classifier, sliced and zero-padded shortcuts"),
    "resnet18": Network(resnet18, "Tiny ImageNet classifier, projection shortcuts"),
    "resnet50": Network(resnet50, "ImageNet classifier, bottleneck blocks, version 1.5"),
    "mobilenetv2": Network(mobilenetv2, "ImageNet classifier, depthwise inverted residuals"),
    "unet": Network(unet, "binary segmentation, transposed convolutions and concatenated skips"),
    "detector": Network(detector, "anchor-free object detector with heads at strides 8, 16 and 32"),
}
NAMES = tuple(NETWORKS)


def build(name: str, seed: int = 0) -> ModelProto:
    """Build the registered network ``name``; raise ValueError if there is none."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NAMES)}")
    return NETWORKS[name].build(seed)
