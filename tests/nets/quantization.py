"""Quantized networks."""

import numpy as np

from tests.nets.net import Table, convs, int8, matmuls, net

STEP = {"sx": np.float32(0.05), "zx": np.uint8(120), "sy": np.float32(9.0), "zy": np.uint8(99)}  # what quantizes activations
ZERO = np.zeros(8, np.int8)
QUANTIZED = {"qw1": int8(8, 3, 1, 1), "qw2": int8(5, 8, 1, 1), **STEP}
QUANTIZED_MATRICES = {"qw1": int8(6, 8), "qw2": int8(8, 4), "inputs": "float[5,6] x", **STEP}
NETS: Table = {
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
        )
    },
    "MatMulInteger": {
        "zero point per column": net(
            "p = QuantizeLinear(x, sx, zx) a = MatMulInteger(p, qw1, zx, z) f = Cast<to = 1>(a) q = QuantizeLinear(f, sy, zy) "
            "b = MatMulInteger(q, qw2, zy) y = Cast<to = 1>(b)",
            "8 qw1.1 z.0 qw2.0",
            **QUANTIZED_MATRICES,
            z=int8(8),
        )
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
        "scale per column": net(
            "p = QuantizeLinear(x, sx, zx) a = QLinearMatMul(p, sx, zx, qw1, v, z, sy, zy) "
            "b = QLinearMatMul(a, sy, zy, qw2, sx, z0, sy, zy) y = DequantizeLinear(b, sy, zy)",
            "8 qw1.1 v.0 z.0 qw2.0",
            **QUANTIZED_MATRICES,
            v=(8,),
            z=ZERO,
            z0=np.int8(0),
        )
    },
}
