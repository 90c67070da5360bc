"""What `to_torch` and `from_torch` promise: names, modes, training, weights back in the same network, errors."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnx_reconvene as rc
from onnx_reconvene.errors import ModelError, UsageError
from tests.derivatives.oracle import run
from tests.nets.net import in_constant_nodes

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from onnx_reconvene.executor import gradients_of  # noqa: E402

torch.set_num_threads(1)
Parse = Callable[..., ModelProto]

CLASSIFIER = """<ir_version: 8, opset_import: ["": 18]> net (float[n,3,8,8] x) => (float[n,4] y) {
    a = Conv<pads = [1,1,1,1]>(x, conv_weight)
    b = BatchNormalization(a, norm_weight, norm_bias, norm_mean, norm_var)
    c = Relu(b) d = GlobalAveragePool(c) e = Flatten(d) f = Dropout(e) y = Gemm<transB = 1>(f, fc_weight, fc_bias) }"""
STATISTICS = {"norm.mean", "norm.var"}
WEIGHTS = {"conv.weight", "norm.weight", "norm.bias", "fc.weight", "fc.bias"}


def dotted(model: ModelProto) -> ModelProto:
    """Return model with dots in the names of its weights, which ONNX text cannot have."""
    for node in model.graph.node:
        node.input[:] = [name.replace("_", ".") for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("_", ".")
    return model


@pytest.fixture
def classifier(parsed: Parse) -> ModelProto:
    """A convolution with batch normalization, dropout and a linear layer."""
    shapes = {"conv_weight": (8, 3, 3, 3), "fc_weight": (4, 8), "fc_bias": (4,)}
    shapes |= dict.fromkeys(("norm_weight", "norm_bias", "norm_mean", "norm_var"), (8,))
    model = dotted(parsed(CLASSIFIER, **shapes))
    variance = model.graph.initializer[-1]
    variance.CopyFrom(numpy_helper.from_array(np.linspace(0.5, 1.5, 8, dtype=np.float32), variance.name))
    model.metadata_props.add(key="author", value="someone")
    model.graph.node[0].doc_string = "the first"
    return model


@pytest.fixture
def images() -> Any:
    """Five images."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 8, 8), dtype=np.float32))


class Twin(nn.Module):
    """The classifier in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        """Return (n, 4)."""
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.fc(F.dropout(x, 0.5, self.training))


def test_weights_in_constant_nodes_are_parameters_and_stay_there(classifier: ModelProto) -> None:
    model = in_constant_nodes(classifier)
    module = rc.to_torch(model)
    assert {name for name, _ in module.named_parameters()} == WEIGHTS
    assert {name for name, _ in module.named_buffers()} == STATISTICS
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    assert rc.from_torch(model, module) == in_constant_nodes(rc.from_torch(classifier, module))


def twin(module: Any) -> Any:
    """Return the classifier in torch, with the weights of a module."""
    names = {"norm.mean": "norm.running_mean", "norm.var": "norm.running_var"}
    result = Twin()
    state = {names.get(name, name): tensor.clone() for name, tensor in module.state_dict().items()}
    result.load_state_dict(state, strict=False)
    return result


def test_parameters_and_buffers_bear_the_names_of_initializers(classifier: ModelProto) -> None:
    module = rc.to_torch(classifier)
    assert set(dict(module.named_parameters())) == WEIGHTS
    assert set(dict(module.named_buffers())) == STATISTICS
    assert set(module.state_dict()) == WEIGHTS | STATISTICS
    for tensor in classifier.graph.initializer:
        np.testing.assert_array_equal(module.state_dict()[tensor.name].numpy(), numpy_helper.to_array(tensor))


@pytest.mark.parametrize("name", ["a", "a.b", "a.b.c", "forward", "onnx::Conv_1", "/layer/w", "x.0.1.weight", "w..v", "b."])
def test_names_may_be_anything(parsed: Parse, name: str) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> net (float[2] x) => (float[2] y) { u = Add(x, one) y = Mul(u, two) }'
    model = parsed(text, one=(2,), two=(2,))
    for old, new in (("one", "a"), ("two", name)):
        for node in model.graph.node:
            node.input[:] = [new if i == old else i for i in node.input]
        for tensor in (t for t in model.graph.initializer if t.name == old):
            tensor.name = new
    if name == "a":
        del model.graph.initializer[1]
    module = rc.to_torch(model)
    assert set(dict(module.named_parameters())) == {"a", name}
    other = rc.to_torch(model)
    other.load_state_dict({key: 2 * tensor for key, tensor in module.state_dict().items()})
    assert torch.equal(dict(other.named_parameters())[name], 2 * dict(module.named_parameters())[name])
    x = np.float32([1, 2])
    np.testing.assert_allclose(run(rc.from_torch(model, other), {"x": x})[0], other(torch.from_numpy(x)).detach(), rtol=1e-6)


def test_outputs_in_order_for_inputs_by_position_or_name(parsed: Parse) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[2] a, float[2] b) => (float[2] y, float[2] z) {
        y = Sub(a, b) z = Mul(y, w) }"""
    model = parsed(text, w=(2,))
    module, a, b = rc.to_torch(model), torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    for found in (module(a, b), module(b=b, a=a), module(a, b=b)):
        assert isinstance(found, tuple)
        assert torch.equal(found[0], a - b)
        assert torch.equal(found[1], (a - b) * module.w)


