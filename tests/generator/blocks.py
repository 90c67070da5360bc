"""The registry: which blocks continue which kind of value."""

from __future__ import annotations

from collections.abc import Callable

from tests.generator.attention import attention, fused_attention, mlp, multi_head_attention
from tests.generator.control import either, local_function, repeat, scan
from tests.generator.conversions import (
    channels_last,
    expand_over_space,
    flatten,
    gather_one,
    grid_to_image,
    pooled_vector,
    to_image,
    to_tokens,
)
from tests.generator.drawing import Drawing
from tests.generator.elementwise import (
    attend_over_channels,
    clip,
    prelu,
    residual,
    softmax,
    unary,
    unsqueeze_squeeze,
    where,
    with_constant,
)
from tests.generator.inputs import another_input
from tests.generator.layers import conv, conv_transpose, grouped_conv, linear
from tests.generator.movement import (
    chunk,
    concat,
    fold,
    gather_channels,
    largest,
    pad,
    roll,
    scatter,
    shuffle,
    slice_channels,
    split,
    tile,
)
from tests.generator.normalization import batch_norm, group_norm, instance_norm, layer_norm, lrn, rms_norm
from tests.generator.quantized import dynamic, rounded, static
from tests.generator.recurrent import recurrent
from tests.generator.spatial import depth_to_space, gate, grid_sample, pool, resize, space_to_depth, spread, windows
from tests.generator.values import Value

Block = Callable[[Drawing, Value], Value | None]
ANYWHERE: tuple[Block, ...] = (
    unary,
    residual,
    with_constant,
    concat,
    split,
    slice_channels,
    gather_channels,
    pad,
    clip,
    prelu,
    where,
    gate,
    attend_over_channels,
    tile,
    chunk,
    fold,
    softmax,
    roll,
    unsqueeze_squeeze,
    another_input,
    either,
    repeat,
    local_function,
    rounded,
    dynamic,
    static,
    scatter,
    largest,
)
SPATIAL: tuple[Block, ...] = (
    conv,
    grouped_conv,
    batch_norm,
    pool,
    shuffle,
    conv_transpose,
    resize,
    depth_to_space,
    space_to_depth,
    spread,
    instance_norm,
    group_norm,
    lrn,
    channels_last,
    flatten,
    pooled_vector,
    to_tokens,
    grid_sample,
)
SEQUENTIAL: tuple[Block, ...] = (
    linear,
    mlp,
    attention,
    layer_norm,
    recurrent,
    fused_attention,
    multi_head_attention,
    scan,
    rms_norm,
    gather_one,
    pooled_vector,
    to_image,
    flatten,
)
FLAT: tuple[Block, ...] = (linear, mlp, batch_norm, layer_norm, to_image, expand_over_space)
GRID: tuple[Block, ...] = (linear, mlp, layer_norm, grid_to_image, pooled_vector, windows)
BLOCKS = {"image": SPATIAL + ANYWHERE, "tokens": SEQUENTIAL + ANYWHERE, "vector": FLAT + ANYWHERE, "grid": GRID + ANYWHERE}
