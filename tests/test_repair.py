"""Repair of trained networks: what stays takes over what the removed channels did."""

import math
from itertools import product

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnx_reconvene as rc
from onnx_reconvene.calibration import Calibration
from onnx_reconvene.passes import Allocate, Cut, Repair, Score
from onnx_reconvene.regression import Window

HALF = {"target": "channels=0.5", "round_to": 1}
HEADER = '< ir_version: 9, opset_import: ["" : 18] > g '


def half(model, **options):
    """Prune half of the channels, with data only where a repair or a criterion looks at them."""
    looks = options.get("repair", "none") != "none" or options.get("criterion") == "taylor"
    unread = set() if looks else {"repair", "data"}
    samples = {"samples": 64} if looks else {}
    return rc.prune(model, **{**HALF, **samples, **{key: value for key, value in options.items() if key not in unread}})


# In each of these every other channel of the first weight equals the one before it: nothing is lost but the sum of the two.
DOUBLED = {
    "Gemm": "(float[n,8] x) => (float[n,4] y) { a = Gemm <transB=1> (x, w1, b1) h = Relu (a) y = Gemm <transB=1> (h, w2, b2) }",
    "Gemm of columns": "(float[n,8] x) => (float[n,4] y) { a = Gemm <transB=1> (x, w1, b1) h = Relu (a) y = Gemm (h, w2t, b2) }",
    "MatMul": """(float[n,5,8] x) => (float[n,5,4] y)
        { a = MatMul (x, w1t) c = Add (b1, a) h = Relu (c) d = MatMul (h, w2t) y = Add (d, b2) }""",
    "MatMul without bias": "(float[n,5,8] x) => (float[n,5,4] y) { a = MatMul (x, w1t) h = Relu (a) y = MatMul (h, w2t) }",
    "Conv": """(float[n,8,9,7] x) => (float[n,4,p,q] y)
        { a = Conv (x, k1, b1) h = Relu (a) y = Conv <pads=[1,0,2,1], strides=[2,1], dilations=[1,2]> (h, k2, b2) }""",
    "Conv with padding by name": """(float[n,8,9,7] x) => (float[n,4,p,q] y)
        { a = Conv (x, k1, b1) h = Relu (a) y = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (h, k2, b2) }""",
    "Conv over time": """(float[n,8,9] x) => (float[n,4,p] y)
        { a = Conv (x, t1, b1) h = Relu (a) y = Conv <pads=[1,1]> (h, t2, b2) }""",
    "Conv in groups": """(float[n,8,9,7] x) => (float[n,4,p,q] y)
        { a = Conv (x, k1, b1) h = Relu (a) y = Conv <group=2, pads=[1,1,1,1]> (h, g2, b2) }""",
}

# Here what is cut ("h") reaches the last layer, which has a bias, by another way than the weight of that layer.
RECURRENT = """(float[n,4,6] x) => (float[n,3] y) { h = MatMul (x, w1) r = Relu (h) t = Transpose <perm=[1,0,2]> (r)
    ,s = GRU <hidden_size=3> (t, gw, gr) first = Constant <value_ints=[0]> () q = Squeeze (s, first) y = Gemm (q, w2, b) }"""
