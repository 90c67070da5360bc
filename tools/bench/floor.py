"""The floor of speed: what any pruner of a network has to do, and nothing else.

usage: python tools/bench/floor.py IN.onnx OUT

Reads the model, sums the absolute weights, keeps the first half of each of the first two axes of every weight and writes what
is left, as bare bytes.
"""

import sys

import numpy as np
import onnx


def main(source: str, target: str) -> None:
    """Cut the weights of the model at source, write them to target."""
    model = onnx.load(source)
    total = 0.0
    with open(target, "wb") as file:
        for tensor in model.graph.initializer:
            weight = onnx.numpy_helper.to_array(tensor)
            total += float(np.abs(weight).sum())
            half = tuple(slice((size + 1) // 2) for size in weight.shape[:2])
            file.write(np.ascontiguousarray(weight[half]).data)
    print(f"sum of absolute weights {total:.6g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
