"""The step in which onnxruntime's kernels get slower with the number of channels."""

from __future__ import annotations

import os
import subprocess
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_reconvene.errors import UsageError
from onnx_reconvene.latency.runtime import machine
from onnx_reconvene.latency.table import cached
from onnx_reconvene.process import isolated, workplace

KEY = "channels that kernels compute at a time"
PROBED, USUAL = 4, 8  # channels of the convolution that is looked at; the step where the runtime does not tell
LARGEST = 64


@cache
def channel_step() -> int:
    """Return how many channels onnxruntime's convolutions compute at a time on this processor: any fewer take as long.

    This is no matter of timing, and so the same however busy the machine is: the runtime lays weights out in blocks of as many
    channels as the vectors of the processor hold, and pads what is less. So a convolution to a few channels is optimized, and its
    padded weight read. Kept in the cache of the user.
    """
    table = cached(machine())
    if KEY not in table.values and (found := _padded()) is not None:
        table.add({KEY: found})
    step = int(table.values.get(KEY, USUAL))
    return step if 1 <= step <= LARGEST else USUAL


def _padded() -> int | None:
    """Return the step, None where the probe could not be run now."""
    try:
        with workplace("the choice of widths (--round-to 8 leaves it out)") as folder:
            source, target = os.path.join(folder, "conv.onnx"), os.path.join(folder, "optimized.onnx")
            onnx.save(_convolution(), source)
            if isolated("optimize.py", source, target).returncode:
                return None
            graph = onnx.load(target).graph
    except (UsageError, OSError, subprocess.TimeoutExpired):
        return None
    widths = [t.dims[0] for t in graph.initializer if len(t.dims) == 4]
    return int(widths[0]) if widths and widths[0] != PROBED else USUAL


def _convolution() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((PROBED, 2 * LARGEST, 3, 3), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2 * LARGEST, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
