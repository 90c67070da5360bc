"""Small random networks and their quantized forms, made by onnxruntime's own quantizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
CONV = "{y} = Conv<kernel_shape = [{k},{k}], pads = [{p},{p},{p},{p}], group = {g}, strides = [{s},{s}]>({x}, {y}_w, {y}_b)"


def weight(model: onnx.ModelProto, name: str, *shape: int) -> None:
    """Add random weights to a model."""
    rng = np.random.default_rng([*name.encode(), *shape])
    values = rng.standard_normal(shape, np.float32) / np.sqrt(max(np.prod(shape[1:]), 1))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))


def mobilenet() -> onnx.ModelProto:
    """Return inverted residuals: expanding, depthwise and projecting convolutions."""
    lines, weights = [], {}

    def conv(x: str, y: str, channels: tuple[int, int], k: int = 1, g: int = 1, s: int = 1) -> str:
        lines.append(CONV.format(x=x, y=y, k=k, p=k // 2, g=g, s=s))
        weights[f"{y}_w"], weights[f"{y}_b"] = (channels[1], channels[0] // g, k, k), (channels[1],)
        return y

    def relu(x: str) -> str:
        lines.append(f"{x}_r = Relu({x})")
        return f"{x}_r"

    x, width = relu(conv("x", "stem", (3, 16), k=3, s=2)), 16
    for block, (out, stride) in enumerate([(16, 1), (24, 2), (24, 1), (32, 2), (32, 1)]):
        wide = 4 * width
        h = relu(conv(x, f"expand{block}", (width, wide)))
        h = relu(conv(h, f"depthwise{block}", (wide, wide), k=3, g=wide, s=stride))
        h = conv(h, f"project{block}", (wide, out))
        if out == width and stride == 1:
            lines.append(f"sum{block} = Add({x}, {h})")
            h = f"sum{block}"
        x, width = h, out
    head = relu(conv(x, "head", (width, 96)))
    lines.append(f"pooled = GlobalAveragePool({head}) flat = Flatten(pooled) y = Gemm<transB = 1>(flat, fc_w, fc_b)")
    weights |= {"fc_w": (10, 96), "fc_b": (10,)}
    return _model(" ".join(lines), "float[N,3,32,32] x", "float[N,10] y", weights)


def mlp() -> onnx.ModelProto:
    """Return fully connected layers on inputs of rank 3."""
    body = "a = MatMul(x, w1) b = Add(a, b1) c = Relu(b) d = MatMul(c, w2) e = Add(d, b2) f = Relu(e) y = MatMul(f, w3)"
    return _model(
        body, "float[N,8,24] x", "float[N,8,6] y", {"w1": (24, 64), "b1": (64,), "w2": (64, 48), "b2": (48,), "w3": (48, 6)}
    )


def attention() -> onnx.ModelProto:
    """Return a transformer block of 4 heads."""
    lines = ["e = MatMul(x, we) heads = Constant<value_ints = [0,0,4,12]>() merged = Constant<value_ints = [0,0,48]>()"]
    for name, perm in (("q", "0,2,1,3"), ("k", "0,2,3,1"), ("v", "0,2,1,3")):
        lines.append(f"{name}0 = MatMul(e, w{name}) {name}1 = Add({name}0, b{name}) {name}2 = Reshape({name}1, heads)")
        lines.append(f"{name} = Transpose<perm = [{perm}]>({name}2)")
    lines.append(
        "scale = Constant<value_float = 0.29>() s = MatMul(q, k) t = Mul(s, scale) p = Softmax<axis = -1>(t) o = MatMul(p, v)"
    )
    lines.append("o1 = Transpose<perm = [0,2,1,3]>(o) o2 = Reshape(o1, merged) o3 = MatMul(o2, wo) r = Add(e, o3)")
    lines.append("h = MatMul(r, w1) i = Relu(h) j = MatMul(i, w2) z = Add(r, j) y = MatMul(z, w3)")
    weights = {"we": (16, 48), "wq": (48, 48), "wk": (48, 48), "wv": (48, 48), "bq": (48,), "bk": (48,), "bv": (48,)}
    weights |= {"wo": (48, 48), "w1": (48, 96), "w2": (96, 48), "w3": (48, 5)}
    return _model(" ".join(lines), "float[N,8,16] x", "float[N,8,5] y", weights)


def lstm() -> onnx.ModelProto:
    """Return two recurrent layers, the second in both directions."""
    body = (
        "a, ah, ac = LSTM<hidden_size = 48>(x, w1, r1, b1) one = Constant<value_ints = [1]>() b = Squeeze(a, one) "
        'c, ch, cc = LSTM<hidden_size = 32, direction = "bidirectional">(b, w2, r2, b2) d = Transpose<perm = [0,2,1,3]>(c) '
        "flat = Constant<value_ints = [0,0,64]>() e = Reshape(d, flat) y = MatMul(e, w3)"
    )
    weights = {"w1": (1, 192, 16), "r1": (1, 192, 48), "b1": (1, 384), "w2": (2, 128, 48), "r2": (2, 128, 32), "b2": (2, 256)}
    return _model(body, "float[12,N,16] x", "float[12,N,6] y", weights | {"w3": (64, 6)})


NETS = {"mobilenet": mobilenet, "mlp": mlp, "attention": attention, "lstm": lstm}


def _model(body: str, inputs: str, outputs: str, weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{HEADER} net ({inputs}) => ({outputs}) {{ {body} }}")
    for name, shape in weights.items():
        weight(model, name, *shape)
    return shape_inference.infer_shapes(model)


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """A few random samples to calibrate on."""

    def __init__(self, model: onnx.ModelProto) -> None:
        (value,) = model.graph.input
        sizes = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        rng = np.random.default_rng(0)
        self._samples = iter([{value.name: rng.standard_normal(sizes, np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next sample."""
        return next(self._samples, None)


def forms(path: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the quantized forms of the network at path, by name; those that onnxruntime cannot make are left out."""
    logging.getLogger().setLevel(logging.ERROR)
    model = onnx.load(path)
    for per_channel in (False, True):
        suffix = "_per_channel" if per_channel else ""
        target = folder / f"{path.stem}_dynamic{suffix}.onnx"
        quantize_dynamic(path, target, per_channel=per_channel, weight_type=QuantType.QInt8)
        yield f"dynamic{suffix}", target
        for format_ in (QuantFormat.QDQ, QuantFormat.QOperator):
            name = f"{format_.name.lower()}{suffix}"
            target = folder / f"{path.stem}_{name}.onnx"
            quantize_static(
                path, target, Samples(model), quant_format=format_, per_channel=per_channel, weight_type=QuantType.QInt8
            )
            yield name, target
