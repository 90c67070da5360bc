"""Makes a pass a pass of onnx_ir, to run inside its Sequential and PassManager."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_reconvene.state import KEY

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
        """Run the pass inside; what passes hand on travels in model.meta, under the key of `state.KEY`."""
        result = self.inner(model)
        changed = result.model
        if changed is model:  # a functional pass returns another object
            changed = copy.copy(model)
            changed._metadata = None
            changed.meta.update(model.meta)
        if result.verdict is not None:
            changed.meta[KEY] = replace(changed.meta[KEY], verdict=result.verdict)
        return ir.passes.PassResult(changed, modified=result.modified)
