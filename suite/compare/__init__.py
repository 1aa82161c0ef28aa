"""Verdicts: what two methods cost to reach a level, whose is less, and whether that can be told."""
