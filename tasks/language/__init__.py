"""Networks on text."""
