"""The stages of pruning as passes, one per file: each is called with a model and returns a model.

Sequential(Load(), Score("l2"), Allocate("macs=0.5"), Cut(), Verify(), Rectify(), Emit("out.onnx"))("in.onnx")
"""

if __name__ == "passes":
    raise ImportError("import onnx_reconvene.passes, of which this folder is the source")

from onnx_reconvene.passes.allocate import Allocate
from onnx_reconvene.passes.base import Pass, PassResult, Sequential
from onnx_reconvene.passes.cut import Cut
from onnx_reconvene.passes.emit import Emit
from onnx_reconvene.passes.load import Load
from onnx_reconvene.passes.rectify import Rectify
from onnx_reconvene.passes.replay import Replay
from onnx_reconvene.passes.score import Score
from onnx_reconvene.passes.sparsify import Sparsify
from onnx_reconvene.passes.verify import Verify

__all__ = [
    "Allocate",
    "Cut",
    "Emit",
    "Load",
    "Pass",
    "PassResult",
    "Rectify",
    "Replay",
    "Score",
    "Sequential",
    "Sparsify",
    "Verify",
]
