"""Functions of a parameter vector."""
