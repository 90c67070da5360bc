"""The function that gradient criteria differentiate: the loss of a network on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from onnx_reconvene.autodiff.builder import Builder, Tensor, where
from onnx_reconvene.autodiff.node import NoDerivativeError
from onnx_reconvene.autodiff.paths import through_steps_alone
from onnx_reconvene.autodiff.prepare import prepare
from onnx_reconvene.calibration.backend import Feeds, Network, Run, Tap, backend, compiled, grown, vector
from onnx_reconvene.calibration.data import Data, inputs_of
from onnx_reconvene.calibration.given import Calibration, Place
from onnx_reconvene.calibration.losses import NOISE, Loss, check_range, choose, scalar
from onnx_reconvene.calibration.observed import Observed, protos
from onnx_reconvene.calibration.warmup import with_statistics
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.flow import weight_values
from onnx_reconvene.graph import Source, every_tensor, plain_source
from onnx_reconvene.inference import infer
from onnx_reconvene.names import first_output, name_of
from onnx_reconvene.plain import bodies
from onnx_reconvene.precision import in_single_precision, single
from onnx_reconvene.shapes import Shape, dtype_of
from onnx_reconvene.values import with_branches, with_values

Array = NDArray[Any]
LARGEST_BATCH = 32
ELSE = "choose a --criterion without, such as l1, synflow or activation-mean"  # where there are no gradients
SAME = 0.01  # of a difference that data make
ROOM = 2**29  # bytes for the feature maps of one batch, where the batch size is ours to choose


class Objective:
    """The loss of a network on data, and what can be computed with it. Losses are means over samples, and so are results."""

    def __init__(
        self, graph: gs.Graph, sizes: Mapping[str, Sequence[int]], given: Calibration, seed: int = 0, warm_up: bool = False
    ) -> None:
        """sizes: the shapes of inputs that declare none. warm_up: let BatchNormalizations have the statistics of the data."""
        self._graph, self._given, self._seed = graph, given, seed
        self._backend = backend(given.gradients)
        self._inputs = [replace(i, dtype=single(i.dtype)) for i in inputs_of(graph, sizes)]
        self._fixed = {i.shape[0] for i in self._inputs if i.shape} - {None}
        self.data = Data(given.data, self._inputs, given.image)
        self._sample = self.data.first()
        self._inferred: dict[int, dict[str, Shape]] = {}
        self.source = in_single_precision(with_branches(with_values(plain_source(graph), graph.input_values), graph))
        self._observed = Observed(self.source, self._sizes, self._infer)
        self.batch_size = self._chosen_batch_size()
        self._look_first()
        self.samples = 0  # seen in the last pass over the data
        self.loss = self._chosen_loss()
        self.warmed_up = 0  # BatchNormalizations
        if warm_up:
            self.source, self.warmed_up = with_statistics(self.source, self._shapes, self._passes)
            self._observed = Observed(self.source, self._sizes, self._infer)

    def mean_gradients(self, names: Sequence[str]) -> dict[str, Array]:
        """Return the gradient of the loss by each of these tensors."""
        return self._mean(self._results(names, self._backend.gradients, [{}]))

    def mean_products(self, along: Mapping[str, Array]) -> dict[str, Array]:
        """Return the product of the Hessian of the loss, by the tensors that the vector names, with that vector."""
        return self._mean(self._results(list(along), self._backend.products, [along]))

    def mean_curvatures(self, vectors: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Return the mean over vectors v of v (H v), element by element, H as for `mean_products`."""
        found = self._results(list(vectors[0]), self._backend.products, vectors)
        totals = self._mean((count, v, {name: v[name] * products.pop(name) for name in v}) for count, v, products in found)
        return {name: total / len(vectors) for name, total in totals.items()}

    def contractions(self, places: Sequence[Place], per_sample: bool = False) -> Iterator[tuple[int, list[Array]]]:
        """Yield, per batch, its number of samples and for each place the sums of tensor * dloss/dtensor over all positions of a
        channel: [samples, channels], each with the gradient of the loss on that sample, or their mean [1, channels].

        At an input of a node, the gradient is that which flows back through this node alone. For a linear layer the sums at its
        output are those of weight * dloss/dweight over each filter, its bias included, and at its input over all that reads a
        channel.
        """
        apart = per_sample and self.batch_size > 1
        axes: Sequence[int | None] = self._sample_axes(places) if apart else [None] * len(places)
        if apart and None in axes:
            mixed = places[axes.index(None)].tensor
            if self._least > 1:
                raise UsageError(
                    f"this criterion looks at single samples, which cannot be told apart at '{mixed}' in batches of {self._least}: "
                    "export the network with a free batch dimension"
                )
            self.data.remark(f"samples go one by one: in batches they cannot be told apart at '{mixed}'")
            self.batch_size = 1
        source, names = with_reads_apart(self.source, places)

        def build(count: int) -> Run:
            sampled = axes if count > 1 else [None] * len(places)
            taps = [Tap(name, place.channels, axis) for name, place, axis in zip(names, places, sampled, strict=True)]
            with self._naming_a_remedy():
                return self._backend.contractions(self._network(source, count, names), taps, count)

        for count, run in self._passes(build):
            found = run({})
            for sums in found if per_sample and count > 1 else ():
                sums *= count
            yield count, found

    def activations(self, places: Sequence[Place], of: Callable[[Tensor], Tensor]) -> list[Array]:
        """Return, for each place, the mean of a function of its tensor over samples and all positions of a channel, [channels]."""
        totals: list[Array] = []

        def build(count: int) -> Run:
            prepared, builder = self._prepared(self.source, count, sized=False)
            tensors = [builder.tensor(place.tensor) for place in places]
            outputs = []
            for place, tensor in zip(places, tensors, strict=True):
                outputs.append(_mean(of(tensor), place.channels).name)
            return compiled(grown(builder, prepared), outputs, planned=True)

        for count, run in self._passes(build, sized=False):
            found = [count * means[0].astype(np.float64) for means in run({})]
            totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
        return [total / self.samples for total in totals]

    def summary(self) -> dict[str, Any]:
        """Return what has been seen and done, for reports."""
        return {
            "source": self.data.name,
            "samples": self.samples,
            "batch_size": self.batch_size,
            "loss": self.loss.name,
            "gradients": self._given.gradients,
            "warmed_up": self.warmed_up,
            "remarks": list(self.data.remarks),
        }

    def _results(
        self, names: Sequence[str], build: Callable[[Network, Sequence[str]], Run], vectors: Sequence[Mapping[str, Array]]
    ) -> Iterator[tuple[int, Mapping[str, Array], dict[str, Array]]]:
        """Yield, for each batch and each of vectors fed beside it, the number of samples, the vector, and what comes out for
        names."""
        tensors = every_tensor(self._graph)
        types = {name: single(values.dtype) for name in vectors[0] if (values := weight_values(tensors[name])) is not None}

        def built(count: int) -> Run:
            with self._naming_a_remedy():
                return build(self._network(self.source, count, names), names)

        for count, run in self._passes(built):
            for own in vectors:
                feeds = {vector(name): array.astype(types[name], copy=False) for name, array in own.items()}
                yield count, own, dict(zip(names, run(feeds), strict=True))

    def _mean(self, results: Iterable[tuple[int, Mapping[str, Array], dict[str, Array]]]) -> dict[str, Array]:
        """Return the sums of results, each weighted by its number of samples, over the number of all samples. Takes results out
        of their dictionaries, so that they are gone when the next are computed."""
        totals: dict[str, Array] = {}
        for count, _, found in results:
            for name in list(found):
                totals[name] = totals.get(name, 0) + count * found.pop(name)
        return {name: total / self.samples for name, total in totals.items()}

    def _passes(self, build: Callable[[int], Run], sized: bool = True) -> Iterator[tuple[int, Run]]:
        """Yield the number of samples of each batch, and what runs it when given other feeds; build makes that for a number.

        sized: it is made for tensors of just the sizes they have on this batch.
        """
        runs: dict[Any, Run] = {}
        for count, feeds in self._batches():
            types = self._observed.types(count)
            key = count, *((name, dtype, shape if sized else len(shape)) for name, (dtype, shape) in types.items())
            if key not in runs:
                runs.clear()  # which may hold much memory
                runs[key] = build(count)
            yield count, partial(_run, runs[key], feeds)

    def _batches(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield the number of samples and the feeds of each batch, the same ones at every pass."""
        self.samples = 0
        for k, batch in enumerate(self.data.batches(self.batch_size, self._given.samples)):
            count = len(batch[self._inputs[0].name])
            if self._fixed and count < self.batch_size:
                self.data.remark(f"{count} samples are left out: the network takes batches of {self.batch_size}")
                break
            if self.loss.labels is not None:
                check_range(batch[self.loss.labels], self.loss.classes, self.loss.labels)
            self._observed.look(count, self._feeds(batch))
            if self.loss.noise:
                rng = np.random.default_rng((self._seed, k))
                batch[NOISE] = rng.gumbel(size=self._shapes(count)[self.loss.noise]).astype(np.float32)
            self.samples += count
            yield count, self._feeds(batch)
        if not self.samples:
            raise self.data.too_few(self.batch_size)

    def _feeds(self, batch: Feeds) -> dict[str, Array]:
        """Return samples under the names and in the layout that the network takes."""
        arrays = {**batch, **{i.name: i.feed(batch[i.name]) for i in self._inputs}}
        return {self._feed(name): array.astype(single(array.dtype), copy=False) for name, array in arrays.items()}

    def _feed(self, name: str) -> str:
        return name if any(i.name == name for i in self._inputs) else f"data/{name}"

    def _network(self, source: Source, count: int, wrt: Sequence[str]) -> Network:
        """Return the network for this many samples, with the loss, to be differentiated with respect to these tensors."""
        model = onnx.ModelProto()
        model.CopyFrom(source.model)
        extra = {name: array for name, array in self._sample.items() if self._feed(name) != name and array.dtype.kind in "fiub"}
        for name, array in extra.items():
            kind = helper.np_dtype_to_tensor_dtype(single(array.dtype))
            model.graph.input.append(helper.make_tensor_value_info(self._feed(name), kind, (count, *array.shape[1:])))
        if self.loss.noise:
            shape = self._shapes(count)[self.loss.noise]
            model.graph.input.append(helper.make_tensor_value_info(self._feed(NOISE), onnx.TensorProto.FLOAT, shape))
        prepared, builder = self._prepared(Source(model, source.arrays, source.path), count)
        outputs = {t.name: builder.tensor(t.name) for t in self._graph.outputs}
        if self.loss.logits is not None:
            outputs[self.loss.logits] = builder.tensor(self.loss.logits)
        data = {
            name: builder.tensor(self._feed(name))
            for name in [*self._sample, *([NOISE] if self.loss.noise else [])]
            if builder.has(self._feed(name))
        }
        loss = scalar(self.loss.build(outputs, data), self.loss.name)
        name = builder.copy(loss.reshape(), builder.fresh("loss")).name
        for weight in [other for other in wrt if not builder.is_float(other)]:
            raise UsageError(f"'{weight}' is quantized and has no gradient: {ELSE}")
        network = Network(grown(builder, prepared), name)
        if zero := through_steps_alone(builder, wrt, name):
            self.data.remark(
                f"the loss depends on {len(zero)} tensors, such as '{zero[0]}', through rounding, comparisons and the like alone: "
                "their gradients are zero"
            )
        return network

    @contextmanager
    def _naming_a_remedy(self) -> Iterator[None]:
        """Say, where derivatives fail, what to choose, and of control flow that they do not pass it."""
        try:
            yield
        except ModelError as error:
            node = next((node for node in self.source.model.graph.node if any(bodies(node))), None)
            if node is not None:
                raise ModelError(f"{error}; gradients do not pass {node.op_type} '{name_of(node)}': {ELSE}") from error
            if isinstance(error, NoDerivativeError):
                raise ModelError(f"{error}; {ELSE}") from error
            raise

    def _prepared(self, source: Source, count: int, sized: bool = True) -> tuple[Source, Builder]:
        """Return the network for this many samples in the form that derivatives need, and what appends to it."""
        prepared = prepare(source)
        return prepared, Builder(prepared, self._sizes(count), protos(self._observed.types(count), sized))

    def _chosen_loss(self) -> Loss:
        shapes = self._shapes(self._least)
        outputs = {t.name: shapes[t.name] for t in self._graph.outputs if t.name in shapes and dtype_of(t).kind == "f"}
        return choose(self._given.loss, self.source.model, outputs, self._sample)

    def _chosen_batch_size(self) -> int:
        asked = self._given.batch_size
        if self._fixed:
            fixed = min(d for d in self._fixed if d is not None)
            if asked not in (0, fixed):
                raise UsageError(f"--batch-size {asked}: the network takes batches of {fixed} only")
            return fixed
        weights = {tensor.name for tensor in self.source.model.graph.initializer}
        per_sample = sum(4 * math.prod(shape) for name, shape in self._shapes(1).items() if name not in weights)
        fitting = 2 ** int(math.log2(max(1, ROOM // max(per_sample, 1))))
        return asked or min(fitting, LARGEST_BATCH)

    @property
    def _least(self) -> int:
        """The smallest batch that the network takes."""
        return self.batch_size if self._fixed else 1

    def _sizes(self, count: int) -> dict[str, Shape]:
        """Return the shapes of the inputs for this many samples."""
        samples = {i: self._sample[i.name].shape[1:] for i in self._inputs if i.shape}
        fixed = {name: value.shape for name, value in self._graph.input_values.items()}
        return fixed | {i.name: i.sizes(i.shape[0] or count, *samples[i]) if i.shape else () for i in self._inputs}

    def _infer(self, count: int) -> dict[str, Shape]:
        if count not in self._inferred:
            self._inferred[count] = infer(self._graph, self._sizes(count))[0]
        return self._inferred[count]

    def _shapes(self, count: int) -> dict[str, Shape]:
        """Return the shapes of tensors for this many samples, on the last batch of so many where they depend on data."""
        return self._infer(count) | self._observed.shapes(count)

    def _look_first(self) -> None:
        """Read shapes that depend on data on the first batch."""
        batch = next(self.data.batches(self._least, self._given.samples), None)
        if batch is not None and len(batch[self._inputs[0].name]) == self._least:
            self._observed.look(self._least, self._feeds(batch))

    def _sample_axes(self, places: Sequence[Place]) -> list[int | None]:
        """Return, for each place, the axis on which samples are outermost, None where none is known to be."""
        shapes, growing = self._shapes(self.batch_size), [self._growing(place) for place in places]
        found = {
            k: axes[0]
            for k, (place, axes) in enumerate(zip(places, growing, strict=True))
            if len(axes) == 1 and shapes[place.tensor][axes[0]] == self.batch_size
        }
        unsure = [(k, axis) for k, axes in enumerate(growing) if k not in found for axis in axes]
        follow = self._follow_samples([(places[k].tensor, axis) for k, axis in unsure]) if unsure else []
        found |= {k: axis for (k, axis), follows in zip(unsure, follow, strict=True) if follows}
        return [found.get(k) for k in range(len(places))]

    def _growing(self, place: Place) -> list[int]:
        """Return the axes at a place, but that of channels, that grow with the number of samples, or may where that is fixed."""
        count = self.batch_size
        if place.stored:
            return []
        shape = self._shapes(count).get(place.tensor)
        if shape is None:
            return []
        if self._fixed:
            return [axis for axis, n in enumerate(shape) if axis != place.channels and n % count == 0]
        single = self._shapes(1).get(place.tensor, ())
        if len(single) != len(shape):
            return []
        grown_axes = [axis for axis, (n, m) in enumerate(zip(shape, single, strict=True)) if n != m]
        alone = place.channels not in grown_axes and all(shape[axis] == count * single[axis] for axis in grown_axes)
        return grown_axes if alone else []

    def _follow_samples(self, axes: Sequence[tuple[str, int]]) -> list[bool]:
        """Tell of axes of tensors whether samples are outermost there: on data, whether what lies along an axis moves by a
        sample's share when every sample takes the place of the next."""
        size = self.batch_size if self._fixed else 2
        batch = next(self.data.batches(size, self._given.samples))
        if len(batch[self._inputs[0].name]) < size:
            return [False] * len(axes)
        prepared, builder = self._prepared(self.source, size)

        def profile(x: Tensor, axis: int) -> Tensor:
            return x.apply("Abs").sum([a for a in range(x.rank) if a != axis], keepdims=False)

        profiles = [profile(builder.tensor(name), axis).name for name, axis in axes]
        run = compiled(grown(builder, prepared), profiles)
        rolled = ({name: np.roll(array, by, 0) for name, array in batch.items()} for by in (0, 1))
        before, after = (run(self._feeds(samples)) for samples in rolled)
        return [
            bool(np.abs(b - np.roll(a, len(a) // size)).max() < SAME * np.abs(b - a).max())
            for a, b in zip(before, after, strict=True)
        ]


def _run(run: Run, feeds: Feeds, others: Feeds) -> list[Array]:
    return run({**feeds, **others})


def _mean(x: Tensor, channels: int) -> Tensor:
    """Return the mean of x over all positions of a channel, [1, channels]; 0 where, as sizes depend on data, there are none."""
    mean = x.mean([axis for axis in range(x.rank) if axis != channels], keepdims=False)
    if not math.prod(x.builder.shape(x.name) or [0]):
        mean = where(x.apply("Size").equals(0), mean.beside(0), mean)
    return mean.apply("Reshape", x.builder.integers([1, -1]))


def with_reads_apart(source: Source, places: Sequence[Place]) -> tuple[Source, list[str]]:
    """Return source with an Identity before every input among places that other nodes read, too, and the tensor at each place."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    node_of = {first_output(node): node for node in model.graph.node}
    readers: dict[str, int] = {}
    for name in [name for node in model.graph.node for name in node.input] + [value.name for value in model.graph.output]:
        readers[name] = readers.get(name, 0) + 1
    names: list[str] = []
    added: dict[str, dict[int, onnx.NodeProto]] = {}  # by what the reader makes first, and the input
    for place in places:
        name = place.tensor
        if place.is_input and readers[name] > 1:
            output = first_output(place.node)
            reader, copies = node_of[output], added.setdefault(output, {})
            if place.index not in copies:
                apart = f"{name}/read/{len(added)}/{place.index}"
                copies[place.index] = helper.make_node("Identity", [name], [apart], apart)
                reader.input[place.index] = apart
            name = reader.input[place.index]
        names.append(name)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.extend([*added.get(first_output(node), {}).values(), node])
    return Source(model, source.arrays, source.path), names
