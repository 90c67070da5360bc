"""Recurrent layers."""

from tests.derivatives.case import Case, Table, case

SEQUENCE = "float[3,2,4] x"
STATES = "float[3,2,4] x, float[1,2,5] h, float[1,2,5] c"


def layer(op: str, gates: int, attributes: str = "", directions: int = 1, **more: object) -> Case:
    """Return the network of one layer of five units, all of whose outputs count."""
    cells = ", k" if op == "LSTM" else ""
    attributes = f"hidden_size = 5{attributes}"
    body = f"y, z{cells} = {op}<{attributes}>(x, w, r, b)"
    weights = {"w": (directions, 5 * gates, 4), "r": (directions, 5 * gates, 5), "b": (directions, 10 * gates)}
    settings = {"inputs": SEQUENCE, "outputs": f"y, z{cells}", **weights, **more}
    return case(body, **settings)  # type: ignore[arg-type]


def variants(op: str, gates: int, attributes: str = "") -> dict[str, Case]:
    """Return the layers of an operator."""
    return {
        "": layer(op, gates, attributes),
        "reverse": layer(op, gates, f'{attributes}, direction = "reverse"'),
        "bidirectional": layer(op, gates, f'{attributes}, direction = "bidirectional"', directions=2),
        "last state only": case(
            f", y = {op}<hidden_size = 5{attributes}>(x, w, r)",
            inputs=SEQUENCE,
            w=(1, 5 * gates, 4),
            r=(1, 5 * gates, 5),
        ),
    }


CASES: Table = {
    "GRU": variants("GRU", 3, ", linear_before_reset = 1"),
    "LSTM": variants("LSTM", 4),
    "RNN": variants("RNN", 1),
}
CASES["LSTM"]["given states"] = case("y = LSTM<hidden_size = 5>(x, w, r, , , h, c)", inputs=STATES, w=(1, 20, 4), r=(1, 20, 5))
