"""What stands behind the numbers: settings, machines, failures, runs."""
