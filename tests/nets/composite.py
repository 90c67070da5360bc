"""Blocks of real networks, where rules meet."""

from tests.nets.net import FAR, Net, conv_gemm, convs, gemms, halves, int8, matmuls, net, residual, sizes

SPLIT_IN_TWO = f"{sizes('n', 0, 2, 4, 6, 6)} p = Reshape(a, n)"
MERGED = f"{sizes('m', 2, 8, 6, 6)} h = Reshape(q, m)"
SWAP = "q = Transpose<perm = [0,2,1,3,4]>"
IN_PLACE = {"w1": (8, 8, 1, 1), "inputs": "float[2,8,6,6] x"}
FUSED = (
    "a = MatMul(x, wi) f = Add(a, bi) {n} r = Reshape(f, n) t = Transpose<perm = [2,0,3,1,4]>(r) {z} "
    "q = Gather<axis = 0>(t, z0) k = Gather<axis = 0>(t, z1) v = Gather<axis = 0>(t, z2) u = Transpose<perm = [0,1,3,2]>(k) "
    "s = MatMul(q, u) g = Softmax(s) o = MatMul(g, v) c = Transpose<perm = [0,2,1,3]>(o) {m} h = Reshape(c, m) y = MatMul(h, wo)"
).format(
    n=sizes("n", 2, 5, 3, 4, 2),
    m=sizes("m", 2, 5, 8),
    z=" ".join(f"z{i} = Constant<value_int = {i}>()" for i in range(3)),
)

