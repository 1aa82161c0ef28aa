"""Spellings and pronunciations: the Carnegie Mellon Pronouncing Dictionary."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from tasks.data.store import DataMissingError, data_directory, read_verified
from tasks.data.vendored import read_vendored

SHA256 = "2eca4a0a37b8dd89d322f116bb03d0378eb7999a5b9c16fb713d0d6fbf9e336b"
EVERY = 4  # the repository holds every fourth usable entry of the full set
ENTRY = re.compile(r"[A-Z]+  [A-Z0-2 ]+")  # first pronunciations of words made of letters alone
# the numbers of a place without a symbol, and of a pronunciation's beginning and end
PAD, BOUNDARY = 0, 1

Entry = tuple[str, tuple[str, ...]]


def usable_lines(text: str) -> list[str]:
    """The lines of dict.txt for a model of spelling, in their order: `WORD  P1 P2 ...`."""
    return [line for line in text.splitlines() if ENTRY.fullmatch(line)]


def load_entries(data: str, stress: bool, longest: int) -> list[Entry]:
    """Words and their phonemes, at most `longest` letters and as many phonemes.

    Args:
        data: one of `NAMED`.
        stress: keep the digits that mark a vowel's stress (69 symbols in place of 39).
        longest: the length of the longest word.

    Raises:
        ValueError: `data` is not a name of a set, or `longest` leaves nothing.
        DataMissingError: the full set has not been fetched.
    """
    if data not in NAMED:
        raise ValueError(f"data must be one of {', '.join(NAMED)}, got {data!r}")
    entries = [
        (word, phonemes)
        for word, phonemes in _parsed(data, stress)
        if max(len(word), len(phonemes)) <= longest
    ]
    if not entries:
        raise ValueError(f"longest must leave some words, got {longest}")
    return entries


def encode_entries(entries: list[Entry], longest: int) -> tuple[Tensor, Tensor, list[str]]:
    """Letters `(N, longest)`, phonemes `(N, longest + 2)` between boundaries, and the symbols.

    Letters count from 1 (A), phonemes from 2 in the order of the list of symbols; places without a
    symbol are PAD.
    """
    symbols = sorted({phoneme for _, phonemes in entries for phoneme in phonemes})
    numbers = {symbol: number for number, symbol in enumerate(symbols, BOUNDARY + 1)}
    letters = torch.full((len(entries), longest), PAD)
    phonemes = torch.full((len(entries), longest + 2), PAD)
    for row, (word, sounds) in enumerate(entries):
        letters[row, : len(word)] = torch.tensor([ord(letter) - ord("A") + 1 for letter in word])
        sequence = [BOUNDARY, *(numbers[phoneme] for phoneme in sounds), BOUNDARY]
        phonemes[row, : len(sequence)] = torch.tensor(sequence)
    return letters, phonemes, symbols


def full_file() -> Path:
    """The path of the full dictionary."""
    return data_directory() / "cmudict" / "dict.txt"


def read_full() -> str:
    """The unchanged full dictionary.

    Raises:
        DataMissingError: it has not been fetched.
        DataCorruptError: the file is damaged.
    """
    if not full_file().is_file():
        raise DataMissingError("cmudict")
    return read_verified(full_file(), SHA256).decode("utf-8")


@lru_cache(maxsize=2)
def _parsed(data: str, stress: bool) -> list[Entry]:
    pairs = (line.split("  ", 1) for line in usable_lines(NAMED[data]()))
    return [
        (word, tuple(sounds.split() if stress else re.sub(r"\d", "", sounds).split()))
        for word, sounds in pairs
    ]


NAMED: dict[str, Callable[[], str]] = {
    "cmudict_small": lambda: read_vendored("cmudict_small.txt.xz").decode("utf-8"),
    "cmudict": read_full,
}
