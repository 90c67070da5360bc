"""Shapes of all tensors.

`onnx.shape_inference` does most of the work. What it cannot follow (arithmetic on shapes, mostly, and what loops carry) is
evaluated one node at a time, and handed back to it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, shape_inference

from onnx_reconvene.assumed import Partial, Stated, assumed, nearest, read_by_layer
from onnx_reconvene.control import branches_taken, loop_steps, scan_axes
from onnx_reconvene.errors import ModelError
from onnx_reconvene.graph import bodies_of, every_node
from onnx_reconvene.header import forget_shapes, free_unknown
from onnx_reconvene.names import first_output, name_of
from onnx_reconvene.node_shapes import infer_node, static_shape
from onnx_reconvene.plain import graphs_in, nodes_in
from onnx_reconvene.shapes import RESIZING, Integers, Shape
from onnx_reconvene.twins import as_plain, qualified


def pinned(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Return a copy of model whose inputs have the given sizes and whose other declared shapes are forgotten."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    free_unknown(result.graph)
    for value in result.graph.input:
        if value.name in sizes:
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, sizes[value.name]))
    if sizes:
        forget_shapes(result.graph)
    return result


def has_free_sizes(graph: gs.Graph) -> bool:
    """Return True if some input of graph has a dimension that is not fixed."""
    return any(is_free(tensor) for tensor in graph.inputs)


def is_free(tensor: gs.Variable) -> bool:
    """Return True if some dimension of an input is not fixed."""
    return tensor.shape is None or not all(isinstance(size, int) for size in tensor.shape)


def infer(graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Shape], Integers]:
    """Return the shape of every tensor of which it is known, and the values of the small integer tensors.

    sizes gives a shape for each graph input. Raises ModelError where the network does not fit these sizes.
    """
    walk = _walk(graph, sizes)
    return walk.shapes, walk.integers


@dataclass(frozen=True)
class Inferred:
    """What is known of the tensors of a graph: shapes, values of small integer tensors, by tensor the axes of unknown size, shapes
    that are assumed in part and count all the same, and whether all shapes follow from those of the graph inputs."""

    shapes: dict[str, Shape]
    integers: Integers
    assumed: dict[str, frozenset[int]]
    accepted: dict[str, Shape]
    proven: bool


def infer_all(graph: gs.Graph, sizes: Mapping[str, Sequence[int]], read: Mapping[str, Shape], accept: bool) -> Inferred:
    """Return what `infer` does, where that fails with shapes as stated in the file, as read in a run, or assumed.

    accept: sizes that are assumed hold where the rank of the tensor is known.
    """
    walk = _walk(graph, sizes, read, accept)
    return Inferred(walk.shapes, walk.integers, walk.assumed, walk.accepted, walk.proven)


def element_types(graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> dict[str, np.dtype[Any]]:
    """Return the type of the elements of every tensor of which it is known; sizes and errors as for `infer`."""
    kinds = {name: kind.tensor_type.elem_type for name, kind in _walk(graph, sizes).types.items()}
    return {name: np.dtype(helper.tensor_dtype_to_np_dtype(kind)) for name, kind in kinds.items() if kind}


def _walk(
    graph: gs.Graph, sizes: Mapping[str, Sequence[int]], read: Mapping[str, Shape] | None = None, accept: bool = False
) -> _Inference:
    """Infer shapes; where some are still missing, assume them if shapes that were read in a run, or none, are given."""
    model: onnx.ModelProto = graph.source.model
    inferred = pinned(model, sizes if has_free_sizes(graph) else {})
    forget_shapes(inferred.graph)
    careful = _may_abort(graph)
    if careful:
        for part in graphs_in(inferred.graph):
            del part.value_info[:]
    else:
        inferred = _infer_all(inferred)
    types = {v.name: v.type for part in graphs_in(inferred.graph) for v in [*part.value_info, *part.output, *part.input]}
    shapes = {name: shape for name, kind in types.items() if (shape := static_shape(kind)) is not None}
    types |= {t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in model.graph.initializer}
    shapes |= {t.name: tuple(t.dims) for t in model.graph.initializer}
    shapes |= {t.name: tuple(t.shape) for node in every_node(graph) for t in node.inputs if isinstance(t, gs.Constant)}
    walk = _Inference(
        graph, careful, types, shapes, Integers(graph.opset or 1, _fixed_dimensions(graph)), Stated(model, graph, sizes), read
    )
    for name, value in graph.input_values.items():
        walk.integers.assume(name, value)
    walk.accept = accept
    for node in graph.nodes:
        walk.visit(node)
    return walk


def _fixed_dimensions(graph: gs.Graph) -> dict[str, NDArray[np.bool_]] | None:
    """Return which dimensions of tensors are fixed, None where all are, or where no If asks; what is not named may be free."""
    if not has_free_sizes(graph) or all(node.op != "If" for node in every_node(graph)):
        return None
    model = pinned(graph.source.model, {})
    forget_shapes(model.graph)
    try:
        inferred = model if _may_abort(graph) else shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # then nothing is known to be fixed
        return {}
    values = [v for part in graphs_in(inferred.graph) for v in [*part.input, *part.value_info, *part.output]]
    kinds = [(v.name, v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")]
    return {name: np.asarray([d.HasField("dim_value") for d in dims], bool) for name, dims in kinds}


class _Inference:
    """What is known of the tensors of a graph so far, node by node."""

    def __init__(
        self,
        graph: gs.Graph,
        careful: bool,
        types: dict[str, onnx.TypeProto],
        shapes: dict[str, Shape],
        integers: Integers,
        stated: Stated,
        read: Mapping[str, Shape] | None,
    ) -> None:
        self.graph, self.careful = graph, careful
        self.types, self.shapes, self.integers = types, shapes, integers  # types hold but what is certain
        self.stated, self.read = stated, read
        self.uncertain: set[str] = set()  # tensors some of whose sizes were assumed, or read in a run
        self.assumed: dict[str, frozenset[int]] = {}  # by tensor, the axes whose sizes were assumed
        self.accept = False  # of these, sizes are held for known where the rank is
        self.accepted: dict[str, Shape] = {}  # shapes with such sizes
        self.proven = True  # all shapes follow from those of the graph inputs
        self.runs = True  # no branch that may be left out is being visited
        model: onnx.ModelProto = graph.source.model
        self.protos = {output: node for node in nodes_in(model.graph) for output in node.output if output}
        self.versions = {o.domain: o.version for o in model.opset_import}

    def visit(self, node: gs.Node) -> None:
        """Find out what the outputs of node are."""
        op = qualified(node.op, node.domain)
        if op == "If":
            self._branch(node)
        elif op == "Loop":
            self._loop(node, node.attrs["body"])
        elif op == "Scan" and self.versions.get("", 1) > 8:
            self._scan(node, node.attrs["body"])
        elif bodies_of(node):
            self._run(*bodies_of(node))
        else:
            self._compute(node)
        for tensor in node.outputs:
            if tensor.name and tensor.name not in self.shapes and self.read is not None:
                self._complete(node, tensor)

    def _compute(self, node: gs.Node) -> None:
        types, shapes, integers = self.types, self.shapes, self.integers
        outputs = [t.name for t in node.outputs if t.name]
        first = node.inputs[0] if node.inputs and self.read is not None else None
        if first is not None and first.inputs and (first.name in self.assumed or first.name not in shapes):
            self._demand(node)
        self._evaluate(node, outputs)
        if outputs and any(name not in shapes for name in outputs) and outputs[0] in self.protos:
            try:
                known = infer_node(node, self.protos[outputs[0]], self.versions, types, integers)
            except Exception as error:  # what onnx cannot infer stays unknown, and what is unknown is frozen
                known = {}
                if self.careful and self.runs and self.proven and "ShapeInferenceError" in str(error):
                    raise ModelError(f"shapes do not fit: {node.op} '{name_of(node)}': {_last_line(error)}") from error
            types |= known
            shapes |= {name: shape for name, kind in known.items() if (shape := static_shape(kind)) is not None}
            if node.op in RESIZING:  # which are evaluated only once it is known how large their outputs are
                self._evaluate(node, outputs)
        for name in outputs:
            if min(shapes.get(name, ()), default=0) < 0 and not (self.proven and self.runs):
                del shapes[name]
            elif min(shapes.get(name, ()), default=0) < 0:
                raise ModelError(f"shapes do not fit: the window of {node.op} '{name_of(node)}' is larger than its input")

    def _evaluate(self, node: gs.Node, outputs: Sequence[str]) -> None:
        """Enter the values of outputs of node, if they are small and follow from what is known."""
        self.integers.visit(node, self.shapes.get)
        if node.op in ("Shape", "Size") and node.inputs[0].name in self.uncertain:
            self.integers.vary(outputs[0])
        for name in outputs:
            if name in self.integers:
                value = self.integers[name]
                self.shapes[name] = value.shape
                self.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)

    def _complete(self, node: gs.Node, tensor: gs.Tensor) -> None:
        """Enter the shape of an output of node that cannot be inferred: as stated, as read in a run, else with assumed sizes."""
        name = tensor.name
        certain = self.stated.complete(name, self.types.get(name))
        element = self._element(name) or self.stated.element_type(name) or self._element(next((t.name for t in node.inputs), ""))
        self.types[name] = helper.make_tensor_type_proto(element or onnx.TensorProto.FLOAT, certain)
        self.proven = False
        if certain is not None and None not in certain:
            self.shapes[name] = tuple(n for n in certain if n is not None)
        else:
            self._assume(node, name, certain)

    def _assume(self, node: gs.Node, name: str, certain: Partial | None) -> None:
        read, follows = (self.read or {}).get(name), self._following(node).get(name)
        unknown = [axis for axis, size in enumerate(certain or follows or ()) if certain is None or size is None]
        if read is not None and certain is not None and len(read) != len(certain):
            read = None
        if read is not None and (0 not in read or follows is None):
            self._enter(name, tuple(n or 1 for n in read), ())
        elif follows is not None:
            self._enter(name, follows, unknown if read is None and self._reads_assumed(node) else ())
        elif certain is not None:
            is_known = onnx.defs.has(node.op, node.domain or "")
            like = self.shapes.get(node.inputs[0].name) if node.inputs and not is_known else None
            self._assumed(name, assumed(certain, like), unknown)

    def _assumed(self, name: str, shape: Shape, axes: Iterable[int], is_rank_known: bool = True) -> None:
        """Enter a shape with sizes that are assumed along axes."""
        accept = self.accept and is_rank_known
        if accept:
            self.accepted[name] = shape
        self._enter(name, shape, () if accept else axes)

    def _enter(self, name: str, shape: Shape, axes: Iterable[int]) -> None:
        """Enter a shape that is not certain, and the axes along which it is assumed."""
        self.shapes[name] = shape
        self.uncertain.add(name)
        if axes := frozenset(axes):
            self.assumed[name] = axes

    def _reads_assumed(self, node: gs.Node) -> bool:
        return any(t.name in self.assumed or self.integers.varies(t.name) for t in node.inputs)

    def _following(self, node: gs.Node) -> dict[str, Shape]:
        """Return the shapes that the outputs of node have if the uncertain ones that it reads are right."""
        output = first_output(node)
        if output not in self.protos or not any(t.name in self.uncertain or self.integers.varies(t.name) for t in node.inputs):
            return {}
        uncertain = {t.name for t in node.inputs if t.name in self.uncertain}
        types = self.types | {n: helper.make_tensor_type_proto(self._element(n), self.shapes[n]) for n in uncertain}
        try:
            kinds = infer_node(node, self.protos[output], self.versions, types, self.integers, varying=True)
        except Exception:  # such sizes do not fit: nothing follows
            return {}
        shapes = {name: static_shape(kind) for name, kind in kinds.items()}
        return {name: shape for name, shape in shapes.items() if shape is not None and min(shape, default=0) >= 0}

    def _element(self, name: str) -> int:
        """Return the type of the elements of a tensor, 0 for unknown."""
        return int(self.types[name].tensor_type.elem_type) if name in self.types else 0

    def _demand(self, node: gs.Node) -> None:
        """Enter what a layer tells of the shape of what it reads, where nothing else does."""
        name = node.inputs[0].name
        before, axes = self.shapes.get(name), self.assumed.get(name, frozenset())

        def shape(tensor: gs.Tensor) -> Shape | None:
            return self.shapes.get(tensor.name)

        like = self.shapes.get(node.outputs[0].name) or nearest(node.inputs[0], shape)
        known = read_by_layer(node, shape, like)
        if known is None or (before is not None and len(before) != len(known)):
            return
        known = [size if before is None or axis in axes else before[axis] for axis, size in enumerate(known)]
        self.types[name] = helper.make_tensor_type_proto(self._element(name) or onnx.TensorProto.FLOAT, known)
        self.assumed.pop(name, None)
        axes = frozenset(axis for axis, size in enumerate(known) if size is None)
        self._assumed(name, assumed(known, before or like), axes, as_plain(node).op != "MatMul")

    def _run(self, *bodies: gs.Graph) -> None:
        for body in bodies:
            for node in body.nodes:
                self.visit(node)

    def _set(self, tensor: gs.Tensor, like: gs.Tensor, shape: Shape | None) -> None:
        """Enter a shape for tensor, of the type that another tensor has; none is known where shape is None."""
        self.shapes.pop(tensor.name, None)
        self.uncertain.discard(tensor.name)
        self.assumed.pop(tensor.name, None)
        if like.name in self.types:
            element = self.types[like.name].tensor_type.elem_type
            self.types[tensor.name] = helper.make_tensor_type_proto(element, shape)
        if shape is not None and like.name in self.uncertain:
            self._enter(tensor.name, shape, range(len(shape)) if like.name in self.assumed else ())
        elif shape is not None:
            self.shapes[tensor.name] = shape

    def _branch(self, node: gs.Node) -> None:
        taken, runs = branches_taken(node, self.integers), self.runs
        for branch in bodies_of(node):
            self.runs = runs and all(branch is one for one in taken)
            self._run(branch)
        self.runs = runs
        for output, *results in zip(node.outputs, *(branch.outputs for branch in taken), strict=False):
            shapes = {self.shapes.get(result.name) for result in results}
            self._set(output, results[0], shapes.pop() if len(shapes) == 1 else None)

    def _loop(self, node: gs.Node, body: gs.Graph) -> None:
        initial = node.inputs[2:]
        for counter, kind in zip(body.inputs, (onnx.TensorProto.INT64, onnx.TensorProto.BOOL), strict=False):
            self.types[counter.name], self.shapes[counter.name] = helper.make_tensor_type_proto(kind, ()), ()
        self._iterate(body, body.inputs[2:], initial, body.outputs[1:])
        for output, inner, result in zip(node.outputs, body.inputs[2:], body.outputs[1:], strict=False):
            self._set(output, result, self.shapes.get(inner.name))
        steps = loop_steps(node, self.integers)
        for output, result in zip(node.outputs[len(initial) :], body.outputs[1 + len(initial) :], strict=False):
            each = self.shapes.get(result.name)
            self._set(output, result, None if each is None or steps is None else (steps, *each))

    def _scan(self, node: gs.Node, body: gs.Graph) -> None:
        carried = len(node.inputs) - int(node.attrs["num_scan_inputs"])
        steps = None
        for axis, read, inner in zip(scan_axes(node, "input"), node.inputs[carried:], body.inputs[carried:], strict=True):
            shape = self.shapes.get(read.name)
            steps = steps if shape is None else shape[axis]
            self._set(inner, read, None if shape is None else tuple(np.delete(shape, axis).tolist()))
        self._iterate(body, body.inputs[:carried], node.inputs[:carried], body.outputs)
        for output, inner, result in zip(node.outputs, body.inputs[:carried], body.outputs, strict=False):
            self._set(output, result, self.shapes.get(inner.name))
        for axis, output, result in zip(scan_axes(node, "output"), node.outputs[carried:], body.outputs[carried:], strict=True):
            each = self.shapes.get(result.name)
            if each is None or steps is None:
                self._set(output, result, None)
            else:
                self._set(output, result, tuple(np.insert(each, axis % (len(each) + 1), steps).tolist()))

    def _iterate(
        self, body: gs.Graph, carried: Sequence[gs.Tensor], initial: Sequence[gs.Tensor], results: Sequence[gs.Tensor]
    ) -> None:
        """Run a body that is run again and again. A carried tensor has the shape of its initial value in every step, if the body
        makes one of the same shape of it."""
        states = list(zip(carried, initial, results, strict=False))
        changing: set[str] = set()
        while True:
            trial = copy.copy(self)
            trial.types, trial.shapes, trial.integers = dict(self.types), dict(self.shapes), self.integers.copy()
            trial.uncertain, trial.assumed = set(self.uncertain), dict(self.assumed)
            for inner, first, _ in states:
                trial._set(inner, first, None if inner.name in changing else self.shapes.get(first.name))
            trial._run(body)
            changed = {i.name for i, _, result in states if trial.shapes.get(i.name) != trial.shapes.get(result.name)} - changing
            if not changed:
                self.types, self.shapes, self.integers = trial.types, trial.shapes, trial.integers
                self.uncertain, self.assumed, self.proven = trial.uncertain, trial.assumed, trial.proven
                return
            changing |= changed


WINDOWED = ("AveragePool", "Conv", "LpPool", "MaxPool")


def _may_abort(graph: gs.Graph) -> bool:
    """Return True if onnx's inference over the whole graph could end the process: that of Slice does where a size is negative, as
    behind a window larger than its input."""
    ops = {node.op for node in every_node(graph)}
    return "Slice" in ops and not ops.isdisjoint(WINDOWED)


def _infer_all(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    except Exception as error:
        if "TypeInferenceError" not in str(error):
            raise ModelError(f"shapes do not fit: {_last_line(error)}") from error
        return shape_inference.infer_shapes(model, data_prop=True)  # behind an operator that onnx knows nothing of


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