def test_training_and_inference_are_as_in_torch(classifier: ModelProto, images: Any) -> None:
    module = rc.to_torch(classifier)
    other = twin(module)
    assert not module.training
    torch.testing.assert_close(module(images), other.eval()(images))
    for _ in range(2):
        torch.manual_seed(1)
        expected = other.train()(images)
        torch.manual_seed(1)
        torch.testing.assert_close(module.train()(images), expected)
    torch.testing.assert_close(module.state_dict()["norm.mean"], other.norm.running_mean)
    torch.testing.assert_close(module.state_dict()["norm.var"], other.norm.running_var)
    torch.testing.assert_close(module.eval()(images), other.eval()(images))


def test_the_batch_is_free_where_the_network_leaves_it_free(classifier: ModelProto, images: Any) -> None:
    module = rc.to_torch(classifier)
    whole = module(images)
    for n in (1, 3, 5):
        torch.testing.assert_close(module(images[:n]), whole[:n])


def test_training_lowers_the_loss_and_the_network_has_the_weights(classifier: ModelProto, images: Any) -> None:
    module, labels = rc.to_torch(classifier).train(), torch.tensor([0, 1, 2, 3, 0])
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    losses = []
    torch.manual_seed(0)
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    trained = rc.from_torch(classifier, module)
    (found,) = run(trained, {"x": images.numpy()})
    np.testing.assert_allclose(found, module.eval()(images).detach(), rtol=1e-4, atol=1e-5)


def without_values(model: ModelProto) -> bytes:
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.ClearField("raw_data")
    return result.SerializeToString(deterministic=True)


def test_nothing_but_values_of_weights_changes(classifier: ModelProto) -> None:
    before = classifier.SerializeToString(deterministic=True)
    module = rc.to_torch(classifier)
    assert rc.from_torch(classifier, module) == classifier
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    changed = rc.from_torch(classifier, module)
    assert without_values(changed) == without_values(classifier)
    assert classifier.SerializeToString(deterministic=True) == before
    for old, new in zip(classifier.graph.initializer, changed.graph.initializer, strict=True):
        expected = numpy_helper.to_array(old) + (old.name not in STATISTICS)
        np.testing.assert_array_equal(numpy_helper.to_array(new), expected)


def test_a_file_gives_a_model_and_may_be_written(classifier: ModelProto, file: Callable[..., Any], tmp_path: Path) -> None:
    path = file(classifier)
    assert rc.from_torch(path, rc.to_torch(path), output=tmp_path / "out.onnx") == onnx.load(tmp_path / "out.onnx") == classifier


def test_weights_keep_their_types(parsed: Parse) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> net (float16[2] x) => (float16[2] y) { y = Mul(x, w) }'
    model = parsed(text)
    model.graph.initializer.append(numpy_helper.from_array(np.float16([1, 2]), "w"))
    module = rc.to_torch(model)
    assert module.w.dtype is torch.float16
    assert rc.from_torch(model, module.float()) == model


def test_copies_and_pickles_are_modules_of_their_own(classifier: ModelProto, images: Any) -> None:
    module = rc.to_torch(classifier)
    expected = module(images)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(other(images), expected)
        with torch.no_grad():
            other.get_parameter("fc.bias").add_(1)
        torch.testing.assert_close(other(images), expected + 1)
        torch.testing.assert_close(module(images), expected)


REDUCED = """<ir_version: 8, opset_import: ["": 18]> net (float[1,3,8,8] x) => (float[1,4] y) {
    a = Conv<pads = [1,1,1,1]>(x, w) b = BatchNormalization(a, s, c, m, v) d = Relu(b) e = Constant<value_ints = [2,3]>()
    f = ReduceMean<keepdims = 0>(d, e) p = Constant<value_float = 2.0>() g = Pow(f, p) z = Shape(g) h = Reshape(g, z)
    y = Gemm<transB = 1>(h, u) }"""


