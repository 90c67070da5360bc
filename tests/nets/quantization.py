"""Quantized networks."""

import numpy as np

from tests.nets.net import RESIDUAL, Net, Table, convs, gemms, int8, matmuls, net, residual

STEP = {"sx": np.float32(0.05), "zx": np.uint8(120), "sy": np.float32(9.0), "zy": np.uint8(99)}  # what quantizes activations
ZERO = np.zeros(8, np.int8)
QUANTIZED = {"qw1": int8(8, 3, 1, 1), "qw2": int8(5, 8, 1, 1), **STEP}
QUANTIZED_MATRICES = {"qw1": int8(6, 8), "qw2": int8(8, 4), "inputs": "float[5,6] x", **STEP}
X, Y = "sx, zx", "sy, zy"
MICROSOFT = "com.microsoft."
COLUMNS = {"v": (7,), "z": np.zeros(7, np.int8)}  # a scale and zero point for each of seven


def unary(op: str, tail: str = "", **more: object) -> Net:
    """Two convolutions, and what an operator on 8 bits makes of the channels between them."""
    middle = f"p = QuantizeLinear(a, sx, zx) r = {MICROSOFT}{op}(p, {X}, {X}) {tail or f'h = DequantizeLinear(r, {X})'}"
    return convs(middle, **{**STEP, "outputs": "float[2,5,N,M] y", **more})


def binary(op: str, **more: object) -> Net:
    """Three convolutions, and an operator on 8 bits that joins the channels of the first two."""
    both = f"p = QuantizeLinear(a, {X}) q = QuantizeLinear(b, {X})"
    middle = f"{both} r = {MICROSOFT}{op} h = DequantizeLinear(r, {X})"
    return residual(middle, **{**STEP, "outputs": "float[2,5,N,M] y", **more})


def linear(middle: str, groups: str, **more: object) -> Net:
    """Two matrix products of matrices of rank 3, and in the middle one of integers r with seven columns."""
    weights = {"w2": (7, 4), "d": int8(8, 7), "outputs": "float[2,5,4] y"}
    return matmuls(middle, groups, **{**STEP, **weights, **more})


def four_bits(groups: str, **more: object) -> Net:
    """Two matrix products, and in the middle one of a weight of four bits: 64 rows in blocks of 16, seven columns."""
    call = f"{MICROSOFT}MatMulNBits<K = 64, N = 7, bits = 4, block_size = 16>(a, d, v, {'z' if 'z' in more else ''}"
    packed = np.random.default_rng(4).integers(0, 256, (7, 4, 8)).astype(np.uint8)
    return linear(
        f"h = {call}{', , e' if 'e' in more else ''})", groups, **{"w1": (6, 64), "b1": (64,), "d": packed, "v": (7, 4), **more}
    )


