"""Recurrent layers, by backpropagation through time.

The gates of all steps are computed anew, at once, from the states that the layer puts out; only what runs through the states is
done step by step. Shapes: x[t,n,i], w[g h,i], r[g h,h], bias[2 g h], states[t,n,h], g being the number of gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx_reconvene.autodiff.builder import Tensor, concat, stack, total
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients

ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}
TIME = 0


@dataclass(frozen=True)
class Run:
    """One direction of a layer, its time going forward."""

    x: Tensor
    w: Tensor
    r: Tensor
    bias: Tensor | None
    first: tuple[Tensor, ...]  # states before the first step: h[n,h], and c[n,h] of an LSTM
    states: Tensor
    dstates: Tensor
    dlast: tuple[Tensor, ...]  # gradients of the states after the last step

    @property
    def previous(self) -> Tensor:
        """h before each step."""
        hidden = self.first[0]
        before = hidden.reshape(1, *hidden.shape)
        steps = self.states.shape[TIME]
        return concat([before, part(self.states, 0, steps - 1, TIME)], TIME) if steps > 1 else before

    def from_input(self) -> Tensor:
        """Return x w' + bias, what the gates get from the input."""
        product = self.x @ self.w.transpose(1, 0)
        return product if self.bias is None else product + part(self.bias, 0, self.w.shape[0])

    def from_states(self) -> Tensor:
        """Return h r' + bias, what the gates get from the states."""
        product = self.previous @ self.r.transpose(1, 0)
        return product if self.bias is None else product + part(self.bias, self.w.shape[0], 2 * self.w.shape[0])

    def gradients(self, da: Tensor, db: Tensor, dr: Tensor, dfirst: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradients of x, w, r, bias and the first states; da and db are those of from_input and from_states."""
        dbias = concat([da.sum([0, 1], keepdims=False), db.sum([0, 1], keepdims=False)], 0)
        return (da @ self.w, outer(da, self.x), dr, dbias, *dfirst)


def part(x: Tensor, start: int, end: int, axis: int = -1) -> Tensor:
    """Return x[start:end] along an axis."""
    return x.slice([start], [end], [axis % x.rank], [1])


def parts(x: Tensor, count: int) -> list[Tensor]:
    """Return the equal parts of x along its last axis."""
    size = x.shape[-1] // count
    return [part(x, k * size, (k + 1) * size) for k in range(count)]


def at(x: Tensor, step: int) -> Tensor:
    """Return x at one step."""
    return part(x, step, step + 1, TIME).reshape(*x.shape[1:])


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a[t,n,:] b[t,n,:]' over t and n."""
    return a.reshape(-1, a.shape[-1]).apply("Gemm", b.reshape(-1, b.shape[-1]), transA=1)


def rnn(run: Run, node: Node) -> tuple[Tensor, ...]:
    """h' = tanh(a), a = w x + r h + bias: da = dh' (1 - h'^2), dh = r' da"""
    slope = 1.0 - run.states * run.states
    (dh,), das = run.dlast, []
    for step in reversed(range(run.states.shape[TIME])):
        das.append((at(run.dstates, step) + dh) * at(slope, step))
        dh = das[-1] @ run.r
    da = stack(das[::-1])
    return run.gradients(da, da, outer(da, run.previous), [dh])


def lstm(run: Run, node: Node) -> tuple[Tensor, ...]:
    """c' = f c + i u, h' = o tanh c' with i, o, f = s(a), u = tanh(a), a = w x + r h + bias:
    do = dh' tanh c', dc' += dh' o (1 - tanh^2 c'), di = dc' u, df = dc' c, du = dc' i, dc = dc' f, dh = r' da"""
    a, steps = run.from_input() + run.from_states(), run.states.shape[TIME]
    *sigmoids, last = parts(a, 4)
    i, o, f = (one.apply("Sigmoid") for one in sigmoids)
    u = last.apply("Tanh")
    cells = [run.first[1]]
    for step in range(steps):
        cells.append(at(f, step) * cells[-1] + at(i, step) * at(u, step))
    squashed = [cell.apply("Tanh") for cell in cells[1:]]
    slope = concat([i * (1.0 - i), o * (1.0 - o), f * (1.0 - f), 1.0 - u * u], 2)
    (dh, dc), das = run.dlast, []
    for step in reversed(range(steps)):
        dh = at(run.dstates, step) + dh
        t = squashed[step]
        dc = dc + dh * at(o, step) * (1.0 - t * t)
        das.append(concat([dc * at(u, step), dh * t, dc * cells[step], dc * at(i, step)], 1) * at(slope, step))
        dh, dc = das[-1] @ run.r, dc * at(f, step)
    da = stack(das[::-1])
    return run.gradients(da, da, outer(da, run.previous), [dh, dc])


def gru(run: Run, node: Node) -> tuple[Tensor, ...]:
    """h' = (1 - z) u + z h with z, q = s(a + b), u = tanh(a + q b), a = w x + bias, b = r h + bias:
    dz = dh' (h - u), du = dh' (1 - z), dq = b du, dh = z dh' + r' db"""
    if not node.attribute("linear_before_reset"):
        raise node.no_derivative("linear_before_reset 0")
    previous = run.previous
    (az, aq, au), (bz, bq, bu) = parts(run.from_input(), 3), parts(run.from_states(), 3)
    z, q = (az + bz).apply("Sigmoid"), (aq + bq).apply("Sigmoid")
    u = (au + q * bu).apply("Tanh")
    to_z, to_u = (previous - u) * z * (1.0 - z), (1.0 - z) * (1.0 - u * u)
    to_q = to_u * bu * q * (1.0 - q)
    inputs, reset = concat([to_z, to_q, to_u], 2), concat([to_z, to_q, to_u * q], 2)
    (dh,), dhs = run.dlast, []
    for step in reversed(range(run.states.shape[TIME])):
        dh = at(run.dstates, step) + dh
        dhs.append(concat([dh] * 3, 1))
        dh = dh * at(z, step) + (dhs[-1] * at(reset, step)) @ run.r
    through = stack(dhs[::-1])
    da, db = inputs * through, reset * through
    return run.gradients(da, db, outer(db, previous), [dh])


def layer(cell: Callable[[Run, Node], tuple[Tensor, ...]], states: int) -> Rule:
    """Return the rule for a layer of such cells, which have so many states."""

    def rule(node: Node, *gs: Tensor | None) -> Gradients:
        _check(node)
        directions, hidden, bias = node[1].shape[0], node[2].shape[2], node.optional(3)
        found = []
        for k in range(directions):
            backwards = k == 1 or node.attribute("direction") == "reverse"
            one = _direction(node, gs, k, states, hidden, backwards)
            dx, *others = cell(one, node)
            found.append([turned(dx, backwards), *others])
        dxs, dw, dr, dbias, *dfirst = zip(*found, strict=True)
        initial = [None if node.optional(5 + k) is None else stack(one) for k, one in enumerate(dfirst)]
        gradients = [total(dxs), stack(dw), stack(dr), stack(dbias) if bias is not None else None, None, *initial]
        return (*gradients, *[None] * len(node.inputs))[: len(node.inputs)]

    rule.__doc__ = cell.__doc__
    return rule


def _direction(node: Node, gs: Sequence[Tensor | None], k: int, states: int, hidden: int, backwards: bool) -> Run:
    """Return one direction of a layer: what stands at k along the axis of directions of its weights and states."""
    steps, batch = node[0].shape[:2]
    zero = node.builder.full([batch, hidden], 0, node[0].dtype)
    bias, dy = node.optional(3), gs[0]
    finals = [*gs[1:], None, None][:states]
    given = [node.optional(5 + state) for state in range(states)]
    y, sequence = node.output(0), [steps, batch, hidden]
    return Run(
        turned(node[0], backwards),
        at(node[1], k),
        at(node[2], k),
        None if bias is None else at(bias, k),
        tuple(zero if one is None else at(one, k) for one in given),
        turned(part(y, k, k + 1, 1).reshape(*sequence), backwards),
        zero.expand(sequence) if dy is None else turned(part(dy, k, k + 1, 1).reshape(*sequence), backwards),
        tuple(zero if one is None else at(one, k) for one in finals),
    )


def turned(x: Tensor, backwards: bool) -> Tensor:
    """Return x, its time reversed if the layer runs backwards."""
    return x.slice([-1], [-(2**63)], [TIME], [-1]) if backwards else x


def _check(node: Node) -> None:
    usual = ACTIVATIONS[node.op]
    activations = [a.decode() for a in node.attribute("activations") or []]
    if activations and activations != usual * (len(activations) // len(usual)):
        raise node.no_derivative(f"activations {', '.join(activations)}")
    for name in ("clip", "input_forget", "layout"):
        if node.attribute(name):
            raise node.no_derivative(name)
    if node.optional(4) is not None:
        raise node.no_derivative("sequence_lens")
    if node.optional(7) is not None:
        raise node.no_derivative("peepholes")


RULES: dict[str, Rule] = {"GRU": layer(gru, 1), "LSTM": layer(lstm, 2), "RNN": layer(rnn, 1)}
