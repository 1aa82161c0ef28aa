"""The recurrent character model with gated recurrent units."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from tasks.language.char_rnn import CharRNN


class CharGRU(CharRNN):
    """`CharRNN` with GRUs in the LSTMs' place: three gates instead of four, and no cell state.

    Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014 (arXiv 1406.1078),
    in torch's form, which applies the reset gate after the hidden product.
    """

    cell: ClassVar[type[nn.RNNBase]] = nn.GRU
