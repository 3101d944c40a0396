"""Whole-body FDG PET."""
