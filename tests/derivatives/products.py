"""Matrix products and convolutions."""

from tests.derivatives.case import IMAGE, Table, case

SERIES, VOLUME = "float[2,4,9] x", "float[1,2,4,5,4] x"
WIDE = "float[2,16,6,5] x"  # channels enough for the products per tap
SMALL = "float[2,16,2,4] x"  # and no more positions than channels
MATRICES: Table = {
    "Einsum": {
        "": case('y = Einsum<equation = "abc,cd->abd">(x, w)', w=(4, 5)),
        "sums": case('y = Einsum<equation = "abc,b->ba">(x, w)', w=(3,)),
        "ellipsis": case('y = Einsum<equation = "...bc,...cd->...db">(x, w)', w=(2, 4, 3)),
        "broadcast ellipsis": case('y = Einsum<equation = "...c,cd->...d">(x, w)', w=(4, 3)),
        "implicit": case('y = Einsum<equation = "ij,jk">(x, w)', inputs="float[2,3] x", w=(3, 4)),
        "three": case('y = Einsum<equation = "abc,b,cd->ad">(x, v, w)', v=(3,), w=(4, 2)),
        "one": case('y = Einsum<equation = "abc->ca">(x)'),
    },
    "Gemm": {
        "": case("y = Gemm(x, w)", inputs="float[3,4] x", w=(4, 5)),
        "bias": case("y = Gemm<alpha = 0.7, beta = 1.3>(x, w, b)", inputs="float[3,4] x", w=(4, 5), b=(5,)),
        "transposed": case("y = Gemm<transA = 1, transB = 1, alpha = 0.5>(x, w, b)", inputs="float[4,3] x", w=(5, 4), b=(3, 1)),
        "first transposed": case("y = Gemm<transA = 1>(x, w, b)", inputs="float[4,3] x", w=(4, 5), b=()),
        "second transposed": case("y = Gemm<transB = 1>(x, w, b)", inputs="float[3,4] x", w=(5, 4), b=(1, 5)),
    },
    "MatMul": {
        "": case("y = MatMul(x, w)", inputs="float[3,4] x", w=(4, 5)),
        "batch and matrix": case("y = MatMul(x, w)", w=(4, 5)),
        "matrix and batch": case("y = MatMul(w, x)", w=(5, 3)),
        "broadcast batches": case("y = MatMul(x, w)", inputs="float[2,1,3,4] x", w=(5, 4, 2)),
        "vector and batch": case("y = MatMul(w, x)", w=(3,)),
        "batch and vector": case("y = MatMul(x, w)", w=(4,)),
        "vectors": case("y = MatMul(x, w)", inputs="float[4] x", w=(4,)),
    },
}
CONVOLUTIONS: Table = {
    "Conv": {
        "": case("y = Conv(x, w, b)", inputs=IMAGE, w=(3, 4, 3, 2), b=(3,)),
        "1x1": case("y = Conv(x, w)", inputs=IMAGE, w=(3, 4, 1, 1)),
        "1x1, strided, wide": case("y = Conv<strides = [2,2]>(x, w)", inputs=WIDE, w=(3, 16, 1, 1)),
        "padded": case("y = Conv<pads = [1,0,2,1]>(x, w)", inputs=IMAGE, w=(3, 4, 3, 2)),
        "padded by more than the kernel": case("y = Conv<pads = [3,1,2,4]>(x, w)", inputs=IMAGE, w=(3, 4, 2, 2)),
        "strided": case("y = Conv<strides = [2,3], pads = [1,1,1,1]>(x, w)", inputs=IMAGE, w=(3, 4, 3, 3)),
        "rows unused": case("y = Conv<strides = [3,4]>(x, w)", inputs="float[1,2,9,8] x", w=(3, 2, 2, 3)),
        "dilated": case("y = Conv<dilations = [2,1], pads = [1,1,2,1]>(x, w)", inputs=IMAGE, w=(3, 4, 3, 3)),
        "strided and dilated": case(
            "y = Conv<dilations = [2,2], strides = [2,2], pads = [2,2,2,2]>(x, w)", inputs=IMAGE, w=(3, 4, 3, 3)
        ),
        "grouped": case("y = Conv<group = 2, pads = [1,1,1,1]>(x, w)", inputs=IMAGE, w=(6, 2, 3, 3)),
        "grouped, strided": case("y = Conv<group = 2, strides = [2,2]>(x, w)", inputs=IMAGE, single=True, w=(6, 2, 3, 3)),
        "depthwise": case("y = Conv<group = 4, pads = [1,1,1,1]>(x, w)", inputs=IMAGE, w=(4, 1, 3, 3)),
        "depthwise, strided": case("y = Conv<group = 4, strides = [2,2], pads = [1,1,1,1]>(x, w)", inputs=IMAGE, w=(4, 1, 3, 3)),
        "depthwise, two each": case("y = Conv<group = 4>(x, w)", inputs=IMAGE, w=(8, 1, 3, 3)),
        "depthwise, large": case("y = Conv<group = 2, pads = [1,0,0,2]>(x, w)", inputs="float[2,2,9,8] x", w=(2, 1, 2, 3)),
        "depthwise, large, strided": case(
            "y = Conv<group = 2, strides = [1,2], dilations = [2,3], pads = [1,1,1,1]>(x, w)",
            inputs="float[3,2,9,13] x",
            w=(2, 1, 3, 3),
        ),
        "depthwise, wide, strided": case(
            "y = Conv<group = 16, strides = [2,2], pads = [1,1,1,1]>(x, w)", inputs=WIDE, w=(16, 1, 3, 3)
        ),
        "depthwise, wide, strided, ends cropped": case(
            "y = Conv<group = 16, strides = [2,3], pads = [3,1,0,1], dilations = [1,2]>(x, w)", inputs=WIDE, w=(16, 1, 2, 2)
        ),
        "depthwise, wide, rows unused": case(
            "y = Conv<group = 16, strides = [4,3]>(x, w)", inputs="float[1,16,9,8] x", w=(16, 1, 2, 3)
        ),
        "depthwise, wide series": case(
            "y = Conv<group = 16, strides = [3], pads = [1,2]>(x, w)", inputs="float[2,16,9] x", w=(16, 1, 2)
        ),
        "depthwise series": case("y = Conv<group = 2, strides = [2], pads = [1,1]>(x, w)", inputs="float[2,2,70] x", w=(2, 1, 3)),
        "depthwise, small": case(  # all positions in pairs
            "y = Conv<group = 3, strides = [2,1], dilations = [1,2], pads = [1,2,1,1]>(x, w)",
            inputs="float[20,3,3,4] x",
            w=(3, 1, 3, 3),
        ),
        "depthwise, taps in padding alone": case(
            "y = Conv<group = 2, pads = [2,2,2,2]>(x, w)", inputs="float[3,2,1,9] x", w=(2, 1, 3, 3)
        ),
        "depthwise volume": case("y = Conv<group = 2, pads = [1,1,0,1,0,1]>(x, w)", inputs="float[2,2,4,5,4] x", w=(2, 1, 3, 2, 2)),
        "wide": case("y = Conv<pads = [1,1,1,1]>(x, w, b)", inputs=WIDE, w=(3, 16, 3, 3), b=(3,)),
        "wide, strided": case("y = Conv<strides = [2,2], pads = [1,1,1,1]>(x, w)", inputs=WIDE, w=(3, 16, 3, 3)),
        "wide, strided, ends cropped": case("y = Conv<strides = [2,3], pads = [0,3,1,0]>(x, w)", inputs=WIDE, w=(2, 16, 3, 2)),
        "wide, strided and dilated": case(
            "y = Conv<strides = [2,4], dilations = [3,2], pads = [2,1,3,2]>(x, w)", inputs="float[1,16,7,8] x", w=(2, 16, 3, 3)
        ),
        "wide series, strided": case("y = Conv<pads = [1,1], strides = [3]>(x, w)", inputs="float[2,16,10] x", w=(3, 16, 4)),
        "wide, rows unused": case("y = Conv<strides = [3,2], dilations = [1,2]>(x, w)", inputs=WIDE, w=(3, 16, 2, 2)),
        "wide, padded by more than the kernel": case(
            "y = Conv<pads = [3,1,2,4], strides = [2,1]>(x, w)", inputs=WIDE, w=(3, 16, 2, 2)
        ),
        "wide, small": case("y = Conv<pads = [1,0,1,1], strides = [1,2]>(x, w)", inputs=SMALL, w=(16, 16, 3, 2)),
        "wide, small, taps in padding alone": case(
            "y = Conv<pads = [2,2,1,1], dilations = [2,1]>(x, w)", inputs="float[2,16,1,2] x", w=(16, 16, 2, 3)
        ),
        "wide, grouped": case("y = Conv<group = 2, pads = [1,1,0,1]>(x, w)", inputs="float[2,32,4,5] x", w=(6, 16, 2, 3)),
        "many small": case("y = Conv<pads = [1,1,1,1]>(x, w)", inputs="float[8,4,2,2] x", w=(3, 4, 3, 3)),
        "many small, grouped, strided": case(
            "y = Conv<group = 2, pads = [1,0,1,2], strides = [1,2], dilations = [2,1]>(x, w)",
            inputs="float[9,4,2,2] x",
            w=(6, 2, 2, 3),
        ),
        "series": case("y = Conv<pads = [2,1], strides = [2]>(x, w, b)", inputs=SERIES, w=(3, 4, 3), b=(3,)),
        "series, wide": case("y = Conv<pads = [1,1]>(x, w)", inputs="float[2,16,9] x", w=(3, 16, 3)),
        "volume": case("y = Conv<pads = [1,0,1,0,1,1], strides = [1,2,1]>(x, w)", inputs=VOLUME, w=(3, 2, 2, 3, 2)),
        **{
            auto: case(f'y = Conv<auto_pad = "{auto}", strides = [2,2]>(x, w)', inputs=IMAGE, w=(3, 4, 3, 2))
            for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
        },
    },
    "ConvTranspose": {
        "": case("y = ConvTranspose(x, w, b)", inputs=IMAGE, w=(4, 3, 3, 2), b=(3,)),
        "strided": case("y = ConvTranspose<strides = [2,2]>(x, w)", inputs=IMAGE, w=(4, 3, 2, 2)),
        "padded": case("y = ConvTranspose<strides = [2,2], pads = [1,0,1,2]>(x, w)", inputs=IMAGE, w=(4, 3, 3, 3)),
        "output padding": case(
            "y = ConvTranspose<strides = [2,3], pads = [1,1,1,1], output_padding = [1,2]>(x, w)", inputs=IMAGE, w=(4, 3, 3, 3)
        ),
        "dilated": case("y = ConvTranspose<dilations = [2,1]>(x, w)", inputs=IMAGE, w=(4, 3, 3, 2)),
        "grouped": case("y = ConvTranspose<group = 2, strides = [2,2]>(x, w)", inputs=IMAGE, single=True, w=(4, 3, 3, 3)),
        "output shape": case(
            "y = ConvTranspose<strides = [2,2], output_shape = [12,10]>(x, w)", inputs=IMAGE, single=True, w=(4, 3, 3, 3)
        ),
        "to many channels": case("y = ConvTranspose<strides = [2,2]>(x, w)", inputs=IMAGE, w=(4, 16, 2, 2)),
        "series": case("y = ConvTranspose<strides = [2]>(x, w)", inputs=SERIES, w=(4, 3, 3)),
        "volume": case("y = ConvTranspose<strides = [2,1,2]>(x, w)", inputs="float[1,2,2,3,2] x", w=(2, 3, 2, 2, 2)),
    },
}
CASES: Table = {**MATRICES, **CONVOLUTIONS}