INDIRECT = {
    "recurrence of few hidden units": (
        RECURRENT,
        {"w1": (6, 12), "gw": (1, 9, 12), "gr": (1, 9, 3), "w2": (3, 3)},
        ["'s': GRU is not fitted"],
    ),
    "mean over channels": (
        """(float[n,4,6,6] x) => (float[n,3,6,6] y) { h = Conv (x, w1) r = Relu (h) axes = Constant <value_ints=[1]> ()
        m = ReduceMean (r, axes) y = Conv (m, w2, b) }""",
        {"w1": (12, 4, 1, 1), "w2": (3, 1, 1, 1)},
        [],
    ),
    "branch": (
        """(float[n,6] x) => (float[n,3] y) { h = MatMul (x, w1) r = Relu (h) m = ReduceMax <keepdims=0> (x) k = Cast <to=9> (m)
        s = If (k) <then_branch = t () => (float[n,3] p) { p = MatMul (r, u1) },
                    else_branch = e () => (float[n,3] o) { o = MatMul (r, u2) }>
        y = Gemm (s, w2, b) }""",
        {"w1": (6, 12), "u1": (12, 3), "u2": (12, 3), "w2": (3, 3)},
        ["'s': If is not fitted"],
    ),
}


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def outputs(model: onnx.ModelProto, x: np.ndarray, *names: str) -> list[np.ndarray]:
    """Return tensors of a model on these samples."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(names) or None, {model.graph.input[0].name: x})


def doubled(kind: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """Return a network of two layers, every other channel of the first a copy, and samples for it."""
    rng = np.random.default_rng(0)
    w1 = np.repeat(rng.normal(0, 0.5, (6, 8)), 2, 0) * np.tile([1.0, 0.99], 6)[:, None]
    values = {"w1": w1, "b1": np.repeat(rng.normal(0, 0.1, 6), 2) * np.tile([1.0, 0.99], 6), "b2": rng.normal(0, 0.1, 4)}
    values |= {"w2": rng.normal(0, 0.5, (4, 12)), "k2": rng.normal(0, 0.5, (4, 12, 3, 2)), "t2": rng.normal(0, 0.5, (4, 12, 3))}
    values |= {"w1t": w1.T, "w2t": values["w2"].T, "k1": w1[..., None, None], "t1": w1[..., None]}
    values["g2"] = rng.normal(0, 0.5, (4, 6, 3, 3))
    model = onnx.parser.parse_model(HEADER + DOUBLED[kind])
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items() if n in read)
    sizes = [d.dim_value or 64 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return model, rng.standard_normal(sizes).astype(np.float32)


@pytest.fixture
def originals() -> dict[str, object]:
    """Return the options that keep every other channel."""

    @rc.criterion("originals", "a test")
    def score(analysis, context):
        """Copies matter less."""
        return 1.0 - np.arange(analysis.width) % 2

    return {**HALF, "criterion": "originals"}


def off(model: onnx.ModelProto, cut: onnx.ModelProto, x: np.ndarray) -> float:
    """Return the error of a cut network relative to the spread of what the original returns."""
    (wanted,), (found,) = outputs(model, x), outputs(cut, x)
    return float(np.sqrt(np.mean((wanted - found) ** 2)) / wanted.std())


@pytest.fixture(scope="module")
def trained(network) -> onnx.ModelProto:
    """Return resnet20 with scales and statistics as training leaves them."""
    model = network("resnet20")
    rng = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        if "bn" in tensor.name:
            low, high = (-0.2, 0.2) if tensor.name.endswith(("bias", "mean")) else (0.5, 1.5)
            tensor.CopyFrom(numpy_helper.from_array(rng.uniform(low, high, tensor.dims).astype(np.float32), tensor.name))
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((80, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("kind", DOUBLED)
def test_copies_take_over_what_was_removed(originals, kind):
    model, x = doubled(kind)
    none = rc.prune(model, **originals)
    repaired = rc.prune(model, **originals, repair="lstsq", data=x)
    assert repaired.report.repair["fitted"] == 1
    assert repaired.report.verify.status == "exact"
    assert off(model, none.model, x) > 0.1
    assert off(model, repaired.model, x) < 0.02
    unseen = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    assert off(model, repaired.model, unseen) < 0.03


@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "Conv"])
def test_corrected_biases_keep_the_mean_of_every_output(kind):
    model, x = doubled(kind)
    result = half(model, repair="bn", data=x)
    axes = tuple(axis for axis in range(x.ndim) if axis != (1 if kind == "Conv" else x.ndim - 1))
    (wanted,), (found,), (kept,) = (outputs(m, x) for m in (model, result.model, rc.prune(model, **HALF).model))
    np.testing.assert_allclose(found.mean(axes), wanted.mean(axes), atol=1e-5)
    assert np.abs(kept.mean(axes) - wanted.mean(axes)).max() > 1e-2
    assert result.report.repair["corrected"] == 1


@pytest.mark.parametrize("mode", ["bn", "lstsq"])
def test_norms_get_the_statistics_of_what_they_read(trained, images, mode):
    result = half(trained, repair=mode, data=images, batch_size=20)
    cut = weights(result.model)
    norms = [node for node in result.model.graph.node if node.op_type == "BatchNormalization"]
    for node, (read,) in zip(norms, ([o] for o in outputs(result.model, images[:64], *(n.input[0] for n in norms))), strict=True):
        if node.input[0] != "conv1":  # which reads what it read before
            np.testing.assert_allclose(cut[node.input[3]], read.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(cut[node.input[4]], read.var((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert result.report.repair["recalibrated"] == len(norms) - 1


def test_what_reads_what_it_read_before_is_left_alone(trained, images):
    none, repaired = (half(trained, repair=mode, data=images) for mode in ("none", "lstsq"))
    old, new = weights(none.model), weights(repaired.model)
    assert {name: w.shape for name, w in old.items()} == {name: w.shape for name, w in new.items()}
    same = {name for name in old if np.array_equal(old[name], new[name])}
    assert same == {name for name in old if name.startswith(("conv1.", "bn1.")) or ("bn" in name and "running" not in name)}


def test_each_repair_comes_nearer_than_the_one_before(trained, images):
    apart = [off(trained, half(trained, repair=mode, data=images).model, images) for mode in ("none", "bn", "lstsq")]
    assert apart[0] > apart[1] > apart[2]


def test_runs_are_repeatable_and_a_seed_makes_a_difference(trained, images):
    first, again, other = (half(trained, repair="lstsq", data=images, seed=seed).model for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_layers_with_more_inputs_than_rows_are_left_alone():
    model, x = doubled("Gemm")
    result = half(model, repair="lstsq", data=x, samples=5)
    assert result.report.repair["skipped"] == ["'y': 6 inputs, but only 5 rows of data"]
    assert (result.report.repair["fitted"], result.report.repair["corrected"]) == (0, 1)
    assert np.array_equal(weights(result.model)["w2"], weights(rc.prune(model, **HALF).model)["w2"])


def test_transposed_convolutions_are_named_as_not_repaired():
    model, x = doubled("Conv")
    del model.graph.node[2], model.graph.initializer[:]
    model.graph.node.add(op_type="ConvTranspose", name="up", input=["h", "t"], output=["y"])
    rng = np.random.default_rng(0)
    shapes = {"k1": (12, 8, 1, 1), "b1": (12,), "t": (12, 4, 2, 2)}
    values = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    result = half(model, repair="lstsq", data=x)
    assert result.report.repair["skipped"] == ["'up': ConvTranspose is not fitted"]


def test_networks_of_a_fixed_batch():
    model, x = doubled("Conv")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 16
    result = half(model, repair="lstsq", data=x[:60])
    assert result.report.repair["samples"] == 48
    assert result.report.repair["fitted"] == 1


@pytest.mark.parametrize("options", [{"repair": "lstsq"}, {"criterion": "taylor"}])
def test_networks_of_an_empty_batch(options):
    model, x = doubled("Conv")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    with pytest.raises(rc.UsageError, match="data: the network takes batches of 0 samples"):
        half(model, **options, data=x)


def test_nothing_removed_is_nothing_repaired(trained, images):
    result = rc.prune(trained, target="channels=1.0", repair="lstsq", data=images)
    assert result.model == trained
    assert result.report.repair is None


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_patches_are_what_a_convolution_covers(rank):
    rng = np.random.default_rng(rank)
    x, w = rng.standard_normal((2, 3, *(7, 6, 5)[:rank])), rng.standard_normal((4, 3, *(3, 2, 1)[:rank]))
    strides, dilations, begin, end = (2, 1, 1)[:rank], (1, 2, 1)[:rank], (1, 0, 2)[:rank], (0, 2, 1)[:rank]
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=strides, dilations=dilations, pads=[*begin, *end])
    values = {"x": x, "w": w}
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, v.shape) for n, v in values.items()]
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")])
    y = ReferenceEvaluator(helper.make_model(graph)).run(None, values)[0]
    where = np.array(list(product(*map(range, y.shape[2:])))).T
    places = tuple(np.tile(row, (2, 1)) for row in where)
    rows = Window(w.shape[2:], strides, dilations, begin).patches(x, places)
    np.testing.assert_allclose(rows @ w.reshape(4, -1).T, np.moveaxis(y, 1, -1).reshape(-1, 4), atol=1e-12)
    assert rows.shape == (2 * math.prod(y.shape[2:]), 3 * math.prod(w.shape[2:]))


@pytest.mark.parametrize("mode", ["bn", "lstsq"])
@pytest.mark.parametrize("last", ["d = MatMul (h, w2t) y = Add (d, one)", "y = Gemm (h, w2t, one)"])
def test_a_bias_of_one_number_for_all_outputs_stays(parsed, mode, last):
    model = parsed(HEADER + "(float[n,8] x) => (float[n,4] y) { a = Gemm <transB=1> (x, w1, b1) h = Relu (a) " + last + " }")
    rng = np.random.default_rng(0)
    values = {"w1": rng.normal(size=(12, 8)), "b1": rng.normal(size=12), "w2t": rng.normal(size=(12, 4)), "one": np.ones(1)}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items())
    result = half(model, criterion="l2", rectify="none", repair=mode, data=rng.normal(size=(64, 8)).astype(np.float32))
    new = weights(result.model)
    assert new["one"] == 1
    assert any("its bias is not one number for each output" in line for line in result.report.repair["skipped"])
    assert np.array_equal(new["w2t"], values["w2t"].astype(np.float32)[next(iter(result.plan.keep.values()))]) == (mode == "bn")


def samples(model: onnx.ModelProto) -> np.ndarray:
    """Return 64 samples for a network of one input."""
    sizes = [d.dim_value or 64 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).standard_normal(sizes).astype(np.float32)


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model, its nodes named after the last of what they return."""
    for node in model.graph.node:
        node.name = node.output[-1]
    return model