PER_COLUMN = "8 w1.1 b1.0 d.0 | 7 d.1 v.0 z.0 w2.0"
CONTRIB: Table = {
    "DequantizeLinear": {
        "": convs(
            f"q = {MICROSOFT}QuantizeLinear(a, sx, z) h = {MICROSOFT}DequantizeLinear(q, sx, z)",
            sx=np.float32(0.05),
            z=np.uint16(120),
            outputs="float[2,5,6,6] y",
        )
    },
    "QuantizeLinear": {
        "scale per channel": convs(
            f"q = {MICROSOFT}QuantizeLinear<axis = 1>(a, v, z) h = {MICROSOFT}DequantizeLinear<axis = 1>(q, v, z)",
            "8 w1.0 b1.0 v.0 z.0 w2.1",
            v=(8,),
            z=int8(8),
            outputs="float[2,5,6,6] y",
        )
    },
    "QLinearAdd": {"": binary(f"QLinearAdd(p, {X}, q, {X}, {X})")},
    "QLinearMul": {"": binary(f"QLinearMul(p, {X}, q, {X}, {X})")},
    "QLinearWhere": {"": binary(f"QLinearWhere(t, p, {X}, q, {X}, {X})", constants="bool t = {1}")},
    "QLinearConcat": {
        "": binary(
            f"QLinearConcat<axis = 1>({X}, p, {X}, q, {X})",
            groups="8 w1.0 b1.0 w3.1 | 8 w2.0 b2.0 w3.1",
            w3=(5, 16, 1, 1),
        ),
        "over a map": binary(f"QLinearConcat<axis = 2>({X}, p, {X}, q, {X})", groups=RESIDUAL),
    },
    "QLinearAveragePool": {"": unary("QLinearAveragePool<kernel_shape = [2,2]>")},
    "QLinearGlobalAveragePool": {"": unary("QLinearGlobalAveragePool<channels_last = 0>")},
    "QLinearLeakyRelu": {"": unary("QLinearLeakyRelu")},
    "QLinearSigmoid": {"": unary("QLinearSigmoid")},
    "QLinearSoftmax": {"over a map": unary("QLinearSoftmax<axis = 2, opset = 13>")},
    "QLinearConv": {
        "depthwise": net(
            f"p = QuantizeLinear(x, {X}) a = QLinearConv(p, {X}, qw1, sx, z0, {Y}) "
            f"b = {MICROSOFT}QLinearConv<group = 8>(a, {Y}, d, v, z, {Y}) c = QLinearConv(b, {Y}, qw2, sx, z0, {Y}) "
            f"y = DequantizeLinear(c, {Y})",
            "8 qw1.0 d.0 v.0 z.0 qw2.1",
            **QUANTIZED,
            d=int8(8, 1, 3, 3),
            v=(8,),
            z=ZERO,
            z0=np.int8(0),
            outputs="float[2,5,4,4] y",
        )
    },
    "QGemm": {
        "bias, one scale": gemms(
            f"p = QuantizeLinear(a, {X}) r = {MICROSOFT}QGemm(p, {X}, q, sx, z0, k, {Y}) h = DequantizeLinear(r, {Y})",
            "8 w1.1 b1.0 q.0 | 7 q.1 k.0 w2.0",
            **STEP,
            q=int8(8, 7),
            z0=np.int8(0),
            k=np.arange(7, dtype=np.int32),
            w2=(7, 5),
            outputs="float[4,5] y",
        ),
        "scale per row of a transposed weight, to floats": gemms(
            f"p = QuantizeLinear(a, {X}) h = {MICROSOFT}QGemm<transB = 1>(p, {X}, q, v, z)",
            "8 w1.1 b1.0 q.1 | 7 q.0 v.0 z.0 w2.0",
            **STEP,
            **COLUMNS,
            q=int8(7, 8),
            w2=(7, 5),
            outputs="float[4,5] y",
        ),
    },
    "MatMulNBits": {
        "channels in, whole blocks": four_bits("4 w1.1 b1.0 d.1 v.1 | 7 d.0 v.0 e.0 w2.0", e=(7,)),
        "zero points of two blocks in a byte": four_bits(
            "2 w1.1 b1.0 d.1 v.1 z.1 | 7 d.0 v.0 z.0 w2.0", z=np.full((7, 2), 0x88, np.uint8)
        ),
        "scales in a row": four_bits("7 d.0 v.0 w2.0", v=(28,), frozen={"w1": "in one row"}),
    },
    "DynamicQuantizeMatMul": {
        "": linear(
            f"h = {MICROSOFT}DynamicQuantizeMatMul(a, d, v, z, e)",
            "8 w1.1 b1.0 d.0 | 7 d.1 v.0 z.0 e.0 w2.0",
            **COLUMNS,
            e=(7,),
            inexact=True,
        ),
    },
    "MatMulIntegerToFloat": {
        "": linear(
            f"r = QuantizeLinear(a, {X}) h = {MICROSOFT}MatMulIntegerToFloat(r, d, sx, v, zx, z, e)",
            "8 w1.1 b1.0 d.0 | 7 d.1 v.0 z.0 e.0 w2.0",
            **COLUMNS,
            e=(7,),
        ),
    },
}

