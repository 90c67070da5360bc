"""Pooling, sampling, resizing."""

from tests.nets.net import Table, convs, residual, stays

POOLS: Table = {
    "AveragePool": {
        "": convs("h = AveragePool<kernel_shape = [2,2], strides = [2,2]>(a)"),
        "padded": convs("h = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1>(a)"),
    },
    "GlobalAveragePool": {"": convs("h = GlobalAveragePool(a)")},
    "GlobalLpPool": {"": convs("h = GlobalLpPool<p = 2>(a)")},
    "GlobalMaxPool": {"": convs("h = GlobalMaxPool(a)")},
    "LpPool": {"": convs("h = LpPool<kernel_shape = [2,2], p = 2>(a)")},
    "MaxPool": {
        "": convs("h = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)"),
        "ceil": convs("h = MaxPool<kernel_shape = [3,3], strides = [2,2], ceil_mode = 1>(a)"),
        "indices as an output": convs("h, i = MaxPool<kernel_shape = [2,2]>(a)", outputs="y, i", **stays("")),
    },
}
SAMPLES: Table = {
    "GridSample": {"": convs("h = GridSample(a, grid)", inputs="float[2,3,6,6] x, float[2,3,4,2] grid")},
    "MaxRoiPool": {
        "": convs(
            "r = Constant<value = float[2,5] {0.0, 0.0, 0.0, 3.0, 3.0, 1.0, 1.0, 2.0, 5.0, 5.0}>() "
            "h = MaxRoiPool<pooled_shape = [2,2]>(a, r)"
        )
    },
    "RoiAlign": {
        "": convs(
            "r = Constant<value = float[2,4] {0.0, 0.0, 3.0, 3.0, 1.0, 2.0, 5.0, 5.0}>() k = Constant<value_ints = [0,1]>() "
            "h = RoiAlign<output_height = 2, output_width = 3>(a, r, k)"
        )
    },
}
TWICE = "f = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()"
RESIZES: Table = {
    "Resize": {
        "scales": convs(f'{TWICE} h = Resize<mode = "nearest">(a, , f)', opset=13),
        "linear scales": convs(f'{TWICE} h = Resize<mode = "linear">(a, , f)', opset=11 + 2),
        "sizes": convs('n = Constant<value_ints = [2,8,9,9]>() h = Resize<mode = "nearest">(a, , , n)', opset=13),
        "sizes computed at run time": convs(
            "s = Shape(a) t = com.microsoft.ExpandDims(s, o) n = Reshape(t, m) h = Resize(a, , , n)",
            constants="int32 o = {0}, int64[1] m = {4}",
            outputs="float[2,5,6,6] y",
            **stays("computed at run time"),
        ),
        "sizes of some axes": convs('n = Constant<value_ints = [9,9]>() h = Resize<mode = "nearest", axes = [2,3]>(a, , , n)'),
        "sizes of all axes, named": convs(
            'n = Constant<value_ints = [2,8,9,9]>() h = Resize<mode = "nearest", axes = [0,1,2,3]>(a, , , n)'
        ),
        "sizes from Shape": convs(
            "s = Shape(a) z = Constant<value_ints = [0]>() t = Constant<value_ints = [2]>() k = Slice(s, z, t) "
            'm = Constant<value_ints = [9,9]>() n = Concat<axis = 0>(k, m) h = Resize<mode = "nearest">(a, , , n)',
            opset=13,
            inputs="float[N,3,6,6] x",
        ),
        "sizes of another layer": residual(
            "s = Shape(a) p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(b) "
            'u = Resize<mode = "nearest">(p, , , s) h = Add(a, u)'
        ),
        "more channels": convs(
            'f = Constant<value = float[4] {1.0, 2.0, 1.0, 1.0}>() h = Resize<mode = "nearest">(a, , f)',
            read=(5, 16, 1, 1),
            **stays("Resize"),
        ),
    },
    "Upsample": {
        "": convs(f'{TWICE} h = Upsample<mode = "nearest">(a, f)', opset=9),
        "scales as an attribute": convs('h = Upsample<mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]>(a)', opset=7),
    },
}
NETS: Table = {**POOLS, **SAMPLES, **RESIZES}
