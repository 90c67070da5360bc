"""Convolutions and matrix products."""

from tests.nets.net import CONV, MATMUL, Table, convs, gemms, halves, matmuls, net, residual, sizes, stays

CONVOLUTIONS = {
    "pads and strides": convs("h = Relu(a)", tail="y = Conv<pads = [1,1,1,1], strides = [2,2]>(h, w2)", read=(5, 8, 3, 3)),
    "no bias": net("a = Conv(x, w1) y = Conv(a, w2)", "8 w1.0 w2.1", w1=(8, 3, 3, 3), w2=(5, 8, 1, 1)),
    "1D": net("a = Conv(x, w1) y = Conv(a, w2)", "8 w1.0 w2.1", "float[2,3,9] x", w1=(8, 3, 3), w2=(5, 8, 1)),
    "3D": net("a = Conv(x, w1) y = Conv(a, w2)", "8 w1.0 w2.1", "float[1,3,4,4,4] x", w1=(8, 3, 1, 1, 1), w2=(5, 8, 3, 3, 3)),
    "sliding over channels": convs(
        f"p = GlobalAveragePool(a) {sizes('n', 0, 1, 8)} q = Reshape(p, n) r = Conv<pads = [1,1]>(q, d) {sizes('m', 0, 8, 1, 1)} "
        "s = Reshape(r, m) h = Mul(a, s)",
        "8 w1.0 b1.0 w2.1",
        inexact=True,
        d=(1, 1, 3),
    ),
    "sliding over channels, every other": convs(
        f"p = GlobalAveragePool(a) {sizes('n', 0, 1, 8)} q = Reshape(p, n) h = Conv<strides = [2]>(q, d)",
        tail="y = Conv(h, e)",
        read=(5, 8, 1, 1),
        d=(1, 1, 2),
        e=(2, 1, 2),
        **stays("computes across them"),
    ),
    "depthwise": convs("h = Conv<group = 8>(a, d, e)", "8 w1.0 b1.0 d.0 e.0 w2.1", d=(8, 1, 3, 3), e=(8,)),
    "depthwise with multiplier": convs(
        "h = Conv<group = 8>(a, d, e)", "8 w1.0 b1.0 d.0 e.0 w2.1", read=(5, 16, 1, 1), d=(16, 1, 3, 3), e=(16,)
    ),
    "grouped": convs("h = Conv<group = 2>(a, d, e)", "2x4 w1.0 b1.0 d.1 | 2x4 d.0 e.0 w2.1", d=(8, 4, 1, 1), e=(8,)),
    "grouped, more out than in": convs(
        "h = Conv<group = 2>(a, d)", "2x4 w1.0 b1.0 d.1 | 2x6 d.0 w2.1", read=(5, 12, 1, 1), d=(12, 4, 3, 1)
    ),
    "grouped twice": convs(
        "b = Conv<group = 2>(a, d) h = Conv<group = 2>(b, f)",
        "2x4 w1.0 b1.0 d.1 | 2x4 d.0 f.1 | 2x4 f.0 w2.1",
        d=(8, 4, 1, 1),
        f=(8, 4, 1, 1),
    ),
    "grouped by two, then by four": convs(
        "b = Conv<group = 2>(a, d) h = Conv<group = 4>(b, f)",
        "2x4 w1.0 b1.0 d.1 | 4x2 d.0 f.1 | 4x2 f.0 w2.1",
        d=(8, 4, 1, 1),
        f=(8, 2, 1, 1),
    ),
    "grouped, weight shared by two": convs(
        "b = Conv<group = 2>(a, d) c = Tanh(b) h = Conv<group = 2>(c, d)", "4 w1.0 b1.0 d.0 d.1 w2.1", d=(8, 4, 1, 1)
    ),
    "grouped, then halves": halves(
        "g = Conv<group = 2>(a, d) h, k = Split<axis = 1, num_outputs = 2>(g)",
        "2x4 w1.0 b1.0 d.1 | 2x4 d.0 w2.1 w3.1",
        d=(8, 4, 1, 1),
    ),
    "grouped, then shuffled": convs(
        f"g = Conv<group = 2>(a, d) {sizes('n', 2, 2, 4, 6, 6)} p = Reshape(g, n) q = Transpose<perm = [0,2,1,3,4]>(p) "
        f"{sizes('m', 2, 8, 6, 6)} h = Reshape(q, m)",
        "2x4 w1.0 b1.0 d.1 | 2x4 d.0 w2.1",
        d=(8, 4, 1, 1),
    ),
    "grouped, beside a residual": residual(
        "c = Conv<group = 2>(a, d) h = Add(c, b)", "2x4 w1.0 b1.0 d.1 | 2x4 d.0 w2.0 b2.0 w3.1", d=(8, 4, 1, 1)
    ),
    "grouped, one channel out of each group": convs(
        "h = Conv<group = 4>(a, d, e)", "4 w1.0 b1.0 d.0 e.0 w2.1", read=(5, 4, 1, 1), d=(4, 2, 3, 3), e=(4,)
    ),
    "input channels stay": convs("h = Relu(a)", **stays("", "w2", CONV)),
    "shared weight": net(
        "a = Conv(x, w1) b = Relu(a) c = Conv(b, w) d = Relu(c) e = Conv(d, w) y = Conv(e, w2)",
        "8 w1.0 w.0 w.1 w2.1",
        w1=(8, 3, 1, 1),
        w=(8, 8, 1, 1),
        w2=(5, 8, 1, 1),
    ),
    "shared bias": net(
        "a = Conv(x, w1, b1) b = Conv(a, w2, b1) y = Conv(b, w3)",
        "8 w1.0 b1.0 w2.0 w2.1 w3.1",
        w1=(8, 3, 1, 1),
        b1=(8,),
        w2=(8, 8, 1, 1),
        w3=(5, 8, 1, 1),
    ),
    "weight through Identity": net(
        "v = Identity(w) a = Conv(x, v) b = Relu(a) u = Identity(w2) y = Conv(b, u)", "8 w.0 w2.1", w=(8, 3, 1, 1), w2=(5, 8, 1, 1)
    ),
    "weight in a Constant node": net(
        "w = Constant<value = float[4,1,1,1] {1.0, -2.0, 3.0, -0.5}>() a = Conv(x, w, b1) y = Conv(a, w2)",
        "4 w.0 b1.0 w2.1",
        "float[2,1,5,5] x",
        b1=(4,),
        w2=(5, 4, 3, 3),
    ),
    "squeeze and excite": convs(
        "g = GlobalAveragePool(a) e = Conv(g, w3, b3) f = Relu(e) p = Conv(f, w4, b4) s = Sigmoid(p) h = Mul(a, s)",
        "8 w1.0 b1.0 w4.0 b4.0 w3.1 w2.1 | 4 w3.0 b3.0 w4.1",
        w3=(4, 8, 1, 1),
        b3=(4,),
        w4=(8, 4, 1, 1),
        b4=(8,),
    ),
    "of words": net(
        "e = Gather(w1, i) u = Unsqueeze(e, one) a = Conv<kernel_shape = [2,8]>(u, w2) b = Relu(a) y = Conv(b, w3)",
        "8 w1.1 w2.3 | 6 w2.0 w3.1",
        "int64[2,5] i",
        constants="int64[1] one = {1}",
        w1=(10, 8),
        w2=(6, 1, 2, 8),
        w3=(4, 6, 1, 1),
    ),
    "weight mixed of experts": net(
        f"a = Conv(x, w1, b1) m = MatMul(r, e) {sizes('n', 5, 8, 1, 1)} w = Reshape(m, n) y = Conv(a, w)",
        "8 w1.0 b1.0 e.1",
        "float[2,3,6,6] x, float[1,2] r",
        inexact=True,
        w1=(8, 3, 1, 1),
        b1=(8,),
        e=(2, 40),
    ),
    "dynamic batch": convs("h = Relu(a)", inputs="float[N,3,6,6] x"),
    "dynamic batch and image": convs("h = Relu(a)", inputs="float[N,3,H,W] x"),
    "fed by the graph input alone": net("y = Conv(x, w)", "", frozen={"w": "graph output"}, w=(8, 3, 1, 1)),
}
TRANSPOSED = {
    "plain": convs(
        "h = ConvTranspose<strides = [2,2]>(a, t, e)", "8 w1.0 b1.0 t.0 | 6 t.1 e.0 w2.1", (5, 6, 1, 1), t=(8, 6, 2, 2), e=(6,)
    ),
    "no bias": convs("h = ConvTranspose(a, t)", "8 w1.0 b1.0 t.0 | 6 t.1 w2.1", (5, 6, 1, 1), t=(8, 6, 2, 2)),
    "grouped": convs(
        "h = ConvTranspose<group = 2>(a, t, e)", "2x4 w1.0 b1.0 t.0 | 2x3 t.1 e.0 w2.1", (5, 6, 1, 1), t=(8, 3, 2, 2), e=(6,)
    ),
    "depthwise": convs("h = ConvTranspose<group = 8>(a, t, e)", "8 w1.0 b1.0 t.0 e.0 w2.1", t=(8, 1, 2, 2), e=(8,)),
    "depthwise with multiplier": convs(
        "h = ConvTranspose<group = 8>(a, t, e)", "8 w1.0 b1.0 t.0 e.0 w2.1", (5, 16, 1, 1), t=(8, 2, 2, 2), e=(16,)
    ),
    "grouped, one channel into each output group": convs(
        "h = ConvTranspose<group = 4>(a, t, e)", "4 w1.0 b1.0 t.0 e.0 w2.1", (5, 4, 1, 1), t=(8, 1, 2, 2), e=(4,)
    ),
}
GEMMS = {
    "plain": gemms("h = Relu(a)"),
    "alpha, beta": gemms(
        "h = Gemm<alpha = 0.5, beta = 2.0>(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 e.0 w2.0", d=(8, 7), e=(7,), w2=(7, 5)
    ),
    "transB": gemms("h = Relu(a)", "8 w1.1 b1.0 w2.1", "y = Gemm<transB = 1>(h, w2)", w2=(5, 8)),
    "transB, square": gemms("h = Relu(a)", "8 w1.1 b1.0 w2.1", "y = Gemm<transB = 1>(h, w2)", w2=(8, 8)),
    "transA": gemms(
        "t = Gemm<transA = 1>(a, d) h = Relu(t)", "8 w1.1 b1.0 w2.0", "y = Gemm<transA = 1>(h, w2)", d=(4, 7), w2=(8, 5)
    ),
    "C of one row": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 e.1 w2.0", d=(8, 7), e=(1, 7), w2=(7, 5)),
    "C of one column": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 w2.0", d=(8, 7), e=(4, 1), w2=(7, 5)),
    "C of full size": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 e.1 w2.0", d=(8, 7), e=(4, 7), w2=(7, 5)),
    "C a scalar": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 w2.0", d=(8, 7), e=(), w2=(7, 5)),
    "C of one element": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 w2.0", d=(8, 7), e=(1,), w2=(7, 5)),
    "no C": net("a = Gemm(x, w1) y = Gemm(a, w2)", "8 w1.1 w2.0", "float[4,6] x", w1=(6, 8), w2=(8, 5)),
    "C an activation": gemms("r = Gemm(x, d) h = Gemm(a, f, r)", "8 w1.1 b1.0 f.0 | 7 d.1 f.1 w2.0", d=(6, 7), f=(8, 7), w2=(7, 5)),
}
MATMULS = {
    "weight on the right": matmuls("h = Relu(a)"),
    "weight on the left": net("a = MatMul(w1, x) y = MatMul(w2, a)", "8 w1.0 w2.1", "float[2,5,6] x", w1=(8, 5), w2=(3, 8)),
    "batched weight": net("a = MatMul(x, w1) y = MatMul(a, w2)", "8 w1.2 w2.1", "float[2,5,6] x", w1=(2, 6, 8), w2=(2, 8, 4)),
    "rank 2": net("a = MatMul(x, w1) y = MatMul(a, w2)", MATMUL.replace(" b1.0", ""), "float[5,6] x", w1=(6, 8), w2=(8, 4)),
    "by a vector": net(
        "a = MatMul(x, w1) y = MatMul(a, w2)", "8 w1.1 w2.0", "float[2,5,6] x", spare_vectors=False, w1=(6, 8), w2=(8,)
    ),
    "of a vector": net(
        "a = MatMul(w1, x) y = MatMul(w2, a)", "8 w1.0 w2.0", "float[2,5,6] x", spare_vectors=False, w1=(8, 5), w2=(8,)
    ),
    "attention": net(
        "q = MatMul(x, wq) k = MatMul(x, wk) t = Transpose<perm = [0,2,1]>(k) s = MatMul(q, t) p = Softmax(s) v = MatMul(x, wv) "
        "h = MatMul(p, v) y = MatMul(h, wo)",
        "8 wv.1 wo.0",
        "float[2,5,6] x",
        frozen={"wq": "multiplies queries and keys", "wk": "multiplies queries and keys"},
        wq=(6, 7),
        wk=(6, 7),
        wv=(6, 8),
        wo=(8, 4),
    ),
    "attention of two heads": net(
        "n = Constant<value_ints = [0,0,2,4]>() q1 = MatMul(x, wq) q2 = Reshape(q1, n) q = Transpose<perm = [0,2,1,3]>(q2) "
        "k1 = MatMul(x, wk) k2 = Reshape(k1, n) k = Transpose<perm = [0,2,3,1]>(k2) s = MatMul(q, k) p = Softmax(s) "
        "v1 = MatMul(x, wv) v2 = Reshape(v1, n) v = Transpose<perm = [0,2,1,3]>(v2) h1 = MatMul(p, v) "
        "h2 = Transpose<perm = [0,2,1,3]>(h1) m = Constant<value_ints = [2,5,8]>() h = Reshape(h2, m) y = MatMul(h, wo)",
        "2 wq.1 wk.1 wv.1 wo.0",
        "float[2,5,6] x",
        wq=(6, 8),
        wk=(6, 8),
        wv=(6, 8),
        wo=(8, 4),
    ),
}
CONSTANTS = {
    "of a Constant node": net(
        "n = Constant<value = int64[4] {8, 3, 1, 1}>() w = ConstantOfShape<value = float[1] {0.5}>(n) a = Conv(x, w, b1) "
        "y = Conv(a, w2)",
        "8 w.0 b1.0 w2.1",
        b1=(8,),
        w2=(5, 8, 1, 1),
    ),
    "of a list of integers": net(
        f"{sizes('n', 8, 3, 1, 1)} w = ConstantOfShape<value = float[1] {{0.5}}>(n) a = Conv(x, w, b1) y = Conv(a, w2)",
        "8 w.0 b1.0 w2.1",
        b1=(8,),
        w2=(5, 8, 1, 1),
    ),
    "of an initializer": net(
        "w = ConstantOfShape<value = float[1] {0.5}>(n) a = Conv(x, w, b1) y = Conv(a, w2)",
        "8 w.0 b1.0 w2.1",
        constants="int64[4] n = {8, 3, 1, 1}",
        b1=(8,),
        w2=(5, 8, 1, 1),
    ),
    "of the shape of an activation": convs(
        "s = Shape(a) b = ConstantOfShape<value = float[1] {0.5}>(s) h = Add(a, b)", inputs="float[N,3,6,6] x"
    ),
}
DEFORMED = {"d": (6, 8, 3, 3), "e": (6,), "read": (5, 6, 1, 1)}
DEFORMABLE = {
    "": convs("h = DeformConv(a, d, f, e)", "8 w1.0 b1.0 d.1 | 6 d.0 e.0 w2.1", opset=22, f=(2, 18, 4, 4), **DEFORMED),
    "offsets for each half": convs(
        "h = DeformConv<offset_group = 2>(a, d, f, e)",
        "2x4 w1.0 b1.0 d.1 | 6 d.0 e.0 w2.1",
        opset=22,
        f=(2, 36, 4, 4),
        **DEFORMED,
    ),
    "offsets computed": convs(
        "f = Conv(a, w3) h = DeformConv(a, d, f, e)",
        "8 w1.0 b1.0 d.1 w3.1 | 6 d.0 e.0 w2.1",
        opset=22,
        w3=(18, 8, 3, 3),
        **DEFORMED,
    ),
    "grouped": convs(
        "h = DeformConv<group = 2>(a, d, f, e)",
        "2x4 w1.0 b1.0 d.1 | 2x3 d.0 e.0 w2.1",
        opset=22,
        f=(2, 18, 4, 4),
        **{**DEFORMED, "d": (6, 4, 3, 3)},
    ),
}
CAUSAL = {"inputs": "float[2,3,9] x", "w1": (8, 3, 1), "read": (5, 8, 1), "opset": 27}
CAUSAL_CONVOLUTIONS = {
    "": convs("h, s = CausalConvWithState(a, k)", "8 w1.0 b1.0 k.0 w2.1", k=(8, 1, 3), **CAUSAL),
    "bias and state": convs(
        "h, s = CausalConvWithState(a, k, e, f)", "8 w1.0 b1.0 k.0 e.0 f.1 w2.1", k=(8, 1, 3), e=(8,), f=(2, 8, 2), **CAUSAL
    ),
    "state as an output": convs("h, s = CausalConvWithState(a, k)", k=(8, 1, 3), outputs="y, s", **CAUSAL, **stays("graph output")),
}
ONTO = {"read": (7, 4), "d": (7, 8)}
EINSUMS = {
    "weight": matmuls('h = Einsum<equation = "bti,io->bto">(a, d)', "8 w1.1 b1.0 d.0 | 7 d.1 w2.0", (7, 4), d=(8, 7)),
    "weight, transposed": matmuls('h = Einsum<equation = "bti, oi -> bto">(a, d)', "8 w1.1 b1.0 d.1 | 7 d.0 w2.0", **ONTO),
    "weight first": matmuls('h = Einsum<equation = "oi,bti->bto">(d, a)', "8 w1.1 b1.0 d.1 | 7 d.0 w2.0", **ONTO),
    "scale": matmuls('h = Einsum<equation = "bti,i->bti">(a, s)', "8 w1.1 b1.0 s.0 w2.0", s=(8,)),
    "transposition": matmuls('t = Einsum<equation = "bti->bit">(a) h = Einsum<equation = "bit->bti">(t)'),
    "channels in front": convs(
        'h = Einsum<equation = "nchw,oc->nohw">(a, d)', "8 w1.0 b1.0 d.1 | 7 d.0 w2.1", (5, 7, 1, 1), d=(7, 8)
    ),
    "two weights": matmuls(
        'h = Einsum<equation = "bti,ir,ro->bto">(a, d, e)', "8 w1.1 b1.0 d.0 | 7 e.1 w2.0", (7, 4), d=(8, 3), e=(3, 7)
    ),
    "two activations": matmuls(
        'c = MatMul(x, w3) s = Einsum<equation = "bqi,bki->bqk">(a, c) h = MatMul(s, d)',
        "7 d.1 w2.0",
        (7, 4),
        w3=(6, 8),
        d=(5, 7),
        frozen={"w1": "multiplies queries and keys"},
    ),
    "sum over channels": matmuls(
        'c = Einsum<equation = "bti->bt">(a) h = Einsum<equation = "bt,o->bto">(c, d)',
        "7 d.0 w2.0",
        (7, 4),
        d=(7,),
        frozen={"w1": "Einsum"},
    ),
    "ellipsis": matmuls(
        'h = Einsum<equation = "...i,io->...o">(a, d)',
        "",
        (7, 4),
        d=(8, 7),
        frozen={"w1": "is not followed", "d": "is not followed"},
    ),
}
NETS: Table = {
    "CausalConvWithState": CAUSAL_CONVOLUTIONS,
    "DeformConv": DEFORMABLE,
    "Einsum": EINSUMS,
    "ConstantOfShape": CONSTANTS,
    "Conv": CONVOLUTIONS,
    "ConvTranspose": TRANSPOSED,
    "Gemm": GEMMS,
    "MatMul": MATMULS,
}
