"""What figures share: canvas, panels, styles, lines, contours and trajectories."""
