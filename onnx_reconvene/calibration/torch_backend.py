"""Gradients by torch autograd, for networks that `executor` runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from onnx_reconvene.calibration.backend import Array, Feeds, Network, Run, Tap, vector
from onnx_reconvene.errors import UsageError


class Torch:
    """A `Backend` that executes the network in torch. Raises UsageError where torch is not installed."""

    def __init__(self) -> None:
        try:
            import onnx_reconvene.executor  # noqa: F401
        except ModuleNotFoundError as error:
            raise UsageError(f"--gradients torch: {error}") from error

    def gradients(self, network: Network, names: Sequence[str]) -> Run:
        """Return a function that returns the gradients of the loss by these tensors."""
        from onnx_reconvene.executor import GraphModule, gradients_of

        module = GraphModule(network.source).eval()

        def run(feeds: Feeds) -> list[Array]:
            found = gradients_of(module, _own(module.inputs, feeds), names, network.loss).gradients
            return [found[name] for name in names]

        return run

    def products(self, network: Network, names: Sequence[str]) -> Run:
        """Return a function that returns the products of the Hessian with vectors."""
        from onnx_reconvene.executor import GraphModule, hessian_products

        module = GraphModule(network.source).eval()

        def run(feeds: Feeds) -> list[Array]:
            vectors = {name: feeds[vector(name)] for name in names}
            found = hessian_products(module, _own(module.inputs, feeds), vectors, network.loss)
            return [found[name] for name in names]

        return run

    def contractions(self, network: Network, taps: Sequence[Tap], samples: int) -> Run:
        """Return a function that returns the sums of tensor * dloss/dtensor over positions."""
        from onnx_reconvene.executor import GraphModule, gradients_of

        module = GraphModule(network.source).eval()
        names = [tap.tensor for tap in taps]

        def run(feeds: Feeds) -> list[Array]:
            found = gradients_of(module, _own(module.inputs, feeds), names, network.loss)
            return [_summed(found.values[tap.tensor] * found.gradients[tap.tensor], tap, samples) for tap in taps]

        return run


def _own(inputs: Sequence[str], feeds: Feeds) -> dict[str, Array]:
    return {name: feeds[name] for name in inputs}


def _summed(x: NDArray[Any], tap: Tap, samples: int) -> NDArray[Any]:
    """Return x summed over positions, [samples or 1, channels], as `backend.summed` does in a network."""
    found: NDArray[Any] = x.sum(tuple(axis for axis in range(x.ndim) if axis not in {tap.channels, tap.samples}))
    if tap.samples is None:
        return found.reshape(1, -1)
    if tap.samples > tap.channels:
        found = found.T
    result: NDArray[Any] = found.reshape(samples, -1, found.shape[1]).sum(1)
    return result
