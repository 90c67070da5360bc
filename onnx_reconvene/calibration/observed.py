"""Shapes that do not follow from those of the inputs, as runs on data show them: behind control flow, operators of other domains,
and those whose results are as many as the data say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnx_reconvene.autodiff.builder import Builder
from onnx_reconvene.autodiff.node import is_standard
from onnx_reconvene.autodiff.prepare import prepare
from onnx_reconvene.calibration.backend import Feeds, Run, compiled, grown
from onnx_reconvene.graph import Source
from onnx_reconvene.plain import bodies
from onnx_reconvene.shapes import Shape

ShapesOf = Callable[[int], Mapping[str, Shape]]  # by name, for a number of samples
Types = Mapping[str, tuple[np.dtype[Any], Shape]]


class Observed:
    """Types and shapes of tensors of a network, by the number of samples, on the last batch of so many."""

    def __init__(self, source: Source, sizes_of: ShapesOf, shapes_of: ShapesOf) -> None:
        """sizes_of: the shapes of the inputs. shapes_of: of all tensors where they follow from these."""
        self._source, self._sizes_of, self._shapes_of = source, sizes_of, shapes_of
        self._runs: dict[int, tuple[list[str], Run | None]] = {}
        self._types: dict[int, Types] = {}

    def look(self, count: int, feeds: Feeds) -> None:
        """Run the network on a batch if there is a shape that must be read from a run."""
        if count not in self._runs:
            self._runs[count] = self._compiled(count)
        names, run = self._runs[count]
        arrays = zip(names, run(feeds), strict=True) if run is not None else ()
        self._types[count] = {name: (array.dtype, array.shape) for name, array in arrays if array.dtype.kind in "fiub"}

    def types(self, count: int) -> Types:
        """Return the types and shapes of tensors that were read on the last batch of this size."""
        return self._types.get(count, {})

    def shapes(self, count: int) -> dict[str, Shape]:
        """Return the shapes among `types`."""
        return {name: shape for name, (_, shape) in self.types(count).items()}

    def _compiled(self, count: int) -> tuple[list[str], Run | None]:
        shapes = self._shapes_of(count)
        if all(_follows(node, shapes) for node in self._source.model.graph.node):
            return [], None
        prepared = prepare(self._source)
        builder = Builder(prepared, self._sizes_of(count))
        names = builder.unshaped()
        return names, compiled(grown(builder, prepared), names) if names else None


def _follows(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> bool:
    """Return True if a network under differentiation has the shapes of the outputs of a node without a run."""
    return is_standard(node) and not any(bodies(node)) and all(name in shapes for name in node.output if name)


def protos(types: Types, sized: bool) -> dict[str, onnx.TypeProto]:
    """Return types as ONNX has them, with sizes or with the number of axes alone."""
    return {
        name: helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), shape if sized else [None] * len(shape))
        for name, (dtype, shape) in types.items()
    }
