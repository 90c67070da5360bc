"""SynFlow of exported networks against autograd in double precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import onnx_reconvene as rc
from onnx_reconvene.groups import Analysis
from onnx_reconvene.synflow.exact import ExactNetwork

torch = pytest.importorskip("torch")
from tests.test_gradients_torch import exported  # noqa: E402  (needs torch)

if TYPE_CHECKING:
    from torch import nn
else:
    nn = torch.nn


def block(read: int, made: int, size: int = 3, stride: int = 1, groups: int = 1) -> Any:
    """Return a convolution, its normalization and an activation."""
    conv = nn.Conv2d(read, made, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(made), nn.ReLU())


class Residual(nn.Module):
    """Strides, a pool, and a connection around two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 12, 5, 2), nn.MaxPool2d(3, 2, 1))
        self.one, self.two = block(12, 20), block(20, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Any) -> Any:
        """Return (n, 5)."""
        x = self.stem(x)
        return self.head((x + self.two(self.one(x))).mean((2, 3)))


class Plain(nn.Module):
    """Convolutions, and a classifier that reads their positions one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(block(3, 10), nn.MaxPool2d(2), block(10, 14), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(14 * 16, 24), nn.ReLU(), nn.Linear(24, 5))

    def forward(self, x: Any) -> Any:
        """Return (n, 5)."""
        return self.classifier(self.features(x))


class Depthwise(nn.Module):
    """Depthwise and grouped convolutions, and what two branches make side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = block(3, 16, stride=2), nn.Sequential(block(16, 16, 3, groups=16), block(16, 12, 1))
        self.grouped, self.head = block(12, 8, groups=4), nn.Linear(20, 5)

    def forward(self, x: Any) -> Any:
        """Return (n, 5)."""
        x = self.deep(self.stem(x))
        return self.head(torch.cat([x, self.grouped(x)], 1).mean((2, 3)))


MODULES = {"residual": Residual, "plain": Plain, "depthwise": Depthwise}


def trained(name: str) -> Any:
    """Return a module whose normalizations are no longer what they were at first."""
    torch.manual_seed(0)
    module = MODULES[name]()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            part.running_var.uniform_(0.5, 2)
            part.running_mean.normal_()
    return module.eval()


def synflow(module: Any) -> dict[str, Any]:
    """Return |w| times the derivative of the sum of outputs, relative to that, for the weights of a module, which is changed."""
    module.double()
    for name, parameter in module.named_parameters():
        parameter.data = torch.zeros_like(parameter) if name.endswith("bias") else parameter.abs()
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.zero_()
    total = module(torch.ones(1, 3, 16, 16, dtype=torch.float64)).sum()
    total.backward()
    return {n: (p * p.grad / total).detach().numpy() for n, p in module.named_parameters() if p.ndim > 1}


def of_units(analysis: Analysis, elements: dict[str, Any]) -> Any:
    """Return the scores of units, site by site."""
    scores = np.zeros(analysis.width)
    for group in analysis.groups:
        for site in group.sites:
            for unit in range(group.blocks * group.width) if site.tensor in elements else ():
                where = np.broadcast_to(site.units == unit, elements[site.tensor].shape)
                scores[group.first + unit] += elements[site.tensor][where].sum()
    return scores


@pytest.mark.parametrize("name", MODULES)
def test_scores_are_those_of_autograd(name: str) -> None:
    module = trained(name)
    analysis = rc.analyze(exported(module, torch.ones(1, 3, 16, 16)))
    expected = synflow(module)
    found = ExactNetwork(analysis).elements(np.ones(analysis.width, bool))
    assert found.keys() == expected.keys()
    for weight, scores in expected.items():
        np.testing.assert_allclose(found[weight], scores, rtol=1e-3, atol=1e-7)
    units, wanted = of_units(analysis, found), of_units(analysis, expected)
    for group in analysis.groups:
        assert spearmanr(units[group.units], wanted[group.units]).statistic >= 0.999
