"""Linear models on tabular data."""
