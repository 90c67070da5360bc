"""Matrix products."""

from __future__ import annotations

import string

from onnx_reconvene.autodiff.builder import Tensor
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients


def matmul(node: Node, g: Tensor) -> Gradients:
    """Y = A B: dA = G B', dB = A' G"""
    a, b = node[0], node[1]
    if b.rank == 2 and a.rank >= 2:  # one large product instead of many small ones
        rows, more = a.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])
        return (more.apply("Gemm", b, transB=1).reshape(*a.shape), rows.apply("Gemm", more, transA=1))
    wide_a = a.reshape(1, *a.shape) if a.rank == 1 else a
    wide_b = b.reshape(*b.shape, 1) if b.rank == 1 else b
    batch = g.shape[: g.rank - (a.rank > 1) - (b.rank > 1)]
    wide_g = g.reshape(*batch, wide_a.shape[-2], wide_b.shape[-1])
    da, db = wide_g @ turned(wide_b), turned(wide_a) @ wide_g
    return (da.fit(wide_a.shape).reshape(*a.shape), db.fit(wide_b.shape).reshape(*b.shape))


def turned(x: Tensor) -> Tensor:
    """Return the transposed matrices of a batch."""
    return x.transpose(*range(x.rank - 2), x.rank - 1, x.rank - 2)


def gemm(node: Node, g: Tensor) -> Gradients:
    """Y = a A B + b C: dA = a G B', dB = a A' G, dC = b G; where A or B is read transposed, its gradient is transposed"""
    a, b = node[0], node[1]
    ta, tb = node.attribute("transA"), node.attribute("transB")
    alpha, beta = node.attribute("alpha"), node.attribute("beta")
    da = b.apply("Gemm", g, alpha=alpha, transA=tb, transB=1) if ta else g.apply("Gemm", b, alpha=alpha, transB=1 - tb)
    db = g.apply("Gemm", a, alpha=alpha, transA=1, transB=ta) if tb else a.apply("Gemm", g, alpha=alpha, transA=1 - ta)
    dc = g if beta == 1 else g * beta
    return (da, db, dc)[: len(node.inputs)]


def einsum(node: Node, g: Tensor) -> Gradients:
    """y = sum over the letters that are not y's of x1 x2 ...: dxi = the same sum with g and xi in each other's place"""
    terms, result = subscripts(node)
    if any(len(set(term)) < len(term) for term in [*terms, result]):
        raise node.no_derivative("a repeated letter")
    gradients = []
    for k, term in enumerate(terms):
        others = [(t, x) for j, (t, x) in enumerate(zip(terms, node.inputs, strict=True)) if j != k and x is not None]
        known = set(result).union(*(t for t, _ in others))
        found = [letter for letter in term if letter in known]  # the rest was summed alone: the same all along
        equation = f"{','.join([result, *(t for t, _ in others)])}->{''.join(found)}"
        part = g.builder.apply("Einsum", g, *(x for _, x in others), equation=equation)
        sizes = dict(zip(term, node[k].shape, strict=True))
        gradients.append(part.reshape(*(sizes[letter] if letter in known else 1 for letter in term)))
    return tuple(gradients)


def subscripts(node: Node) -> tuple[list[str], str]:
    """Return the letters of the inputs and of the result of an Einsum, with letters for an ellipsis."""
    equation = node.attribute("equation").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    ranks = [x.rank - len(t.replace("...", "")) for t, x in zip(terms, node.inputs, strict=True) if x is not None]
    hidden = "".join(free[: max(ranks)])
    if not arrow:
        once = sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    terms = [t.replace("...", hidden[len(hidden) - rank :]) for t, rank in zip(terms, ranks, strict=True)]
    return terms, result.replace("...", hidden)


RULES: dict[str, Rule] = {"Einsum": einsum, "Gemm": gemm, "MatMul": matmul}
