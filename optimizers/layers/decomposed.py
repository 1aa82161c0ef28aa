"""Layers that are made of several matrix products, computed product by product so that each can be recorded."""

from __future__ import annotations

from torch import nn

from optimizers.layers.attention import exposed_attention
from optimizers.layers.recurrent import exposed_cell, exposed_recurrent
from optimizers.layers.substitute import Exposed, Key, Record

__all__ = ["EXPOSED", "Exposed", "Key", "Record"]

EXPOSED: dict[type[nn.Module], Exposed] = {
    nn.RNN: exposed_recurrent(nn.RNN),
    nn.LSTM: exposed_recurrent(nn.LSTM),
    nn.GRU: exposed_recurrent(nn.GRU),
    nn.RNNCell: exposed_cell(nn.RNNCell),
    nn.LSTMCell: exposed_cell(nn.LSTMCell),
    nn.GRUCell: exposed_cell(nn.GRUCell),
    nn.MultiheadAttention: exposed_attention,
}
