"""The nets of all operators, by name of operator and variant."""

from tests.nets import (
    along_axis,
    attention,
    channelwise,
    composite,
    control,
    elementwise,
    fused,
    movement,
    normalization,
    quantization,
    recurrent,
    weights,
)
from tests.nets.net import Net, Table, check_groups

NETS: Table = {
    **along_axis.NETS,
    **attention.NETS,
    **channelwise.NETS,
    **control.NETS,
    **elementwise.NETS,
    **fused.NETS,
    **movement.NETS,
    **normalization.NETS,
    **quantization.NETS,
    **recurrent.NETS,
    **weights.NETS,
}
ALL = {f"{op}: {variant}" if variant else op: net for op, variants in NETS.items() for variant, net in variants.items()}
ALL |= composite.BLOCKS | control.FUNCTIONS

__all__ = ["ALL", "NETS", "Net", "Table", "check_groups"]
