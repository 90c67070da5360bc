"""Normalizations, softmax, reductions."""

from tests.nets.net import DECLARED, MATMUL, Net, Table, conv_gemm, convs, gemms, matmuls, sizes, stays

NORM = {"s": (8,), "o": (8,)}
UNEVEN = "m = ReduceMean<axes = [1]>(x) e = Add(a, m)"  # no channel has a variance of zero, be all its weights zero
NORMALIZATIONS: Table = {
    "BatchNormalization": {
        "": convs("h = BatchNormalization(a, s, o, m, v)", "8 w1.0 b1.0 s.0 o.0 m.0 v.0 w2.1", m=(8,), v=(8,), **NORM),
        "rank 2": gemms("h = BatchNormalization(a, s, o, m, v)", MATMUL + " s.0 o.0 m.0 v.0", m=(8,), v=(8,), **NORM),
        "statistics as outputs": convs(
            "h, mean, var = BatchNormalization<training_mode = 1>(a, s, o, m, v)",
            outputs="y, mean",
            m=(8,),
            v=(8,),
            **NORM,
            **stays("graph output"),
        ),
    },
    "GroupNormalization": {
        "scale per channel": convs(
            "h = GroupNormalization<num_groups = 2>(a, s, o)",
            "2x4 w1.0 b1.0 s.0 o.0 w2.1",
            opset=21,
            inexact=True,
            **NORM,
            **DECLARED,
        ),
        "one group": convs(
            "h = GroupNormalization<num_groups = 1>(a, s, o)",
            "8 w1.0 b1.0 s.0 o.0 w2.1",
            opset=21,
            inexact=True,
            **NORM,
            **DECLARED,
        ),
        "a group per channel": convs(
            "h = GroupNormalization<num_groups = 8>(a, s, o)", opset=21, **NORM, **DECLARED, **stays("group of its own")
        ),
    },
    "InstanceNormalization": {
        "": convs("h = InstanceNormalization(a, s, o)", "8 w1.0 b1.0 s.0 o.0 w2.1", **NORM),
        "as a group normalization, positions with constants of their own": convs(
            f"c = Add(a, e) {sizes('n', -1, 2, 144)} p = Reshape(c, n) q = InstanceNormalization(p, k, l) r = Shape(c) "
            "h = Reshape(q, r)",
            "2x4 w1.0 b1.0 e.1 w2.1",
            inexact=True,
            e=(1, 8, 6, 6),
            k=(2,),
            l=(2,),
        ),
        "as a group normalization": convs(
            f"{sizes('n', 0, 2, -1)} p = Reshape(a, n) q = InstanceNormalization(p, k, l) r = Shape(a) t = Reshape(q, r) "
            "u = Mul(t, s) h = Add(u, o)",
            "2x4 w1.0 b1.0 s.0 o.0 w2.1",
            inexact=True,
            k=(2,),
            l=(2,),
            s=(8, 1, 1),
            o=(8, 1, 1),
        ),
    },
    "LayerNormalization": {
        "over channels": matmuls("h = LayerNormalization(a, s, o)", MATMUL + " s.0 o.0", inexact=True, **NORM),
        "over channels, no bias": matmuls("h = LayerNormalization(a, s)", MATMUL + " s.0", inexact=True, s=(8,)),
        "over tokens and channels": matmuls(
            "h = LayerNormalization<axis = 1>(a, s, o)", MATMUL + " s.1 o.1", inexact=True, s=(5, 8), o=(5, 8)
        ),
        "over places": convs("h = LayerNormalization<axis = 2>(a, s, o)", s=(6, 6), o=(6, 6)),
        "mean of each channel as an output": convs(
            "h, mean = LayerNormalization<axis = 2>(a, s)", s=(6, 6), outputs="y, mean", **stays("")
        ),
    },
    "LpNormalization": {
        "over places": convs("h = LpNormalization<p = 1>(a)"),
        "over channels": convs("h = LpNormalization<axis = 1>(a)", inexact=True),
    },
    "LRN": {"": convs("h = LRN<size = 3>(a)", inexact=True)},
    "MeanVarianceNormalization": {
        "by default over all but channels": convs(f"{UNEVEN} h = MeanVarianceNormalization(e)", opset=13, **DECLARED),
        "over channels": convs(f"{UNEVEN} h = MeanVarianceNormalization<axes = [1,2,3]>(e)", opset=13, inexact=True, **DECLARED),
    },
    "SimplifiedLayerNormalization": {
        "over channels": matmuls(
            "h = SimplifiedLayerNormalization<axis = -1>(a, s)", MATMUL + " s.0", inexact=True, s=(8,), outputs="float[2,5,4] y"
        )
    },
    "RMSNormalization": {
        "over channels": matmuls("h = RMSNormalization(a, s)", MATMUL + " s.0", opset=23, inexact=True, s=(8,)),
        "over places": convs("h = RMSNormalization<axis = 2>(a, s)", opset=23, s=(6, 6)),
    },
}


