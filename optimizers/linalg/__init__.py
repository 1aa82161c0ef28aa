"""Linear algebra that several methods share: flat vectors, linear maps, CG, damping, line search, Kronecker factors."""
