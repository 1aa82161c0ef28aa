"""Loaders and the small vendored sets; README.md beside this file says where each set comes from."""

from tasks.data.store import DataCorrupt, DataMissing, data_directory

__all__ = ["DataCorrupt", "DataMissing", "data_directory"]
