"""Networks in single precision: half has too few digits and too small a range for sums and gradients."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_reconvene.graph import Source, put_values
from onnx_reconvene.plain import graphs_in

HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
TYPES = ("to", "dtype", "output_dtype")  # attributes that name the type of a result


def single(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which numbers of this type are computed with: single precision for half."""
    return np.dtype(np.float32) if helper.np_dtype_to_tensor_dtype(dtype) in HALF else dtype


def in_single_precision(source: Source, types: Collection[int] = HALF) -> Source:
    """Return a network in plain form with all that it holds in one of these types in single precision."""
    model, arrays = ModelProto(), dict(source.arrays)
    model.CopyFrom(source.model)

    for graph in graphs_in(model.graph):
        for tensor in [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]:
            if tensor.data_type in types:
                large = arrays.pop(tensor.name, None)
                values = numpy_helper.to_array(tensor) if large is None else large
                put_values(tensor, values.astype(np.float32), None if large is None else arrays)
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type in types:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for attribute in [attribute for node in graph.node for attribute in node.attribute]:
            if attribute.name in TYPES and attribute.i in types:
                attribute.i = TensorProto.FLOAT
            if attribute.t.data_type in types:
                put_values(attribute.t, numpy_helper.to_array(attribute.t).astype(np.float32))
    return Source(model, arrays, source.path)
