"""Profiles of maps: SynFlow per channel where zeros around small maps make levels and derivatives vary from place to place."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from onnx.numpy_helper import from_array

import onnx_reconvene as rc
from onnx_reconvene.synflow.exact import ExactNetwork
from onnx_reconvene.synflow.rules import channel_network

PADDED = "Conv <pads = [1, 1, 1, 1]>"
NETS = {
    "chain": f"a = {PADDED} (x, w1) b = Relu (a) c = {PADDED} (b, w2) y = {PADDED} (c, w3)",
    "strides": f"a = {PADDED} (x, w1) b = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (a, w2) y = {PADDED} (b, w3)",
    "dilations": f"a = {PADDED} (x, w1) b = Conv <pads = [2, 2, 2, 2], dilations = [2, 2]> (a, w2) y = {PADDED} (b, w3)",
    "same": f"""a = {PADDED} (x, w1) b = Conv <auto_pad = "SAME_LOWER", strides = [3, 3]> (a, w2)
        y = Conv <auto_pad = "SAME_UPPER"> (b, w3)""",
    "residual": f"a = {PADDED} (x, w1) b = {PADDED} (a, w2) c = Add (a, b) y = {PADDED} (c, w3)",
    "side by side": f"a = {PADDED} (x, w1) b = {PADDED} (a, w2) c = Concat <axis = 1> (a, b) y = {PADDED} (c, w4)",
    "maximum": f"""a = {PADDED} (x, w1) b = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)
        c = {PADDED} (b, w2) d = Add (a, c) y = {PADDED} (d, w3)""",
    "mean": f"""a = {PADDED} (x, w1) b = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (a)
        c = {PADDED} (b, w2) d = Add (a, c) y = {PADDED} (d, w3)""",
    "mean of what is there": f"""a = {PADDED} (x, w1) b = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)
        c = {PADDED} (b, w2) d = Add (a, c) y = {PADDED} (d, w3)""",
    "gate": f"""a = {PADDED} (x, w1) p = GlobalAveragePool (a) q = Conv (p, v1) s = Sigmoid (q) h = Mul (a, s)
        y = {PADDED} (h, w3)""",
    "gate over positions": f"""a = {PADDED} (x, w1) p = ReduceMean (a, one) q = {PADDED} (p, v2) s = Sigmoid (q)
        h = Mul (a, s) y = {PADDED} (h, w3)""",
    "transposed": f"""a = {PADDED} (x, w1) b = ConvTranspose <pads = [1, 1, 1, 1], strides = [2, 2]> (a, w2)
        y = {PADDED} (b, w3)""",
    "padding of its own": f"""a = {PADDED} (x, w1) b = Pad (a, around) c = {PADDED} (b, w2)
        y = {PADDED} (c, w3)""",
    "part of a map": f"""a = {PADDED} (x, w1) b = Slice (a, one, three, two)
        c = Slice (a, two, four, two) d = Add (b, c) e = {PADDED} (d, w2) y = {PADDED} (e, w3)""",
    "nearest": f"""a = {PADDED} (x, w1) b = {PADDED} (a, w2) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
        q = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (p, , twice)
        c = Add (q, a) y = {PADDED} (c, w3)""",
    "channels last": f"""a = {PADDED} (x, w1) b = Transpose <perm = [0, 2, 3, 1]> (a) c = MatMul (b, m1)
        d = Transpose <perm = [0, 3, 1, 2]> (c) e = {PADDED} (d, w2) y = {PADDED} (e, w3)""",
    "normalized": f"""a = {PADDED} (x, w1) b = InstanceNormalization (a, s6, s6) c = {PADDED} (b, w2)
        d = GroupNormalization <num_groups = 3> (c, s6, s6) y = {PADDED} (d, w3)""",
    "summed over a letter": f"""a = {PADDED} (x, w1) b = Einsum <equation = "bchw,cd->bhwd"> (a, m1)
        c = Transpose <perm = [0, 3, 1, 2]> (b) d = {PADDED} (c, w2) y = {PADDED} (d, w3)""",
    "words": f"""a = {PADDED} (x, w1) b = Reshape (a, words) c = Transpose <perm = [0, 2, 1]> (b)
        d = MatMul (c, m1) e = ReduceMean <keepdims = 0> (d, one) f = MatMul (c, m2)
        g = ReduceMax <keepdims = 0> (f, one)
        h = Add (e, g) y = MatMul (h, m3)""",
    "flattened": f"a = {PADDED} (x, w1) b = {PADDED} (a, w2) c = Flatten (b) d = Relu (c) e = Gemm (d, g1) y = MatMul (e, m3)",
    "flattened, channels last": f"""a = {PADDED} (x, w1) b = {PADDED} (a, w2) t = Transpose <perm = [0, 2, 3, 1]> (b)
        c = Flatten (t) e = Gemm (c, g1) y = MatMul (e, m3)""",
}
SHAPES = {"w1": (6, 3, 3, 3), "w2": (6, 6, 3, 3), "w3": (4, 6, 3, 3), "w4": (4, 12, 3, 3), "v1": (6, 6, 1, 1), "v2": (1, 1, 3, 3)}
SHAPES |= {"m1": (6, 6), "m2": (6, 6), "m3": (6, 4), "g1": (96, 6), "s6": (6,)}
CONSTANTS = {"one": [1], "two": [2], "three": [3], "four": [4], "around": [0, 0, 1, 0, 0, 0, 0, 1], "words": [1, 6, 16]}
CONSTANTS |= {"twice": [1.0, 1.0, 2.0, 2.0]}
SUMS = 0.004  # of a layer, with channels that differ


@pytest.fixture(params=NETS)
def model(request: pytest.FixtureRequest, parsed: Callable[..., ModelProto]) -> ModelProto:
    """Networks on maps of four by four, every layer of which reads beyond their edges."""
    body = NETS[request.param]
    used = set(re.findall(r"\w+", body))
    shapes = {name: shape for name, shape in SHAPES.items() if name in used}
    made = "n,m" if "m3" in used else "n,m,h,w"
    result = parsed(f'<ir_version: 9, opset_import: ["" : 21]> net (float[1,3,4,4] x) => (float[{made}] y) {{ {body} }}', **shapes)
    constants = {name: np.array(value) for name, value in CONSTANTS.items() if name in used}
    result.graph.initializer.extend(
        from_array(v.astype(np.float32 if v.dtype.kind == "f" else np.int64), name) for name, v in constants.items()
    )
    return result


def weights(model: ModelProto) -> list[TensorProto]:
    """Return the initializers that are weights."""
    return [tensor for tensor in model.graph.initializer if tensor.name in SHAPES]


def test_it_is_exact_where_channels_are_alike(model: ModelProto) -> None:
    for k, tensor in enumerate(weights(model)):
        tensor.CopyFrom(from_array(np.full(tuple(tensor.dims), 1 / (k + 2), np.float32), tensor.name))
    analysis = rc.analyze(model)
    whole = np.ones(analysis.width, bool)
    found, wanted = channel_network(analysis).elements(), ExactNetwork(analysis).elements(whole)
    assert wanted
    for name, scores in wanted.items():
        np.testing.assert_allclose(found[name], scores, rtol=1e-4)


def test_layers_carry_what_they_carry_in_fact(model: ModelProto) -> None:
    analysis = rc.analyze(model)
    whole = np.ones(analysis.width, bool)
    found, wanted = channel_network(analysis).elements(), ExactNetwork(analysis).elements(whole)
    for name, scores in wanted.items():
        assert found[name].sum() == pytest.approx(scores.sum(), rel=SUMS)


def test_the_flow_is_conserved_when_units_go(parsed: Callable[..., ModelProto]) -> None:
    """All of it passes each cut, though profiles were computed when all units were there."""
    text = f'<ir_version: 9, opset_import: ["" : 18]> net (float[1,3,4,4] x) => (float[n,m,h,w] y) {{ {NETS["chain"]} }}'
    analysis = rc.analyze(parsed(text, **{name: SHAPES[name] for name in ("w1", "w2", "w3")}))
    shares = channel_network(analysis).shares(np.arange(analysis.width) % 3 > 0)
    for group in analysis.groups:
        assert shares[group.units].sum() == pytest.approx(2)  # once where its units are made, once where they are read


def test_channels_of_a_symmetric_map_differ_in_where_their_maximum_lies(parsed: Callable[..., ModelProto]) -> None:
    text = f"""<ir_version: 9, opset_import: ["" : 18]> net (float[1,3,2,2] x) => (float[n,m] y) {{
        a = {PADDED} (x, w1) b = {PADDED} (a, w2) c = MaxPool <kernel_shape = [2, 2]> (b) d = Flatten (c) y = MatMul (d, m3) }}"""
    analysis = rc.analyze(parsed(text, w1=(64, 3, 3, 3), w2=(256, 64, 3, 3), m3=(256, 4)))
    found, wanted = channel_network(analysis).elements(), ExactNetwork(analysis).elements(np.ones(analysis.width, bool))
    np.testing.assert_allclose(found["w2"].sum((0, 1)), wanted["w2"].sum((0, 1)), rtol=0.2)
