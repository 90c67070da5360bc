"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from onnx_reconvene.executor.node import Function, Node, Operator
from onnx_reconvene.executor.rules.activations import activation
from onnx_reconvene.executor.rules.elementwise import plain


def gemm(node: Node) -> Function:
    """y = alpha a b + beta c, a and b transposed on demand; then, if fused, an activation"""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    trans_a, trans_b = node.attribute("transA", 0), node.attribute("transB", 0)
    finish = activation(node)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.t() if trans_a else a, b.t() if trans_b else b
        if c is not None:
            return finish(torch.addmm(c, a, b, beta=beta, alpha=alpha))
        product = a @ b
        return finish(product if alpha == 1 else alpha * product)

    return run


def fused_matmul(node: Node) -> Function:
    """y = alpha a b, on demand the first axis of a and b put behind those of the batch, and their last two axes swapped"""
    alpha = node.attribute("alpha", 1.0)
    last, first = ([node.attribute(f"trans{batch}{x}", 0) for x in "AB"] for batch in ("", "Batch"))

    def run(*operands: Tensor) -> Tensor:
        moved = [x.movedim(0, -2) if turned else x for x, turned in zip(operands, first, strict=True)]
        return alpha * torch.matmul(*[x.mT if turned else x for x, turned in zip(moved, last, strict=True)])

    return run


def einsum(node: Node) -> Function:
    """y = the sum of products that the equation says"""
    equation = node.attribute("equation").replace(" ", "")
    return lambda *x: torch.einsum(equation, *x)


def determinant(node: Node) -> Function:
    """y = det x, of the last two axes"""
    return torch.linalg.det


def multi_head_attention(node: Node) -> Function:
    """y = softmax(scale q k' + mask) v, by head; q [batch, length, heads * width], mask [batch or 1, heads or 1, length, length]"""
    heads, scale = node.attribute("num_heads"), node.attribute("scale") or None
    if any(node.has_input(index) for index in (4, 6, 7, 8, 9)) or not node.has_input(2) or node.attribute("unidirectional", 0):
        raise node.unsupported("packed weights, padding masks, a past or causality")

    def split(x: Tensor) -> Tensor:
        return x.unflatten(2, (heads, -1)).transpose(1, 2) if x.dim() == 3 else x

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, _: None = None, mask: Tensor | None = None) -> Tensor:
        if bias is not None:
            parts = bias.split([q.shape[-1], k.shape[-1], v.shape[-1]])
            q, k, v = (x + part for x, part in zip((q, k, v), parts, strict=True))
        return F.scaled_dot_product_attention(split(q), split(k), split(v), mask, scale=scale).transpose(1, 2).flatten(2)

    return run


RULES: dict[str, Operator] = {
    "Det": Operator(determinant),
    "Einsum": Operator(einsum),
    "Gemm": Operator(gemm),
    "MatMul": plain(torch.matmul),
    "com.microsoft.FusedGemm": Operator(gemm),
    "com.microsoft.FusedMatMul": Operator(fused_matmul),
    "com.microsoft.MultiHeadAttention": Operator(multi_head_attention),
}
