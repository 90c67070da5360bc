"""Weight-bearing operators: convolutions and matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_reconvene.errors import ModelError
from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.labels import Labels, all_frozen
from onnx_reconvene.op import Op
from onnx_reconvene.operators.elementwise import broadcast_labels
from onnx_reconvene.operators.rule import Operator

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp


def conv(op: Op) -> None:
    """x[n,i,...] * w[o,i/g,...] + b[o] -> y[n,o,...]"""
    convolve(op, bias=2)


def convolve(op: Op, bias: int) -> None:
    """Let labels flow through a convolution whose bias is this input."""
    slid, covered = _slid_over(op), _covered(op)
    channels, *whole = op.along(0, 1, *covered, *slid)[: 1 + len(covered)]
    out, read, *kernel = op.along(1, 0, 1, *covered)
    for a, b in zip(whole, kernel, strict=True):
        op.equate(a, b)
    _check(op, channels, out, reads=read.size * _groups(op))
    if _groups(op) > 1:
        read = _group(op, 1, channels, out, of_a_group=read, theirs=channels)
    else:
        op.equate(channels, read)
    if op.has(bias):
        op.equate(out, op.along(bias, 0)[0])
    op.layer(1, out, np.concatenate([read, *kernel]))
    op.emit({1: out, **slid})


def conv_macs(op: Op) -> None:
    """the elements of the weight, at each position of the output"""
    op.macs({1: range(len(op.shape(1)))}, (0, *range(2, len(op.out_shape()))))


def _slid_over(op: Op) -> dict[int, Labels]:
    """Return channels that lie where others have space (channel attention); a kernel that keeps their number passes them."""
    if any(stride != 1 for stride in op.attr("strides", [])) or op.shape(0)[2:] != op.out_shape()[2:]:
        return {}
    slid = {axis: labels for axis, labels in enumerate(op.axes(0)) if axis > 1 and not all_frozen(labels)}
    for labels in slid.values():
        op.inexact(labels, "slides over them")
    return slid


def _covered(op: Op) -> list[int]:
    """Return the axes of space with channels that the kernel covers as a whole, as it does where words are convolved."""
    rank = len(op.shape(0))
    plain = op.type == "Conv" and not any(op.attr("pads", [])) and op.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    whole = [a for a in range(2, rank) if plain and op.shape(0)[a] == op.shape(1)[a] and op.out_shape()[a] == 1]
    return [axis for axis in whole if op.shape(0)[axis] > 1 and not all_frozen(op.axes(0)[axis])]


def conv_transpose(op: Op) -> None:
    """x[n,i,...] * w[i,o/g,...] + b[o] -> y[n,o,...]"""
    (x,) = op.along(0, 1)
    read, out = op.along(1, 0, 1)
    if _groups(op) > 1:  # the output channels of each group have no axis of their own in the weight
        of_a_group, out = out, op.fresh(_groups(op) * out.size)
        _check(op, x, out, reads=read.size)
        _group(op, 1, x, out, of_a_group, theirs=out)
    _check(op, x, out, reads=read.size)
    op.equate(x, read)
    if op.has(2):
        op.equate(out, op.along(2, 0)[0])
    op.layer(1, out, read)
    op.emit({1: out})


def conv_transpose_macs(op: Op) -> None:
    """the elements of the weight, at each position of the input"""
    op.macs({1: range(len(op.shape(1))), 0: (0, *range(2, len(op.shape(0))))})


def _groups(op: Op) -> int:
    return int(op.attr("group", 1))


def _check(op: Op, x: Labels, out: Labels, reads: int) -> None:
    groups = _groups(op)
    if reads != x.size or x.size % groups or out.size % groups:
        error = ModelError if op.flow.proven else UnsupportedError
        raise error(f"{op} reads {x.size} channels in {groups} groups with a weight for {reads}")


def _group(op: Op, weight: int, x: Labels, out: Labels, of_a_group: Labels, theirs: Labels) -> Labels:
    """Bind the channels of a grouped convolution; returns labels of the weight axis that all groups share.

    of_a_group stands on that axis, for the channels `theirs` of each group. Every group may lose channels of its own, as many as
    any other. Where other nodes read the weight, too, equal positions of all groups go together; where a group has but one channel
    on either side, it goes as a whole.
    """
    groups = _groups(op)
    x_of, out_of = x.reshape(groups, -1), out.reshape(groups, -1)
    if min(x.size, out.size) == groups:
        op.equate(x_of, x_of[:, :1])
        op.equate(out_of, x_of[:, :1])
        op.freeze(of_a_group, "removes whole groups, which share them")
        return of_a_group
    apart = op.apart(weight, groups)
    if apart is None:
        op.equate(x_of, x_of[:1])
        op.equate(out_of, out_of[:1])
        op.equate(theirs.reshape(groups, -1)[0], of_a_group)
        return of_a_group
    op.balance(x_of)
    op.balance(out_of)
    op.equate(apart, theirs)
    return apart


def conv_attributes(cut: CutOp) -> None:
    """`kernel_shape` and `group` follow the weight"""
    if "kernel_shape" in cut.node.attrs:
        cut.node.attrs["kernel_shape"] = list(cut.new_shape(1)[2:])
    conv_groups(cut)


def conv_groups(cut: CutOp) -> None:
    """`group` is what is left of the input channels over what one group reads."""
    groups = int(cut.node.attrs.get("group", 1))
    if groups == 1:
        return
    left = cut.kept(0, 1).reshape(groups, -1).any(1).sum()
    cut.node.attrs["group"] = int(left)


def gemm(op: Op) -> None:
    """a[m,k] * b[k,n] + c[m,n] -> y[m,n], a and b transposed at will"""
    m, k = op.axes(0)[:: -1 if op.attr("transA", 0) else 1]
    read, n = op.axes(1)[:: -1 if op.attr("transB", 0) else 1]
    op.equate(k, read)
    out = {0: m, 1: n}
    if op.has(2):
        for axis, labels in enumerate(broadcast_labels(op, [2], op.out_shape())):
            if labels is not None and out[axis].size > 1:
                op.equate(out[axis], labels)
    op.emit(out)
    op.layer(1, n, read)


def gemm_macs(op: Op) -> None:
    """the elements of the output, each a sum over the inner axis"""
    op.macs({0: [0 if op.attr("transA", 0) else 1]}, (0, 1))


def matmul(op: Op) -> None:
    """a[...,m,k] * b[...,k,n] -> y[...,m,n], of vectors, too"""
    if op.flow.shrink_heads and not op.is_quantized and _product_of_heads(op):
        return
    left, right = op.axes(0), op.axes(1)
    rank, stacked = len(op.out_shape()), max(len(left), len(right), 2) - 2
    k, read = left[-1], right[-2] if len(right) > 1 else right[-1]
    op.equate(k, read)
    batch = broadcast_labels(op, [0, 1], (*op.out_shape()[:stacked], 0, 0), inner=2)[:stacked]
    out = {axis: labels for axis, labels in enumerate(batch) if labels is not None}
    if len(right) > 1:
        out[rank - 1] = right[-1]
    if len(left) > 1:
        out[rank - (2 if len(right) > 1 else 1)] = left[-2]
    op.emit(out)
    if op.is_static(0) and not op.is_static(1):
        op.layer(0, left[-2] if len(left) > 1 else k, k)
    else:
        if op.is_static(0):  # a weight in two factors: what lies between them can go, too
            op.layer(0, k, left[-2] if len(left) > 1 else k[:0])
        op.layer(1, right[-1] if len(right) > 1 else k, read)


def matmul_macs(op: Op) -> None:
    """the elements of the output, each a sum over the inner axis"""
    op.macs({0: [len(op.shape(0)) - 1]}, range(len(op.out_shape())))


def _product_of_heads(op: Op) -> bool:
    """Let each head lose dimensions of its own where matrices of heads are multiplied: queries by keys, or by values."""
    left, right, rank = op.blocks(0), op.blocks(1), len(op.shape(1))
    if right is None or len(op.shape(0)) != rank or right[1][0] >= rank - 2:
        return False
    heads, within = right[1]
    if left is not None and left[1] == [heads, rank - 1] and within == rank - 2 and left[0].shape == right[0].shape:
        queries, keys = op.take_blocks(0), op.take_blocks(1)
        op.equate(queries, keys)
        op.inexact(keys, "sums over them")
        op.emit({})
        op.layer(1, keys[:0].ravel(), keys.ravel())
    elif left is None and op.flow.value(op.tensor(0)).pending is None and within == rank - 1 and not op.operands.swapped:
        for labels in op.axes(0):
            op.freeze(labels, "computes across them")
        op.layer(1, op.pass_blocks(1).ravel(), op.fresh(0))
    else:
        return False
    return True


def deform_conv(op: Op) -> None:
    """as Conv, x sampled at offsets that are given for each of some blocks of its channels"""
    (x,) = op.along(0, 1)
    op.balance(x.reshape(int(op.attr("offset_group", 1)), -1))
    convolve(op, bias=3)


def causal_conv(op: Op) -> None:
    """x[n,c,t], w[c,1,k], b[c], state[n,c,k-1] -> y[n,c,t], state after"""
    (x,) = op.along(0, 1)
    op.equate(x, op.along(1, 0)[0])
    for i, axis in ((2, 0), (3, 1)):
        if op.has(i):
            op.equate(x, op.along(i, axis)[0])
    for o in op.outputs():
        op.emit({1: x}, o)


def einsum(op: Op) -> None:
    """products of operands summed over the letters that the result lacks: ij,jk->ik"""
    operands, result = _operands(op)
    labels: dict[str, Labels] = {}
    for i in sorted(op.inputs(), key=op.is_static, reverse=True):  # those of activations go on
        for letter, along in zip(operands[i], op.axes(i), strict=True):
            op.equate(labels.get(letter, along), along)
            labels[letter] = along
    op.emit({axis: labels[letter] for axis, letter in enumerate(result)})
    data = [operands[i] for i in op.inputs() if not op.is_static(i)]
    stored = "".join(operands[i] for i in op.inputs() if op.is_static(i))
    for letter in sorted(labels.keys() - set(result)):
        times = sum(letter in term for term in data)
        if times > 1 or (times == 1 and letter not in stored):
            op.contract(labels[letter])
    none = np.empty(0, np.int64)
    for i in [i for i in op.inputs() if op.is_static(i)]:
        own = dict(zip(operands[i], op.axes(i), strict=True))
        made = [own[x] for x in own if x in result and not any(x in term for term in data)]
        op.layer(i, made[-1] if made else none, np.concatenate([none, *(own[x] for x in own if x not in result)]))


def einsum_macs(op: Op) -> None:
    """the elements of the output, each a sum over all that the letters stand for which it lacks"""
    operands, result = _terms(op)
    axes: dict[str, tuple[int, int]] = {}
    for i, term in enumerate(operands):
        before, dots, after = term.partition("...")
        first = len(op.shape(i)) - len(after) if dots else len(before)
        axes |= {letter: (i, axis) for axis, letter in enumerate(before)} | {x: (i, first + k) for k, x in enumerate(after)}
    terms = "".join(operands)
    arrow = "->" in str(op.attr("equation"))
    lacking = [x for x in axes if (x not in result if arrow else terms.count(x) > 1)]
    op.macs({i: [axes[x][1] for x in lacking if axes[x][0] == i] for i in op.inputs()}, range(len(op.out_shape())))


def _terms(op: Op) -> tuple[list[str], str]:
    """Return the letters of the axes of each operand, and of the result, as they are written."""
    terms, _, result = str(op.attr("equation")).replace(" ", "").partition("->")
    return terms.split(","), result


def _operands(op: Op) -> tuple[list[str], str]:
    """Return the letters of the axes of each operand, and of the result, where each stands for one axis."""
    operands, result = _terms(op)
    terms = "".join(operands)
    if "." in terms or not result or any(len(set(term)) < len(term) for term in operands):
        raise UnsupportedError(f"equation '{op.attr('equation')}' is not followed")
    return operands, result


OPERATORS = {
    "CausalConvWithState": Operator(causal_conv, macs=conv_macs),
    "DeformConv": Operator(deform_conv, conv_groups, macs=conv_macs),
    "Einsum": Operator(einsum, macs=einsum_macs),
    "Conv": Operator(conv, conv_attributes, macs=conv_macs),
    "ConvTranspose": Operator(conv_transpose, conv_groups, macs=conv_transpose_macs),
    "Gemm": Operator(gemm, macs=gemm_macs),
    "MatMul": Operator(matmul, macs=matmul_macs),
}
