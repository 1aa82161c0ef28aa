"""Runs on disk: one format, written and read in one room, and one frame of all runs."""
