"""Costs of a step in time and memory, against what they buy."""
