"""What becomes of the weights of layers that were cut: drawn anew, rescaled or kept."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import onnx_reconvene as rc

HALF = {"target": "channels=0.5", "round_to": 1}
NORMS = ("running_mean", "running_var", "bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias")


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def with_order_reversed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of model whose initializers are stored in another order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(reversed(model.graph.initializer))
    return copy


def drawn_uniformly(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of model with weights of convolutions as torch draws them unless told otherwise."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(0)
    for tensor in copy.graph.initializer:
        if len(tensor.dims) == 4:
            bound = np.float32(1 / math.sqrt(math.prod(tensor.dims[1:])))
            values = (2 * rng.random(tensor.dims, np.float32) - 1) * bound
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


@pytest.fixture(scope="module")
def initialized(network) -> onnx.ModelProto:
    return network("resnet20")


@pytest.fixture(scope="module")
def trained(initialized) -> onnx.ModelProto:
    """Return resnet20 with statistics that only training leaves."""
    model = onnx.ModelProto()
    model.CopyFrom(initialized)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("running_mean", "running_var")):
            tensor.CopyFrom(numpy_helper.from_array(rng.uniform(0.5, 1.5, tensor.dims).astype(np.float32), tensor.name))
    return model


@pytest.fixture(scope="module")
def kept(initialized) -> dict[str, np.ndarray]:
    """Return the weights of the network cut in half, as they were."""
    return weights(rc.prune(initialized, **HALF, rectify="none").model)


def test_untrained_networks_are_drawn_anew_unless_told_otherwise(initialized, kept):
    result = rc.prune(initialized, **HALF)
    assert result.report.stage == "initialized"
    assert result.report.rectify.mode == "reinit"
    assert "kaiming normal, fan_out" in result.report.rectify.why
    old, new = weights(initialized), weights(result.model)
    changed = {name for name in new if not np.array_equal(new[name], kept[name])}
    assert result.report.rectify.tensors == len(changed)
    assert changed == {name for name in new if new[name].shape != old[name].shape and not name.endswith(NORMS)} | {"fc.bias"}
    assert {name: w.shape for name, w in new.items()} == {name: w.shape for name, w in kept.items()}


def test_weights_are_drawn_from_their_own_initializer(initialized):
    """At the new fans, but before a BatchNormalization at the old ones."""
    old, new = (weights(model) for model in (initialized, rc.prune(initialized, **HALF).model))
    for name, w in new.items():
        if w.ndim == 4 and w.size > 500:
            fan_out = old[name].shape[0] * w.shape[2] * w.shape[3]
            assert w.std() == pytest.approx(math.sqrt(2 / fan_out), rel=4 / math.sqrt(w.size)), name
    bound = 1 / math.sqrt(new["fc.weight"].shape[1])
    for name in ("fc.weight", "fc.bias"):
        assert np.abs(new[name]).max() <= bound
    assert np.abs(new["fc.weight"]).max() > 0.95 * bound


CHAIN = """< ir_version: 9, opset_import: ["" : 18] >
    g (float[n,8,6,6] x) => (float[n,16,2,2] y%s) < float[64] one, float[64] zero, float[64] mean, float[64] var, float[64] bias > {
        a = Conv (x, w1)
        b = Conv (a, w2%s)
        %s
        y = Conv (%s, w3)
    }"""
NORM = "c = BatchNormalization (b, one, zero, mean, var)"


@pytest.mark.parametrize(
    ("returned", "bias", "between", "last", "scale_free"),
    [
        pytest.param("", "", NORM, "c", True, id="norm"),
        pytest.param("", ", bias", NORM, "c", True, id="bias and norm"),
        pytest.param("", "", "c = Relu (b)", "c", False, id="no norm"),
        pytest.param("", "", f"{NORM} d = Relu (b) s = Add (c, d)", "s", False, id="read beside the norm"),
        pytest.param(", float[n,64,2,2] b", "", NORM, "c", False, id="returned"),
    ],
)
def test_a_norm_keeps_the_scale_before_a_cut(parsed, returned, bias, between, last, scale_free):
    model = parsed(CHAIN % (returned, bias, between, last))
    rng = np.random.default_rng(0)
    shapes = {"w1": (64, 8, 3, 3), "w2": (64, 64, 3, 3), "w3": (16, 64, 1, 1)}
    values = {name: rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape) for name, shape in shapes.items()}
    values |= {name: np.full(64, fill) for name, fill in {"one": 1, "zero": 0, "mean": 0, "var": 1, "bias": 0}.items()}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items() if k in used)
    result = rc.prune(model, target="channels=0.5", round_to=1, rectify="reinit")
    new = weights(result.model)["w2"]
    assert new.shape[1] < 40
    inputs = 9 * (64 if scale_free else new.shape[1])
    assert new.std() == pytest.approx(math.sqrt(2 / inputs), rel=4 / math.sqrt(new.size))


def test_trained_networks_are_kept_unless_told_otherwise(trained):
    auto, none = (rc.prune(trained, **HALF, rectify=mode) for mode in ("auto", "none"))
    assert auto.model == none.model
    assert auto.report.stage == "trained"
    assert (auto.report.rectify.mode, auto.report.rectify.tensors) == ("none", 0)
    assert "'bn1.running_mean' is not at an initial value" in auto.report.rectify.why


def test_drawing_a_trained_network_anew_keeps_the_variance_of_what_its_layers_return(trained):
    """A BatchNormalization keeps it behind all but the last layer."""
    none, anew = (rc.prune(trained, **HALF, rectify=mode) for mode in ("none", "reinit"))
    old, cut, new = weights(trained), weights(none.model), weights(anew.model)
    for name in new:
        if new[name].ndim > 1 and new[name].shape != old[name].shape:
            inputs = math.prod(old[name].shape[1:]) / math.prod(new[name].shape[1:]) if name == "fc.weight" else 1
            assert new[name].std() == pytest.approx(old[name].std() * math.sqrt(inputs), rel=4 / math.sqrt(new[name].size)), name
        else:
            assert np.array_equal(new[name], cut[name])


def test_rescaling_keeps_the_variance_of_what_layers_return(initialized, kept):
    result = rc.prune(initialized, **HALF, rectify="rescale")
    old, new = weights(initialized), weights(result.model)
    for name in new:
        inputs = math.prod(old[name].shape[1:]) / math.prod(new[name].shape[1:]) if new[name].ndim > 1 else 1
        np.testing.assert_allclose(new[name], kept[name] * math.sqrt(inputs), rtol=1e-6)
    assert result.report.rectify.mode == "rescale"


def test_kernels_of_single_channels_are_not_rescaled(network):
    none, scaled = (weights(rc.prune(network("mobilenetv2"), rectify=mode, verify=False).model) for mode in ("none", "rescale"))
    single = [name for name, w in none.items() if w.ndim == 4 and w.shape[1] == 1]
    assert len(single) == 17
    assert all(np.array_equal(none[name], scaled[name]) for name in single)


@pytest.mark.parametrize("name", ["unet", "resnet20"])
@pytest.mark.parametrize("law", ["as it is", "uniform"])
def test_what_was_drawn_anew_is_untrained_again(network, name, law):
    model = network(name) if law == "as it is" else drawn_uniformly(network(name))
    for _ in range(3):
        result = rc.prune(model, target="channels=0.7", verify=False)
        assert (result.report.stage, result.report.rectify.mode) == ("initialized", "reinit"), result.report.rectify.why
        model = result.model


def test_a_convolution_in_groups_may_be_left_with_one(parsed):
    """Its initializer counts the outputs of a group."""
    model = parsed("""< ir_version: 9, opset_import: ["" : 18] > g (float[n,32,8,8] x) => (float[n,4,4,4] y) {
        a = Conv (x, w1, zero32) b = Conv <group = 32> (a, w2, zero64) y = Conv (b, w3, zero4) }""")
    rng = np.random.default_rng(0)
    shapes = {"w1": ((32, 32, 1, 1), 32), "w2": ((64, 1, 5, 5), 50), "w3": ((4, 64, 1, 1), 4)}
    values = {name: rng.normal(0, math.sqrt(2 / fan), shape) for name, (shape, fan) in shapes.items()}
    values |= {f"zero{n}": np.zeros(n) for n in (32, 64, 4)}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items())
    result = rc.prune(model, keep={"w1": 0.02}, target="macs=1", round_to=1)
    new = weights(result.model)["w2"]
    assert result.report.rectify.mode == "reinit"
    assert new.shape == (2, 1, 5, 5)
    assert new.std() == pytest.approx(math.sqrt(2 / 50), rel=4 / math.sqrt(new.size))
    assert not np.isin(new, values["w2"].astype(np.float32)).any()


def test_a_seed_and_a_name_say_what_is_drawn(initialized):
    first, other = (weights(rc.prune(initialized, **HALF, seed=seed).model) for seed in (0, 1))
    again = weights(rc.prune(with_order_reversed(initialized), **HALF, seed=0).model)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["conv1.weight"], other["conv1.weight"])
    drawn = [w.ravel()[:50].tobytes() for name, w in first.items() if w.ndim == 4]
    assert len(set(drawn)) == len(drawn)


def test_processes_and_threads_make_no_difference(command, file, tmp_path):
    outputs = []
    for threads in (1, 2):
        path = tmp_path / f"{threads}.onnx"
        ran = command(file("resnet20"), path, "-q", OMP_NUM_THREADS=str(threads), PYTHONHASHSEED=str(threads))
        assert (ran.status, ran.err) == (0, "")
        outputs.append(path.read_bytes())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("mode", ["reinit", "rescale", "auto"])
def test_nothing_removed_is_nothing_changed(initialized, mode):
    result = rc.prune(initialized, target="channels=1.0", rectify=mode)
    assert result.model == initialized
    assert result.report.rectify.tensors == 0
    assert result.report.stage == "initialized"


def test_half_precision_stays_half_precision(parsed):
    text = """< ir_version: 9, opset_import: ["" : 18] >
        g (float16[2,16] x) => (float16[2,4] y) { a = MatMul (x, w1) b = Relu (a) y = MatMul (b, w2) }"""
    model = parsed(text)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (16, 32), "w2": (32, 4)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float16), name))
    result = rc.prune(model, **HALF, rectify="reinit")
    new = weights(result.model)
    assert {w.dtype for w in new.values()} == {np.dtype(np.float16)}
    assert new["w2"].std() == pytest.approx(0.1 * math.sqrt(2), rel=4 / math.sqrt(new["w2"].size))


def test_on_the_command_line(run, file, tmp_path):
    ran = run(file("resnet20"), tmp_path / "out.onnx")
    assert ran.status == 0
    assert "drawn anew (untrained: all" in ran.out
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": np.ones((1, 3, 32, 32), np.float32)})
    assert np.isfinite(logits).all()
    assert "kept as they are (asked for)" in run(file("resnet20"), tmp_path / "out.onnx", "--rectify", "none").out
    wrong = run(file("resnet20"), tmp_path / "out.onnx", "--rectify", "twice")
    assert (wrong.status, wrong.err) == (2, "onnx-reconvene: --rectify twice: not one of none, rescale, reinit, auto\n")
