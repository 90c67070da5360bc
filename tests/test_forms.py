"""What onnxruntime's quantizer and optimizer make of the nets loses the channels that the nets lose, and is right after that."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from onnx_reconvene.analysis import analyze
from onnx_reconvene.cost import CostModel
from onnx_reconvene.cut import cut
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.groups import Analysis
from onnx_reconvene.reference import reference, store
from tests.nets import ALL, Net, composite
from tests.oracle import Array, compare, draw_feeds, random_mask, run

Form = Callable[[ModelProto, Path], ModelProto]
LAYERS = ("Conv", "Gemm", "LSTM", "MatMul")
OTHERS = ("Add", "AveragePool", "Concat", "Gather", "Gelu", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid", "Softmax", "Where")
LARGE = (
    "Conv: dynamic batch and image",
    "padding of TensorFlow, computed in floats",
    "sizes of a Resize computed in floats",
)  # slow
BLOCKS = [name for name in composite.BLOCKS if name not in LARGE]
INTEGER = {"ConvInteger", "MatMulInteger", "com.microsoft.DynamicQuantizeLSTM"}
EIGHT_BITS = {
    *("QLinearConv", "QLinearMatMul", "com.microsoft.QGemm", "com.microsoft.QLinearAdd", "com.microsoft.QLinearMul"),
    *("com.microsoft.QLinearConcat", "com.microsoft.QLinearGlobalAveragePool", "com.microsoft.QLinearLeakyRelu"),
    *("com.microsoft.QLinearAveragePool", "com.microsoft.QLinearSigmoid", "com.microsoft.QLinearSoftmax"),
}
FEWER = {  # than the net loses
    "Gather: tied embedding": "onnxruntime packs a product of few rows in one block of four bits, which goes as a whole",
    "low-rank adaptation": "the product of two quantized weights is computed at run time",
}


class Samples(CalibrationDataReader):
    """Two random samples."""

    def __init__(self, model: ModelProto) -> None:
        self._samples = iter([next(feeds_of(model, seed)) for seed in range(2)])

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._samples, None)


def feeds_of(model: ModelProto, seed: int = 0) -> Iterator[dict[str, Array]]:
    return draw_feeds(model, analyze(from_model(model)).sizes, np.random.default_rng(seed))


def dynamic(model: ModelProto, path: Path) -> ModelProto:
    """Return model with integer layers, whose inputs are quantized by their range."""
    quantize_dynamic(model, path, per_channel=True, weight_type=QuantType.QInt8)
    return onnx.load(path)


def static(style: QuantFormat) -> Form:
    """Return what quantizes a model by samples."""

    def quantize(model: ModelProto, path: Path) -> ModelProto:
        quantize_static(model, path, Samples(model), style, per_channel=True, weight_type=QuantType.QInt8)
        return onnx.load(path)

    return quantize


def fused(model: ModelProto, path: Path) -> ModelProto:
    """Return model with operators fused."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def nets_of(*operators: str) -> list[str]:
    return [name for name in ALL if name.partition(":")[0] in operators and name not in LARGE]


def one_of_each(names: list[str]) -> list[str]:
    """Return the first net of each operator."""
    return list({name.partition(":")[0]: name for name in reversed(names)}.values())


FORMS: dict[str, tuple[Form, list[str], set[str]]] = {  # and the nets that they change, and some operators in these then
    "dynamic": (dynamic, nets_of(*LAYERS), INTEGER),
    "dynamic, fused": (
        lambda model, path: fused(dynamic(model, path), path),
        nets_of(*LAYERS),
        {"com.microsoft.DynamicQuantizeMatMul", "com.microsoft.MatMulIntegerToFloat"},
    ),
    "QDQ": (
        static(QuantFormat.QDQ),
        [*one_of_each(nets_of(*LAYERS, *OTHERS)), *BLOCKS],
        {"DequantizeLinear", "QuantizeLinear"},
    ),
    "QOperator": (static(QuantFormat.QOperator), nets_of(*LAYERS, *OTHERS), EIGHT_BITS),
    "fused": (
        fused,
        [*nets_of(*LAYERS), *BLOCKS],
        {"com.microsoft.FusedConv", "com.microsoft.FusedGemm", "com.microsoft.FusedMatMul"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_lose_the_channels_that_the_net_loses(form: str) -> None:
    transform, names, expected = FORMS[form]
    seen: set[str] = set()
    for name in names:
        model = transformed(ALL[name], transform)
        if model is not None:
            seen |= {f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node}
            check(name, model)
    assert expected <= seen


def transformed(net: Net, transform: Form) -> ModelProto | None:
    """Return another form of net, None where onnxruntime makes none, or none that runs."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = transform(ModelProto.FromString(net.model.SerializeToString()), Path(folder) / "model.onnx")
            run(model, next(feeds_of(model)))
        except Exception:  # whatever they raise
            return None
    return model


def check(name: str, model: ModelProto) -> None:
    """Raise AssertionError unless a model loses what the net of this name loses, and computes what it should after a random cut."""
    net, graph = analyze(from_model(ALL[name].model)), from_model(model)
    analysis = analyze(graph)
    if name not in FEWER:
        assert removable(analysis) >= removable(net), name
        assert macs(analysis) == macs(net), name
    keep = random_mask(analysis, np.random.default_rng(0))
    against = reference(analysis, keep)
    with tempfile.TemporaryDirectory() as folder:
        original = onnx.load(store(against.source, folder, "original", against.zero, against.masked))
    cut(analysis, keep)
    pruned = to_model(graph)
    for feeds in draw_feeds(model, analysis.sizes, np.random.default_rng(0)):
        compare(run(original, feeds), run(pruned, feeds), exact=True)


def removable(analysis: Analysis) -> int:
    """Return how many channels that layers make can go."""
    return sum(int((analysis.units(layer.out) >= 0).sum()) for layer in analysis.layers)


def macs(analysis: Analysis) -> float:
    cost = CostModel(analysis)
    return cost("macs", cost.dense)
