"""Trials of tuning, and the sensitivity of methods."""
