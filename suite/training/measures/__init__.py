"""What a run measures beside its steps: oracle costs, memory, the machine, layers, telemetry."""
