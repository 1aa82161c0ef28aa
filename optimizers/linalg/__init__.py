"""Linear algebra that several methods share.

Flat vectors, linear maps, CG, damping, line search, Kronecker factors.
"""
