"""Which method is better: final values, verdicts, ranks, profiles, targets."""
