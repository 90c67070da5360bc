"""Operators that onnxruntime's optimizer fuses from several."""

from tests.nets.net import DECLARED, MATMUL, Table, convs, gemms, matmuls, net, residual

TOKENS = {"outputs": "float[2,5,4] y"}

NETS: Table = {
    "com.microsoft.BiasGelu": {"": matmuls("h = com.microsoft.BiasGelu(a, s)", MATMUL + " s.0", s=(8,), **TOKENS)},
    "com.microsoft.FastGelu": {
        "": matmuls("h = com.microsoft.FastGelu(a)", **TOKENS),
        "bias": matmuls("h = com.microsoft.FastGelu(a, s)", MATMUL + " s.0", s=(8,), **TOKENS),
    },
    "com.microsoft.Gelu": {"": convs("h = com.microsoft.Gelu(a)", **DECLARED)},
    "com.microsoft.QuickGelu": {"": convs("h = com.microsoft.QuickGelu(a)", **DECLARED)},
    "com.microsoft.FusedConv": {
        "": convs(
            'h = com.microsoft.FusedConv<activation = "Relu">(a, d, e)',
            "8 w1.0 b1.0 d.1 | 7 d.0 e.0 w2.1",
            (5, 7, 1, 1),
            d=(7, 8, 1, 1),
            e=(7,),
            **DECLARED,
        ),
        "sum": residual(
            'h = com.microsoft.FusedConv<activation = "Relu">(a, d, e, b)',
            "8 w1.0 b1.0 d.1 | 8 w2.0 b2.0 d.0 e.0 w3.1",
            d=(8, 8, 1, 1),
            e=(8,),
            **DECLARED,
        ),
    },
    "com.microsoft.FusedGemm": {
        "": gemms(
            'h = com.microsoft.FusedGemm<activation = "Relu">(a, d, e)',
            "8 w1.1 b1.0 d.0 | 7 d.1 e.0 w2.0",
            d=(8, 7),
            e=(7,),
            w2=(7, 5),
            outputs="float[4,5] y",
        )
    },
    "com.microsoft.FusedMatMul": {
        "": matmuls("h = com.microsoft.FusedMatMul<alpha = 0.5>(a, d)", "8 w1.1 b1.0 d.0 | 7 d.1 w2.0", (7, 4), d=(8, 7), **TOKENS),
        "transposed": matmuls(
            "h = com.microsoft.FusedMatMul<transB = 1>(a, d)", "8 w1.1 b1.0 d.1 | 7 d.0 w2.0", (7, 4), d=(7, 8), **TOKENS
        ),
        "batch transposed": matmuls(
            "h = com.microsoft.FusedMatMul<transBatchA = 1>(a, d)",
            "",
            (7, 4),
            d=(5, 8, 7),
            frozen={"w1": "transBatchA is not followed"},
            outputs="float[5,2,4] y",
        ),
    },
    "com.microsoft.EmbedLayerNormalization": {
        "": net(
            "h, m, t = com.microsoft.EmbedLayerNormalization(i, j, d, e, f, s, o) g = Add(h, t) y = MatMul(g, w2)",
            "8 d.1 e.1 f.1 s.0 o.0 w2.0",
            "int32[2,5] i, int32[2,5] j",
            inexact=True,
            d=(9, 8),
            e=(6, 8),
            f=(3, 8),
            s=(8,),
            o=(8,),
            w2=(8, 4),
            **TOKENS,
        )
    },
    "com.microsoft.SkipLayerNormalization": {
        "": matmuls(
            "b = MatMul(x, w3) h = com.microsoft.SkipLayerNormalization(a, b, s, o, c)",
            MATMUL + " w3.1 s.0 o.0 c.0",
            inexact=True,
            w3=(6, 8),
            s=(8,),
            o=(8,),
            c=(8,),
            **TOKENS,
        ),
    },
    "com.microsoft.SkipSimplifiedLayerNormalization": {
        "": matmuls(
            "b = MatMul(x, w3) h = com.microsoft.SkipSimplifiedLayerNormalization(a, b, s)",
            MATMUL + " w3.1 s.0",
            inexact=True,
            w3=(6, 8),
            s=(8,),
            **TOKENS,
        ),
    },
}
