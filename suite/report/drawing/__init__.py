"""Figures: canvas, styles, lines and surfaces."""