def softmax(op: str) -> dict[str, Net]:
    """The variants of Softmax: from opset 13 on it mixes one axis, before that all axes from that one on."""
    return {
        "over places": convs(f"h = {op}<axis = -1>(a)"),
        "over channels": convs(f"h = {op}<axis = 1>(a)", **stays(op)),
        "by default, last axis": matmuls(f"h = {op}(a)", **stays(op)),
        "over rows and columns, opset 11": convs(f"h = {op}<axis = 2>(a)", opset=11),
        "by default, opset 11": convs(f"h = {op}(a)", opset=11, **stays(op)),
    }


def reduction(op: str) -> dict[str, Net]:
    """The variants of a reduction, whose axes are an attribute in old opsets and an input in new ones."""
    old, new = (11, 13) if op == "ReduceSum" else (13, 18)
    places = "s = Sigmoid(a) n = Constant<value_ints = [-1,2]>()"
    return {
        "attribute": convs(f"s = Sigmoid(a) h = {op}<axes = [2,3]>(s)", opset=old),
        "attribute, negative": convs(f"s = Sigmoid(a) h = {op}<axes = [-1]>(s)", opset=old),
        "attribute, axes dropped": conv_gemm(f"s = Sigmoid(a) h = {op}<axes = [2,3], keepdims = 0>(s)", opset=old),
        "input": convs(f"{places} h = {op}(s, n)", opset=new),
        "input, axes dropped": conv_gemm(f"{places} h = {op}<keepdims = 0>(s, n)", opset=new),
        "over channels": convs(f"s = Sigmoid(a) h = {op}<axes = [1]>(s)", "8 w1.0 b1.0", (5, 1, 1, 1), opset=old, inexact=True),
        "over the batch, dropped": matmuls(
            f"s = Sigmoid(a) n = Constant<value_ints = [0]>() h = {op}<keepdims = 0>(s, n)", opset=new
        ),
        "over all axes": convs(
            f"s = Sigmoid(a) h = {op}(s)", "8 w1.0 b1.0", (5, 1, 1, 1), inputs="float[2,3,2,2] x", opset=new, inexact=True
        ),
        "over no axes": convs(
            f"s = Sigmoid(a) n = Constant<value = int64[0] {{}}>() h = {op}<noop_with_empty_axes = 1>(s, n)", opset=new
        ),
    }


def arg_reduction(op: str) -> dict[str, Net]:
    """The variants of an operator that tells positions."""
    return {
        "over rows": convs(f"i = {op}<axis = 2>(a) h = Cast<to = 1>(i)"),
        "over columns, dropped": convs(f"i = {op}<axis = -1, keepdims = 0>(a) h = Cast<to = 1>(i)", read=(5, 8, 1)),
        "over channels": convs(f"i = {op}<axis = 1>(a) h = Cast<to = 1>(i)", read=(5, 1, 1, 1), **stays(op)),
    }


REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]
NETS: Table = {
    **NORMALIZATIONS,
    **{op: softmax(op) for op in ["Hardmax", "LogSoftmax", "Softmax"]},
    **{op: arg_reduction(op) for op in ["ArgMax", "ArgMin"]},
    **{op: reduction(op) for op in REDUCTIONS},
}
