"""Networks executed by torch: each operator gives what it gives in onnxruntime, and the gradients of `onnx_reconvene.gradients`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnx_reconvene as rc
from onnx_reconvene.errors import ModelError
from onnx_reconvene.graph import from_model
from onnx_reconvene.operators import OPERATORS
from onnx_reconvene.plain import nodes_in
from onnx_reconvene.sizes import input_sizes
from tests import derivatives, nets, oracle
from tests.derivatives.oracle import run, trainable, weighted
from tests.nets import Net

torch = pytest.importorskip("torch")

from onnx_reconvene.executor import gradients_of  # noqa: E402
from onnx_reconvene.executor.node import operator_name  # noqa: E402
from onnx_reconvene.executor.prepare import is_defined  # noqa: E402
from onnx_reconvene.executor.rules import RULES, UNSUPPORTED  # noqa: E402
from tests.test_gradients_torch import MODULES, exported  # noqa: E402

torch.set_num_threads(1)  # small tensors, and tests that run side by side
Arrays = dict[str, NDArray[Any]]
TOLERANCE = 1e-5  # of the largest value of an output
QUANTIZED = 0.01  # where halves of steps are rounded differently

# What torch computes otherwise than onnxruntime, on purpose.
OTHERWISE = {"BatchNormalization: statistics as outputs"}  # statistics of the batch only while training


def tensors(feeds: Arrays) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in feeds.items()}


def is_supported(model: onnx.ModelProto) -> bool:
    return not any(operator_name(node) in UNSUPPORTED for node in nodes_in(model.graph))


EXECUTED = {key: net for key, net in nets.ALL.items() if is_supported(net.model) and key not in OTHERWISE}
DIFFERENTIATED = {key: case for key, case in derivatives.ALL.items() if is_supported(case.model)}
REFUSED = {key: net for key, net in nets.ALL.items() if not is_supported(net.model)}


@pytest.mark.parametrize(("key", "net"), EXECUTED.items(), ids=EXECUTED.keys())
def test_outputs_are_those_of_onnxruntime(key: str, net: Net) -> None:
    module = rc.to_torch(net.model)
    sizes = input_sizes(from_model(net.model), {})
    for feeds in oracle.draw_feeds(net.model, sizes, np.random.default_rng(0)):
        found = module(**tensors(feeds))
        for tensor, expected in zip(found if isinstance(found, tuple) else (found,), oracle.run(net.model, feeds), strict=True):
            array = tensor.detach().numpy()
            assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
            off = np.abs(array.astype(np.float64) - expected).max() / np.abs(expected).max()
            assert off <= (QUANTIZED if "Linear" in key else TOLERANCE)


@pytest.mark.parametrize("net", REFUSED.values(), ids=REFUSED.keys())
def test_operator_that_torch_lacks_is_named(net: Net) -> None:
    with pytest.raises(ModelError, match=r"^node '\w+': operator [\w.]+ cannot be executed in torch: .+$"):
        rc.to_torch(net.model)


def test_each_operator_that_can_be_pruned_is_executed_or_refused_for_a_reason() -> None:
    newest = onnx.defs.onnx_opset_version()
    missing = {op for op in OPERATORS if op not in RULES and not is_defined(op, newest)}
    assert missing <= set(UNSUPPORTED)
    assert not set(UNSUPPORTED) & set(RULES)


@pytest.mark.parametrize(("key", "case"), DIFFERENTIATED.items(), ids=DIFFERENTIATED.keys())
def test_gradients_are_those_of_the_other_backend(key: str, case: derivatives.Case) -> None:
    feeds, names = case.feeds(), trainable(case.model)
    model = weighted(case.model, feeds)
    module = rc.to_torch(model).train(key == "BatchNormalization: training")
    known = {*module.inputs, *module.stored()}
    names = [name for name in names if name in known]  # settings have no gradients in torch
    expected = run(rc.gradients(model, names, "loss"), feeds, [f"{name}.grad" for name in names])
    found = gradients_of(module, feeds, names, "loss").gradients
    for name, gradient in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-4 * max(np.abs(gradient).max(), 0.01))


@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES.keys())
def test_exported_networks_have_the_gradients_of_their_originals(build: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    original, x = build().eval(), torch.randn(2, 3, 20, 20)
    for parameter in original.parameters():  # the exporter merges equal ones
        parameter.data += 0.1 * torch.randn_like(parameter)
    module = rc.to_torch(exported(original, x))
    theirs, ours = dict(original.named_parameters()), dict(module.named_parameters())
    assert theirs.keys() <= ours.keys()
    expected = torch.autograd.grad(original(x).sum(), list(theirs.values()))
    found = torch.autograd.grad(module(x).sum(), [ours[name] for name in theirs])
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)
