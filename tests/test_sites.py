"""Criteria at layers whose maps do not tell all of their weights: recurrent layers, embeddings, Einsum, biases that stand apart."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, parser

import onnx_reconvene as rc
from onnx_reconvene.bridges import open_model
from onnx_reconvene.calibration import Calibration
from onnx_reconvene.notes import notes_of
from onnx_reconvene.passes import Load, Score, Sequential

SAMPLES = 5
IDS = {"x": np.random.default_rng(1).integers(0, 9, (SAMPLES, 4))}
FLOATS = {"x": np.random.default_rng(1).standard_normal((SAMPLES, 4, 6), dtype=np.float32)}
# the body of a network, its weights, and its samples
NETWORKS = {
    "LSTM": (
        """{ h = MatMul (x, w) t = Transpose <perm = [1, 0, 2]> (h)
             s = LSTM <hidden_size = 5> (t, lw, lr, lb) one = Constant <value_ints = [1]> () q = Squeeze (s, one)
             y = MatMul (q, v) }""",
        {"w": (6, 8), "lw": (1, 20, 8), "lr": (1, 20, 5), "lb": (1, 40), "v": (5, 3)},
        FLOATS,
    ),
    "one LSTM twice": (
        """{ t = Transpose <perm = [1, 0, 2]> (x) m = Neg (t) one = Constant <value_ints = [1]> ()
             a = LSTM <hidden_size = 5> (t, lw, lr, lb) b = LSTM <hidden_size = 5> (m, lw, lr, lb)
             p = Squeeze (a, one) q = Squeeze (b, one) c = Concat <axis = 2> (p, q) y = MatMul (c, v) }""",
        {"lw": (1, 20, 6), "lr": (1, 20, 5), "lb": (1, 40), "v": (10, 3)},
        FLOATS,
    ),
    "one LSTM twice, for its last state alone": (
        """{ t = Transpose <perm = [1, 0, 2]> (x) m = Neg (t)
             "", a = LSTM <hidden_size = 5> (t, lw, lr, lb) "", b = LSTM <hidden_size = 5> (m, lw, lr, lb)
             c = Concat <axis = 2> (a, b) y = MatMul (c, v) }""",
        {"lw": (1, 20, 6), "lr": (1, 20, 5), "lb": (1, 40), "v": (10, 3)},
        FLOATS,
    ),
    "GRU in both directions": (
        """{ t = Transpose <perm = [1, 0, 2]> (x)
             s = GRU <hidden_size = 4, linear_before_reset = 1, direction = "bidirectional"> (t, gw, gr)
             o = Transpose <perm = [0, 2, 1, 3]> (s) shape = Constant <value_ints = [0, 0, -1]> () f = Reshape (o, shape)
             y = MatMul (f, v) }""",
        {"gw": (2, 12, 6), "gr": (2, 12, 4), "v": (8, 3)},
        FLOATS,
    ),
    "embeddings": (
        """{ e = Gather (table, x) h = MatMul (e, w) r = Relu (h) y = MatMul (r, v) }""",
        {"table": (9, 6), "w": (6, 8), "v": (8, 3)},
        IDS,
    ),
    "biases from an Add": (
        """{ h = MatMul (x, w) a = Add (b, h) r = Relu (a) o = MatMul (r, u) s = Add (o, x) t = Relu (s) y = MatMul (t, v) }""",
        {"w": (6, 8), "b": (8,), "u": (8, 6), "v": (6, 3)},
        FLOATS,
    ),
    "a depthwise ConvTranspose": (
        """{ h = Conv (x, w, b) r = Relu (h) k = ConvTranspose <group = 8> (r, u, c) q = Sigmoid (k) y = Conv (q, v) }""",
        {"w": (8, 4, 1), "b": (8,), "u": (8, 1, 2), "c": (8,), "v": (4, 8, 5)},
        FLOATS,
    ),
    "a ConvTranspose that makes several channels of each": (
        """{ h = Conv (x, w, b) r = Relu (h) k = ConvTranspose <group = 8> (r, u, c) q = Sigmoid (k) y = Conv (q, v) }""",
        {"w": (8, 4, 1), "b": (8,), "u": (8, 3, 2), "c": (24,), "v": (4, 24, 5)},
        FLOATS,
    ),
    "Einsum": (
        """{ h = Einsum <equation = "nti,ji->ntj"> (x, w) r = Relu (h) y = Einsum <equation = "ntj,jk->ntk"> (r, v) }""",
        {"w": (8, 6), "v": (8, 3)},
        FLOATS,
    ),
}


@pytest.fixture(params=NETWORKS)
def case(request, parsed):
    """A network, the names of its weights, its data."""
    body, weights, data = NETWORKS[request.param]
    x = "int64[n,4] x" if data is IDS else "float[n,4,6] x"
    out = "1,n,3" if "last state" in request.param else "4,n,3" if "Transpose" in body else "n,4,3"
    model = parsed(f'<ir_version: 9, opset_import: ["" : 18]> net ({x}) => (float[{out}] y) {body}', **weights)
    return model, list(weights), data


def scored(model, criterion, data, **options):
    """Return the analysis of the network and what a criterion says of it."""
    graph, _ = open_model(model)
    Sequential(Load(), Score(criterion, calibration=Calibration(data, loss="squared-norm", **options))).run(graph)
    return notes_of(graph).analysis, notes_of(graph).scores


def by_weights(model, names, data, analysis):
    """Return, for each sample, the sum of w * dloss/dw over the weights of each unit, [samples, units]."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    own.graph.node.extend(parser.parse_graph("g () => () { z = Mul (y, y) loss = ReduceSum <keepdims = 0> (z) }").node)
    own.graph.output.append(helper.make_tensor_value_info("loss", onnx.TensorProto.FLOAT, []))
    session = ort.InferenceSession(rc.gradients(own, names, "loss").SerializeToString(), providers=["CPUExecutionProvider"])
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    sums = np.zeros((SAMPLES, analysis.width))
    for k, total in enumerate(sums):
        found = session.run([f"{name}.grad" for name in names], {"x": data["x"][k : k + 1]})
        for name, slope in zip(names, found, strict=True):
            for units in analysis.bearings(name).values():
                spread = np.broadcast_to(units, slope.shape)
                total += np.bincount(spread[spread >= 0], (weights[name] * slope)[spread >= 0], analysis.width)
    return sums


