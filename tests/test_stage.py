"""Whether a network has been trained: initialized ones are known by what they were drawn from, and any training is noticed."""

import math
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import models
from onnx_reconvene.graph import from_model, plain_source
from onnx_reconvene.initializers import KNOWN, Sample
from onnx_reconvene.stage import stage_of

CONVOLUTIONS = """< ir_version: 9, opset_import: ["" : 18] >
    g (float[n,3,16,16] x) => (float[n,10] y) {
        a = Conv <pads=[1,1,1,1]> (x, conv1, bias1)
        b = Relu (a)
        c = Conv <pads=[1,1,1,1], strides=[2,2]> (b, conv2, bias2)
        d = Relu (c)
        e = Conv <pads=[1,1,1,1], group=48> (d, conv3, bias3)
        f = GlobalAveragePool (e)
        h = Flatten (f)
        y = Gemm <transB=1> (h, fc, bias4)
    }"""
SHAPES = {"conv1": (32, 3, 3, 3), "conv2": (48, 32, 3, 3), "conv3": (48, 1, 3, 3), "fc": (10, 48)}

TRANSFORMER = """< ir_version: 9, opset_import: ["" : 18] >
    g (float[1,16,24] x) => (float[1,16,10] y)
    < int64[4] heads = {1,16,4,16}, int64[3] joined = {1,16,64}, float quarter = {0.25} > {
        e = MatMul (x, embed)
        ep = Add (e, position)
        n = LayerNormalization (ep, scale1, shift1)
        q = MatMul (n, query)
        k = MatMul (n, key)
        v = MatMul (n, value)
        qh = Reshape (q, heads)
        kh = Reshape (k, heads)
        vh = Reshape (v, heads)
        qt = Transpose <perm=[0,2,1,3]> (qh)
        kt = Transpose <perm=[0,2,3,1]> (kh)
        vt = Transpose <perm=[0,2,1,3]> (vh)
        s = MatMul (qt, kt)
        sc = Mul (s, quarter)
        p = Softmax <axis=-1> (sc)
        o = MatMul (p, vt)
        ot = Transpose <perm=[0,2,1,3]> (o)
        oj = Reshape (ot, joined)
        w = MatMul (oj, out)
        wb = Add (w, bias)
        r = Add (ep, wb)
        m = LayerNormalization (r, scale2, shift2)
        y = MatMul (m, head)
    }"""
MATRICES = {"embed": (24, 64), "query": (64, 64), "key": (64, 64), "value": (64, 64), "out": (64, 64), "head": (64, 10)}


