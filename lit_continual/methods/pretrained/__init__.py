"""Weights that were trained elsewhere."""
