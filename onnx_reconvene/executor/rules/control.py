"""Control flow: bodies that are run on demand, node by node."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from onnx_reconvene.executor.node import Function, Node, Operator


def outer(node: Node, operands: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Mapping[str, Tensor]]:
    """Return the inputs of a node, and by name what its bodies capture."""
    count = len(node.inputs)
    return operands[:count], dict(zip(node.captured, operands[count:], strict=True))


def branch(node: Node) -> Function:
    """y = what one branch makes if the condition holds, or the other"""
    branches = {True: node.body("then_branch"), False: node.body("else_branch")}

    def run(*operands: Tensor) -> tuple[Tensor, ...]:
        (condition,), captured = outer(node, operands)
        return tuple(branches[bool(condition[0])](captured))

    return run


def loop(node: Node) -> Function:
    """y = the carried values after the last step, and what each step puts out, stacked"""
    body = node.body("body")

    def run(*operands: Tensor) -> tuple[Tensor, ...]:
        (limit, condition, *carried), captured = outer(node, operands)
        going = condition is None or bool(condition[0])
        step, collected = 0, []
        while going and (limit is None or step < limit[0]):
            proceed, *results = body(captured, torch.tensor(step), torch.tensor(True), *carried)
            carried, out = results[: len(carried)], results[len(carried) :]
            collected.append(out)
            going, step = bool(proceed), step + 1
        if not collected and len(node.outputs) > len(carried):
            raise node.unsupported("no step to stack outputs of")
        return (*carried, *(torch.stack(out) for out in zip(*collected, strict=True)))

    return run


def scan(node: Node) -> Function:
    """y = the carried values after the last slice, and what each slice puts out, put together"""
    if node.version < 9:
        raise node.unsupported("an opset below 9")
    body, scanned = node.body("body"), node.attribute("num_scan_inputs")
    count = len(node.inputs) - scanned
    axes = [node.attribute("scan_input_axes") or [0] * scanned, node.attribute("scan_output_axes")]
    turned = [node.attribute("scan_input_directions") or [0] * scanned, node.attribute("scan_output_directions")]

    def run(*operands: Tensor) -> tuple[Tensor, ...]:
        given, captured = outer(node, operands)
        carried = list(given[:count])
        slices = [
            (x.flip(axis) if back else x).unbind(axis) for x, axis, back in zip(given[count:], axes[0], turned[0], strict=True)
        ]
        collected = []
        for parts in zip(*slices, strict=True):
            results = body(captured, *carried, *parts)
            carried = list(results[:count])
            collected.append(results[count:])
        stacked = []
        for k, out in enumerate(zip(*collected, strict=True)):
            axis = axes[1][k] if axes[1] else 0
            y = torch.stack(out, axis)
            stacked.append(y.flip(axis) if turned[1] and turned[1][k] else y)
        return (*carried, *stacked)

    return run


RULES: dict[str, Operator] = {
    "If": Operator(branch, host=(0,)),
    "Loop": Operator(loop, host=(0, 1), varies=True),
    "Scan": Operator(scan, varies=True),
}
