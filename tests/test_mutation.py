"""Planted faults: each must be seen by the literal test or by the oracle, on some net of the operator concerned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from onnx_reconvene import cut as cutter
from onnx_reconvene.cutting import CutOp, Cutting
from onnx_reconvene.flow import Flow, Permutation
from onnx_reconvene.labels import Equalities, Labels
from onnx_reconvene.op import Op
from onnx_reconvene.operators import OPERATORS, movement, recurrent, weights
from tests.nets import ALL, Net, check_groups
from tests.oracle import check

Plant = Callable[[pytest.MonkeyPatch], None]
SEEDS = range(3)


@dataclass(frozen=True)
class Fault:
    """How a fault is planted, and how the names of the nets begin that should show it."""

    plant: Plant
    nets: tuple[str, ...]


def flow(op: str, rule: Callable[[Op], None], *nets: str) -> Fault:
    """Another flow rule for op."""
    return Fault(lambda patch: patch.setitem(OPERATORS, op, replace(OPERATORS[op], flow=rule)), nets or (op,))


def follow(op: str, rule: Callable[[CutOp], None] | None, *nets: str) -> Fault:
    """Another follow rule for op, or none."""
    return Fault(lambda patch: patch.setitem(OPERATORS, op, replace(OPERATORS[op], follow=rule)), nets or (op,))


def attribute(owner: object, name: str, value: object, *nets: str) -> Fault:
    """Something else in place of a function of the library."""
    return Fault(lambda patch: patch.setattr(owner, name, value), nets)


def distorted(op: str, distort: Callable[[Labels], Labels]) -> Callable[[Op], None]:
    """The rule of op, but the labels of its outputs distorted."""
    rule = OPERATORS[op].flow

    def run(view: Op) -> None:
        rule(view)
        for tensor in view.node.outputs:
            labels = view.flow.values[tensor.name].labels
            labels.update({axis: distort(along) for axis, along in labels.items()})

    return run


def with_attribute(op: str, name: str, change: Callable[[Any], Any]) -> Callable[[Op], None]:
    """The rule of op, run as if an attribute, where there is one, had another value."""
    rule = OPERATORS[op].flow

    def run(view: Op) -> None:
        given = dict(view.node.attrs)
        if name in given:
            view.node.attrs[name] = change(given[name])
        rule(view)
        view.node.attrs.update(given)

    return run


def inputs_reversed(op: Op) -> None:
    op.node.inputs.reverse()
    movement.concat(op)
    op.node.inputs.reverse()


def split_backwards(op: Op) -> None:
    axis = op.attr("axis", 0) % len(op.shape(0))
    labels, start = op.axes(0), 0
    for o in reversed(op.outputs()):
        end = start + op.out_shape(o)[axis]
        op.emit({**dict(enumerate(labels)), axis: labels[axis][start:end]}, o)
        start = end


def untied(op: Op) -> None:
    """Axis 1 passes; what parameters there are have nothing to do with it."""
    (x,) = op.along(0, 1)
    for i in op.inputs()[1:]:
        op.along(i, 0)
    op.emit({1: x})


def variance_untied(op: Op) -> None:
    (x,) = op.along(0, 1)
    for i in op.inputs()[1:-1]:
        op.equate(x, op.along(i, 0)[0])
    op.along(op.inputs()[-1], 0)
    op.emit({1: x})


def first_input_passes(op: Op) -> None:
    labels = op.axes(0)
    for i in op.inputs()[1:]:
        op.axes(i)
    op.emit(dict(enumerate(labels)))


def ungrouped(op: Op) -> None:
    (x,) = op.along(0, 1)
    out, read = op.along(1, 0, 1)
    if x.size == read.size:
        op.equate(x, read)
    if op.has(2):
        op.equate(out, op.along(2, 0)[0])
    op.layer(1, out, read)
    op.emit({1: out})


def ungrouped_deformable(op: Op) -> None:
    weights.convolve(op, x=0, weight=1, bias=3)


def product_untied(op: Op) -> None:
    a, b = op.axes(0), op.axes(1)
    op.layer(1, b[-1], b[-2])
    op.emit({len(op.out_shape()) - 1: b[-1], **dict(enumerate(a[:-1]))})


def depth_to_space_of_blocks(op: Op) -> None:
    (x,) = op.along(0, 1)
    parts = x.reshape(-1, int(op.attr("blocksize")) ** 2)
    op.equate(parts, parts[:, :1])
    op.emit({1: parts[:, 0]})


def gates_interleaved(op: Op) -> None:
    along = op.along
    op.along = lambda i, *axes: [  # type: ignore[method-assign]
        x.reshape(-1, 4).T.ravel() if x.size % 24 == 0 else x for x in along(i, *axes)
    ]
    recurrent.recurrent(op)


def pads_swapped(op: Op) -> None:
    ints = op.ints
    op.ints = lambda i: np.roll(ints(i), ints(i).size // 2) if i == 1 and op.has(i) else ints(i)  # type: ignore[method-assign]
    movement.pad(op)


def pads_counted_from_the_other_end(cut: CutOp) -> None:
    kept_out = cut.kept_out
    cut.kept_out = lambda o, axis: kept_out(o, axis)[::-1]  # type: ignore[method-assign]
    movement.pad_sizes(cut)


def last_split_size_wrong(cut: CutOp) -> None:
    sizes = [cut.out_shape(o)[cut.node.attrs["axis"]] for o in range(len(cut.node.outputs))]
    cut.replace(1, [sizes[0] + 1, *sizes[1:-1], sizes[-1] - 1])


def permute_inversely(self: Cutting, permutation: Permutation, tensors: Any, permute: Any = cutter._permute) -> None:
    permute(self, replace(permutation, index=np.argsort(permutation.index)), tensors)


def neighbour_kept(self: Cutting, labels: Labels) -> np.ndarray:
    return self.analysis.stays(labels, np.roll(self.keep, 1))


def reshape_by_columns(shape: Any, target: Any, x: Labels) -> Labels:
    return np.broadcast_to(x, shape).reshape(target, order="F")


def one_later(x: Labels) -> Labels:
    return np.roll(x, 1)


def nothing(*_: object, **__: object) -> None:
    """Do nothing."""


unary = OPERATORS["Relu"].flow
FAULTS = {
    "Split: outputs swapped": flow("Split", split_backwards),
    "Split: sizes stay": follow("Split", None),
    "Split: one size off by one": follow("Split", last_split_size_wrong, "Split: number"),
    "BatchNormalization: variance not tied": flow("BatchNormalization", variance_untied),
    "InstanceNormalization: scale not tied": flow("InstanceNormalization", untied),
    "GroupNormalization: blocks not tied": flow("GroupNormalization", untied),
    "LayerNormalization: taken for exact": flow("LayerNormalization", first_input_passes),
    "LRN: taken for elementwise": flow("LRN", unary),
    "Softmax: taken for elementwise": flow("Softmax", unary),
    "PRelu: slope not tied": flow("PRelu", first_input_passes),
    "Conv: blocks of groups ignored": flow("Conv", ungrouped),
    "Conv: group stays": follow("Conv", None),
    "ConvTranspose: taken for Conv": Fault(
        lambda patch: patch.setitem(OPERATORS, "ConvTranspose", OPERATORS["Conv"]), ("ConvTranspose",)
    ),
    "ConvTranspose: group stays": follow("ConvTranspose", None),
    "Gemm: transB ignored": flow("Gemm", with_attribute("Gemm", "transB", lambda _: 0), "Gemm: transB, square"),
    "MatMul: inner axes not tied": flow("MatMul", product_untied, "MatMul: weight on the right"),
    "Add: two layers not tied": flow("Add", first_input_passes),
    "Concat: in the wrong order": flow("Concat", inputs_reversed),
    "Slice: one later": flow("Slice", distorted("Slice", one_later)),
    "Slice: bounds stay": follow("Slice", None),
    "Gather: one later": flow("Gather", distorted("Gather", one_later)),
    "Gather: indices not renumbered": follow("Gather", None),
    "Pad: front and back swapped in flow": flow("Pad", pads_swapped),
    "Pad: counted from the other end in the cut": follow("Pad", pads_counted_from_the_other_end),
    "Pad: pads stay": follow("Pad", None),
    "Transpose: inverse": flow("Transpose", with_attribute("Transpose", "perm", lambda p: np.argsort(p).tolist())),
    "Transpose: backwards": flow("Transpose", distorted("Transpose", lambda x: x[::-1])),
    "Reshape: by columns": attribute(movement, "reshape_labels", reshape_by_columns, "Reshape", "Flatten"),
    "Reshape: taken for elementwise": flow("Reshape", unary),
    "Reshape: target stays": follow("Reshape", None),
    "Reshape: inverse shuffle": attribute(cutter, "_permute", permute_inversely, "Reshape: shuffle"),
    "Expand: shape stays": follow("Expand", None),
    "Resize: sizes stay": follow("Resize", None),
    "Tile: repeats elements": flow("Tile", distorted("Tile", lambda x: x.reshape(2, -1).T.ravel() if x.size == 16 else x)),
    "DepthToSpace: wrong mode": flow("DepthToSpace", with_attribute("DepthToSpace", "mode", {"CRD": "DCR", "DCR": "CRD"}.get)),
    "DepthToSpace: always CRD": flow("DepthToSpace", depth_to_space_of_blocks),
    "SpaceToDepth: repeats elements": flow("SpaceToDepth", distorted("SpaceToDepth", lambda x: x.reshape(4, -1).T.ravel())),
    "LSTM: gates interleaved": flow("LSTM", gates_interleaved),
    "LSTM: hidden size stays": follow("LSTM", None),
    "ReduceMax: taken for pooling": flow("ReduceMax", OPERATORS["GlobalMaxPool"].flow, "ReduceMax: over channels"),
    "DequantizeLinear: scale not tied": flow("DequantizeLinear", first_input_passes),
    "Attention: numbers of heads stay": follow("Attention", None),
    "Attention: heads not tied": flow("Attention", first_input_passes),
    "RotaryEmbedding: taken for elementwise": flow("RotaryEmbedding", first_input_passes),
    "DeformConv: blocks of offsets ignored": flow("DeformConv", ungrouped_deformable),
    "ScatterND: updates not tied": flow("ScatterND", first_input_passes),
    "CumSum: taken for elementwise": flow("CumSum", unary),
    "com.microsoft.FusedConv: sum not tied": flow("com.microsoft.FusedConv", OPERATORS["Conv"].flow),
    "every operator: a neighbour is removed": attribute(Cutting, "kept", neighbour_kept, "Conv"),
    "every operator: shape arithmetic not shielded": attribute(CutOp, "shield", nothing, "Size", "Shape"),
    "every operator: nothing freezes": attribute(Flow, "freeze", nothing, "Conv", "Dropout"),
    "every operator: nothing is equal": attribute(Equalities, "equate", nothing, "Conv"),
    "every operator: statistics are not noticed": attribute(Equalities, "inexact", nothing, "ReduceMean", "LayerNormalization"),
}


def is_red(net: Net) -> bool:
    """Return True if the literal test or the oracle fails on net; a crash of the fault itself proves nothing."""
    try:
        check_groups(net)
        oracle(net)
    except (AttributeError, IndexError, KeyError, NameError, TypeError):
        raise
    except Exception:
        return True
    return False


def oracle(net: Net) -> None:
    """Cut net at random, several times."""
    for seed in SEEDS:
        check(net.model, seed, spare_vectors=net.spare_vectors)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_planted_fault_is_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [net for name, net in ALL.items() if name.startswith(fault.nets)]
    fault.plant(monkeypatch)
    red = next((net for net in nets if is_red(net)), None)
    assert red is not None
    monkeypatch.undo()
    assert not is_red(red)
