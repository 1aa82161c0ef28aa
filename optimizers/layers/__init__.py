"""Layers of a network: what is recorded of them and which role a parameter plays."""
