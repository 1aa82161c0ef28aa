"""How a run went: curves, rates of convergence, telemetry, trajectories."""
