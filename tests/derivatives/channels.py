"""Pooling and normalization."""

from tests.derivatives.case import IMAGE, Table, case

SERIES, VOLUME = "float[2,3,9] x", "float[1,2,4,5,4] x"
ODD = "float[1,2,11,7] x"
HALVES = "kernel_shape = [2,2], strides = [2,2]"
POOLS: Table = {
    "AveragePool": {
        "": case(f"y = AveragePool<{HALVES}>(x)", inputs=IMAGE),
        "overlapping": case("y = AveragePool<kernel_shape = [3,2]>(x)", inputs=IMAGE),
        "padded": case("y = AveragePool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(x)", inputs=IMAGE),
        "padding counts": case("y = AveragePool<kernel_shape = [3,3], pads = [1,0,1,1], count_include_pad = 1>(x)", inputs=IMAGE),
        "ceil": case(f"y = AveragePool<{HALVES}, ceil_mode = 1>(x)", inputs=ODD, opset=22),
        "ceil, padded": case(f"y = AveragePool<{HALVES}, pads = [1,1,1,1], ceil_mode = 1>(x)", inputs=ODD, opset=22),
        "ceil, padding counts": case(
            "y = AveragePool<kernel_shape = [3,3], strides = [2,2], pads = [1,0,0,1], ceil_mode = 1, count_include_pad = 1>(x)",
            inputs="float[1,2,7,8] x",
            opset=22,
        ),
        "dilated": case("y = AveragePool<kernel_shape = [2,2], dilations = [2,1]>(x)", inputs=IMAGE, opset=19),
        "SAME_UPPER": case('y = AveragePool<kernel_shape = [2,2], auto_pad = "SAME_UPPER">(x)', inputs=IMAGE),
        "SAME_LOWER": case('y = AveragePool<kernel_shape = [2,2], strides = [2,2], auto_pad = "SAME_LOWER">(x)', inputs=IMAGE),
        "series": case("y = AveragePool<kernel_shape = [3], strides = [2]>(x)", inputs=SERIES),
        "volume": case("y = AveragePool<kernel_shape = [2,2,2], strides = [2,2,2]>(x)", inputs=VOLUME),
    },
    "GlobalAveragePool": {"": case("y = GlobalAveragePool(x)", inputs=IMAGE)},
    "GlobalLpPool": {
        "": case("y = GlobalLpPool(x)", inputs=IMAGE, single=True),
        "p = 3": case("y = GlobalLpPool<p = 3>(x)", inputs=IMAGE, single=True),
    },
    "GlobalMaxPool": {"": case("y = GlobalMaxPool(x)", inputs=IMAGE)},
    "LpPool": {
        "": case("y = LpPool<kernel_shape = [2,2], strides = [2,2]>(x)", inputs=IMAGE),
        "p = 1": case("y = LpPool<kernel_shape = [2,2], p = 1>(x)", inputs=IMAGE),
        "p = 3, padded": case("y = LpPool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], p = 3>(x)", inputs=IMAGE),
    },
    "MaxPool": {
        "": case(f"y = MaxPool<{HALVES}>(x)", inputs=IMAGE),
        "overlapping": case("y = MaxPool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(x)", inputs=IMAGE),
        "ceil": case(f"y = MaxPool<{HALVES}, ceil_mode = 1>(x)", inputs=ODD, opset=22),
        "ceil, padded": case(f"y = MaxPool<{HALVES}, pads = [1,1,1,1], ceil_mode = 1>(x)", inputs=ODD, opset=22),
        "dilated": case("y = MaxPool<kernel_shape = [2,2], dilations = [2,1]>(x)", inputs=IMAGE),
        "SAME_UPPER": case(
            'y = MaxPool<kernel_shape = [2,2], auto_pad = "SAME_UPPER">(x)', inputs=IMAGE, low=-9, high=9, single=True
        ),
        "SAME_LOWER": case(
            'y = MaxPool<kernel_shape = [2,2], auto_pad = "SAME_LOWER">(x)', inputs=IMAGE, low=-9, high=9, single=True
        ),
        **{
            auto: case(f'y = MaxPool<kernel_shape = [2,2], auto_pad = "{auto}">(x)', inputs=IMAGE, low=-9, high=9, single=True)
            for auto in ("SAME_UPPER", "SAME_LOWER")
        },
        "series": case("y = MaxPool<kernel_shape = [3], strides = [2]>(x)", inputs=SERIES),
        "volume": case("y = MaxPool<kernel_shape = [2,2,2], strides = [2,2,2]>(x)", inputs=VOLUME),
    },
}
NORMALIZATIONS: Table = {
    "BatchNormalization": {
        "": case("y = BatchNormalization(x, s, b, m, p)", inputs=IMAGE, s=(4,), b=(4,), m=(4,), p=(4,)),
        "of rows": case("y = BatchNormalization(x, s, b, m, p)", inputs="float[5,4] x", s=(4,), b=(4,), m=(4,), p=(4,)),
        "training": case(
            "y, n, v = BatchNormalization<training_mode = 1>(x, s, b, m, p)",
            inputs=IMAGE,
            zero=["m", "p"],
            **dict.fromkeys("sbmp", (4,)),
        ),
    },
    "InstanceNormalization": {"": case("y = InstanceNormalization(x, s, b)", inputs=IMAGE, s=(4,), b=(4,))},
    "LRN": {
        "": case("y = LRN<size = 3, alpha = 0.5, beta = 0.6, bias = 1.5>(x)", inputs="float[2,6,2,2] x", single=True),
    },
    "LayerNormalization": {
        "": case("y = LayerNormalization(x, s, b)", s=(4,), b=(4,), opset=17),
        "of several axes": case("y = LayerNormalization<axis = 1, epsilon = 0.01>(x, s)", s=(3, 4)),
        "broadcast scale": case("y = LayerNormalization<axis = 1>(x, s, b)", s=(4,), b=(3, 1)),
    },
    "LpNormalization": {
        "": case("y = LpNormalization(x)"),
        "p = 1": case("y = LpNormalization<p = 1, axis = 1>(x)", single=True),
    },
    "RMSNormalization": {"": case("y = RMSNormalization<axis = 1>(x, s)", s=(3, 4), opset=23)},
}
CASES: Table = {**POOLS, **NORMALIZATIONS}
