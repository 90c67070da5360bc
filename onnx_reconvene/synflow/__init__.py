"""Synaptic flow: the network of magnitudes, reduced to its channels or as it is, and rounds of removal (Tanaka et al. 2020)."""
