"""Gradients of exported networks, and products of their Hessians with vectors, against those of torch."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

import onnx_reconvene as rc
from tests.derivatives.oracle import run

torch = pytest.importorskip("torch")
if TYPE_CHECKING:
    from torch import nn
else:
    nn = torch.nn

Arrays = dict[str, NDArray[Any]]


class Residual(nn.Module):
    """Strided, grouped and depthwise convolutions around a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU())
        depthwise, grouped = nn.Conv2d(16, 16, 5, padding=2, groups=16), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.deep = nn.Sequential(depthwise, nn.Hardswish(), grouped)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        """Return (n, 5)."""
        x = self.stem(x)
        x = x + self.deep(self.wide(x))
        return self.head(x.mean((2, 3))).log_softmax(1)


class Transformer(nn.Module):
    """One block of a vision transformer, its patches cut by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.before, self.after = nn.LayerNorm(24), nn.LayerNorm(24)
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)
        self.mlp = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Any) -> Any:
        """Return (n, 5)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        n, t, c = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(n, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 6**0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, t, c))
        x = x + self.mlp(self.after(x))
        return self.head(x.mean(1))


class Upsampler(nn.Module):
    """Transposed convolution, resizing and concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1), nn.AvgPool2d(3, 2, 1, ceil_mode=True))
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1, 1)
        self.last = nn.Conv2d(17, 2, 1)

    def forward(self, x: Any) -> Any:
        """Return (n, 2, h, w)."""
        low = self.down(x)
        size = x.shape[2:]
        smooth = nn.functional.interpolate(low, size=size, mode="bilinear", align_corners=False)
        sharp = nn.functional.interpolate(self.up(low), size=size, mode="nearest")
        a, b = self.last(torch.cat([x, smooth, sharp], 1)).chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b)


MODULES = {"residual": Residual, "transformer": Transformer, "upsampler": Upsampler}


def exported(module: Any, x: Any) -> ModelProto:
    """Return module as ONNX, its parameters under their own names."""
    buffer = io.BytesIO()
    training = torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():  # the exporter warns of itself and of shapes that become constants
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), buffer, training=training, do_constant_folding=False, opset_version=17, dynamo=False)
    return onnx.load_from_string(buffer.getvalue())


@pytest.fixture(params=MODULES)
def pair(request: pytest.FixtureRequest) -> tuple[Any, ModelProto, Any]:
    """A module, the same in ONNX, and an input."""
    torch.manual_seed(0)
    module = MODULES[request.param]().eval()
    for parameter in module.parameters():  # the exporter merges equal ones
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(2, 3, 20, 20)
    return module, exported(module, x), x


def relative_errors(expected: Arrays, found: Arrays) -> dict[str, float]:
    return {name: float(np.abs(found[name] - e).max() / max(np.abs(e).max(), 1e-6)) for name, e in expected.items()}


def test_gradients_are_those_of_torch(pair: tuple[Any, ModelProto, Any]) -> None:
    module, model, x = pair
    parameters = dict(module.named_parameters())
    expected = dict(zip(parameters, torch.autograd.grad(module(x).sum(), list(parameters.values())), strict=True))
    found = run(rc.gradients(model, list(parameters)), {model.graph.input[0].name: x.numpy()})[len(model.graph.output) :]
    errors = relative_errors({n: g.numpy() for n, g in expected.items()}, dict(zip(parameters, found, strict=True)))
    # where the true gradient is zero, as of what a softmax or normalization takes out, rounding is all there is
    assert max(error for name, error in errors.items() if expected[name].abs().max() > 1e-4) < 1e-4


def hessian_product(model: ModelProto, names: list[str], vectors: Arrays) -> ModelProto:
    """Return the network that computes the products of the Hessian of the sum of squared outputs with vectors."""
    square = ModelProto()
    square.CopyFrom(model)
    square.graph.node.append(helper.make_node("ReduceSumSquare", [model.graph.output[0].name], ["squares"], keepdims=0))
    first = rc.gradients(square, names, "squares")
    terms = []
    for name in names:
        first.graph.initializer.append(onnx.numpy_helper.from_array(vectors[name], f"{name}/vector"))
        first.graph.node.append(helper.make_node("Mul", [f"{name}.grad", f"{name}/vector"], [f"{name}/product"]))
        first.graph.node.append(helper.make_node("ReduceSum", [f"{name}/product"], [f"{name}/sum"], keepdims=0))
        terms.append(f"{name}/sum")
    first.graph.node.append(helper.make_node("Sum", terms, ["products"]))
    first.graph.output.append(helper.make_tensor_value_info("products", TensorProto.FLOAT, []))
    return rc.gradients(first, names, "products")


def test_products_of_the_hessian_are_those_of_torch(pair: tuple[Any, ModelProto, Any]) -> None:
    module, model, x = pair
    parameters = dict(module.named_parameters())
    vectors = {name: torch.randn_like(p) for name, p in parameters.items()}
    slopes = torch.autograd.grad((module(x) ** 2).sum(), list(parameters.values()), create_graph=True)
    along = sum((g * v).sum() for g, v in zip(slopes, vectors.values(), strict=True))
    expected = torch.autograd.grad(along, list(parameters.values()))
    network = hessian_product(model, list(parameters), {name: v.numpy() for name, v in vectors.items()})
    found = run(network, {model.graph.input[0].name: x.numpy()})[-len(parameters) :]
    whole = np.concatenate([e.numpy().ravel() for e in expected])
    difference = np.concatenate([(f - e.numpy()).ravel() for f, e in zip(found, expected, strict=True)])
    assert np.linalg.norm(difference) < 1e-4 * np.linalg.norm(whole)
    errors = relative_errors(
        {n: e.numpy() for n, e in zip(parameters, expected, strict=True)}, dict(zip(parameters, found, strict=True))
    )
    large = {name for name, e in zip(parameters, expected, strict=True) if e.abs().max() > 1e-3 * np.abs(whole).max()}
    assert max(errors[name] for name in large) < 1e-4
