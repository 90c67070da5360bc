"""Attention as one operator."""

from tests.nets.net import Net, Table, matmuls, net

TOKENS = "float[2,5,6] x"
PROJECTED = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
APART = "{0} = Reshape({1}, n) {2} = Transpose<perm = [0,2,1,3]>({0})"
TURN = "j = Constant<value = int64[2,5] {0, 1, 2, 3, 4, 0, 1, 2, 3, 4}>()"


def projected(body: str, groups: str = "4 wq.1 wk.1 wv.1 wo.0", opset: int = 23, **more: object) -> Net:
    """Queries, keys and values in 4 heads of 2 channels each, what makes h[2,5,8] from them, and the output layer."""
    settings = {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 4), "outputs": "float[2,5,4] y", **more}
    return net(f"{PROJECTED} {body} y = MatMul(h, wo)", groups, TOKENS, opset=opset, **settings)  # type: ignore[arg-type]


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
    "com.microsoft.MultiHeadAttention": {
        "": projected("h = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v)", opset=18),
        "bias": projected(
            "h = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v, b)",
            "4 wq.1 wk.1 wv.1 wo.0 b.0",
            opset=18,
            b=(24,),
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
