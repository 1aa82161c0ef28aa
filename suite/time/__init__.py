"""Isolated timing: seconds of a step, measured with the machine alone."""
