"""Details behind the numbers: settings, machines, failures, runs."""
