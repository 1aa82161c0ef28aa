"""Loaders and the small vendored sets; README.md beside this file says where each set comes from."""

from tasks.data.store import DataCorruptError, DataMissingError, data_directory

__all__ = ["DataCorruptError", "DataMissingError", "data_directory"]