NETS: Table = {
    **{MICROSOFT + op: variants for op, variants in CONTRIB.items()},
    "QuantizeLinear": {
        "one scale": convs("q = QuantizeLinear(a, sx, zx) h = DequantizeLinear(q, sx, zx)", **STEP),
        "scale per channel": convs(
            "q = QuantizeLinear<axis = 1>(a, v, z) h = DequantizeLinear<axis = -3>(q, v, z)",
            "8 w1.0 b1.0 v.0 z.0 w2.1",
            v=(8,),
            z=int8(8),
        ),
    },
    "DequantizeLinear": {
        "weight, scale per output channel": convs(
            "w = DequantizeLinear<axis = 0>(q, s, z) h = Conv(a, w)",
            "8 w1.0 b1.0 q.1 | 8 q.0 s.0 z.0 w2.1",
            q=int8(8, 8, 1, 1),
            s=(8,),
            z=ZERO,
        ),
        "weight, one scale": convs(
            "w = DequantizeLinear(q, s) h = Conv(a, w)", "8 w1.0 b1.0 q.1 | 8 q.0 w2.1", q=int8(8, 8, 1, 1), s=()
        ),
        "weight, scale per column": matmuls(
            "w = DequantizeLinear<axis = 1>(q, s) h = MatMul(a, w)", "8 w1.1 b1.0 q.0 | 8 q.1 s.0 w2.0", q=int8(8, 8), s=(8,)
        ),
    },
    "DynamicQuantizeLinear": {
        "": net(
            "a = Conv(x, w1, b1) q, s, z = DynamicQuantizeLinear(a) i = ConvInteger(q, qw, z) f = Cast<to = 1>(i) y = Mul(f, s)",
            "8 w1.0 b1.0 qw.1",
            inexact=True,
            w1=(8, 3, 1, 1),
            b1=(8,),
            qw=int8(5, 8, 1, 1),
        )
    },
    "ConvInteger": {
        "": net(
            "p = QuantizeLinear(x, sx, zx) a = ConvInteger(p, qw1, zx) f = Cast<to = 1>(a) q = QuantizeLinear(f, sy, zy) "
            "b = ConvInteger(q, qw2, zy) y = Cast<to = 1>(b)",
            "8 qw1.0 qw2.1",
            **QUANTIZED,
        ),
        "depthwise": net(
            "p = QuantizeLinear(x, sx, zx) a = ConvInteger(p, qw1, zx) f = Cast<to = 1>(a) q = QuantizeLinear(f, sy, zy) "
            "b = ConvInteger<group = 8>(q, d, zy, z) g = Cast<to = 1>(b) r = QuantizeLinear(g, sy, zy) "
            "c = ConvInteger(r, qw2, zy) y = Cast<to = 1>(c)",
            "8 qw1.0 d.0 qw2.1",
            **QUANTIZED,
            d=int8(8, 1, 3, 3),
            z=np.int8(3),
        ),
    },
    "MatMulInteger": {
        "of rank 3, zero point per column": linear(
            "r = QuantizeLinear(a, sx, zx) i = MatMulInteger(r, d, zx, z) h = Cast<to = 1>(i)",
            "8 w1.1 b1.0 d.0 | 7 d.1 z.0 w2.0",
            z=COLUMNS["z"],
        ),
        "square, of rank 3, zero point per column": linear(
            "r = QuantizeLinear(a, sx, zx) i = MatMulInteger(r, d, zx, z) h = Cast<to = 1>(i)",
            "8 w1.1 b1.0 d.0 | 8 d.1 z.0 w2.0",
            inputs="float[2,8,6] x",
            d=int8(8, 8),
            z=ZERO,
            w2=(8, 4),
            outputs="float[2,8,4] y",
        ),
        "zero point per column": net(
            "p = QuantizeLinear(x, sx, zx) a = MatMulInteger(p, qw1, zx, z) f = Cast<to = 1>(a) q = QuantizeLinear(f, sy, zy) "
            "b = MatMulInteger(q, qw2, zy) y = Cast<to = 1>(b)",
            "8 qw1.1 z.0 qw2.0",
            **QUANTIZED_MATRICES,
            z=int8(8),
        ),
    },
    "QLinearConv": {
        "scale per channel": net(
            "p = QuantizeLinear(x, sx, zx) a = QLinearConv(p, sx, zx, qw1, v, z, sy, zy, k) "
            "b = QLinearConv(a, sy, zy, qw2, sx, z0, sy, zy) y = DequantizeLinear(b, sy, zy)",
            "8 qw1.0 v.0 z.0 k.0 qw2.1",
            **QUANTIZED,
            v=(8,),
            z=ZERO,
            k=np.arange(8, dtype=np.int32),
            z0=np.int8(0),
        ),
        "one scale, no bias": net(
            "p = QuantizeLinear(x, sx, zx) a = QLinearConv(p, sx, zx, qw1, sx, z0, sy, zy) "
            "b = QLinearConv(a, sy, zy, qw2, sx, z0, sy, zy) y = DequantizeLinear(b, sy, zy)",
            "8 qw1.0 qw2.1",
            **QUANTIZED,
            z0=np.int8(0),
        ),
    },
    "QLinearMatMul": {
        "of rank 3, scale per column": linear(
            f"r = QuantizeLinear(a, {X}) i = QLinearMatMul(r, {X}, d, v, z, {Y}) h = DequantizeLinear(i, {Y})",
            PER_COLUMN,
            **COLUMNS,
        ),
        "scale per column": net(
            "p = QuantizeLinear(x, sx, zx) a = QLinearMatMul(p, sx, zx, qw1, v, z, sy, zy) "
            "b = QLinearMatMul(a, sy, zy, qw2, sx, z0, sy, zy) y = DequantizeLinear(b, sy, zy)",
            "8 qw1.1 v.0 z.0 qw2.0",
            **QUANTIZED_MATRICES,
            v=(8,),
            z=ZERO,
            z0=np.int8(0),
        ),
    },
}
