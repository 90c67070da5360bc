"""Criteria that look at the loss, against what torch's autograd says, weight by weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from scipy.stats import spearmanr

from onnx_reconvene.groups import Analysis
from onnx_reconvene.notes import notes_of
from onnx_reconvene.passes import Load, Score

torch = pytest.importorskip("torch")
from onnx_reconvene.bridges import open_model  # noqa: E402
from onnx_reconvene.calibration import Calibration  # noqa: E402
from tests.test_gradients_torch import exported  # noqa: E402

if TYPE_CHECKING:
    from torch import nn
else:
    nn = torch.nn

Arrays = dict[str, NDArray[Any]]
SAMPLES, CLASSES = 12, 5


class Chain(nn.Module):
    """Convolutions and normalizations one after the other, flattened before a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 9, 20), nn.ReLU(), nn.Linear(20, CLASSES))

    def forward(self, x: Any) -> Any:
        """Return (n, classes)."""
        return self.head(self.features(x))


class Residual(nn.Module):
    """A sum of branches that share channels; one branch is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.SiLU(), nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.side = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Any) -> Any:
        """Return (n, classes)."""
        x = self.stem(x)
        return self.head((torch.relu(self.body(x) + x) * torch.sigmoid(self.side(x))).mean((2, 3)))


class Separable(nn.Module):
    """Depthwise and grouped convolutions, and activations that are bounded on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1), nn.Hardswish(), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12),
            nn.Hardtanh(0, 0.5), nn.MaxPool2d(3, 1, 1), nn.Conv2d(12, 16, 1), nn.ReLU6(),
            nn.Conv2d(16, 24, 3, padding=1, groups=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        """Return (n, classes)."""
        return self.layers(x)


MODULES = {"chain": Chain, "residual": Residual, "separable": Separable}


@pytest.fixture(params=MODULES)
def case(request: pytest.FixtureRequest) -> tuple[Any, ModelProto, Arrays]:
    """A module, the same in ONNX, and samples with labels."""
    torch.manual_seed(1)
    module = MODULES[request.param]().eval()
    for parameter in module.parameters():  # the exporter merges equal ones
        parameter.data += 0.1 * torch.randn_like(parameter)
    for norm in [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.normal_(norm.running_mean, 0, 0.1)
        nn.init.uniform_(norm.running_var, 0.8, 1.2)
    model = exported(module, torch.randn(1, 3, 12, 12))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    rng = np.random.default_rng(2)
    images = rng.standard_normal((SAMPLES, 3, 12, 12)).astype(np.float32)
    return module, model, {model.graph.input[0].name: images, "labels": rng.integers(0, CLASSES, SAMPLES)}


def scores(model: ModelProto, criterion: str, data: Arrays, **options: Any) -> tuple[Analysis, NDArray[np.float64]]:
    graph, _ = open_model(model)
    Load().run(graph)
    Score(criterion, calibration=Calibration(data, **options)).run(graph)
    analysis, found = notes_of(graph).analysis, notes_of(graph).scores
    assert analysis is not None
    assert found is not None
    return analysis, found


def loss_of(module: Any, data: Arrays, sample: slice = slice(None)) -> Any:
    images, labels = (torch.from_numpy(array[sample]) for array in data.values())
    return nn.functional.cross_entropy(module(images), labels)


def parameters(module: Any, biases: bool) -> dict[str, Any]:
    """Return the parameters of convolutions and linear layers, by the names that they have in ONNX."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    named = {f"{name}.{kind}": p for name, layer in layers.items() for kind, p in layer.named_parameters()}
    return {name: p for name, p in named.items() if biases or name.endswith("weight")}


def by_unit(analysis: Analysis, elements: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the sum of elements over all sites of each unit; of weights that read and make the unit both."""
    total = np.zeros(analysis.width)
    for name, values in elements.items():
        for units in analysis.bearings(name).values():
            spread = np.broadcast_to(units, values.shape)
            own = values.detach().double().numpy()[spread >= 0]
            total += np.bincount(spread[spread >= 0], own, analysis.width)
    return total


def gradients(module: Any, data: Arrays, biases: bool, sample: slice = slice(None)) -> dict[str, Any]:
    own = parameters(module, biases)
    return dict(zip(own, torch.autograd.grad(loss_of(module, data, sample), list(own.values())), strict=True))


def snip(module: Any, data: Arrays, analysis: Analysis) -> NDArray[np.float64]:
    own = parameters(module, biases=False)
    return by_unit(analysis, {name: (own[name] * g).abs() for name, g in gradients(module, data, biases=False).items()})


def grasp(module: Any, data: Arrays, analysis: Analysis) -> NDArray[np.float64]:
    own = parameters(module, biases=False)
    slopes = torch.autograd.grad(loss_of(module, data), list(own.values()), create_graph=True)
    products = torch.autograd.grad(sum((g * g.detach()).sum() for g in slopes), list(own.values()))
    return by_unit(analysis, {name: own[name] * hg for name, hg in zip(own, products, strict=True)})


def taylor(module: Any, data: Arrays, analysis: Analysis) -> NDArray[np.float64]:
    own = parameters(module, biases=True)
    found = by_unit(analysis, {name: own[name] * g for name, g in gradients(module, data, biases=True).items()})
    return np.square(found)


def fisher(module: Any, data: Arrays, analysis: Analysis) -> NDArray[np.float64]:
    own = parameters(module, biases=True)

    def of_sample(k: int) -> NDArray[np.float64]:
        slopes = gradients(module, data, biases=True, sample=slice(k, k + 1))
        return np.square(by_unit(analysis, {name: own[name] * g for name, g in slopes.items()}))

    return np.mean([of_sample(k) for k in range(SAMPLES)], 0)


REFERENCES = {"snip": snip, "grasp": grasp, "taylor": taylor, "fisher": fisher}


@pytest.mark.parametrize(("batch_size", "gradients"), [(SAMPLES, "ort"), (5, "ort"), (5, "torch")])
@pytest.mark.parametrize("criterion", REFERENCES)
def test_criteria_are_those_of_autograd(
    criterion: str, batch_size: int, gradients: str, case: tuple[Any, ModelProto, Arrays]
) -> None:
    module, model, data = case
    analysis, found = scores(model, criterion, data, batch_size=batch_size, gradients=gradients)
    expected = REFERENCES[criterion](module, data, analysis)
    assert analysis.width > 20
    assert spearmanr(found, expected).statistic >= 0.999
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())
