"""How many threads this process may use."""

import os

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # how libraries are told, most of them by the first


def allowed() -> int:
    """Return what OMP_NUM_THREADS says, which onnxruntime alone does not read; 0, its own choice, where it says nothing."""
    value = os.environ.get(VARIABLES[0], "")
    return int(value) if value.isdecimal() else 0
