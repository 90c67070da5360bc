"""Recurrent layers. In the formulas x_t is the input, h the hidden state; the weights of the gates lie one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from onnx_reconvene.executor.node import Function, Node, Operator
from onnx_reconvene.executor.rules.activations import Activation, named
from onnx_reconvene.executor.rules.movement import reversed_places


class Direction:
    """One direction of a recurrent node: its weights, its activations, how it limits what these take."""

    def __init__(self, node: Node, activations: list[Activation], w: Tensor, r: Tensor, b: Tensor | None, p: Tensor | None) -> None:
        self.activations = activations
        self.clip, self.hidden = node.attribute("clip"), node.attribute("hidden_size")
        self.couples = bool(node.attribute("input_forget", 0))
        self.resets_last = bool(node.attribute("linear_before_reset", 0))
        self.w, self.r = w, r
        zeros = torch.zeros(r.shape[0], dtype=r.dtype, device=r.device)
        self.bias, self.inner_bias = (zeros, zeros) if b is None else b.chunk(2)
        self.peepholes = None if p is None else p.chunk(3)

    def limited(self, x: Tensor) -> Tensor:
        """Return x within the bounds that the node sets."""
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def rnn(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """h = f(W x + R h + b)"""
        (f,) = self.activations
        return (f(self.limited(x + states[0] @ self.r.t() + self.inner_bias)),)

    def gru(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """z, r = f(...); n = g(W x + R (r h)), or g(W x + r (R h)); h = (1 - z) n + z h"""
        (f, g), (h,), n = self.activations, states, 2 * self.hidden
        z, r = f(self.limited(x[:, :n] + h @ self.r[:n].t() + self.inner_bias[:n])).chunk(2, 1)
        w, b = self.r[n:].t(), self.inner_bias[n:]
        inner = r * (h @ w + b) if self.resets_last else (r * h) @ w + b
        return ((1 - z) * g(self.limited(x[:, n:] + inner)) + z * h,)

    def lstm(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """i, o, f = f(...), n = g(...); c = f c + i n; h = o h(c); peepholes add p c to the gates"""
        (sigma, g, squash), (h, c) = self.activations, states
        i, o, f, n = (x + h @ self.r.t() + self.inner_bias).chunk(4, 1)
        if self.peepholes is not None:
            i, f = i + self.peepholes[0] * c, f + self.peepholes[2] * c
        i = sigma(self.limited(i))
        f = 1 - i if self.couples else sigma(self.limited(f))
        c = f * c + i * g(self.limited(n))
        if self.peepholes is not None:
            o = o + self.peepholes[1] * c
        return sigma(self.limited(o)) * squash(c), c

    def run(self, cell: Cell, x: Tensor, states: list[Tensor], lengths: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Return the hidden states [time, batch, hidden] and the last states; beyond its length a sample stands still."""
        added = x @ self.w.t() + self.bias
        outputs = []
        for time, step in enumerate(added):
            after = cell(self, step, states)
            if lengths is None:
                states = list(after)
                outputs.append(after[0])
                continue
            running = (time < lengths)[:, None]
            states = [torch.where(running, new, old) for new, old in zip(after, states, strict=True)]
            outputs.append(torch.where(running, after[0], torch.zeros_like(after[0])))
        return torch.stack(outputs), states


# Takes what the input adds to the gates [batch, gates * hidden], the states before, and returns the states after.
Cell = Callable[[Direction, Tensor, Sequence[Tensor]], tuple[Tensor, ...]]


def recurrent(cell: Cell, usual: Sequence[str], states: int) -> Operator:
    """Return a recurrent operator of so many states, with these activations unless others are named."""

    def rule(node: Node) -> Function:
        activations = _activations(node, usual)
        way, by_batch = node.attribute("direction"), bool(node.attribute("layout", 0))

        def run(x: Tensor, w: Tensor, r: Tensor, *optional: Tensor | None) -> tuple[Tensor, ...]:
            operands = (*optional, *[None] * (5 - len(optional)))
            b, lengths, initial, peepholes = operands[0], operands[1], operands[2 : 2 + states], operands[4]
            if by_batch:
                x, initial = x.transpose(0, 1), tuple(None if h is None else h.transpose(0, 1) for h in initial)
            zeros, outputs, finals = x.new_zeros(x.shape[1], r.shape[2]), [], []
            for k in range(w.shape[0]):
                own = activations[k * len(usual) : (k + 1) * len(usual)]
                direction = Direction(node, own, w[k], r[k], _part(b, k), _part(peepholes, k))
                before = [zeros if h is None else h[k] for h in initial]
                backwards = k == 1 or way == "reverse"
                y, after = direction.run(cell, _turned(x, lengths) if backwards else x, before, lengths)
                outputs.append(_turned(y, lengths) if backwards else y)
                finals.append(after)
            last = [torch.stack(state) for state in zip(*finals, strict=True)]
            if by_batch:
                return (torch.stack(outputs, 2).transpose(0, 1), *(state.transpose(0, 1) for state in last))
            return (torch.stack(outputs, 1), *last)

        return run

    return Operator(rule)


PARAMETERS = {  # whether an activation takes an element of the lists alpha and beta
    **dict.fromkeys(["affine", "hardsigmoid", "scaledtanh"], (True, True)),
    **dict.fromkeys(["elu", "leakyrelu", "thresholdedrelu"], (True, False)),
}


def _activations(node: Node, usual: Sequence[str]) -> list[Activation]:
    """Return the activations of all directions, one direction after the other."""
    names = [name.decode() for name in node.attribute("activations") or []] or [*usual, *usual]
    alphas, betas = iter(node.attribute("activation_alpha") or []), iter(node.attribute("activation_beta") or [])
    found = []
    for name in names:
        takes_alpha, takes_beta = PARAMETERS.get(name.lower(), (False, False))
        found.append(named(name, next(alphas, None) if takes_alpha else None, next(betas, None) if takes_beta else None))
    return found


def _part(x: Tensor | None, k: int) -> Tensor | None:
    return None if x is None else x[k]


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x [time, batch, ...] backwards, each sample within its length."""
    if lengths is None:
        return x.flip(0)
    index = reversed_places(lengths.to(torch.int64), x.shape[0]).t()
    return x.gather(0, index.reshape(*index.shape, 1).expand(x.shape))


RULES: dict[str, Operator] = {
    "GRU": recurrent(Direction.gru, ("Sigmoid", "Tanh"), 1),
    "LSTM": recurrent(Direction.lstm, ("Sigmoid", "Tanh", "Tanh"), 2),
    "RNN": recurrent(Direction.rnn, ("Tanh",), 1),
}