@pytest.fixture
def reduced(parsed: Parse) -> tuple[nn.Module, Any, Any]:
    """A module whose operators read axes, shapes and exponents; an input, and its output."""
    model = parsed(REDUCED, w=(8, 3, 3, 3), s=(8,), c=(8,), m=(8,), v=(8,), u=(4, 8))
    variance = numpy_helper.to_array(model.graph.initializer[4])
    model.graph.initializer[4].CopyFrom(numpy_helper.from_array(variance**2 + 1, "v"))
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    return rc.to_torch(model), torch.from_numpy(x), torch.from_numpy(run(model, {"x": x})[0])


@pytest.mark.parametrize("used_before", [False, True])
def test_export_leaves_the_module_as_it_was(reduced: tuple[nn.Module, Any, Any], used_before: bool) -> None:
    module, x, y = reduced
    if used_before:
        module(x)
    exported = torch.export.export(module, (x,)).module()
    for one in (exported, module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(one(x), y, rtol=1e-4, atol=1e-5)


def test_compiled_module(reduced: tuple[nn.Module, Any, Any]) -> None:
    module, x, y = reduced
    compiled = torch.compile(module, backend="eager", fullgraph=True)  # the tracing half: the other needs a compiler of C++
    torch.testing.assert_close(compiled(x), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module(x), y, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_module_as_onnx(reduced: tuple[nn.Module, Any, Any], dynamo: bool) -> None:
    module, x, y = reduced
    if dynamo:
        pytest.importorskip("onnxscript")
        model = torch.onnx.export(module, (x,), dynamo=True, optimize=False, verbose=False).model_proto
    else:
        file = io.BytesIO()
        torch.onnx.export(module, (x,), file, dynamo=False)
        model = onnx.load_from_string(file.getvalue())
    (normalization,) = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert not any(a.name == "training_mode" and a.i for a in normalization.attribute)
    assert len(normalization.output) == 1
    found = run(model, {model.graph.input[0].name: x.numpy()})[0]
    np.testing.assert_allclose(found, y.numpy(), rtol=1e-4, atol=1e-5)


def test_module_prints_its_layers(reduced: tuple[nn.Module, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, _ = reduced
    head, first, *_, last, end = repr(module).splitlines()
    assert head == "GraphModule(x -> y; 10 nodes"
    assert (first, last, end) == ("  (a): Conv(w [8, 3, 3, 3])", "  (y): Gemm(u [4, 8])", ")")
    monkeypatch.setattr("onnx_reconvene.executor.module.SHOWN", 2)
    assert repr(module).splitlines()[1:-1] == [first, "  ... 1 more layers ...", last]


def test_settings_are_no_parameters(parsed: Parse) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[2] x) => (float[2] y)
        <float low = {0}, float high = {6}, float two = {2}, float[1] p = {3}> {
        a = Clip(x, low, high) b = Pow(a, two) c = Pow(b, p) y = Mul(c, w) }"""
    model = parsed(text, w=(2,))
    module = rc.to_torch(model)
    assert set(module.state_dict()) == {"p", "w"}
    assert rc.from_torch(model, module) == model


def test_arithmetic_on_shapes_is_done_once(parsed: Parse) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[n,6] x) => (float[m,2,3] y)
        <int64 zero = {0}, int64[1] first = {0}, int64[2] rest = {2, 3}> {
        s = Shape(x) n = Gather(s, zero) u = Unsqueeze(n, first) t = Concat<axis = 0>(u, rest) a = Relu(x) y = Reshape(a, t) }"""
    module = rc.to_torch(parsed(text))
    for n in (4, 7):
        assert module(torch.ones(n, 6)).shape == (n, 2, 3)
    assert [len(plan.steps) for plan in module._plans.values()] == [2, 2]


def test_gradients_after_a_run_in_inference_mode(parsed: Parse) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[n,3] x) => (float[n,3] y) {
        s = Shape(x) c = ConstantOfShape<value = float[1] {2}>(s) a = Mul(x, c) y = Mul(a, w) }"""
    module, x = rc.to_torch(parsed(text, w=(3,))), torch.ones(2, 3)
    with torch.inference_mode():
        module(x)
    x.requires_grad_()
    module(x).sum().backward()
    torch.testing.assert_close(x.grad, (2 * module.w).detach().expand(2, 3))


def test_shapes_that_depend_on_data(parsed: Parse) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[6] x) => (float[n] y) <int64[1] all = {-1}> {
        i = NonZero(x) t = Transpose(i) a = GatherND(x, t) s = Shape(a) o = ConstantOfShape(s) b = Add(a, o)
        y = Reshape(b, all) }"""
    module = rc.to_torch(parsed(text))
    for x in (torch.tensor([0.0, 1, 2, 0, 3, 0]), torch.tensor([1.0, 1, 2, 0, 3, 4])):
        assert torch.equal(module(x), x[x != 0])


BRANCHES = """h = If(c) <then_branch = then () => (float[2,4] b) {{ {} b = DequantizeLinear(q, s) }},
                         else_branch = other () => (float[2,4] e) {{ e = Neg(a) }}>"""
QUANTIZED = {
    "QuantizeLinear": "q = QuantizeLinear(a, s, z) h = DequantizeLinear(q, s)",
    "DynamicQuantizeLinear": "q, t, u = DynamicQuantizeLinear(a) h = DequantizeLinear(q, t, u)",
    "QuantizeLinear in a branch": BRANCHES.format("q = QuantizeLinear(a, s, z)"),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_gradients_end_at_what_quantizes(name: str, parsed: Parse) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 18]> net (float[2,3] x, bool c) => (float[2,2] y) {{
        a = MatMul(x, w) {QUANTIZED[name]} y = MatMul(h, v) }}"""
    model = parsed(text, w=(3, 4), v=(4, 2), s=())
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(0), "z"))
    module, feeds = rc.to_torch(model), {"x": np.ones((2, 3), np.float32), "c": np.array(True)}
    with pytest.raises(ModelError, match=rf"node 'q': no derivative rule for operator {name.split()[0]}, which rounds"):
        gradients_of(module, feeds)
    assert gradients_of(module, feeds, ["v"]).gradients["v"].shape == (4, 2)


def test_gradients_of_feature_maps_inputs_and_weights(classifier: ModelProto, images: Any) -> None:
    module = rc.to_torch(classifier)
    feeds, names = {"x": images.numpy()}, ["c", "x", "fc.weight", "norm.var"]
    found = gradients_of(module, feeds, names)
    expected = run(rc.gradients(classifier, names, input_shape={"x": images.shape}), feeds)
    for name, gradient in zip(names, expected[1:], strict=True):
        np.testing.assert_allclose(found.gradients[name], gradient, rtol=1e-4, atol=1e-5)
        assert found.values[name].shape == gradient.shape
    assert found.loss == pytest.approx(expected[0].sum(), rel=1e-5)
    assert set(gradients_of(module, feeds).gradients) == WEIGHTS


def test_gradient_is_zero_where_the_loss_does_not_depend(parsed: Parse) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> net (float[2] x) => (float[2] y) { y = Mul(x, w) z = Mul(x, v) }'
    found = gradients_of(rc.to_torch(parsed(text, w=(2,), v=(2,))), {"x": np.float32([1, 2])})
    np.testing.assert_array_equal(found.gradients["v"], [0, 0])
    np.testing.assert_array_equal(found.gradients["w"], [1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda module, x: module(x, x), "2 inputs are given, the network has 1: x"),
        (lambda module, x: module(), "input 'x' is not given"),
        (lambda module, x: module(x, z=x), "input 'z' is not one of the network"),
        (lambda module, x: gradients_of(module, {"x": x.numpy()}, ["q"]), "no tensor 'q'"),
        (lambda module, x: gradients_of(module, {"x": x.numpy()}, loss="y"), r"tensor 'y' of shape \[5, 4\] is no .* scalar"),
    ],
)
def test_wrong_use_is_named(classifier: ModelProto, images: Any, call: Callable[..., Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(rc.to_torch(classifier), images)


def test_shapes_that_do_not_fit_name_the_node(classifier: ModelProto) -> None:
    with pytest.raises(ModelError, match=r"^node 'a': Conv cannot be executed: "):
        rc.to_torch(classifier)(torch.ones(1, 4, 8, 8))


@pytest.mark.parametrize("kind", ["string[n] t", "seq(float[n]) t"])
def test_inputs_that_torch_has_no_tensors_of_are_named(kind: str, parsed: Parse) -> None:
    text = f'<ir_version: 8, opset_import: ["": 18]> net (float[2] x, {kind}) => (float[2] y) {{ y = Relu (x) }}'
    with pytest.raises(ModelError, match=r"^input 't' is no tensor of numbers, and torch has no others$"):
        rc.to_torch(parsed(text))


def test_weights_of_another_network_are_refused(classifier: ModelProto, parsed: Parse) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> net (float[2] x) => (float[2] y) { y = Mul(x, fc_bias) }'
    other = dotted(parsed(text, fc_bias=(2,)))
    with pytest.raises(UsageError, match=r"'fc.bias' is \[4\] in the network, \[2\] in the module"):
        rc.from_torch(classifier, rc.to_torch(other))
    with pytest.raises(UsageError, match=r"no weight '.*', which the module has"):
        rc.from_torch(other, rc.to_torch(classifier))
