"""Who is better: final values, verdicts, ranks, profiles, and what reached its target."""