def network(text: str, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the model that text describes with these weights."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array.astype(np.float32), name) for name, array in values.items())
    onnx.checker.check_model(model)
    return model


def drawn(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return weights [outputs, inputs, ...] as frameworks draw them, by formulas that are not ours."""
    fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    if kind == "he":
        return rng.normal(0, math.sqrt(2 / fan_in), shape)
    if kind == "glorot":
        return rng.uniform(-1, 1, shape) * math.sqrt(6 / (fan_in + fan_out))
    if kind == "small":
        return rng.normal(0, 0.01, shape)
    return (2 * rng.random(shape, np.float32) - 1) * np.float32(1 / math.sqrt(fan_in))


def convolutions(rng: np.random.Generator, kind: str = "he", biases: str = "zero") -> onnx.ModelProto:
    """Return a network without norms."""
    values: dict[str, np.ndarray] = {}
    for k, (name, shape) in enumerate(SHAPES.items(), 1):
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        values[name] = drawn(kind, shape, rng)
        values[f"bias{k}"] = np.zeros(shape[0]) if biases == "zero" else rng.uniform(-bound, bound, shape[0])
    return network(CONVOLUTIONS, values)


def transformer(rng: np.random.Generator) -> onnx.ModelProto:
    """Return a transformer initialized as usual: N(0, 0.02), unit scales and zero biases."""
    values = {name: rng.normal(0, 0.02, shape) for name, shape in {**MATRICES, "position": (1, 16, 64)}.items()}
    values |= {f"scale{k}": np.ones(64) for k in (1, 2)} | {name: np.zeros(64) for name in ("shift1", "shift2", "bias")}
    return network(TRANSFORMER, values)


def with_norms(rng: np.random.Generator) -> onnx.ModelProto:
    """Return a standard network with BatchNormalizations."""
    return models.build("resnet20", int(rng.integers(2**31)))


def stage(model: onnx.ModelProto):
    return stage_of(plain_source(from_model(model)))


def changed(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    """Return a copy of model with another value for one initializer."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    values = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


# --- initialized -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.NAMES)
def test_standard_networks_are_known_with_what_each_weight_was_drawn_from(name, network):
    model = network(name)
    found = stage(model)
    assert found.name == "initialized", found.why
    groups = {n.input[1]: a.i for n in model.graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "group"}
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            shape = shapes[node.input[1]]
            initializer = found.initializers[node.input[1]]
            fans = {"fan_in": math.prod(shape[1:]), "fan_out": shape[0] * math.prod(shape[2:])}
            fans["fan_out of a group"] = fans["fan_out"] / groups[node.input[1]]
            assert initializer.law == "normal"
            assert initializer.deviation(fans) == pytest.approx(math.sqrt(2 / fans["fan_out of a group"]))
        if node.op_type == "Gemm":
            assert found.initializers[node.input[1]].name == "uniform, bound 1/sqrt(fan_in)"


KINDS = {
    "norms": with_norms,
    "he": convolutions,
    "glorot": lambda rng: convolutions(rng, "glorot"),
    "small": lambda rng: convolutions(rng, "small"),
    "torch": lambda rng: convolutions(rng, "torch", "uniform"),
    "transformer": transformer,
}


@pytest.mark.parametrize("kind", KINDS)
def test_initialized_networks_are_known_whatever_the_seed(kind):
    found = [stage(KINDS[kind](np.random.default_rng(seed))) for seed in range(40)]
    missed = [s.why for s in found if s.name != "initialized"]
    assert not missed


@pytest.mark.parametrize("initializer", KNOWN, ids=lambda initializer: initializer.name)
def test_an_initializer_fits_what_it_draws_and_no_other_scale(initializer):
    fans = {"fan_in": 300.0, "fan_out": 500.0, "fan_avg": 400.0, "fan_out of a group": 250.0, "inputs": 64.0, "hidden units": 96.0}
    drawn = [initializer.draw((64, 80), fans, np.random.default_rng(seed)) for seed in range(50)]
    assert all(initializer.fits(Sample(values), fans) for values in drawn)
    assert not any(initializer.fits(Sample(1.1 * values), fans) for values in drawn)
    assert not any(initializer.fits(Sample(values + 0.15 * values.std()), fans) for values in drawn)
    assert np.std(drawn) == pytest.approx(initializer.deviation(fans), rel=0.01)


def test_the_distributions_are_told_apart():
    rng = np.random.default_rng(0)
    same_variance = {"normal": rng.normal(0, 1, 8000), "uniform": rng.uniform(-math.sqrt(3), math.sqrt(3), 8000)}
    unit = {i.law: i for i in KNOWN if i.name.startswith("lecun") and i.fan == "fan_in"}
    for law, values in same_variance.items():
        fitting = {
            name for name, initializer in unit.items() if initializer.fits(Sample(values.astype(np.float32)), {"fan_in": 1.0})
        }
        assert fitting == {law}


def test_half_precision_is_known():
    model = with_norms(np.random.default_rng(3))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    assert stage(model).name == "initialized"


def test_folding_norms_at_their_start_leaves_a_network_initialized():
    """BatchNormalization at its start, folded into the layer before it, scales by 1 / sqrt(1 + epsilon)."""
    model = convolutions(np.random.default_rng(5), "torch")
    for name in SHAPES:
        model = changed(model, name, lambda w: (w * np.float32(1 / math.sqrt(1 + 1e-5))).astype(np.float32))
    assert stage(model).name == "initialized"


@pytest.mark.parametrize(("kind", "name"), [("norms", "layer2.1.conv1.weight"), ("he", "conv2"), ("torch", "conv2")])
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.3])
def test_in_front_of_a_norm_weights_may_be_those_for_a_wider_layer(kind, name, factor):
    model = KINDS[kind](np.random.default_rng(0))
    found = stage(changed(model, name, lambda w: w * np.float32(factor)))
    assert found.name == ("initialized" if kind == "norms" and factor < 1 else "trained")
    if found.name == "initialized":
        own = found.initializers[name]
        assert own.law == "normal"
        assert own.deviation({}) == pytest.approx(factor * math.sqrt(2 / (32 * 9)), rel=0.03)


# --- trained ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """A parameter that is not what it was, and what the reason has to name."""

    kind: str
    name: str
    by: float


