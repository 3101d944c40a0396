"""Penalties by how important each weight was, and importances of one sample at a time."""
