"""Training problems, a folder for each kind and a file for each task."""

from tasks.task import SPLITS, DataTask, Task

__all__ = ["SPLITS", "DataTask", "Task"]