SHUFFLES = {
    "some of what a Reshape has split": convs(
        f"{SPLIT_IN_TWO} {sizes('i', 1, 3)} g = Gather<axis = 2>(p, i) {sizes('m', 2, 4, 6, 6)} h = Reshape(g, m)",
        "2 w1.0 b1.0 w2.1 | 2 w1.0 b1.0",
        read=(5, 4, 1, 1),
    ),
    "shuffle, activation inside": convs(f"{SPLIT_IN_TWO} r = Relu(p) {SWAP}(r) {MERGED}", "4 w1.0 b1.0 w2.1"),
    "shuffle, scale inside": convs(
        f"{SPLIT_IN_TWO} {SWAP}(p) k = Mul(q, s) {MERGED.replace('(q', '(k')}", "2 w1.0 b1.0 w2.1", s=()
    ),
    "shuffle, its parts read too": halves(
        f"{SPLIT_IN_TWO} {SWAP}(p) {MERGED} k = Reshape(p, m)", "8 w1.0 b1.0 w2.1 w3.1", read=(5, 8, 1, 1), w3=(5, 8, 1, 1)
    ),
    "shuffle and back": convs(
        f"{SPLIT_IN_TWO} {SWAP}(p) {MERGED.replace('h =', 'c =')} d = Sigmoid(c) {sizes('o', 0, 4, 2, 6, 6)} r = Reshape(d, o) "
        "t = Transpose<perm = [0,2,1,3,4]>(r) h = Reshape(t, m)"
    ),
    "shuffle of tokens": matmuls(
        f"{sizes('n', 2, 5, 2, 4)} r = Reshape(a, n) t = Transpose<perm = [0,1,3,2]>(r) {sizes('m', 2, 5, 8)} h = Reshape(t, m)"
    ),
    "ShuffleNet unit": convs(
        "l, r = Split<axis = 1, num_outputs = 2>(a) c = Conv(r, w3) d = Concat<axis = 1>(l, c) "
        f"{SPLIT_IN_TWO.replace('(a', '(d')} {SWAP}(p) {MERGED}",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0 w3.1 | 4 w3.0 w2.1",
        w3=(4, 4, 1, 1),
    ),
    "pixel shuffle by hand": convs(
        f"{sizes('n', 2, 4, 2, 2, 6, 6)} r = Reshape(a, n) t = Transpose<perm = [0,1,4,2,5,3]>(r) {sizes('m', 2, 4, 12, 12)} "
        "h = Reshape(t, m)",
        "4 w1.0 b1.0 w2.1",
        read=(5, 4, 1, 1),
        w1=(16, 3, 1, 1),
        b1=(16,),
    ),
    "windows": convs(
        f"{sizes('n', 2, 8, 2, 3, 2, 3)} r = Reshape(a, n) t = Transpose<perm = [0,2,4,3,5,1]>(r) {sizes('m', 8, 9, 8)} "
        f"k = Reshape(t, m) s = Softmax<axis = 1>(k) {sizes('o', 2, 2, 2, 3, 3, 8)} u = Reshape(s, o) "
        f"v = Transpose<perm = [0,5,1,3,2,4]>(u) {sizes('e', 2, 8, 6, 6)} h = Reshape(v, e)"
    ),
}
ATTENTION = {
    "fused attention": net(
        FUSED,
        "4 wi.1 bi.0 wo.0",
        "float[2,5,6] x",
        wi=(6, 24),
        bi=(24,),
        wo=(8, 4),
    ),
    "low-rank adaptation": matmuls(
        "d = MatMul(e, f) w = Add(g, d) h = MatMul(a, w)",
        "3 e.1 f.0 | 7 f.1 g.1 w2.0",
        read=(7, 4),
        e=(8, 3),
        f=(3, 7),
        g=(8, 7),
    ),
    "gated feed-forward": matmuls("c = MatMul(x, w3) g = Sigmoid(c) h = Mul(a, g)", "8 w1.1 b1.0 w3.1 w2.0", w3=(6, 8)),
    "as many tokens as channels": matmuls(
        "t = Transpose<perm = [0,2,1]>(a) c = MatMul(t, w3) e = Transpose<perm = [0,2,1]>(c) h = Add(a, e)",
        "8 w1.1 b1.0 w2.0",
        inputs="float[2,8,6] x",
        w3=(8, 8),
        frozen={"w3": ""},
    ),
}
GATES = {
    "channel and place attention": convs(
        "c = Conv(x, w3) g = Sigmoid(c) p = GlobalAveragePool(a) d = Conv(p, w4) e = Sigmoid(d) f = Mul(g, e) h = Mul(a, f)",
        "8 w1.0 b1.0 w4.0 w4.1 w2.1",
        w3=(1, 3, 1, 1),
        w4=(8, 8, 1, 1),
    ),
    "constant along columns, as many as channels": convs("h = Add(a, s)", inputs="float[2,3,6,8] x", s=(8,)),
    "U-Net": convs(
        "p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a) c = Conv(p, w3) u = ConvTranspose<strides = [2,2]>(c, w4) "
        "h = Concat<axis = 1>(a, u)",
        "8 w1.0 b1.0 w3.1 w2.1 | 7 w3.0 w4.0 | 6 w4.1 w2.1",
        read=(5, 14, 1, 1),
        w3=(7, 8, 1, 1),
        w4=(7, 6, 2, 2),
    ),
    "concatenated, then cut elsewhere": residual(
        f"c = Concat<axis = 1>(a, b) {sizes('s', 0)} {sizes('e', 12)} {sizes('d', 1)} l = Slice(c, s, e, d) "
        f"{sizes('f', FAR)} r = Slice(c, e, f, d) h = Concat<axis = 1>(r, l)",
        "8 w1.0 b1.0 w3.1 | 4 w2.0 b2.0 w3.1 | 4 w2.0 b2.0 w3.1",
        w3=(5, 16, 1, 1),
    ),
    "normalized after flattening": conv_gemm(
        "f = Flatten(a) h = BatchNormalization(f, s, o, m, v)",
        "8 w1.0 b1.0 s.0 o.0 m.0 v.0 w2.0",
        read=(32, 5),
        inputs="float[2,3,2,2] x",
        s=(32,),
        o=(32,),
        m=(32,),
        v=(32,),
    ),
    "bottleneck": convs(
        "r = Relu(a) c = Conv(r, w3) d = Relu(c) e = Conv(d, w4) h = Add(x, e)",
        "8 w1.0 b1.0 w3.1 | 4 w3.0 w4.1",
        frozen={"w4": "graph input"},
        **IN_PLACE,
        w3=(4, 8, 1, 1),
        w4=(8, 4, 1, 1),
    ),
}
COMPUTED = {
    "weight normalization": net(
        "n = ReduceL2<axes = [1,2,3]>(u) e = Add(n, one) d = Div(u, e) w = Mul(d, g) a = Conv(x, w) y = Conv(a, w2)",
        "8 u.0 g.0 w2.1",
        opset=13,
        u=(8, 3, 1, 1),
        one=(),
        g=(8, 1, 1, 1),
        w2=(5, 8, 1, 1),
    ),
    "target of a Reshape partly computed": convs(
        f"s = Shape(a) {sizes('z', 0)} b = Gather(s, z) {sizes('r', 8, -1)} n = Concat<axis = 0>(b, r) h = Reshape(a, n)",
        inputs="float[N,3,6,6] x",
        read=(5, 8, 1),
    ),
    "batch counted in images times channels": convs(
        f"{sizes('r', -1, 36)} f = Reshape(a, r) s = Shape(f) {sizes('z', 0)} c = Gather(s, z) {sizes('e', 8)} d = Div(c, e) "
        f"{sizes('q', -1, 6, 6)} n = Concat<axis = 0>(d, q) h = Reshape(a, n)",
        inputs="float[N,3,6,6] x",
    ),
    "target of a Reshape all computed": convs(
        f"s = Shape(a) {sizes('z', 0)} b = Gather(s, z) {sizes('o', 1)} c = Gather(s, o) {sizes('t', 2)} g = Div(c, t) "
        f"{sizes('e', 6, 6)} n = Concat<axis = 0>(b, t, g, e) p = Reshape(a, n) {SWAP}(p) h = Reshape(q, s)",
        inputs="float[N,3,6,6] x",
    ),
    "target shared by two layers": residual(
        "f = Reshape(a, n) g = Reshape(x, n) k = Reshape(b, n) c = Concat<axis = 1>(f, g) h = Concat<axis = 1>(c, k)",
        "8 w1.0 b1.0 w3.1 | 8 w2.0 b2.0 w3.1",
        inputs="float[2,8,6,6] x",
        constants="int64[3] n = {2, 8, 36}",
        w1=(8, 8, 1, 1),
        w2=(8, 8, 1, 1),
        w3=(5, 24, 1),
    ),
    "padding computed from shapes": residual(
        f"s = Shape(a) t = Shape(b) {sizes('o', 1)} c = Gather(s, o) d = Gather(t, o) e = Sub(d, c) {sizes('f', 0, 0, 0, 0, 0)} "
        f"{sizes('g', 0, 0)} n = Concat<axis = 0>(f, e, g) p = Pad(a, n) h = Add(p, b)",
        "4 w1.0 b1.0 w2.0 b2.0 w3.1 | 4 w2.0 b2.0 w3.1",
        w1=(4, 3, 1, 1),
        b1=(4,),
    ),
    "sizes of a Split computed from shapes": halves(
        f"s = Shape(a) {sizes('o', 1)} c = Gather(s, o) {sizes('t', 2)} d = Div(c, t) e = Sub(c, d) n = Concat<axis = 0>(d, e) "
        "h, k = Split<axis = 1>(a, n)",
        outputs="float[2,5,6,6] y, float[2,5,6,6] z",
    ),
    "sizes of a Resize computed in floats": convs(
        f"s = Shape(a) {sizes('z', 0)} {sizes('t', 2)} {sizes('e', 4)} b = Slice(s, z, t) c = Slice(s, t, e) f = Cast<to = 1>(c) "
        "i = Constant<value_float = 1.5>() g = Mul(f, i) j = Floor(g) k = Cast<to = 7>(j) n = Concat<axis = 0>(b, k) "
        'h = Resize<mode = "nearest">(a, , , n)',
        inputs="float[N,3,H,W] x",
    ),
    "padding of TensorFlow, computed in floats": convs(
        f"s = Shape(a) {sizes('z', 2)} {sizes('e', 4)} c = Slice(s, z, e) f = Cast<to = 1>(c) "
        "two = Constant<value_floats = [2.0, 2.0]>() half = Div(f, two) up = Ceil(half) one = Constant<value_float = 1.0>() "
        "d = Sub(up, one) g = Mul(d, two) three = Constant<value_float = 3.0>() i = Add(g, three) j = Sub(i, f) "
        "zero = Constant<value_float = 0.0>() k = Clip(j, zero) l = Div(k, two) before = Floor(l) after = Sub(k, before) "
        "o = Constant<value_floats = [0.0, 0.0]>() m = Concat<axis = 0>(o, before, o, after) n = Cast<to = 7>(m) h = Pad(a, n)",
        tail="y = Conv<strides = [2,2]>(h, w2)",
        read=(5, 8, 3, 3),
        inputs="float[N,3,H,W] x",
    ),
    "mean over channels by their number": matmuls(
        f"{sizes('o', -1)} t = ReduceSum(a, o) s = Shape(a) c = Gather(s, i) f = Cast<to = 1>(c) m = Div(t, f) h = Sub(a, m)",
        constants="int64 i = {2}",
        inexact=True,
    ),
    "one weight, read by two layers": residual(
        "c = Conv(a, w4) d = Conv(b, w4) h = Add(c, d)",
        "8 w1.0 b1.0 w2.0 b2.0 w4.1 | 7 w4.0 w3.1",
        w3=(5, 7, 1, 1),
        w4=(7, 8, 1, 1),
    ),
    "quantized and not": convs(
        "w = DequantizeLinear<axis = 0>(q, s) c = Conv(a, w) h = Add(c, a)",
        "8 w1.0 b1.0 q.0 q.1 s.0 w2.1",
        q=int8(8, 8, 1, 1),
        s=(8,),
    ),
    "graph output in the middle": gemms(
        "g = Relu(a) h = Gemm(g, d)", "7 d.1 w2.0", outputs="y, g", frozen={"w1": "graph output"}, d=(8, 7), w2=(7, 5)
    ),
}
FREEZING = {
    "random": convs(
        "z = Constant<value_float = 0.0>() r = RandomNormalLike<seed = 1.0>(a) q = Mul(r, z) h = Add(a, q)",
        "",
        frozen={"w1": "its result is random"},
    ),
}
BLOCKS: dict[str, Net] = {**SHUFFLES, **ATTENTION, **GATES, **COMPUTED, **FREEZING}
