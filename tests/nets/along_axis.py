"""Operators that work along an axis, or pick by index there."""

from tests.nets.net import MATMUL, Table, conv_gemm, convs, matmuls, net, sizes, stays

AXIS = "n = Constant<value_int = {axis}>()"
LAST, FIRST = "t = Transpose<perm = [0,2,3,1]>(a)", "h = Transpose<perm = [0,3,1,2]>(s)"  # channels last, and back
PLACES = "i = Constant<value = int64[4,3] {0, 1, 2, 1, 0, 5, 0, 5, 5, 1, 3, 3}>()"  # of the batch, row and column


def cumulative(op: str, opset: int) -> dict[str, object]:
    """The variants of a running sum or product."""
    return {
        "over columns": convs(f"{AXIS.format(axis=-1)} h = {op}(a, n)", opset=opset),
        "over rows, backwards": convs(f"{AXIS.format(axis=2)} h = {op}<reverse = 1, exclusive = 1>(a, n)", opset=opset),
        "over channels": convs(f"{AXIS.format(axis=1)} h = {op}(a, n)", opset=opset, **stays(op)),
    }


NETS: Table = {
    "CenterCropPad": {
        "named axes": convs(f"{sizes('n', 4, 9)} h = CenterCropPad<axes = [2,-1]>(a, n)"),
        "channels": convs(f"{sizes('n', 6)} h = CenterCropPad<axes = [1]>(a, n)", read=(5, 6, 1, 1), **stays("CenterCropPad")),
        "all axes": convs(f"{sizes('n', 2, 8, 4, 9)} h = CenterCropPad(a, n)", **stays("names every axis")),
    },
    "Compress": {
        "rows": convs(f"{sizes('n', 1, 0, 1, 1)} k = Cast<to = 9>(n) h = Compress<axis = 2>(a, k)", constants="float[2,8,3,6] h"),
        "channels": convs(
            f"{sizes('n', 1, 0, 1, 1)} k = Cast<to = 9>(n) h = Compress<axis = 1>(a, k)", read=(5, 3, 1, 1), **stays("Compress")
        ),
        "elements": net(
            f"a = Conv(x, w1) {sizes('n', 1, 0, 1, 1)} k = Cast<to = 9>(n) b = Relu(a) c = Compress(b, k) y = Exp(c)",
            "",
            frozen={"w1": "flattened"},
            w1=(8, 3, 1, 1),
        ),
    },
    "CumProd": cumulative("CumProd", 26),
    "CumSum": cumulative("CumSum", 18),
    "GatherND": {
        "channels last": conv_gemm(f"{LAST} {PLACES} h = GatherND(t, i)"),
        "channels last, per image": convs(
            f"{LAST} i = Constant<value = int64[2,3,2] {{0, 1, 2, 1, 0, 5, 0, 5, 5, 1, 3, 3}}>() "
            "h = GatherND<batch_dims = 1>(t, i)",
            "8 w1.0 b1.0 w2.0",
            (8, 5),
            "y = MatMul(h, w2)",
        ),
        "of channels, constant": convs(
            "t = Transpose<perm = [1,0,2,3]>(a) i = Constant<value = int64[3,1] {5, 0, -1}>() g = GatherND(t, i) "
            "h = Transpose<perm = [1,0,2,3]>(g)",
            "3 w1.0 b1.0 w2.1 | 5 w1.0 b1.0",
            read=(5, 3, 1, 1),
        ),
        "of channels, for each image": convs(
            "i = Constant<value = int64[2,1,1] {5, 0}>() h = GatherND<batch_dims = 1>(a, i)", read=(5, 1, 1, 1), **stays("GatherND")
        ),
    },
    "ReverseSequence": {
        "channels pass": matmuls(f"{sizes('n', 1, 2, 1, 2, 1)} h = ReverseSequence<time_axis = 0, batch_axis = 1>(a, n)", MATMUL),
        "of channels": convs(
            f"{sizes('n', 3, 8)} h = ReverseSequence<time_axis = 1, batch_axis = 0>(a, n)", **stays("ReverseSequence")
        ),
    },
    "ScatterND": {
        "into some channels": convs(
            "t = Transpose<perm = [1,0,2,3]>(a) b = Conv(x, w4) u = Transpose<perm = [1,0,2,3]>(b) "
            "i = Constant<value = int64[3,1] {2, 3, 4}>() s = ScatterND(t, i, u) h = Transpose<perm = [1,0,2,3]>(s)",
            "3 w1.0 b1.0 w4.0 w2.1 | 5 w1.0 b1.0 w2.1",
            w4=(3, 3, 1, 1),
        ),
        "into some channels of every image": convs(
            "b = Conv(x, w4) i = Constant<value = int64[2,2,2] {0, 3, 0, -1, 1, 3, 1, -1}>() h = ScatterND(a, i, b)",
            "2 w1.0 b1.0 w4.0 w2.1 | 6 w1.0 b1.0 w2.1",
            w4=(2, 3, 1, 1),
        ),
        "channels last": convs(f"{LAST} {PLACES} s = ScatterND(t, i, u) {FIRST}", "8 w1.0 b1.0 u.1 w2.1", u=(4, 8)),
        "into a single channel of one image": convs(
            f"{sizes('i', 0, 5)} {sizes('n', 1, 2)} j = Reshape(i, n) h = ScatterND(a, j, u)", u=(1, 6, 6), **stays("ScatterND")
        ),
    },
    "GatherElements": {
        "along channels": convs(
            "i = Constant<value = int64[1,2,1,1] {0, 5}>() h = GatherElements<axis = 1>(a, i)",
            read=(5, 2, 1, 1),
            outputs="float[1,5,1,1] y",
            **stays("GatherElements"),
        ),
        "of tokens, all their channels": matmuls(
            f"{sizes('n', 2, 3, 8)} j = Expand(i, n) h = GatherElements<axis = 1>(a, j)",
            "8 w1.1 b1.0 w2.0",
            inputs="float[2,5,6] x, int64[2,3,1] i",
        ),
    },
    "TopK": {
        "over rows": convs(f"{sizes('n', 2)} h, i = TopK<axis = 2>(a, n)"),
        "over columns, positions": convs(f"{sizes('n', 2)} v, i = TopK(a, n) h = Cast<to = 1>(i)"),
        "over channels": convs(f"{sizes('n', 3)} h, i = TopK<axis = 1>(a, n)", read=(5, 3, 1, 1), **stays("TopK")),
    },
    "Trilu": {
        "of images": convs("h = Trilu(a)"),
        "of images, lower": convs("n = Constant<value_int = 1>() h = Trilu<upper = 0>(a, n)"),
        "of channels": matmuls("h = Trilu(a)", **stays("Trilu")),
    },
}
