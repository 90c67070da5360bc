"""Recurrent layers."""

import numpy as np

from tests.nets.net import Net, Table, int8, matmuls, sizes

READ = {"inputs": "float[4,2,3] x", "w1": (3, 8), "read": (6, 4)}


def recurrent(op: str, gates: int) -> dict[str, Net]:
    """The variants of a recurrent layer of 6 hidden units over sequences of 4."""
    one = {"w": (1, 6 * gates, 8), "r": (1, 6 * gates, 6), "b": (1, 12 * gates), **READ}
    two = {name: (2, *shape[1:]) for name, shape in one.items() if name in ("w", "r", "b")}
    groups = "8 w1.1 b1.0 w.2 | 6 w.1 r.1 r.2 b.1 w2.0"
    return {
        "all steps": matmuls(f"q, l = {op}<hidden_size = 6>(a, w, r, b) {sizes('n', 1)} h = Squeeze(q, n)", groups, **one),
        "last step": matmuls(f"q, l = {op}<hidden_size = 6>(a, w, r, b) {sizes('n', 0)} h = Squeeze(l, n)", groups, **one),
        "no bias": matmuls(
            f"q, l = {op}<hidden_size = 6>(a, w, r) {sizes('n', 1)} h = Squeeze(q, n)",
            "8 w1.1 b1.0 w.2 | 6 w.1 r.1 r.2 w2.0",
            **{name: shape for name, shape in one.items() if name != "b"},
        ),
        "initial state": matmuls(
            f"q, l = {op}<hidden_size = 6>(a, w, r, b, , i) {sizes('n', 1)} h = Squeeze(q, n)",
            "8 w1.1 b1.0 w.2 | 6 w.1 r.1 r.2 b.1 i.2 w2.0",
            **one,
            i=(1, 2, 6),
        ),
        "two directions": matmuls(
            f'q, l = {op}<hidden_size = 6, direction = "bidirectional">(a, w, r, b) t = Transpose<perm = [0,2,1,3]>(q) '
            f"{sizes('n', 0, 0, -1)} h = Reshape(t, n)",
            groups,
            **{**one, **two, "read": (12, 4)},
        ),
        "two layers": matmuls(
            f"q, l = {op}<hidden_size = 6>(a, w, r, b) {sizes('n', 1)} k = Squeeze(q, n) "
            f"o, m = {op}<hidden_size = 5>(k, u, v) h = Squeeze(o, n)",
            "8 w1.1 b1.0 w.2 | 6 w.1 r.1 r.2 b.1 u.2 | 5 u.1 v.1 v.2 w2.0",
            **{**one, "u": (1, 5 * gates, 6), "v": (1, 5 * gates, 5), "read": (5, 4)},
        ),
    }


LSTM = recurrent("LSTM", 4) | {
    "initial states, peepholes, last cell": matmuls(
        f"q, l, c = LSTM<hidden_size = 6>(a, w, r, b, , i, j, p3) {sizes('n', 0)} h = Squeeze(c, n)",
        "8 w1.1 b1.0 w.2 | 6 w.1 r.1 r.2 b.1 i.2 j.2 p3.1 w2.0",
        **{**READ, "w": (1, 24, 8), "r": (1, 24, 6), "b": (1, 48), "i": (1, 2, 6), "j": (1, 2, 6), "p3": (1, 18)},
    ),
    "state as an output": matmuls(
        f"q, l, c = LSTM<hidden_size = 6>(a, w, r) {sizes('n', 1)} h = Squeeze(q, n)",
        "8 w1.1 b1.0 w.2",
        outputs="y, c",
        frozen={"w": "graph output"},
        **{**READ, "w": (1, 24, 8), "r": (1, 24, 6)},
    ),
}
QUANTIZED = "com.microsoft.DynamicQuantizeLSTM<hidden_size = 6{}>(a, w, r, b, , , , , s, z, s, z)"
BOTH_WAYS = ', direction = "bidirectional"'
EIGHT_BITS = {**READ, "outputs": "float[4,2,4] y", "inexact": True}
DYNAMIC = {
    "": matmuls(
        f"q, l, c = {QUANTIZED.format('')} {sizes('n', 1)} h = Squeeze(q, n)",
        "8 w1.1 b1.0 w.1 | 6 w.2 r.1 r.2 b.1 w2.0",
        **{**EIGHT_BITS, "w": int8(1, 8, 24), "r": int8(1, 6, 24), "b": (1, 48)},
        s=np.full(1, 0.02, np.float32),
        z=np.zeros(1, np.int8),
    ),
    "two directions": matmuls(
        f"q, l, c = {QUANTIZED.format(BOTH_WAYS)} t = Transpose<perm = [0,2,1,3]>(q) {sizes('n', 0, 0, -1)} h = Reshape(t, n)",
        "8 w1.1 b1.0 w.1 | 6 w.2 r.1 r.2 b.1 w2.0",
        **{**EIGHT_BITS, "w": int8(2, 8, 24), "r": int8(2, 6, 24), "b": (2, 48), "read": (12, 4)},
        s=np.full(2, 0.02, np.float32),
        z=np.zeros(2, np.int8),
    ),
    "two directions, scale per gate": matmuls(
        f"q, l, c = {QUANTIZED.format(BOTH_WAYS)} t = Transpose<perm = [0,2,1,3]>(q) {sizes('n', 0, 0, -1)} h = Reshape(t, n)",
        "8 w1.1 b1.0 w.1 | 6 w.2 r.1 r.2 b.1 s.1 z.1 w2.0",
        **{**EIGHT_BITS, "w": int8(2, 8, 24), "r": int8(2, 6, 24), "b": (2, 48), "read": (12, 4)},
        s=np.full((2, 24), 0.02, np.float32),
        z=np.zeros((2, 24), np.int8),
    ),
}
NETS: Table = {
    "GRU": recurrent("GRU", 3),
    "LSTM": LSTM,
    "RNN": recurrent("RNN", 1),
    "com.microsoft.DynamicQuantizeLSTM": DYNAMIC,
}
NETS["GRU"]["reset after"] = matmuls(
    f"q, l = GRU<hidden_size = 6, linear_before_reset = 1>(a, w, r, b) {sizes('n', 1)} h = Squeeze(q, n)",
    "8 w1.1 b1.0 w.2 | 6 w.1 r.1 r.2 b.1 w2.0",
    **{**READ, "w": (1, 18, 8), "r": (1, 18, 6), "b": (1, 36)},
)