@pytest.mark.parametrize("batch_size", [1, 3])
def test_they_count_with_their_weights(case, batch_size):
    model, names, data = case
    analysis, taylor = scored(model, "taylor", data, batch_size=batch_size)
    _, fisher = scored(model, "fisher", data, batch_size=batch_size)
    sums = by_weights(model, names, data, analysis)
    assert analysis.width >= 4
    np.testing.assert_allclose(taylor, np.square(sums.mean(0)), rtol=2e-3, atol=1e-5 * np.square(sums.mean(0)).max())
    np.testing.assert_allclose(fisher, np.square(sums).mean(0), rtol=2e-3, atol=1e-5 * np.square(sums).max())


def test_they_see_feature_maps(case):
    model, _, data = case
    analysis, found = scored(model, "activation-mean", data)
    assert analysis.width >= 4
    assert (found > 0).all()


def test_units_that_no_layer_reads_are_seen_where_they_are_made(parsed):
    model = parsed(
        """<ir_version: 9, opset_import: ["" : 18]> net (int64[n,4] x) => (float[n,3,4,1] y) {
            e = Gather (table, x)
            one = Constant <value_ints = [1]> ()
            u = Unsqueeze (e, one)
            y = Conv (u, w)
        }""",
        table=(9, 6),
        w=(3, 1, 1, 6),
    )
    analysis, found = scored(model, "activation-mean", IDS)
    table = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert analysis.width == 6
    np.testing.assert_allclose(found, np.abs(table[IDS["x"]]).mean((0, 1)), rtol=1e-5)


def test_single_samples_that_a_network_of_fixed_batches_mixes(parsed):
    body, weights, _ = NETWORKS["LSTM"]
    model = parsed(f'<ir_version: 9, opset_import: ["" : 18]> net (float[2,4,6] x) => (float[4,2,3] y) {body}', **weights)
    data = {"x": FLOATS["x"][:4]}
    assert scored(model, "taylor", data)[1].any()
    with pytest.raises(rc.UsageError, match="at 'lw' in batches of 2: export the network with a free batch dimension"):
        scored(model, "fisher", data)
