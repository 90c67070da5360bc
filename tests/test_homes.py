"""Weights are weights wherever they stand: in initializers, in Constant nodes, in sparse tensors, in bodies."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

import onnx_reconvene as rc
from onnx_reconvene.cost import CostModel
from onnx_reconvene.graph import from_model, load, to_model
from onnx_reconvene.inspection import inspection
from tests.nets import ALL
from tests.nets.net import convs, in_constant_nodes, net

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "params": {"target": "params=0.5", "criterion": "l1"},
    "size": {"target": "size=0.5", "criterion": "fpgm", "allocate": "global"},
    "gradients": {"criterion": "taylor", "allocate": "global", "data": "random", "rectify": "none", "repair": "lstsq"},
    "weights": {"granularity": "weight", "target": "params=0.5"},
}


def small() -> ModelProto:
    """Return a network of convolutions and a normalization, with weights that are as drawn by a framework."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        bound = np.sqrt(1 / np.prod(shape[1:]))
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    norm = {
        "s": np.ones(16, np.float32),
        "b": np.zeros(16, np.float32),
        "m": np.zeros(16, np.float32),
        "v": np.ones(16, np.float32),
    }
    return net(
        """c = Conv <pads=[1,1,1,1]> (x, w1) n = BatchNormalization (c, s, b, m, v) r = Relu (n)
        d = Conv <pads=[1,1,1,1]> (r, w2) e = Relu (d) g = GlobalAveragePool (e) f = Flatten (g) y = Gemm <transB=1> (f, w3, b3)""",
        "",
        "float[N,3,8,8] x",
        "float[N,1] y",
        w1=drawn(16, 3, 3, 3),
        w2=drawn(16, 16, 3, 3),
        w3=drawn(1, 16),
        b3=np.ones(1, np.float32),
        **norm,
    ).model


@pytest.mark.parametrize("name", SETTINGS)
def test_constant_nodes_are_treated_as_initializers(name: str) -> None:
    options = dict(SETTINGS[name])
    if "data" in options:
        options["data"] = {"x": np.random.default_rng(1).standard_normal((16, 3, 8, 8), np.float32)}
    plain, held = (rc.prune(model, **options) for model in (small(), in_constant_nodes(small())))
    assert (plain.report.after.nodes, held.report.after.nodes) == (8, 16)
    figures = [
        (r.before.params, r.before.bytes, r.before.macs, r.after.params, r.after.bytes, r.after.macs)
        for r in (plain.report, held.report)
    ]
    assert figures[0] == figures[1]
    assert (held.report.groups, held.report.verify, held.report.rectify) == (
        plain.report.groups,
        plain.report.verify,
        plain.report.rectify,
    )
    assert (held.report.stage, held.report.repair) == (plain.report.stage, plain.report.repair)
    assert held.model == in_constant_nodes(plain.model)


def test_an_untouched_network_stays_as_it_is_in_every_way_of_storing_it(tmp_path: Any) -> None:
    model = in_constant_nodes(small())
    assert to_model(from_model(model)) == model
    onnx.save(model, tmp_path / "in.onnx")
    graph = load(tmp_path / "in.onnx")
    assert to_model(graph) == model
    rc.prune(tmp_path / "in.onnx", target="channels=1.0").save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == model
    assert inspection(rc.analyze(model)) == inspection(rc.analyze(small()))


def test_gradients_are_those_by_the_weights() -> None:
    names = [{value.name for value in rc.gradients(model).graph.output} for model in (small(), in_constant_nodes(small()))]
    assert names[0] == names[1]


def test_numbers_alone_are_settings() -> None:
    model = convs("k = Constant <value = float[1] {2.0}> () h = Mul (a, k)").model
    before = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    report = rc.prune(model, target="channels=0.5", round_to=1).report
    assert report.before.params == sum(before.values())
    assert report.before.nodes == 4


def test_floats_as_an_attribute_are_weights_too() -> None:
    text = "k = Constant <value_floats = [1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0]> () h = Add (p, k) q = Relu (h) y = MatMul (q, w2)"
    model = net("p = MatMul (x, w1) " + text, "", "float[2,5] x", "float[2,3] y", w1=(5, 8), w2=(8, 3)).model
    result = rc.prune(model, target="channels=0.5", round_to=1, rectify="none")
    (node,) = [node for node in result.model.graph.node if node.op_type == "Constant"]
    assert result.report.verify.status == "exact"
    assert result.report.before.params - result.report.after.params == 4 * (5 + 1 + 3)
    assert [a.name for a in node.attribute] == ["value_floats"]
    assert len(node.attribute[0].floats) == 4


def sparse(name: str, values: Any, linear: bool = True) -> onnx.SparseTensorProto:
    """Return a sparse tensor that holds what values do."""
    places = np.flatnonzero(values)
    indices = places if linear else np.stack(np.unravel_index(places, values.shape), 1)
    numbers = numpy_helper.from_array(indices.astype(np.int64), f"{name}_places")
    return helper.make_sparse_tensor(numpy_helper.from_array(values.ravel()[places], name), numbers, values.shape)


