"""Tensor mathematics only: methods, targets, layers, grids, and what a map is worth."""
