"""Without torch everything works but what needs torch, and that says so."""

from collections.abc import Callable
from typing import Any


def test_what_needs_torch_says_so(command: Callable[..., Any]) -> None:
    code = """
import sys
sys.modules["torch"] = None
import onnx_reconvene, onnx_reconvene.api
try:
    onnx_reconvene.to_torch
except ModuleNotFoundError as error:
    print(error)
"""
    done = command(python=code)
    assert done.status == 0, done.err
    assert "pip install 'onnx-reconvene[torch]'" in done.out
