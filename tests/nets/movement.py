"""Operators that only move data."""

from tests.nets.net import DECLARED, FAR, Table, conv_gemm, convs, gemms, halves, matmuls, net, residual, sizes, stays

CONCATS = {
    "channels": residual(
        "h = Concat<axis = 1>(a, b)", "8 w1.0 b1.0 w3.1 | 7 w2.0 b2.0 w3.1", w2=(7, 3, 1, 1), b2=(7,), w3=(5, 15, 1, 1)
    ),
    "channels, counted from the end": residual(
        "h = Concat<axis = -3>(b, a)", "8 w1.0 b1.0 w3.1 | 7 w2.0 b2.0 w3.1", w2=(7, 3, 1, 1), b2=(7,), w3=(5, 15, 1, 1)
    ),
    "channels, counted from the end, before that was written down": residual(
        "h = Concat<axis = -3>(a, b)", "8 w1.0 b1.0 w3.1 | 8 w2.0 b2.0 w3.1", w3=(5, 16, 1, 1), opset=9, **DECLARED
    ),
    "rows": residual("h = Concat<axis = 2>(a, b)"),
    "with the graph input": convs("h = Concat<axis = 1>(x, a)", read=(5, 11, 1, 1)),
    "with an empty tensor": convs(
        f"{sizes('n', 8)} {sizes('m', 8)} {sizes('c', 1)} e = Slice(a, n, m, c) h = Concat<axis = 1>(e, a, e)"
    ),
    "twice the same": convs("h = Concat<axis = 1>(a, a)", read=(5, 16, 1, 1)),
    "dense block": convs(
        "c = Concat<axis = 1>(a, x) b = Conv(c, w3) h = Concat<axis = 1>(c, b)",
        "8 w1.0 b1.0 w3.1 w2.1 | 4 w3.0 w2.1",
        read=(5, 15, 1, 1),
        w3=(4, 11, 1, 1),
    ),
    "weights": net(
        "w = Concat<axis = 0>(u, v) a = Conv(x, w) y = Conv(a, w2)",
        "4 u.0 w2.1 | 4 v.0 w2.1",
        u=(4, 3, 1, 1),
        v=(4, 3, 1, 1),
        w2=(5, 8, 1, 1),
    ),
}
SPLITS = {
    "attribute": halves("h, k = Split<axis = 1, split = [4,4]>(a)", opset=11),
    "attribute left out": halves("h, k = Split<axis = 1>(a)", opset=11),
    "input": halves(f"{sizes('n', 4, 4)} h, k = Split<axis = 1>(a, n)", opset=13),
    "input left out": halves("h, k = Split<axis = 1>(a)", opset=13),
    "number of outputs": halves("h, k = Split<axis = 1, num_outputs = 2>(a)"),
    "number of outputs, counted from the end": halves("h, k = Split<axis = -3, num_outputs = 2>(a)"),
    "odd number of channels": halves(
        "h, k = Split<axis = 1, num_outputs = 2>(a)",
        "4 w1.0 b1.0 w2.1 | 3 w1.0 b1.0 w3.1",
        w1=(7, 3, 1, 1),
        b1=(7,),
        w3=(5, 3, 1, 1),
    ),
    "unequal": halves(
        f"{sizes('n', 6, 2)} h, k = Split<axis = 1>(a, n)",
        "6 w1.0 b1.0 w2.1 | 2 w1.0 b1.0 w3.1",
        read=(5, 6, 1, 1),
        w3=(5, 2, 1, 1),
    ),
    "sizes shared by two nodes": halves(
        "b = Conv(x, w4) h, p = Split<axis = 1>(a, n) q, k = Split<axis = 1>(b, n)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0 | 4 w4.0 | 4 w4.0 w3.1",
        constants="int64[2] n = {4, 4}",
        w4=(8, 3, 1, 1),
    ),
    "of rows": halves("h, k = Split<axis = 2, num_outputs = 2>(a)", "8 w1.0 b1.0 w2.1 w3.1", read=(5, 8, 1, 1), w3=(5, 8, 1, 1)),
    "gated": convs(
        "p, q = Split<axis = 1, num_outputs = 2>(a) s = Sigmoid(q) h = Mul(p, s)", "4 w1.0 b1.0 w2.1", read=(5, 4, 1, 1)
    ),
    "three parts, the middle one an output": halves(
        "h, m, k = Split<axis = 1, num_outputs = 3>(a)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0 w3.1",
        outputs="y, z, m",
        w1=(12, 3, 1, 1),
        b1=(12,),
    ),
}
CHUNK = (
    f"s = Shape(a) {sizes('one', 1)} c = Gather(s, one) {sizes('two', 2)} m = Div(c, two) {sizes('zero', 0)} "
    "h = Slice(a, zero, m, one) k = Slice(a, m, c, one)"
)
SLICES = {
    "attributes": halves(
        "h = Slice<axes = [1], starts = [0], ends = [4]>(a) k = Slice<axes = [1], starts = [4], ends = [8]>(a)", opset=9
    ),
    "attributes, counted from the end": halves(
        "h = Slice<axes = [-3], starts = [-8], ends = [4]>(a) k = Slice<axes = [-3], starts = [-4], ends = [8]>(a)", opset=9
    ),
    "inputs": halves(
        f"{sizes('n', 0)} {sizes('m', 4)} {sizes('e', FAR)} {sizes('c', 1)} h = Slice(a, n, m, c) k = Slice(a, m, e, c)"
    ),
    "computed from constants beside a free batch": halves(
        f"{sizes('n', 0)} {sizes('c', 1)} i = Constant<value_int = 4>() j = Constant<value_int = {FAR}>() "
        "m = Unsqueeze(i, n) e = Unsqueeze(j, n) h = Slice(a, n, m, c) k = Slice(a, m, e, c)",
        inputs="float[N,3,6,6] x",
    ),
    "counted from the end": halves(
        f"{sizes('n', -8)} {sizes('m', -4)} {sizes('e', FAR)} {sizes('c', -3)} h = Slice(a, n, m, c) k = Slice(a, m, e, c)"
    ),
    "without axes": halves(
        f"{sizes('n', 0, 0)} {sizes('m', 2, 4)} {sizes('o', 0, 4)} {sizes('e', FAR, FAR)} h = Slice(a, n, m) k = Slice(a, o, e)"
    ),
    "middle": convs(
        f"{sizes('n', 2)} {sizes('m', 6)} {sizes('c', 1)} h = Slice(a, n, m, c)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0",
        read=(5, 4, 1, 1),
    ),
    "overlapping": halves(
        f"{sizes('n', 0)} {sizes('m', 5)} {sizes('o', 3)} {sizes('e', 8)} {sizes('c', 1)} "
        "h = Slice(a, n, m, c) k = Slice(a, o, e, c)",
        "3 w1.0 b1.0 w2.1 | 2 w1.0 b1.0 w2.1 w3.1 | 3 w1.0 b1.0 w3.1",
        read=(5, 5, 1, 1),
        w3=(5, 5, 1, 1),
    ),
    "backwards": convs(f"{sizes('n', -1)} {sizes('m', -FAR)} {sizes('c', 1)} {sizes('d', -1)} h = Slice(a, n, m, c, d)"),
    "backwards, by number": convs(f"{sizes('n', 7)} {sizes('m', -9)} {sizes('c', 1)} {sizes('d', -1)} h = Slice(a, n, m, c, d)"),
    "part, backwards": convs(
        f"{sizes('n', 5)} {sizes('m', 1)} {sizes('c', 1)} {sizes('d', -1)} h = Slice(a, n, m, c, d)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0",
        read=(5, 4, 1, 1),
    ),
    "every other channel": convs(
        f"{sizes('n', 1)} {sizes('m', 8)} {sizes('c', 1)} {sizes('d', 2)} h = Slice(a, n, m, c, d)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0",
        read=(5, 4, 1, 1),
    ),
    "every other channel and row": convs(
        f"{sizes('n', 0, 0)} {sizes('m', 8, 6)} {sizes('c', 1, 2)} {sizes('d', 2, 2)} h = Slice(a, n, m, c, d)",
        read=(5, 4, 1, 1),
        **stays("takes every so many"),
    ),
    "rows and columns, strided": convs(
        f"{sizes('n', 0, 1)} {sizes('m', FAR, FAR)} {sizes('c', 2, 3)} {sizes('d', 2, 2)} h = Slice(a, n, m, c, d)"
    ),
    "bounds computed from Shape": halves(CHUNK),
    "bounds computed from Shape, dynamic batch": halves(CHUNK, inputs="float[N,3,6,6] x"),
    "bounds computed from data": convs(
        f"{sizes('n', 0)} {sizes('c', 1)} r = Slice(a, n, i, c) h = ReduceMax<axes = [1]>(r)",
        inputs="float[2,3,6,6] x, int64[1] i",
        read=(5, 1, 1, 1),
        opset=13,
        **stays("run time"),
    ),
}
GATHERS = {
    "reorder": convs(f"{sizes('i', 3, 1, 0, 7, 2, 6, 5, 4)} h = Gather<axis = 1>(a, i)"),
    "counted from the end": convs(
        f"{sizes('i', -1, 0, -3)} h = Gather<axis = 1>(a, i)", "3 w1.0 b1.0 w2.1 | 5 w1.0 b1.0", read=(5, 3, 1, 1)
    ),
    "repeated": convs(
        f"{sizes('i', 0, 0, 1, 1, 2, 2)} h = Gather<axis = -3>(a, i)", "3 w1.0 b1.0 w2.1 | 5 w1.0 b1.0", read=(5, 6, 1, 1)
    ),
    "indices shared by two nodes": halves(
        "b = Conv(x, w4) h = Gather<axis = 1>(a, i) k = Gather<axis = 1>(b, i)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0 | 4 w4.0 | 4 w4.0 w3.1",
        constants="int64[4] i = {6, 0, 2, 4}",
        w4=(8, 3, 1, 1),
    ),
    "one channel": convs(
        "i = Constant<value_int = 5>() h = Gather<axis = 1>(a, i)",
        "7 w1.0 b1.0",
        (5, 6, 1),
        silent=True,
        frozen={"w1": "picks one"},
    ),
    "table of indices": convs(
        "i = Constant<value = int64[2,2] {5, 0, 2, -1}>() g = Gather<axis = 1>(a, i) h = ReduceMean<axes = [2], keepdims = 0>(g)",
        "2 w1.0 b1.0 w2.1 | 4 w1.0 b1.0",
        read=(5, 2, 1, 1),
        opset=13,
    ),
    "table of indices in one column": conv_gemm(
        "i = Constant<value = int64[3,1] {5, 0, -1}>() f = GlobalAveragePool(a) g = Gather<axis = 1>(f, i) "
        f"{sizes('n', 2, 3)} h = Reshape(g, n)",
        "3 w1.0 b1.0 w2.0 | 5 w1.0 b1.0",
        read=(3, 5),
    ),
    "rows": convs(f"{sizes('i', 3, 0)} h = Gather<axis = 2>(a, i)"),
    "at run time": convs(
        "h = Gather<axis = 1>(a, i)", inputs="float[2,3,6,6] x, int64[3] i", read=(5, 3, 1, 1), **stays("at run time")
    ),
    "embedding": net("e = Gather(w1, i) y = MatMul(e, w2)", "8 w1.1 w2.0", "int64[2,5] i", w1=(10, 8), w2=(8, 4)),
    "tied embedding": net(
        "e = Gather(w, i) h = MatMul(e, u) r = Tanh(h) t = Transpose(w) y = MatMul(r, t)",
        "8 w.1 u.0 u.1",
        "int64[2,5] i",
        w=(10, 8),
        u=(8, 8),
    ),
    "of weights": net(
        f"{sizes('i', 2, 0, 1, 3)} w = Gather(u, i) a = Conv(x, w) y = Conv(a, w2)", "4 u.0 w2.1", u=(4, 3, 1, 1), w2=(5, 4, 1, 1)
    ),
}
OPTION_A = "4 w1.0 b1.0 w2.0 b2.0 w3.1 | 4 w2.0 b2.0 w3.1"  # the channels of b of which a lacks some
NARROW = {"w1": (4, 3, 1, 1), "b1": (4,)}
PADS = {
    "rows and columns": convs(f"{sizes('n', 0, 0, 1, 2, 0, 0, 1, 2)} h = Pad(a, n)"),
    "rows and columns, attribute": convs("h = Pad<pads = [0,0,1,1,0,0,1,1]>(a)", opset=9),
    "channels on both sides": residual(f"{sizes('n', 0, 2, 0, 0, 0, 2, 0, 0)} p = Pad(a, n) h = Add(p, b)", OPTION_A, **NARROW),
    "channels in front": residual(f"{sizes('n', 0, 4, 0, 0, 0, 0, 0, 0)} p = Pad(a, n) h = Add(p, b)", OPTION_A, **NARROW),
    "channels behind": residual(f"{sizes('n', 0, 0, 0, 0, 0, 4, 0, 0)} p = Pad(a, n) h = Add(p, b)", OPTION_A, **NARROW),
    "channels, attribute": residual("p = Pad<pads = [0,3,0,0,0,1,0,0]>(a) h = Add(p, b)", OPTION_A, opset=9, **NARROW),
    "channels, named axis": residual(f"{sizes('n', 1, 3)} {sizes('c', -3)} p = Pad(a, n, , c) h = Add(p, b)", OPTION_A, **NARROW),
    "channels of another value": convs(
        f"{sizes('n', 0, 1, 0, 0, 0, 2, 0, 0)} f = Constant<value_float = 1.5>() h = Pad(a, n, f)",
        read=(5, 11, 1, 1),
    ),
    "option A": residual(
        f"{sizes('s', 0, 0)} {sizes('e', FAR, FAR)} {sizes('c', 2, 3)} {sizes('t', 2, 2)} g = Slice(a, s, e, c, t) "
        f"{sizes('n', 0, 2, 0, 0, 0, 2, 0, 0)} p = Pad(g, n) m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(b) h = Add(p, m)",
        OPTION_A,
        **NARROW,
    ),
    "of the graph input": residual(
        f"{sizes('n', 0, 2, 0, 0, 0, 3, 0, 0)} p = Pad(x, n) h = Add(p, b)", "", frozen={"w2": ""}, w1=(1, 3, 1, 1), b1=(1,)
    ),
    "reflected rows": convs(f'{sizes("n", 0, 0, 1, 1, 0, 0, 1, 1)} h = Pad<mode = "reflect">(a, n)'),
    "reflected channels": convs(
        f'{sizes("n", 0, 2, 0, 0, 0, 2, 0, 0)} h = Pad<mode = "reflect">(a, n)', read=(5, 12, 1, 1), **stays("repeats or crops")
    ),
    "cropped channels": convs(
        f"{sizes('n', 0, -1, 0, 0, 0, -3, 0, 0)} h = Pad(a, n)", read=(5, 4, 1, 1), **stays("repeats or crops")
    ),
}
FLAT = {"read": (32, 5), "inputs": "float[2,3,2,2] x"}  # a[2,8,2,2] in one row of 32
SHUFFLE = (
    f"{sizes('n', 0, 2, 4, 6, 6)} p = Reshape(a, n) q = Transpose<perm = [0,2,1,3,4]>(p) {sizes('m', 2, 8, 6, 6)} h = Reshape(q, m)"
)
RESHAPES = {
    "flatten": conv_gemm(f"{sizes('n', 2, 32)} h = Reshape(a, n)", **FLAT),
    "flatten, rows copied, rest inferred": conv_gemm(f"{sizes('n', 0, -1)} h = Reshape(a, n)", **FLAT),
    "flatten, rows inferred": conv_gemm(f"{sizes('n', -1, 32)} h = Reshape(a, n)", **FLAT),
    "flatten, channels last": conv_gemm(f"t = Transpose<perm = [0,2,3,1]>(a) {sizes('n', 2, -1)} h = Reshape(t, n)", **FLAT),
    "flatten, target from Shape": conv_gemm(
        f"s = Shape(a) z = Constant<value_int = 0>() b = Gather(s, z) {sizes('u', 0)} r = Unsqueeze(b, u) {sizes('m', -1)} "
        "n = Concat<axis = 0>(r, m) h = Reshape(a, n)",
        read=(32, 5),
        inputs="float[N,3,2,2] x",
    ),
    "flatten, all of the target from Shape": conv_gemm(
        f"s = Shape(a) {sizes('z', 0)} {sizes('o', 1)} {sizes('e', 4)} r = Slice(s, z, o) c = Slice(s, o, e) p = ReduceProd(c) "
        "n = Concat<axis = 0>(r, p) h = Reshape(a, n)",
        read=(32, 5),
        inputs="float[N,3,2,2] x",
    ),
    "channels copied, places merged": convs(f"{sizes('n', 0, 0, -1)} h = Reshape(a, n)", read=(5, 8, 1)),
    "channels named, places merged": convs(f"{sizes('n', 2, 8, 36)} h = Reshape(a, n)", read=(5, 8, 1)),
    "zero allowed": convs(f"{sizes('n', -1, 8, 36)} h = Reshape<allowzero = 1>(a, n)", read=(5, 8, 1)),
    "shuffle": convs(SHUFFLE),
    "shuffle in three parts of four": convs(
        f"{sizes('n', 2, 3, 4, 6, 6)} p = Reshape(a, n) q = Transpose<perm = [0,2,1,3,4]>(p) "
        f"{sizes('m', 0, -1, 6, 6)} h = Reshape(q, m)",
        "12 w1.0 b1.0 w2.1",
        read=(5, 12, 1, 1),
        w1=(12, 3, 1, 1),
        b1=(12,),
    ),
    "shuffle over a residual": residual(SHUFFLE.replace("h = Reshape", "c = Reshape") + " h = Add(c, b)"),
    "there and back": convs(f"{sizes('n', 0, 2, 4, 6, 6)} p = Reshape(a, n) {sizes('m', 2, 8, 6, 6)} h = Reshape(p, m)"),
    "mean over the outer part": convs(
        f"{sizes('n', 0, 2, 4, 6, 6)} p = Reshape(a, n) h = ReduceMean<axes = [1], keepdims = 0>(p)",
        "4 w1.0 b1.0 w2.1",
        read=(5, 4, 1, 1),
        opset=13,
    ),
    "mean over the inner part": convs(
        f"{sizes('n', 0, 2, 4, 6, 6)} p = Reshape(a, n) h = ReduceMean<axes = [2], keepdims = 0>(p)",
        "4 w1.0 b1.0",
        read=(5, 2, 1, 1),
        opset=13,
        inexact=True,
    ),
    "scale of a weight": convs(f"{sizes('n', 1, 8, 1, 1)} t = Reshape(s, n) h = Mul(a, t)", "8 w1.0 b1.0 s.0 w2.1", s=(8,)),
    "channels merged with the batch": convs(
        f"{sizes('n', 16, 1, 6, 6)} r = Reshape(a, n) {sizes('m', 2, 8, 6, 6)} h = Reshape(r, m)"
    ),
}
SIZED = "g = GlobalAveragePool(a)"
NETS: Table = {
    "Concat": CONCATS,
    "Split": SPLITS,
    "Slice": SLICES,
    "Gather": GATHERS,
    "Pad": PADS,
    "Reshape": RESHAPES,
    "Flatten": {
        "pooled": conv_gemm(f"{SIZED} h = Flatten(g)"),
        "four places per channel": conv_gemm("h = Flatten<axis = 1>(a)", **FLAT),
        "axis counted from the end": conv_gemm("h = Flatten<axis = -3>(a)", **FLAT),
        "two layers side by side": conv_gemm(
            "b = Conv(x, w3) c = Concat<axis = 1>(a, b) h = Flatten(c)",
            "8 w1.0 b1.0 w2.0 | 4 w3.0 w2.0",
            read=(48, 5),
            inputs="float[2,3,2,2] x",
            w3=(4, 3, 1, 1),
        ),
    },
    "Squeeze": {
        "attribute": conv_gemm(f"{SIZED} h = Squeeze<axes = [2,3]>(g)", opset=11),
        "input": conv_gemm(f"{SIZED} {sizes('n', 2, -1)} h = Squeeze(g, n)"),
        "all axes of size 1": conv_gemm(f"{SIZED} h = Squeeze(g)"),
    },
    "Unsqueeze": {
        "attribute": matmuls("b = Unsqueeze<axes = [1]>(a) h = Relu(b)", opset=11),
        "input": matmuls(f"{sizes('n', 1, -1)} b = Unsqueeze(a, n) {sizes('m', -1)} h = Squeeze(b, m)"),
        "of a weight": convs(f"{sizes('n', 1, 2)} t = Unsqueeze(s, n) h = Mul(a, t)", "8 w1.0 b1.0 s.0 w2.1", s=(8,)),
    },
    "Expand": {
        "places": convs(f"{SIZED} {sizes('n', 2, 8, 6, 6)} h = Expand(g, n)"),
        "places, channels left out": convs(f"{SIZED} {sizes('n', 1, 1, 6, 6)} h = Expand(g, n)"),
        "lower rank": convs(f"{SIZED} {sizes('n', 6, 6)} h = Expand(g, n)"),
        "to the shape of another": residual("g = GlobalAveragePool(b) s = Shape(a) e = Expand(g, s) h = Add(a, e)"),
        "to the shape of another, dynamic": residual(
            "g = GlobalAveragePool(b) s = Shape(a) e = Expand(g, s) h = Add(a, e)", inputs="float[N,3,6,6] x"
        ),
        "new axes in front": matmuls(f"{sizes('n', 3, 2, 5, 8)} h = Expand(a, n)"),
        "of a weight": convs(f"{sizes('n', 8, 6, 6)} e = Expand(s, n) h = Mul(a, e)", "8 w1.0 b1.0 s.0 w2.1", s=(8, 1, 1)),
        "of one channel": convs(
            f"{sizes('n', 2, 8, 6, 6)} e = Expand(a, n) b = Conv(x, w3) h = Add(e, b)",
            "8 w3.0 w2.1",
            w1=(1, 3, 1, 1),
            b1=(1,),
            w3=(8, 3, 1, 1),
        ),
    },
    "Tile": {
        "places": convs(f"{sizes('n', 1, 1, 2, 3)} h = Tile(a, n)"),
        "channels": convs(f"{sizes('n', 1, 2, 1, 1)} h = Tile(a, n)", read=(5, 16, 1, 1)),
        "pooled places": convs(f"{SIZED} {sizes('n', 1, 1, 6, 6)} h = Tile(g, n)"),
        "of one channel": convs(
            f"{sizes('n', 1, 8, 1, 1)} e = Tile(a, n) b = Conv(x, w3) h = Add(e, b)",
            "8 w3.0 w2.1",
            w1=(1, 3, 1, 1),
            b1=(1,),
            w3=(8, 3, 1, 1),
        ),
    },
    "Transpose": {
        "channels last and back": convs("p = Transpose<perm = [0,2,3,1]>(a) q = Relu(p) h = Transpose<perm = [0,3,1,2]>(q)"),
        "channels last into MatMul": convs("h = Transpose<perm = [0,2,3,1]>(a)", "8 w1.0 b1.0 w2.0", (8, 5), "y = MatMul(h, w2)"),
        "reversed": gemms("t = Transpose(a) h = Relu(t)", "8 w1.1 b1.0 w2.0", "y = Gemm<transA = 1>(h, w2)"),
        "of a weight": gemms("h = Relu(a)", "8 w1.1 b1.0 w2.1", "t = Transpose(w2) y = Gemm(h, t)", w2=(5, 8)),
    },
    "DepthToSpace": {
        mode: convs(
            f'h = DepthToSpace<blocksize = 2, mode = "{mode}">(a)',
            "4 w1.0 b1.0 w2.1",
            read=(5, 4, 1, 1),
            w1=(16, 3, 1, 1),
            b1=(16,),
        )
        for mode in ["DCR", "CRD"]
    },
    "SpaceToDepth": {"": convs("h = SpaceToDepth<blocksize = 2>(a)", read=(5, 32, 1, 1))},
    "Shape": {
        "a count of channels in arithmetic on data": convs(
            f"s = Shape(a) {sizes('n', 1)} c = Gather(s, n) f = Cast<to = 1>(c) h = Div(a, f)"
        ),
        "of part of the axes": convs(
            "s = Shape<start = 1, end = 2>(a) f = Cast<to = 1>(s) h = Mul(a, f)", inputs="float[N,3,6,6] x"
        ),
        "of a run-time size": convs(
            f"{sizes('z', 0)} {sizes('c', 2)} r = Slice(a, z, i, c) s = Shape(r) f = Cast<to = 1>(s) m = ReduceSum(f) "
            "h = Div(a, m)",
            inputs="float[2,3,6,6] x, int64[1] i",
            **stays("run time"),
        ),
    },
    "Size": {
        "": convs("s = Size(a) f = Cast<to = 1>(s) h = Div(a, f)"),
        "of a run-time size": convs(
            f"{sizes('z', 0)} {sizes('c', 2)} r = Slice(a, z, i, c) s = Size(r) f = Cast<to = 1>(s) h = Div(a, f)",
            inputs="float[2,3,6,6] x, int64[1] i",
            **stays("run time"),
        ),
    },
}