INTEGERS = """<ir_version: 9, opset_import: ["" : 18]> net (float[2,3,4,4] x) => (float[2,5,4,4] y) {
    a = Conv (x, w1) b, c = Split <axis=1> (a, parts) d = Add (b, c) e = Reshape (d, shape) y = Conv (e, w2) }"""


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_integers_keep_their_type(parsed: Callable[..., ModelProto], linear: bool) -> None:
    model = parsed(INTEGERS, w1=(8, 3, 1, 1), w2=(5, 4, 1, 1))
    for name, values in (("parts", [4, 4]), ("shape", [2, 4, 4, 4])):
        model.graph.sparse_initializer.append(sparse(name, np.asarray(values), linear))
    result = rc.prune(model, target="channels=0.5", round_to=1, criterion="l1")
    assert result.report.verify.status == "exact"
    dense = {tensor.name: tensor for tensor in result.model.graph.initializer}
    assert dense["parts"].data_type == dense["shape"].data_type == TensorProto.INT64
    assert numpy_helper.to_array(dense["parts"]).tolist() == [2, 2]
    assert not result.model.graph.sparse_initializer
    onnxruntime.InferenceSession(result.model.SerializeToString())
    assert rc.prune(model, target="channels=1.0").model == model


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sparse_weights_are_cut_and_stay_sparse(dtype: type) -> None:
    model = convs("h = Relu (a)", inputs="float[2,3,6,6] x").model
    rng = np.random.default_rng(0)
    values = np.where(rng.random((16, 16)) < 0.1, rng.standard_normal((16, 16)), 0).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x, y = (helper.make_tensor_value_info(name, kind, [4, size]) for name, size in (("x", 16), ("y", 16)))
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["a"]), helper.make_node("MatMul", ["a", "w2"], ["y"])]
    graph = helper.make_graph(nodes, "net", [x], [y], sparse_initializer=[sparse("w1", values), sparse("w2", values.T.copy())])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    result = rc.prune(model, target="channels=0.5", criterion="l1", rectify="none", round_to=1)
    assert result.report.verify.status == "exact"
    w1, w2 = result.model.graph.sparse_initializer
    assert (list(w1.dims), list(w2.dims)) == ([16, 8], [8, 16])
    assert w1.values.data_type == w2.values.data_type == kind
    assert result.report.before.params == 2 * 256 == 2 * result.report.after.params


def test_data_criteria_see_sparse_weights(parsed: Callable[..., ModelProto]) -> None:
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18]> net (float[N,6] x) => (float[N,3] y) {
        a = MatMul (x, w1) b = Relu (a) y = MatMul (b, w2) }"""
    )
    rng = np.random.default_rng(0)
    weights = {"w1": rng.standard_normal((6, 8)), "w2": rng.standard_normal((8, 3))}
    dense = ModelProto()
    dense.CopyFrom(model)
    for name, values in weights.items():
        kept = np.where(rng.random(values.shape) < 0.5, values, 0).astype(np.float32)
        dense.graph.initializer.append(numpy_helper.from_array(kept, name))
        model.graph.sparse_initializer.append(sparse(name, kept))
    data = {"x": rng.standard_normal((8, 6)).astype(np.float32)}
    options = {"criterion": "taylor", "data": data, "target": "channels=0.5", "round_to": 1}
    a, b = (rc.prune(m, **options).report for m in (dense, model))
    assert a.groups == b.groups
    assert a.verify == b.verify


@pytest.mark.parametrize("name", ["If: weight in a Constant node", "function that stores a weight"])
def test_weights_in_bodies_and_functions_stay_constant_nodes(name: str) -> None:
    result = rc.prune(ALL[name].model, target="channels=0.5", round_to=1)
    text = onnx.printer.to_text(result.model)
    assert text.count("Constant <") == onnx.printer.to_text(ALL[name].model).count("Constant <") > 0


def test_sparse_values_of_constant_nodes(parsed: Callable[..., ModelProto]) -> None:
    model = parsed(INTEGERS, w1=(8, 3, 1, 1), w2=(5, 4, 1, 1))
    for name, values in (("shape", [2, 4, 4, 4]), ("parts", [4, 4])):
        node = helper.make_node("Constant", [], [name], sparse_value=sparse("", np.asarray(values)))
        model.graph.node.insert(0, node)
    assert rc.prune(model, target="channels=1.0").model == model
    result = rc.prune(model, target="channels=0.5", round_to=1, criterion="l1")
    assert result.report.verify.status == "exact"
    assert [node.op_type for node in result.model.graph.node][:2] == ["Constant", "Constant"]


def test_scales_put_together_from_constants_are_no_weights(parsed):
    """As exporters write what enlarges an image; the bias in another Constant node is one."""
    model = parsed(
        """<ir_version: 9, opset_import: ["" : 18]> net (float[1,3,4,4] x) => (float[1,2,8,8] y) {
            a = Conv(x, w) same = Constant<value = float[2] {1, 1}>() twice = Constant<value = float[2] {2, 2}>()
            scales = Concat<axis = 0>(same, twice) h = Resize<mode = "nearest">(a, , scales)
            b = Constant<value = float[2] {3, 4}>() y = Conv(h, v, b)
        }""",
        w=(8, 3, 1, 1),
        v=(2, 8, 1, 1),
    )
    cost = CostModel(rc.analyze(model))
    assert cost("params", cost.dense) == 8 * 3 + 2 * 8 + 2
