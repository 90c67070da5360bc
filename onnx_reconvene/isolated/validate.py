"""Says why a model is not valid, in one line, or nothing: `python validate.py MODEL.onnx`. A separate program, so that a model that
crashes the checker or the runtime takes nothing else down."""

from __future__ import annotations

import sys

import onnx
import onnxruntime as ort

IRRELEVANT = (  # what the runtime says of valid models
    "is not a registered function/op",
    "two nodes with same node name",
)


def refusal(path: str) -> str:
    """Return why the ONNX checker or onnxruntime refuses the model at path, "" if both accept it."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:
        return f"the ONNX checker says: {error}"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return "" if any(text in str(error) for text in IRRELEVANT) else f"onnxruntime says: {error}"
    return ""


if __name__ == "__main__":
    print(refusal(sys.argv[1]))