@pytest.mark.parametrize("mode", ["bn", "lstsq"])
@pytest.mark.parametrize("kind", INDIRECT)
def test_biases_behind_what_reads_less_are_corrected(parsed, kind, mode):
    text, shapes, unfitted = INDIRECT[kind]
    model = named(parsed(HEADER + text, **shapes, b=(3,)))
    given, x = {**HALF, "criterion": "l2", "only": ["h"]}, samples(model)
    result = rc.prune(model, **given, repair=mode, data=x)
    assert result.report.repair["corrected"] == 1
    assert result.report.repair["skipped"] == (unfitted if mode == "lstsq" else [])
    (wanted,), (found,), (kept,) = (outputs(m, x) for m in (model, result.model, rc.prune(model, **given).model))
    axes = tuple(axis for axis in range(wanted.ndim) if axis != 1)
    np.testing.assert_allclose(found.mean(axes), wanted.mean(axes), atol=1e-5)
    assert np.abs(kept.mean(axes) - wanted.mean(axes)).max() > 1e-2


@pytest.mark.parametrize("mode", ["bn", "lstsq"])
def test_a_recurrence_that_reads_what_it_read_is_left_alone(parsed, mode):
    """And so is the BatchNormalization behind it, though it has fewer inputs than hidden units."""
    text = """(float[n,4,2] x) => (float[n,3] y) { t = Transpose <perm=[1,0,2]> (x) ,s = GRU <hidden_size=5> (t, gw, gr)
        first = Constant <value_ints=[0]> () q = Squeeze (s, first) n = BatchNormalization (q, scale, b, mean, var)
        h = Gemm (n, w1, b1) r = Relu (h) y = Gemm (r, w2, b2) }"""
    norm = {"scale": (5,), "b": (5,), "mean": (5,), "var": (5,)}
    model = named(parsed(HEADER + text, gw=(1, 15, 2), gr=(1, 15, 5), **norm, w1=(5, 8), b1=(8,), w2=(8, 3), b2=(3,)))
    model.graph.initializer[5].CopyFrom(numpy_helper.from_array(np.full(5, 0.5, np.float32), "var"))
    done = half(model, criterion="l2", only=["h"], repair=mode, data=samples(model)).report.repair
    assert (done["fitted"], done["recalibrated"], done["corrected"]) == ((1, 0, 0) if mode == "lstsq" else (0, 0, 1))
    assert done["skipped"] == []