@pytest.mark.parametrize(
    "move",
    [
        Move("norms", "bn1.running_mean", 1e-6),
        Move("norms", "layer2.0.bn1.running_var", 1e-6),
        Move("norms", "layer3.2.bn2.weight", 1e-6),
        Move("norms", "layer1.1.bn2.bias", 1e-6),
        Move("norms", "layer2.2.conv1.weight", 0.1),
        Move("he", "bias2", 1e-7),
        Move("he", "conv2", 0.1),
        Move("transformer", "shift2", 1e-7),
        Move("transformer", "scale1", 1e-6),
        Move("transformer", "bias", 1e-7),
        Move("transformer", "query", 0.01),
        Move("torch", "conv2", 1e-5),
    ],
    ids=str,
)
def test_one_parameter_that_moved_is_enough(move):
    rng = np.random.default_rng(0)
    model = KINDS[move.kind](rng)
    moved = stage(changed(model, move.name, lambda w: (w + move.by * rng.standard_normal(w.shape)).astype(np.float32)))
    assert (stage(model).name, moved.name) == ("initialized", "trained")
    assert f"'{move.name}'" in moved.why or moved.why.startswith("nothing in it shows")
    assert not moved.initializers


def test_a_trained_backbone_with_a_new_head_is_trained():
    rng = np.random.default_rng(0)
    model = convolutions(rng)
    for name in ("conv1", "conv2", "conv3"):
        model = changed(model, name, lambda w: rng.standard_t(4, w.shape).astype(np.float32) * w.std())
    assert stage(model).name == "trained"


def test_what_nothing_shows_counts_as_trained():
    """Normal weights alone look the same after small steps."""
    text = CONVOLUTIONS
    for k in range(1, 5):
        text = text.replace(f", bias{k}", "")
    rng = np.random.default_rng(0)
    values = {name: rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape) for name, shape in SHAPES.items()}
    assert "nothing in it shows" in stage(network(text, values)).why


def test_zeros_among_weights_are_noticed():
    model = with_norms(np.random.default_rng(0))
    sparse = changed(model, "layer2.1.conv1.weight", lambda w: np.where(np.abs(w) > 0.02, w, np.float32(0)))
    assert "'layer2.1.conv1.weight' fits no known initializer" in stage(sparse).why


def test_quantized_weights_count_as_trained():
    text = """< ir_version: 9, opset_import: ["" : 18] >
        g (float[n,16] x) => (float[n,8] y) < float scale = {0.01}, int8 zero = {0} > {
            w = DequantizeLinear (q, scale, zero)
            y = MatMul (x, w)
        }"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).integers(-127, 127, (16, 8)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(weight, "q"))
    assert stage(model).name == "trained"


@pytest.mark.slow
def test_the_zoo_holds_what_no_initializer_leaves(zoo):
    """Its biases are N(0, 0.1) and its statistics random: what is not known is kept."""
    for name in ("resnet18", "resnet50__bn", "deit_tiny_patch16_224", "mobilenet_v2__dynamo", "crnn", "yolo_c2f"):
        assert stage(zoo(name)).name == "trained"


OPTIMIZERS = {
    "SGD 0.1": ("SGD", 0.1),
    "SGD 0.01": ("SGD", 0.01),
    "SGD 0.001": ("SGD", 0.001),
    "SGD 0.00001": ("SGD", 0.00001),
    "Adam 0.0001": ("Adam", 0.0001),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_of_training_is_noticed(kind, optimizer):
    torch = pytest.importorskip("torch")
    import onnx_reconvene as rc

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = KINDS[kind](np.random.default_rng(7))
    module = rc.to_torch(model).train()
    name, rate = OPTIMIZERS[optimizer]
    steps = getattr(torch.optim, name)(module.parameters(), rate)
    shape = [d.dim_value or 4 for d in model.graph.input[0].type.tensor_type.shape.dim]
    for _ in range(10):
        y = module(torch.randn(shape))
        loss = torch.nn.functional.cross_entropy(y.reshape(-1, 10), torch.randint(0, 10, (y.numel() // 10,)))
        steps.zero_grad()
        loss.backward()
        steps.step()
    trained = stage(rc.from_torch(model, module))
    assert (stage(model).name, trained.name) == ("initialized", "trained")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_recurrent_layers_are_known(dtype):
    """torch draws all of them uniformly within 1 / sqrt(hidden units)."""
    rng = np.random.default_rng(0)
    bound = 1 / math.sqrt(32)
    w, r, b = ((2 * rng.random(s, np.float32) - 1) * np.float32(bound) for s in ((1, 128, 16), (1, 128, 32), (1, 256)))
    nodes = [helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=32)]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs, outputs = ([helper.make_tensor_value_info(n, kind, s)] for n, s in (("x", [5, 1, 16]), ("y", [5, 1, 1, 32])))
    weights = [numpy_helper.from_array(v.astype(dtype), n) for n, v in (("w", w), ("r", r), ("b", b))]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, weights), opset_imports=[helper.make_opsetid("", 18)])
    assert stage(model).name == ("initialized" if dtype == np.float32 else "trained")
