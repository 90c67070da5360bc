"""A small graph builder: each method appends one layer and returns the name of the tensor it produces.

Conventions shared by every network of this package:

* a node and the tensor it produces carry the layer's name (``layer1.0.conv1``), its weights add a suffix
  (``layer1.0.conv1.weight``);
* learned values are initializers, fixed operator arguments (pads, split sizes, clip bounds) are Constant nodes;
* convolution weights are Kaiming-normal over the fan-out of one group (He et al., 2015), N(0, 2 / fan_out);
  linear weights and all biases are uniform within 1 / sqrt(fan_in);
* BatchNormalization starts as the identity: scale 1, bias 0, mean 0, variance 1.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

OPSET = 18
IR_VERSION = 9
INPUT = "input"
BATCH = "batch"
RUNNING_STATISTICS = ("running_mean", "running_var")

FloatArray = npt.NDArray[np.float32]
Attribute = int | Sequence[int] | str


class GraphBuilder:
    """An ONNX graph under construction, with one float32 input ``input`` of shape (batch, *input_shape)."""

    def __init__(self, name: str, input_shape: tuple[int, int, int], seed: int) -> None:
        self.channels = {INPUT: input_shape[0]}
        self._name = name
        self._input_shape = input_shape
        self._random = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def conv(self, x: str, name: str, channels: int, kernel: int, *, stride: int = 1, groups: int = 1, bias: bool = False) -> str:
        """Convolve with an odd square kernel, padded so that stride 1 keeps height and width."""
        shape = (channels, self.channels[x] // groups, kernel, kernel)
        inputs = [x, self._kaiming_normal(f"{name}.weight", shape, fan_out=channels // groups * kernel**2)]
        if bias:
            inputs.append(self._uniform(f"{name}.bias", (channels,), fan_in=math.prod(shape[1:])))
        window = _window(kernel, stride)
        return self._node("Conv", inputs, name, channels, group=groups, dilations=[1, 1], **window)

    def conv_transpose(self, x: str, name: str, channels: int) -> str:
        """Double height and width with a biased 2x2 transposed convolution of stride 2."""
        shape = (self.channels[x], channels, 2, 2)
        weight = self._kaiming_normal(f"{name}.weight", shape, fan_out=channels * 4)
        # Windows do not overlap at stride 2, so each output pixel sums over the input channels only.
        bias = self._uniform(f"{name}.bias", (channels,), fan_in=shape[0])
        return self._node("ConvTranspose", [x, weight, bias], name, channels, **_window(2, 2))

    def batch_norm(self, x: str, name: str) -> str:
        """Normalize per channel, initially the identity (up to epsilon)."""
        channels = self.channels[x]
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        values = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}
        inputs = [self._weight(f"{name}.{suffix}", value) for suffix, value in values.items()]
        return self._node("BatchNormalization", [x, *inputs], name, channels)

    def linear(self, x: str, name: str, features: int) -> str:
        """Map (N, C) to (N, features) with a biased fully connected layer."""
        fan_in = self.channels[x]
        weight = self._uniform(f"{name}.weight", (features, fan_in), fan_in)
        bias = self._uniform(f"{name}.bias", (features,), fan_in)
        return self._node("Gemm", [x, weight, bias], name, features, transB=1)

    def relu(self, x: str, name: str) -> str:
        """Clamp below at 0."""
        return self._node("Relu", [x], name, self.channels[x])

    def relu6(self, x: str, name: str) -> str:
        """Clamp to [0, 6]."""
        bounds = [self._constant(f"relu6.{end}", np.float32(value)) for end, value in (("min", 0), ("max", 6))]
        return self._node("Clip", [x, *bounds], name, self.channels[x])

    def silu(self, x: str, name: str) -> str:
        """Multiply by the sigmoid; ONNX 18 has no single operator for it."""
        gate = self._node("Sigmoid", [x], f"{name}.sigmoid", self.channels[x])
        return self._node("Mul", [x, gate], f"{name}.mul", self.channels[x])

    def max_pool(self, x: str, name: str, kernel: int, stride: int) -> str:
        """Take the maximum over square windows; odd kernels are padded to keep the size at stride 1."""
        return self._node("MaxPool", [x], name, self.channels[x], **_window(kernel, stride))

    def global_average_pool(self, x: str, name: str) -> str:
        """Average (N, C, H, W) to (N, C, 1, 1)."""
        return self._node("GlobalAveragePool", [x], name, self.channels[x])

    def flatten(self, x: str, name: str) -> str:
        """Reshape (N, C, 1, 1) to (N, C)."""
        return self._node("Flatten", [x], name, self.channels[x], axis=1)

    def add(self, x: str, y: str, name: str) -> str:
        """Add two tensors of one shape."""
        return self._node("Add", [x, y], name, self.channels[x])

    def concat(self, tensors: Sequence[str], name: str) -> str:
        """Join tensors along their channels."""
        return self._node("Concat", tensors, name, sum(self.channels[x] for x in tensors), axis=1)

    def halves(self, x: str, name: str) -> tuple[str, str]:
        """Split the channels into a first and a second half."""
        half = self.channels[x] // 2
        first, second = f"{name}.0", f"{name}.1"
        sizes = self._constant(f"{name}.sizes", np.array([half, half]))
        self._nodes.append(helper.make_node("Split", [x, sizes], [first, second], name, axis=1))
        self.channels |= {first: half, second: half}
        return first, second

    def upsample(self, x: str, name: str) -> str:
        """Double height and width, repeating each pixel."""
        scales = self._constant(f"{name}.scales", np.array([1, 1, 2, 2], np.float32))
        rounding = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self._node("Resize", [x, "", scales], name, self.channels[x], **rounding)

    def every_other_pixel(self, x: str, name: str) -> str:
        """Halve height and width by keeping the even rows and columns."""
        arguments = {"starts": [0, 0], "ends": [np.iinfo(np.int64).max] * 2, "axes": [2, 3], "steps": [2, 2]}
        inputs = [self._constant(f"{name}.{key}", np.array(value)) for key, value in arguments.items()]
        return self._node("Slice", [x, *inputs], name, self.channels[x])

    def pad_channels(self, x: str, name: str, channels: int) -> str:
        """Widen to ``channels`` with as many zero channels in front as behind."""
        side = (channels - self.channels[x]) // 2
        pads = self._constant(f"{name}.pads", np.array([0, side, 0, 0, 0, side, 0, 0]))
        return self._node("Pad", [x, pads], name, channels)

    def model(self, **outputs: str) -> ModelProto:
        """Finish: return the model whose outputs are the given tensors, renamed to their keywords."""
        public = {tensor: name for name, tensor in outputs.items()}
        for node in self._nodes:
            node.output[:] = [public.get(tensor, tensor) for tensor in node.output]
        source = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH, *self._input_shape])
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self._nodes, self._name, [source], results, self._weights)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="onnx-reconvene")
        model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        for result in model.graph.output:
            # Shape inference forgets the name of the batch dimension at a Resize.
            result.type.tensor_type.shape.dim[0].dim_param = BATCH
        # Only the output shapes are wanted: recorded intermediate shapes would be stale once a layer is pruned.
        del model.graph.value_info[:]
        return model

    def _node(self, operator: str, inputs: Sequence[str], name: str, channels: int, **attributes: Attribute) -> str:
        node = helper.make_node(operator, inputs, [name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(node)
        self.channels[name] = channels
        return name

    def _constant(self, name: str, value: npt.NDArray[np.generic] | np.float32) -> str:
        # A name asked for again is the same constant, shared.
        if all(node.name != name for node in self._nodes):
            tensor = numpy_helper.from_array(np.asarray(value))
            self._nodes.append(helper.make_node("Constant", [], [name], name, value=tensor))
        return name

    def _weight(self, name: str, value: FloatArray) -> str:
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def _kaiming_normal(self, name: str, shape: tuple[int, ...], fan_out: int) -> str:
        noise = self._random.standard_normal(shape, dtype=np.float32)
        return self._weight(name, noise * np.float32(math.sqrt(2 / fan_out)))

    def _uniform(self, name: str, shape: tuple[int, ...], fan_in: int) -> str:
        noise = 2 * self._random.random(shape, dtype=np.float32) - 1
        return self._weight(name, noise * np.float32(1 / math.sqrt(fan_in)))


def parameter_count(model: ModelProto) -> int:
    """Count the learned values: every initializer but the running statistics of batch normalization."""
    learned = (tensor for tensor in model.graph.initializer if not tensor.name.endswith(RUNNING_STATISTICS))
    return sum(math.prod(tensor.dims) for tensor in learned)


def _window(kernel: int, stride: int) -> dict[str, Sequence[int]]:
    return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [(kernel - 1) // 2] * 4}
