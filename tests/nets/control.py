"""Control flow and local functions: channels go in and come out, and weights may lie inside."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx.parser

from tests.nets.net import MATMUL, Net, Table, convs, matmuls, net, sizes, stays

DATA = "m = ReduceMax<keepdims = 0>(x) n = Constant<value_float = 1.0>() q = Greater(m, n)"
SHAPE = "float[2,8,6,6]"
TWICE = "float[2,5,8]"
SIXES = "float[2,6,6,6] %s"
IS_SIX = "s = Shape(a) i = Constant<value_int = 2>() k = Gather(s, i) n = Constant<value_int = 6>() q = Equal(k, n)"
GOES_ON = "d = Identity(c)"
STOPS = "u = ReduceSum<keepdims = 0>(x) d = Less(u, k)"
STEPS = "M = Constant<value_int = 3>() Y = Constant<value = bool {1}>()"


def either(then: str, otherwise: str, then_out: str = f"{SHAPE} t", else_out: str = f"{SHAPE} e", test: str = DATA) -> str:
    """An If that makes h of a, by one of two lists of nodes."""
    bodies = f"then_branch = one () => ({then_out}) {{ {then} }}, else_branch = other () => ({else_out}) {{ {otherwise} }}"
    return f"{test} h = If(q) <{bodies}>"


def inside(given: Net, *weights: str) -> Net:
    """Return the same net with weights that lie in the body that reads them."""
    model = onnx.ModelProto()
    model.CopyFrom(given.model)
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in weights]:
        home = next(body for body in bodies if any(tensor.name in node.input for node in body.node))
        home.initializer.append(tensor)
        model.graph.initializer.remove(tensor)
    return replace(given, model=model)


def repeated(
    nodes: str, states: str = f"{TWICE} s", results: str = "r", more: str = "", outputs: str = "h", start: str = "a"
) -> str:
    """A Loop of three steps over what is carried from a on."""
    declared = f"int64 i, bool c, {states}"
    made = ", ".join(["bool d", *(f"{TWICE} {name}" for name in results.split())])
    return f"{STEPS} {outputs} = Loop(M, Y, {start}) <body = step ({declared}) => ({made}{more}) {{ {GOES_ON} {nodes} }}>"


def function(signature: str, nodes: str) -> str:
    """A local function."""
    return f'<domain: "my.own", opset_import: ["": 18, "my.own": 1]> {signature} {{ {nodes} }}'


INNER = "8 w1.0 b1.0 w3.1 w4.1 | 8 w3.0 w4.0 w2.1"
IF = {
    "channels go through": convs(either("t = Relu(a)", "e = Neg(a)")),
    "one branch makes channels": convs(either("t = Conv(a, w3)", "e = Abs(a)"), "8 w1.0 b1.0 w3.0 w3.1 w2.1", w3=(8, 8, 1, 1)),
    "layers in both branches": convs(
        either("u = Relu(a) t = Conv(u, w3)", "v = Neg(a) e = Conv(v, w4)"), INNER, w3=(8, 8, 1, 1), w4=(8, 8, 1, 1)
    ),
    "weights in both branches": inside(
        convs(either("u = Relu(a) t = Conv(u, w3)", "v = Neg(a) e = Conv(v, w4)"), INNER, w3=(8, 8, 1, 1), w4=(8, 8, 1, 1)),
        "w3",
        "w4",
    ),
    "layers in a row inside": inside(
        convs(
            either("u = Conv(a, w3) v = Relu(u) t = Conv(v, w4)", "e = Neg(a)"),
            "7 w3.0 w4.1 | 8 w1.0 b1.0 w3.1 w4.0 w2.1",
            w3=(7, 8, 1, 1),
            w4=(8, 7, 1, 1),
        ),
        "w3",
        "w4",
    ),
    "weights around, read in both branches": convs(
        either(
            "u = Conv(a, w3) v = Relu(u) t = Conv(v, w4)", "u = Conv(a, w3) v = Tanh(u) e = Conv(v, w4)", SIXES % "t", SIXES % "e"
        ),
        "8 w1.0 b1.0 w3.1 | 7 w3.0 w4.1 | 6 w4.0 w2.1",
        read=(5, 6, 1, 1),
        w3=(7, 8, 1, 1),
        w4=(6, 7, 1, 1),
    ),
    "weight in a Constant node": convs(
        either("k = Constant<value = float[8,1,1] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}>() t = Mul(a, k)", "e = Neg(a)"),
        "8 w1.0 b1.0 k.0 w2.1",
    ),
    "weight read in both branches": convs(either("t = Add(a, s)", "e = Sub(a, s)"), "8 w1.0 b1.0 s.0 w2.1", s=(8, 1, 1)),
    "integers follow": convs(
        either(
            f"{sizes('j', 2, 8, 36)} u = Reshape(a, j) v = Relu(u) {sizes('p', 2, 8, 6, 6)} t = Reshape(v, p)",
            "w = Shape(a) u2 = Flatten(a) v2 = Neg(u2) e = Reshape(v2, w)",
        )
    ),
    "depthwise inside": convs(either("t = Conv<group = 8>(a, w3)", "e = Neg(a)"), "8 w1.0 b1.0 w3.0 w2.1", w3=(8, 1, 1, 1)),
    "one in the other": convs(
        either(
            "k = Constant<value_float = 2.0>() z = Less(m, k) t = If(z) <then_branch = three () => "
            f"({SHAPE} t3) {{ t3 = Mul(a, s) }}, else_branch = four () => ({SHAPE} t4) {{ t4 = Sigmoid(a) }}>",
            "e = Neg(a)",
        ),
        "8 w1.0 b1.0 s.0 w2.1",
        s=(8, 1, 1),
    ),
    "statistics inside": matmuls(
        either("t = LayerNormalization(a, s)", "e = Neg(a)", f"{TWICE} t", f"{TWICE} e"),
        "8 w1.1 b1.0 s.0 w2.0",
        inexact=True,
        s=(8,),
    ),
    "free batch": convs(either("t = Relu(a)", "e = Neg(a)", "float[N,8,6,6] t", "float[N,8,6,6] e"), inputs="float[N,3,6,6] x"),
    "different shapes": convs(
        either("t = Relu(a)", f"{sizes('u', 2, 3)} e = ReduceMean(a, u)", else_out="float[2,8,1,1] e"),
        tail="k = GlobalMaxPool(h) y = Conv(k, w2)",
        outputs="float[2,5,1,1] y",
        **stays("different shapes"),
    ),
    "decided by a constant": convs(either("t = Relu(a)", "e = Neg(s)", test="q = Constant<value = bool {1}>()"), s=(2, 8, 6, 6)),
    "decided by a constant, in an old opset": convs(
        either("t = Relu(a)", "e = Conv(a, w3)", test="q = Constant<value = bool {1}>()"),
        "8 w1.0 b1.0 w3.0 w3.1 w2.1",
        w3=(8, 8, 1, 1),
        opset=9,
    ),
    "decided by a size that is not free": convs(
        either(
            "t = Relu(a)",
            f"{sizes('u', 2, 3)} e = ReduceMean(a, u)",
            else_out="float[2,8,1,1] e",
            test=IS_SIX,
        ),
        outputs="float[2,5,6,6] y",
    ),
    "decided by a size that is fixed, others are free": convs(
        either("t = Relu(a)", f"{sizes('u', 2, 3)} e = ReduceMean(a, u)", "float[N,8,6,W] t", "float[N,8,1,1] e", IS_SIX),
        inputs="float[N,3,6,W] x",
        outputs="float[N,5,6,W] y",
    ),
    "decided by a size that is free": convs(
        either("t = Mul(a, s3)", "e = Add(a, s4)", "float[N,8,H,W] t", "float[N,8,H,W] e", IS_SIX),
        "8 w1.0 b1.0 s3.0 s4.0 w2.1",
        inputs="float[N,3,H,W] x",
        s3=(8, 1, 1),
        s4=(8, 1, 1),
    ),
    "decided by the number of channels": convs(
        either(
            "t = Relu(a)",
            "e = Neg(a)",
            test="s = Shape(a) i = Constant<value_int = 1>() k = Gather(s, i) n = Constant<value_int = 8>() q = Equal(k, n)",
        ),
    ),
    "numbers of channels come out": convs(
        either("s = Shape(a) t = Gather(s, i)", "e = Identity(i)", "int64 t", "int64 e").replace(" h =", " k =")
        + " r = Range(o, k, i) f = Cast<to = 1>(r) g = ReduceSum<keepdims = 0>(f) h = Mul(a, g)",
        constants="int64 i = {1}, int64 o = {0}",
    ),
}


def loops(middle: str, groups: str = MATMUL, outputs: str = "float[2,5,4] y", **more: object) -> Net:
    """As matmuls, with declared outputs: onnx infers no shapes behind a Loop."""
    return matmuls(middle, groups, outputs=outputs, **more)  # type: ignore[arg-type]


LOOP = {
    "carried": loops(repeated("p1 = MatMul(s, w3) r = Tanh(p1)"), "8 w1.1 b1.0 w3.0 w3.1 w2.0", w3=(8, 8)),
    "weight inside": inside(loops(repeated("p1 = MatMul(s, w3) r = Tanh(p1)"), "8 w1.1 b1.0 w3.0 w3.1 w2.0", w3=(8, 8)), "w3"),
    "two layers inside": inside(
        loops(
            repeated("p1 = MatMul(s, w3) p2 = Relu(p1) p3 = MatMul(p2, w4) r = Add(s, p3)"),
            "7 w3.1 w4.0 | 8 w1.1 b1.0 w3.0 w4.1 w2.0",
            w3=(8, 7),
            w4=(7, 8),
        ),
        "w3",
        "w4",
    ),
    "two states": loops(
        repeated("r = Tanh(z) l = MatMul(s, w3)", f"{TWICE} s, {TWICE} z", "r l", outputs="h, g", start="a, b3").replace(
            "M =", "b3 = MatMul(x, w4) M ="
        ),
        "8 w1.1 b1.0 w3.0 w3.1 w4.1 w2.0",
        w3=(8, 8),
        w4=(6, 8),
    ),
    "one slice a step comes out": loops(
        repeated("r = Tanh(s) l = MatMul(r, w3)", more=", float[2,5,7] l", outputs="g, h"),
        "8 w1.1 b1.0 w3.0 | 7 w3.1 w2.0",
        outputs="float[3,2,5,4] y",
        read=(7, 4),
        w3=(8, 7),
    ),
    "reads what is around it": loops(repeated("p1 = Mul(s, a) r = Sigmoid(p1)")),
    "counts": loops(repeated("f = Cast<to = 1>(i) r = Add(s, f)")),
    "the shape changes": loops(
        repeated("r = Concat<axis = 1>(s, a)").replace(f"{TWICE} s", "float[2,K,8] s").replace(f"{TWICE} r", "float[2,L,8] r"),
        outputs="float[2,40,4] y",
        **stays("changes its shape"),
    ),
    "until the data says stop": loops(f"k = Constant<value_float = 9.0>() {repeated('r = Add(s, a)').replace(GOES_ON, STOPS)}"),
    "slices of an unknown number of steps": loops(
        f"k = Constant<value_float = 9.0>() "
        f"{repeated('r = Add(s, a) l = Relu(r)', more=f', {TWICE} l', outputs='g, h').replace(GOES_ON, STOPS)}",
        outputs="float[K,2,5,4] y",
        **stays("how many steps"),
    ),
    "free batch": loops(
        repeated("p1 = MatMul(s, w3) r = Tanh(p1)").replace("float[2,", "float[N,"),
        "8 w1.1 b1.0 w3.0 w3.1 w2.0",
        inputs="float[N,5,6] x",
        outputs="float[N,5,4] y",
        w3=(8, 8),
    ),
    "recurrent layer written out": net(
        f"{STEPS.replace('3', '4')} a = MatMul(x, w1) z = ConstantOfShape(e) "
        "l, o = Loop(M, Y, z) <body = step (int64 i, bool c, float[2,8] s) => "
        "(bool d, float[2,8] r, float[2,8] each) { d = Identity(c) f = Gather<axis = 0>(a, i) g = MatMul(s, w3) k = Add(f, g) "
        "r = Tanh(k) each = Identity(r) }> y = MatMul(o, w2)",
        "8 w1.1 z.1 w3.0 w3.1 w2.0",
        inputs="float[4,2,6] x",
        constants="int64[2] e = {2, 8}",
        w1=(6, 8),
        w3=(8, 8),
        w2=(8, 5),
    ),
}


def scanned(nodes: str, attributes: str = "num_scan_inputs = 1", step: str = "float[2,8]") -> str:
    """A Scan over the second axis of a, with a state that begins with s0."""
    body = f"step ({step} s, {step} e) => ({step} r, {step} each) {{ {nodes} each = Identity(r) }}"
    return f"l, h = Scan<{attributes}, body = {body}>(s0, a)"


AXES = "num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1]"
SCAN = {
    "over the first axis": matmuls(scanned("k = Add(s, e) r = Tanh(k)", step="float[5,8]"), "8 w1.1 b1.0 s0.1 w2.0", s0=(5, 8)),
    "over another axis": matmuls(
        scanned("g = MatMul(s, w3) k = Add(g, e) r = Tanh(k)", AXES), "8 w1.1 b1.0 s0.1 w3.0 w3.1 w2.0", s0=(2, 8), w3=(8, 8)
    ),
    "over channels": matmuls(
        scanned("k = Add(s, e) r = Tanh(k)", AXES.replace("[1]", "[2]"), "float[2,5]"), s0=(2, 5), **stays("takes its input apart")
    ),
    "backwards": matmuls(
        scanned("k = Add(s, e) r = Tanh(k)", f"{AXES}, scan_input_directions = [1]"), "8 w1.1 b1.0 s0.1 w2.0", s0=(2, 8)
    ),
}
NETS: Table = {"If": IF, "Loop": LOOP, "Scan": SCAN}
BLOCK = function("Block (v, w) => (z)", "c = Conv(v, w) z = Relu(c)")
FUNCTIONS = {
    "function": convs("h = my.own.Twice(a)", functions=function("Twice (v) => (z)", "z = Add(v, v)")),
    "function with a layer": convs(
        "c = my.own.Block(a, w3) h = my.own.Block(c, w4)",
        "8 w1.0 b1.0 w3.1 | 7 w3.0 w4.1 | 6 w4.0 w2.1",
        read=(5, 6, 1, 1),
        functions=BLOCK,
        w3=(7, 8, 1, 1),
        w4=(6, 7, 1, 1),
    ),
    "function that stores a weight": convs(
        "h = my.own.Scale(a)",
        "8 w1.0 b1.0 k__1.0 w2.1",
        functions=function("Scale (v) => (z)", f"k = Constant<value = float[8,1,1] {{{', '.join('12345678')}}}>() z = Mul(v, k)"),
    ),
    "function that counts channels": convs(
        "h = my.own.Flat(a)",
        functions=function("Flat (v) => (z)", f"{sizes('n', 2, 8, 36)} r = Reshape(v, n) s = Shape(v) z = Reshape(r, s)"),
    ),
    "functions in functions": convs(
        "h = my.own.Two<by = 3.0>(a)",
        functions=function("Two <by: float> (v) => (z)", "u = my.own.One<by: float = @by>(v) z = my.own.One(u)")
        + function("One <by: float = 2.0> (v) => (z)", "k = Constant<value_float: float = @by>() z = Mul(v, k)"),
    ),
    "function with branches": convs(
        f"{DATA} h = my.own.Either(q, a)",
        functions=function(
            "Either (q, v) => (z)",
            "z = If(q) <then_branch = one () => (t) { t = Relu(v) }, else_branch = other () => (e) { e = Neg(v) }>",
        ),
    ),
    "function called in a branch": convs(
        either("t = my.own.Block(a, w3)", "e = Neg(a)"), "8 w1.0 b1.0 w3.0 w3.1 w2.1", functions=BLOCK, w3=(8, 8, 1, 1)
    ),
}
