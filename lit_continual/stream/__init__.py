"""Fit after fit: experiences, the loop over them, evaluation, resumption, tracking."""
