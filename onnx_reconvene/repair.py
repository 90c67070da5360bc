"""Repair of a trained network that was cut: what stays takes over, as far as it can, what the removed channels did.

Layer by layer, each behind others that have been repaired: a layer that lost inputs gets the weights that come nearest, in least
squares on calibration data, to what it returned before (as in ThiNet, Luo 2017, and channel pruning, He 2017);
BatchNormalizations get the statistics of the data (recalibration); other biases are corrected by the shift of the mean.
"""

from __future__ import annotations

import operator
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnx_reconvene.calibration.stream import Stream
from onnx_reconvene.graph import Source
from onnx_reconvene.names import name_of
from onnx_reconvene.parameters import Parameter, attribute, is_float, parameters
from onnx_reconvene.plain import bodies, nodes_in
from onnx_reconvene.reference import Reference
from onnx_reconvene.regression import Moments, Regression, Window

Array = NDArray[Any]
Feeds = dict[str, Array]
CHANNELS = {"Conv": 1, "Gemm": -1, "MatMul": -1}  # the axis of what comes out
ROWS_PER_INPUT = 4
LEAST_ROWS = 4096
PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0}  # attributes of a Gemm
MOST_INPUTS = 8192  # of a regression, whose memory grows with their square


@dataclass
class Repaired:
    """What a repair did: how many layers were fitted, BatchNormalizations recalibrated and biases corrected, on how many samples;
    and what it could not do."""

    mode: str
    samples: int = 0
    fitted: int = 0
    recalibrated: int = 0
    corrected: int = 0
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One node to repair: a layer with its weight and bias (where it has them to change), or a BatchNormalization."""

    node: NodeProto
    weight: str | None = None
    bias: str | None = None
    with_mean: bool = False  # a bias or a BatchNormalization behind the layer takes the mean

    @property
    def out(self) -> str:
        """The name of what it returns."""
        return str(self.node.output[0])


class Repair:
    """A repair in progress: `values` holds what the parameters have become."""

    def __init__(
        self,
        before: Reference,
        after: Source,
        batches: Callable[[], Iterator[tuple[int, Feeds]]],
        mode: str,
        seed: int,
        folder: str,
    ) -> None:
        """batches: makes an iterator over numbers of samples and these, always the same; folder: an empty one with room for feature
        maps."""
        self.done = Repaired(mode)
        self._stays, self._seed = before.stays, seed
        self._plan = _Plan(before, after, mode, self.done.skipped)
        rooms = [tempfile.mkdtemp(dir=folder) for _ in range(2)]
        self._before, self._after = (Stream(s, batches(), room) for s, room in zip((before.source, after), rooms, strict=True))
        self.values = self._after.values
        self.done.samples = self._before.samples

    def run(self) -> None:
        """Repair step by step."""
        for step in self._plan.steps():
            self._after.before(step.node)
            if step.node.op_type == "BatchNormalization":
                self._recalibrate(step)
            else:
                self._before.after(step.out)
                self._fit(step) if step.weight is not None else self._correct(step)

    def _wanted(self, step: Step) -> Iterator[Array]:
        """Yield, batch by batch, what stays of that which a node returned before."""
        axis = CHANNELS[step.node.op_type]
        for y in self._before.read(step.out):
            yield np.compress(self._stays(step.out, axis % y.ndim), y, axis)

    def _recalibrate(self, step: Step) -> None:
        moments = Moments()
        for x in self._after.read(step.node.input[0]):
            moments.add(x)
        for name, found in zip(step.node.input[3:5], (moments.mean, moments.variance), strict=True):
            self._set(name, found)
        self.done.recalibrated += 1

    def _correct(self, step: Step) -> None:
        before, after = Moments(), Moments()
        axis = CHANNELS[step.node.op_type]
        for was, now in zip(self._wanted(step), self._after.peek(step.node), strict=True):
            before.add(np.moveaxis(was, axis, 1))
            after.add(np.moveaxis(now, axis, 1))
        assert step.bias is not None
        shift = (before.mean - after.mean) / attribute(step.node, "beta", 1.0)
        self._set(step.bias, self._plan.values[step.bias] + shift)
        self.done.corrected += 1

    def _fit(self, step: Step) -> None:
        assert step.weight is not None
        node, weight = step.node, self._plan.values[step.weight]
        start = _as_matrices(node, weight)
        groups, inputs, outputs = start.shape
        fits = [Regression(inputs, outputs) for _ in range(groups)]
        each = -(-max(ROWS_PER_INPUT * inputs, LEAST_ROWS) // max(self.done.samples, 1))  # rows per sample, rounded up
        for number, (x, y) in enumerate(zip(self._after.read(node.input[0]), self._wanted(step), strict=True)):
            rng = np.random.default_rng([self._seed, zlib.crc32(step.out.encode()), number])
            for fit, rows, targets in zip(fits, *_rows(node, weight, x, y, groups, each, rng), strict=True):
                fit.add(rows, targets)
        if fits[0].rows <= inputs:
            self.done.skipped.append(f"'{name_of(node)}': {inputs} inputs, but only {fits[0].rows} rows of data")
            if step.bias is not None:
                self._correct(step)
            return
        solved = [fit.solve(own, step.with_mean) for fit, own in zip(fits, start, strict=True)]
        self._set(step.weight, _from_matrices(node, np.stack([w for w, _ in solved]), weight.shape))
        if step.bias is not None:
            bias = np.concatenate([b for _, b in solved])
            self._set(step.bias, bias + self._plan.values[step.bias].ravel() if node.op_type == "MatMul" else bias)
        self.done.fitted += 1

    def _set(self, name: str, value: Array) -> None:
        old = self._plan.values[name]
        self.values[name] = value.reshape(old.shape).astype(old.dtype)


def _outputs(weight: Parameter) -> int:
    """Return how many channels a layer makes of what it reads beside its weight."""
    return int(weight.values.shape[0] if weight.node.op_type == "Conv" else weight.fans["fan_out"])


def _sums(found: Iterable[Parameter]) -> dict[tuple[str, ...], list[float]]:
    """Return, by the outputs of a layer, how many products it sums with each of its weights."""
    sums: dict[tuple[str, ...], list[float]] = {}
    for p in found:
        if p.part == "weight":
            sums.setdefault(tuple(p.node.output), []).append(p.reads)
    return sums


def _with_bodies(node: NodeProto) -> list[NodeProto]:
    """Return a node and the nodes of the bodies in it."""
    return [node, *(inner for body in bodies(node) for inner in nodes_in(body))]


def _as_matrices(node: NodeProto, weight: Array) -> Array:
    """Return the weight of a layer as [groups, inputs, outputs]."""
    if node.op_type != "Conv":
        return (weight.T if attribute(node, "transB", 0) else weight)[None].astype(np.float64)
    groups = int(attribute(node, "group", 1))
    return weight.reshape(groups, len(weight) // groups, -1).transpose(0, 2, 1).astype(np.float64)


def _from_matrices(node: NodeProto, matrices: Array, shape: tuple[int, ...]) -> Array:
    """Return a weight of this shape from [groups, inputs, outputs]."""
    if node.op_type != "Conv":
        return np.asarray(matrices[0].T if attribute(node, "transB", 0) else matrices[0])
    return matrices.transpose(0, 2, 1).reshape(shape)


def _rows(
    node: NodeProto, weight: Array, x: Array, y: Array, groups: int, each: int, rng: np.random.Generator
) -> tuple[list[Array], list[Array]]:
    """Return, for each group, rows [n, inputs] of what the layer reads and [n, outputs] of what it returned, `each` of a sample."""
    if node.op_type != "Conv":
        rows, targets = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        most = each * len(x)
        chosen = rng.choice(len(rows), most, replace=False) if len(rows) > most else slice(None)
        return [rows[chosen]], [targets[chosen]]
    size = y.shape[2:]
    flat = (
        rng.integers(0, np.prod(size), (len(x), each)) if each < np.prod(size) else np.tile(np.arange(np.prod(size)), (len(x), 1))
    )
    places = np.unravel_index(flat, size)
    targets = np.moveaxis(y, 1, -1)[(np.arange(len(y))[:, None], *places)].reshape(-1, y.shape[1])
    window = _window(node, weight.shape[2:], x.shape[2:], size)
    return [window.patches(part, places) for part in np.split(x, groups, 1)], np.split(targets, groups, 1)


def _window(node: NodeProto, kernel: tuple[int, ...], size: tuple[int, ...], out: tuple[int, ...]) -> Window:
    rank = len(kernel)
    strides, dilations = (tuple(attribute(node, name, [1] * rank)) for name in ("strides", "dilations"))
    begin = tuple(attribute(node, "pads", [0] * rank))[:rank]
    auto = bytes(attribute(node, "auto_pad", b"NOTSET"))
    if auto.startswith(b"SAME"):
        steps = zip(out, strides, kernel, dilations, size, strict=True)
        total = [max(0, (o - 1) * s + (k - 1) * d + 1 - n) for o, s, k, d, n in steps]
        begin = tuple(-(-t // 2) if auto == b"SAME_LOWER" else t // 2 for t in total)
    return Window(kernel, strides, dilations, begin)


class _Plan:
    """Which nodes of a cut network to repair, in the order in which they run."""

    def __init__(self, before: Reference, after: Source, mode: str, skipped: list[str]) -> None:
        self._fits, self._skipped = mode == "lstsq", skipped
        self._nodes = list(after.model.graph.node)
        reads = Counter(name for node in self._nodes for name in node.input)
        stored = {tensor.name for tensor in after.model.graph.initializer}
        found = parameters(after)
        self.values = {p.name: p.values for p in found if p.name in stored and reads[p.name] == 1 and is_float(p.values)}
        self._maker = {name: node for node in self._nodes for name in node.output}
        self._normed = {node.input[0] for node in self._nodes if node.op_type == "BatchNormalization"}
        weights = [p for p in found if p.part == "weight" and p.node.op_type in CHANNELS]
        made = {p.node.output[0]: _outputs(p) for p in weights if self._comes_second(p)}
        biases = {
            self._layer_of(p): p for p in found if p.part == "bias" and p.name in self.values and attribute(p.node, "beta", 1.0)
        }
        self._bias = {layer: p.name for layer, p in biases.items() if p.values.shape[-1:] == (p.values.size,) == (made.get(layer),)}
        self._other = biases.keys() & {p.node.output[0] for p in weights} - self._bias.keys()
        sums = _sums(parameters(before.source))
        lost = [layer for layer, now in _sums(found).items() if any(map(operator.lt, now, sums.get(layer, now)))]
        self._lost = {name for layer in lost for name in layer if name}
        self._masked = {masked.output for masked in before.masked}

    def _layer_of(self, bias: Parameter) -> str:
        """Return the output of the layer to which a bias belongs."""
        products = (self._maker[name] for name in bias.node.input if name in self._maker)
        node = next((n for n in products if n.op_type == "MatMul"), bias.node) if bias.node.op_type == "Add" else bias.node
        return str(node.output[0])

    def _comes_second(self, weight: Parameter) -> bool:
        """Return True if a weight is the second operand of its layer, turned perhaps."""
        name = weight.node.input[1]
        while name in self._maker and self._maker[name].op_type in ("Identity", "Transpose"):
            name = self._maker[name].input[0]
        return bool(name == weight.name)

    def steps(self) -> Iterator[Step]:
        """Yield the steps: for each node whose inputs are no longer what they were."""
        changed = self._lost | self._masked
        for node in self._nodes:
            within = _with_bodies(node)
            if changed.isdisjoint(name for n in within for name in (*n.input, *n.output)):
                continue
            changed.update(filter(None, node.output))
            if node.op_type == "BatchNormalization":
                if self.values.keys() >= set(node.input[3:5]):
                    yield Step(node)
            elif node.op_type in CHANNELS:
                yield from self._layer(node)
            elif self._fits and not self._lost.isdisjoint(name for n in within for name in n.output):
                self._skipped.append(f"'{name_of(node)}': {node.op_type} is not fitted")

    def _layer(self, node: NodeProto) -> Iterator[Step]:
        bias, normed = self._bias.get(node.output[0]), node.output[0] in self._normed
        if node.output[0] in self._other:
            self._skipped.append(f"'{name_of(node)}': its bias is not one number for each output along the last axis")
        reason = self._obstacle(node) if self._fits and node.output[0] in self._lost else "not asked for"
        if reason is None:
            yield Step(node, node.input[1], bias, bias is not None or normed)
            return
        if reason != "not asked for":
            self._skipped.append(f"'{name_of(node)}': {reason}")
        if bias is not None and not normed:
            yield Step(node, bias=bias)

    def _obstacle(self, node: NodeProto) -> str | None:
        """Return why the weight of a layer cannot be fitted, None where it can."""
        weight = self.values.get(node.input[1])
        if weight is None or (node.op_type != "Conv" and weight.ndim != 2):
            return "its weight is shared, computed, no matrix or comes first"
        if node.op_type == "Gemm" and any(attribute(node, name, default) != default for name, default in PLAIN.items()):
            return "it scales or transposes what it reads"
        inputs = _as_matrices(node, weight).shape[1]
        return f"{inputs} inputs are too many" if inputs > MOST_INPUTS else None