@pytest.mark.parametrize("mode", ["bn", "lstsq"])
@pytest.mark.parametrize("columns", [1, 5])
def test_biases_of_weights_on_the_left_stay(parsed, columns, mode):
    text = (
        f"(float[n,8,{columns}] x) => (float[n,4,{columns}] y) "
        + "{ h = MatMul (w1, x) r = Relu (h) m = MatMul (w2, r) y = Add (m, b) }"
    )
    model = named(parsed(HEADER + text, w1=(12, 8), w2=(4, 12), b=(4, 1)))
    result = half(model, criterion="l2", repair=mode, data=samples(model))
    assert np.array_equal(weights(result.model)["b"], weights(model)["b"])
    assert "'m': its bias is not one number for each output along the last axis" in result.report.repair["skipped"]


@pytest.mark.parametrize("turned", [False, True])
def test_biases_of_weights_that_a_transpose_turns(parsed, turned):
    start = "v = Transpose (w2) " if turned else "v = Identity (w2) "
    text = "(float[n,8] x) => (float[n,4] y) { " + start + "h = MatMul (x, w1) r = Relu (h) m = MatMul (r, v) y = Add (m, b) }"
    model = named(parsed(HEADER + text, w1=(8, 12), w2=(4, 12) if turned else (12, 4), b=(4,)))
    x = samples(model)
    result = half(model, criterion="l2", repair="bn", data=x)
    (wanted,), (found,) = (outputs(m, x) for m in (model, result.model))
    np.testing.assert_allclose(found.mean(0), wanted.mean(0), atol=1e-5)


