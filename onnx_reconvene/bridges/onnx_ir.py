"""Makes a pass a pass of onnx_ir, to run inside its Sequential and PassManager."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from onnx_reconvene.passes import Pass


class IrPass(ir.passes.FunctionalPass):
    """An onnx_ir pass that does what an onnx-reconvene pass does, on a copy of the model."""

    def __init__(self, inner: Pass) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        """The name of the pass inside."""
        return type(self.inner).__name__

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass inside; the notes of passes before it travel in model.meta."""
        result = self.inner(model)
        changed = copy.copy(model) if result.model is model else result.model  # a functional pass returns another object
        return ir.passes.PassResult(changed, modified=result.modified)
