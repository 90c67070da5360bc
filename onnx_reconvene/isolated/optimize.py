"""Writes a model as onnxruntime runs it: `python optimize.py IN.onnx OUT.onnx`. A program of its own, as all that runs models."""

from __future__ import annotations

import sys

import onnxruntime as ort

if __name__ == "__main__":
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = sys.argv[2]
    ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
