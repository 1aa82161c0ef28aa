"""Layers of several matrix products, computed product by product so that each is recorded."""

from __future__ import annotations

from torch import nn

from optimizers.layers.attention import decomposed_attention
from optimizers.layers.recurrent import decomposed_cell, decomposed_recurrent
from optimizers.layers.substitute import Decomposed, Key, Record

__all__ = ["DECOMPOSED", "Decomposed", "Key", "Record"]

DECOMPOSED: dict[type[nn.Module], Decomposed] = {
    nn.RNN: decomposed_recurrent(nn.RNN),
    nn.LSTM: decomposed_recurrent(nn.LSTM),
    nn.GRU: decomposed_recurrent(nn.GRU),
    nn.RNNCell: decomposed_cell(nn.RNNCell),
    nn.LSTMCell: decomposed_cell(nn.LSTMCell),
    nn.GRUCell: decomposed_cell(nn.GRUCell),
    nn.MultiheadAttention: decomposed_attention,
}
