"""Measures on a device how long the layers of a network take there. One file; onnxruntime and numpy are all it needs.

usage: python measure_device.py JOB.zip TABLE.json [--threads N] [--provider NAME]

JOB.zip comes from `python -m onnx_reconvene IN.onnx --latency-job JOB.zip` and holds the layers at several widths, the network, and
the program that times them. TABLE.json goes back: `python -m onnx_reconvene IN.onnx OUT.onnx --latency-table TABLE.json --target
latency=0.5` chooses widths for the device.
"""

import runpy
import sys

if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