@pytest.mark.parametrize("beta", [0.5, 0.0])
def test_biases_that_a_gemm_scales(parsed, beta):
    text = "(float[n,8] x) => (float[n,4] y) { h = Gemm (x, w1) r = Relu (h) y = Gemm <beta=" + str(beta) + "> (r, w2, b) }"
    model = parsed(HEADER + text, w1=(8, 12), w2=(12, 4), b=(4,))
    x = samples(model)
    result = half(model, criterion="l2", repair="bn", data=x)
    (wanted,), (found,) = (outputs(m, x) for m in (model, result.model))
    assert np.allclose(found.mean(0), wanted.mean(0), atol=1e-5) == (beta > 0)
    assert np.array_equal(weights(result.model)["b"], weights(model)["b"]) == (beta == 0)


@pytest.mark.parametrize("mode", ["bn", "lstsq"])
def test_samples_that_fill_no_batch_are_too_few(trained, images, mode):
    model = onnx.ModelProto()
    model.CopyFrom(trained)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    with pytest.raises(rc.UsageError, match="holds fewer samples than the 8 that the network takes at once"):
        half(model, repair=mode, data=images[:4])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"repair": "bn"}, "--repair bn needs data: give --data"),
        ({"repair": "often"}, "--repair often: not one of none, bn, lstsq"),
        ({"repair": "bn", "rectify": "reinit", "data": True}, "--repair bn: the weights were drawn anew"),
        ({"repair": "lstsq", "granularity": "weight", "data": True}, "--granularity weight: goes without --repair"),
    ],
)
def test_what_makes_no_sense(trained, images, options, complaint):
    given = options | ({"data": images} if "data" in options else {})
    with pytest.raises(rc.UsageError, match=complaint) as caught:
        rc.prune(trained, **given)
    assert "\n" not in str(caught.value)


def test_on_the_command_line(run, file, trained, images, tmp_path):
    np.savez(tmp_path / "samples.npz", input=images)
    words = [file(trained), tmp_path / "out.onnx", "--repair", "lstsq"]
    assert run(*words).status == 2
    assert not (tmp_path / "out.onnx").exists()
    ran = run(*words, "--data", tmp_path / "samples.npz", "--samples", 64)
    assert ran.status == 0
    old, new = weights(trained), weights(onnx.load(tmp_path / "out.onnx"))
    lost = sum(w.ndim > 1 and w.shape[1] < old[name].shape[1] for name, w in new.items())
    assert f"repair: {lost} layers fitted, 18 BatchNormalizations recalibrated, on 64 samples" in ran.out
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)


@pytest.mark.parametrize("kind", [lambda model: model, ir.from_proto], ids=["ModelProto", "onnx_ir.Model"])
def test_as_passes_one_by_one(trained, images, kind):
    given = Calibration(images, 64)
    model = original = kind(trained)
    for step in [Score("l2"), Allocate("channels=0.5", round_to=1), Cut(), Repair("lstsq", given, original=original)]:
        model = step(model).model
    assert type(model) is type(original)
    proto = ir.to_proto(model) if kind is ir.from_proto else model
    wanted = weights(half(trained, criterion="l2", repair="lstsq", data=images).model)
    assert all(np.array_equal(w, wanted[name]) for name, w in weights(proto).items())
