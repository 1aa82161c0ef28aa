"""A table once, in every format."""
