"""Tuning: studies of equally many trials, kept so that they can be gone on with, shared and resampled."""

from suite.tune.trials_frame import load_trials, unequal

__all__ = ["load_trials", "unequal"]
