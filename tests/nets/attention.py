"""Attention as one operator."""

import numpy as np

from tests.nets.net import Net, Table, int8, matmuls, net

TOKENS = "float[2,5,6] x"
PROJECTED = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
APART = "{0} = Reshape({1}, n) {2} = Transpose<perm = [0,2,1,3]>({0})"
TURN = "j = Constant<value = int64[2,5] {0, 1, 2, 3, 4, 0, 1, 2, 3, 4}>()"


def projected(body: str, groups: str = "4 wq.1 wk.1 wv.1 wo.0", opset: int = 23, **more: object) -> Net:
    """Queries, keys and values in 4 heads of 2 channels each, what makes h[2,5,8] from them, and the output layer."""
    settings = {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 4), "outputs": "float[2,5,4] y", **more}
    return net(f"{PROJECTED} {body} y = MatMul(h, wo)", groups, TOKENS, opset=opset, **settings)  # type: ignore[arg-type]


def together(call: str, groups: str, before: bool | str = "", **more: object) -> Net:
    """An operator that projects to 4 heads of 2 channels each itself, and the output layer."""
    settings = {"w": (6, 24), "b": (24,), "wo": (8, 4), "outputs": "float[2,5,4] y", **more}
    if before is True:
        before, settings = "a = MatMul(x, w1)", {**settings, "w1": (6, 8), "w": (8, 24)}
    return net(f"{before} h = {call} y = MatMul(h, wo)", groups, TOKENS, **settings)  # type: ignore[arg-type]


def grouped(inputs: str, groups: str, before: str = PROJECTED, **more: object) -> Net:
    """Four heads of 16 channels each, two of which share keys and values, and the output layer."""
    settings = {"wo": (64, 4), "outputs": "float[2,5,4] y", "constants": "int32[2] s = {4, 4}, int32 t = {5}", **more}
    if before is PROJECTED:
        settings = {"wq": (6, 64), "wk": (6, 32), "wv": (6, 32), **settings}
    call = f"h, c, d = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>({inputs})"
    return net(f"{before} {call} y = MatMul(h, wo)", groups, TOKENS, **settings)  # type: ignore[arg-type]


NETS: Table = {
    "Attention": {
        "": projected("h = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v)"),
        "wide values": projected("h = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v)", wv=(6, 12), wo=(12, 4)),
        "two heads share keys and values": projected(
            "h = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v)", "2 wq.1 wk.1 wv.1 wo.0", wk=(6, 4), wv=(6, 4)
        ),
        "causal": projected("h = Attention<q_num_heads = 4, kv_num_heads = 4, is_causal = 1>(q, k, v)"),
        "mask per head": projected(
            "h = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v, m)", "4 wq.1 wk.1 wv.1 wo.0 m.1", m=(1, 4, 5, 5)
        ),
        "one mask": projected("h = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v, m)", m=(5, 5)),
        "heads on an axis of their own": projected(
            "n = Constant<value_ints = [2,5,4,2]>() "
            f"{APART.format('q1', 'q', 'q2')} {APART.format('k1', 'k', 'k2')} {APART.format('v1', 'v', 'v2')} "
            "o = Attention(q2, k2, v2) r = Transpose<perm = [0,2,1,3]>(o) m = Constant<value_ints = [0,0,-1]>() h = Reshape(r, m)"
        ),
    },
    "com.microsoft.Attention": {
        "": together("com.microsoft.Attention<num_heads = 4>(x, w, b)", "4 w.1 b.0 wo.0"),
        "mask, narrow values": together(
            "com.microsoft.Attention<num_heads = 4, qkv_hidden_sizes = [8, 8, 4]>(x, w, b, , , m)",
            "4 w.1 b.0 m.1 wo.0",
            w=(6, 20),
            b=(20,),
            wo=(4, 4),
            m=(1, 4, 5, 5),
        ),
        "layer before": together("com.microsoft.Attention<num_heads = 4>(a, w, b)", "8 w1.1 w.0 | 4 w.1 b.0 wo.0", before=True),
    },
    "com.microsoft.QAttention": {
        "scale per column": together(
            "com.microsoft.QAttention<num_heads = 4>(p, w, b, sx, v, , zx, z)",
            "4 w.1 b.0 v.0 z.0 wo.0",
            before="p = QuantizeLinear(x, sx, zx)",
            w=int8(6, 24),
            v=np.full(24, 0.01, np.float32),
            z=np.zeros(24, np.int8),
            sx=np.float32(0.05),
            zx=np.uint8(120),
        )
    },
    "com.microsoft.GroupQueryAttention": {
        "": grouped("q, k, v, , , s, t", "2 wq.1 wk.1 wv.1 wo.0"),
        "in a row": grouped("p, , , , , s, t", "2 wp.1 wo.0", before="p = MatMul(x, wp)", wp=(6, 128)),
        "mask per head": grouped("q, k, v, , , s, t, , , , m", "2 wq.1 wk.1 wv.1 wo.0 m.1", m=(1, 4, 5, 5)),
        "keys as an output": grouped(
            "q, k, v, , , s, t", "", outputs="float[2,5,4] y, float[2,2,5,16] c", frozen={"wq": "graph output"}
        ),
    },
    "com.microsoft.MultiHeadAttention": {
        "masks": projected(
            "h = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v, , , m)",
            "4 wq.1 wk.1 wv.1 wo.0 m.1",
            opset=18,
            m=(1, 4, 5, 5),
        ),
        "wide values": projected("h = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v)", opset=18, wv=(6, 12), wo=(12, 4)),
        "": projected("h = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v)", opset=18),
        "bias": projected(
            "h = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v, b)",
            "4 wq.1 wk.1 wv.1 wo.0 b.0",
            opset=18,
            b=(24,),
        ),
    },
    "com.microsoft.RotaryEmbedding": {
        "": matmuls(
            f"{TURN} h = com.microsoft.RotaryEmbedding(a, j, cos, sin)",
            "2 w1.1 b1.0 w2.0",
            cos=(5, 2),
            sin=(5, 2),
            outputs="float[2,5,4] y",
        ),
    },
    "RotaryEmbedding": {
        "": matmuls(
            f"{TURN} h = RotaryEmbedding<num_heads = 2>(a, cos, sin, j)", "2 w1.1 b1.0 w2.0", opset=23, cos=(5, 2), sin=(5, 2)
        ),
        "heads on an axis of their own": matmuls(
            "n = Constant<value_ints = [2,5,2,4]>() r = Reshape(a, n) t = Transpose<perm = [0,2,1,3]>(r) "
            f"{TURN} c = RotaryEmbedding(t, cos, sin, j) u = Transpose<perm = [0,2,1,3]>(c) m = Constant<value_ints = [2,5,8]>() "
            "h = Reshape(u, m)",
            "2 w1.1 b1.0 w2.0",
            opset=23,
            cos=(5, 2),
            sin=(5, 2),
        ),
    },
}
