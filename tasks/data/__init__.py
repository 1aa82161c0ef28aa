"""Loaders of data sets and the small vendored sets, whose sources README.md names."""

from tasks.data.store import DataCorruptError, DataMissingError, data_directory

__all__ = ["DataCorruptError", "DataMissingError", "data_directory"]
