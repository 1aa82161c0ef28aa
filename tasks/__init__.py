"""Training problems: a model, data, loss and the metric it is judged by.

A folder per kind, one file per task.
"""

from tasks.task import SPLITS, DataTask, Task

__all__ = ["SPLITS", "DataTask", "Task"]
