"""Operators that move, read and write elements."""

import numpy as np

from tests.derivatives.case import IMAGE, Table, case, ints

MOVES: Table = {
    "Concat": {
        "": case("y = Concat<axis = 1>(x, w)", w=(2, 5, 4)),
        "last axis, one of them twice": case("y = Concat<axis = -1>(x, w, x)", w=(2, 3, 1)),
    },
    "DepthToSpace": {
        "": case("y = DepthToSpace<blocksize = 2>(x)", inputs="float[2,8,3,2] x"),
        "CRD": case('y = DepthToSpace<blocksize = 2, mode = "CRD">(x)', inputs="float[2,8,3,2] x"),
    },
    "Expand": {
        "": case("y = Expand(w, s)", inputs="", s=ints(2, 3, 4), w=(3, 1)),
        "to a smaller shape": case("y = Expand(x, s)", inputs="float[2,3,1] x", s=ints(1, 4)),
    },
    "Flatten": {"": case("y = Flatten<axis = 2>(x)")},
    "Reshape": {
        "": case("y = Reshape(x, s)", s=ints(0, -1)),
        "shape from Shape": case(
            "n = Shape<start = 1>(x) m = Constant<value_ints = [-1]>() s = Concat<axis = 0>(n, m) y = Reshape(x, s)"
        ),
    },
    "ReverseSequence": {"": case("y = ReverseSequence<batch_axis = 0, time_axis = 1>(x, n)", n=ints(3, 2))},
    "Slice": {
        "": case("y = Slice(x, a, b, c)", a=ints(1, 0), b=ints(3, -1), c=ints(1, 2)),
        "steps": case("y = Slice(x, a, b, c, d)", inputs="float[2,7,8] x", a=ints(1, 0), b=ints(99, 7), c=ints(1, 2), d=ints(2, 3)),
        "backwards": case("y = Slice(x, a, b, c, d)", inputs="float[7] x", a=ints(-2), b=ints(-(2**63)), c=ints(0), d=ints(-2)),
        "attributes": case("y = Slice<starts = [1], ends = [3], axes = [2]>(x)", opset=9),
    },
    "SpaceToDepth": {"": case("y = SpaceToDepth<blocksize = 2>(x)", inputs="float[2,3,4,6] x")},
    "Split": {
        "": case("y, z = Split<axis = 1>(x, s)", outputs="y, z", s=ints(1, 2)),
        "one part unused": case("y, z = Split<axis = 2, num_outputs = 2>(x)"),
        "equal parts": case("y, z = Split<axis = 2>(x)", outputs="y, z", opset=13),
    },
    "Squeeze": {
        "": case("y = Squeeze(x, a)", inputs="float[2,1,3,1] x", a=ints(1)),
        "all": case("y = Squeeze(x)", inputs="float[2,1,3,1] x"),
        "attribute": case("y = Squeeze<axes = [3]>(x)", inputs="float[2,1,3,1] x", opset=11),
    },
    "Tile": {"": case("y = Tile(x, n)", n=ints(2, 1, 3))},
    "Transpose": {
        "": case("y = Transpose<perm = [2,0,1]>(x)"),
        "reversed": case("y = Transpose(x)"),
    },
    "Trilu": {
        "": case("y = Trilu(x)"),
        "lower": case("y = Trilu<upper = 0>(x, k)", k=np.int64(-1)),
    },
    "Unsqueeze": {
        "": case("y = Unsqueeze(x, a)", a=ints(0, -1)),
        "attribute": case("y = Unsqueeze<axes = [1]>(x)", opset=11),
    },
}
INDICES: Table = {
    "Compress": {
        "": case("y = Compress<axis = 1>(x, c)", c=np.array([True, False, True])),
        "elements, condition too short": case("y = Compress(x, c)", c=np.arange(20) % 3 > 0),
        "last axis": case("y = Compress<axis = -1>(x, c) z = Exp(y)", outputs="z", c=np.array([False, True, False, True])),
        "condition an input": case("y = Compress<axis = 1>(x, c)", "float[2,3,4] x, bool[3] c", "float[2,1,4] y"),
    },
    "Gather": {
        "": case("y = Gather(x, i)", i=np.array([[1, 0], [-1, 1]])),
        "inner axis": case("y = Gather<axis = 1>(x, i)", i=np.array([[2, 0], [-1, 2]])),
        "one": case("y = Gather<axis = 1>(x, i)", i=np.int64(-1)),
        "a list of one": case("y = Gather<axis = 2>(x, i)", i=ints(1)),
        "computed": case("b = Cast<to = 7>(c) y = Gather<axis = 1>(x, b)", inputs="float[2,3,4] x, bool[5] c"),
    },
    "GatherElements": {"": case("y = GatherElements<axis = 1>(x, i)", i=np.array([[[0, 1, 2, -1], [0, 0, 1, 2]]] * 2))},
    "GatherND": {
        "": case("y = GatherND(x, i)", i=np.array([[0, 1], [1, 2], [0, 1]])),
        "batched": case("y = GatherND<batch_dims = 1>(x, i)", i=np.array([[[0], [2], [0]], [[1], [1], [2]]])),
    },
    "ScatterElements": {
        "": case("y = ScatterElements<axis = 1>(x, i, w)", i=np.array([[[0, 1, 2, -1]]] * 2), w=(2, 1, 4)),
        "add": case('y = ScatterElements<axis = -1, reduction = "add">(x, i, w)', i=np.array([[[1, 1, -1]]]), w=(1, 1, 3)),
        **{
            how: case(
                f'y = ScatterElements<axis = -1, reduction = "{how}">(x, i, w)', i=np.array([[[1, 1, -1], [0, 1, 0]]]), w=(1, 2, 3)
            )
            for how in ("max", "min", "mul")
        },
    },
    "ScatterND": {
        "": case("y = ScatterND(x, i, w)", i=np.array([[0, 1], [1, 2]]), w=(2, 4)),
        "add": case('y = ScatterND<reduction = "add">(x, i, w)', i=np.array([[0, 1], [0, 1], [1, 0]]), w=(3, 4)),
        **{
            how: case(f'y = ScatterND<reduction = "{how}">(x, i, w)', i=np.array([[0, 1], [0, 1], [1, 0]]), w=(3, 4))
            for how in ("max", "min", "mul")
        },
    },
}
PADS = ints(0, 0, 2, 1, 0, 0, 1, 3)
RESAMPLES: Table = {
    "Col2Im": {
        "": case("y = Col2Im(x, s, k)", inputs="float[2,12,20] x", s=ints(5, 6), k=ints(2, 2)),
        "padded, strided, dilated": case(
            "y = Col2Im<pads = [1,0,2,1], strides = [2,1], dilations = [1,2]>(x, s, k)",
            inputs="float[2,12,15] x",
            s=ints(5, 6),
            k=ints(3, 2),
        ),
        "series": case("y = Col2Im<strides = [2]>(x, s, k)", inputs="float[1,6,4] x", s=ints(9), k=ints(3)),
    },
    "GridSample": {
        **{
            f"{mode}, {padding}{', aligned' * corners}": case(
                f'y = GridSample<mode = "{mode}", padding_mode = "{padding}", align_corners = {corners}>(x, grid)',
                inputs=f"{IMAGE}, float[2,3,4,2] grid",
                zero={"grid"} if mode == "nearest" else (),
                opset=20,
            )
            for mode in ("linear", "nearest")
            for padding in ("zeros", "border", "reflection")
            for corners in (0, 1)
        },
        "far outside": case(
            'y = GridSample<padding_mode = "reflection">(x, grid)',
            inputs=f"{IMAGE}, float[2,3,4,2] grid",
            opset=20,
            low=-6,
            high=6,
        ),
        "volume": case("y = GridSample(x, grid)", inputs="float[2,2,3,4,5] x, float[2,2,3,1,3] grid", opset=20),
        "one element": case(
            'y = GridSample<padding_mode = "border", align_corners = 1>(x, grid)',
            inputs="float[1,2,1,3] x, float[1,2,3,2] grid",
            opset=20,
        ),
    },
    "RoiAlign": {
        mode: case(
            f"y = RoiAlign<output_height = 2, output_width = 3, sampling_ratio = 2, spatial_scale = 0.5,"
            f'coordinate_transformation_mode = "{mode}">(x, r, k)',
            inputs=IMAGE,
            r=np.array([[0.6, 1.1, 8.3, 9.7], [-2.3, -3.1, 4.2, 17.6], [3.1, 2.2, 4.3, 3.1]], np.float32),
            k=ints(1, 0, 1),
            single=True,
        )
        for mode in ("half_pixel", "output_half_pixel")
    },
    "Pad": {
        "": case("y = Pad(x, p)", inputs=IMAGE, p=PADS),
        "cropping": case("y = Pad(x, p)", inputs=IMAGE, p=ints(0, 0, -2, 1, 0, 0, 1, -1), single=True),
        "value": case("y = Pad(x, p, v)", inputs=IMAGE, p=PADS, v=np.float32(0.3)),
        "of some axes": case("y = Pad(x, p, , a)", inputs=IMAGE, p=ints(2, 1), a=ints(-1)),
        "attributes": case('y = Pad<mode = "reflect", pads = [0,0,2,1,0,0,1,3]>(x)', inputs=IMAGE, opset=10),
        **{mode: case(f'y = Pad<mode = "{mode}">(x, p)', inputs=IMAGE, p=PADS) for mode in ("edge", "reflect")},
        "wrap": case('y = Pad<mode = "wrap">(x, p)', inputs=IMAGE, p=PADS, opset=19),
        "a vector": case('y = Pad<mode = "edge">(x, p)', inputs="float[4] x", p=ints(1, 2)),
    },
    "Resize": {
        "nearest": case('n = Constant<value_floats = [1.0,1.0,2.0,2.0]>() y = Resize<mode = "nearest">(x, , n)', inputs=IMAGE),
        "asymmetric": case(
            "n = Constant<value_floats = [1.0,1.0,2.0,1.7]>() "
            'y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , n)',
            inputs=IMAGE,
        ),
        **{
            f"linear, {how}": case(
                f'y = Resize<mode = "linear", coordinate_transformation_mode = "{how}">(x, , , s)', inputs=IMAGE, s=ints(2, 4, 9, 8)
            )
            for how in ("half_pixel", "align_corners", "pytorch_half_pixel", "asymmetric")
        },
        "linear, smaller": case('y = Resize<mode = "linear">(x, , , s)', inputs=IMAGE, s=ints(2, 4, 3, 2)),
        "linear, antialias": case('y = Resize<mode = "linear", antialias = 1>(x, , , s)', inputs=IMAGE, s=ints(2, 4, 3, 2)),
        "linear, of some axes": case('y = Resize<mode = "linear", axes = [2,3]>(x, , , s)', inputs=IMAGE, s=ints(9, 8)),
        "cubic": case('y = Resize<mode = "cubic">(x, , , s)', inputs=IMAGE, s=ints(2, 4, 9, 8)),
        "cubic, as torch": case(
            'y = Resize<mode = "cubic", cubic_coeff_a = -0.5, exclude_outside = 1>(x, , , s)', inputs=IMAGE, s=ints(2, 4, 9, 8)
        ),
    },
}
CASES: Table = {**MOVES, **INDICES, **RESAMPLES}
