"""Random valid networks: blocks strung together, every shape known while they are drawn.

Everything is decided by calls of one function, `pick(n)`, which returns an integer from 0 to n - 1, and 0 stands for the simplest
choice. So hypothesis (`networks`) as well as a plain list of integers (`Choices`) can draw a network, and shrink it. A block is a
function from a network being drawn and one of its values to a new value; `blocks.py` lists them all.
"""

from tests.generator.networks import network, networks
from tests.generator.picks import Choices

__all__ = ["Choices", "network", "networks"]
