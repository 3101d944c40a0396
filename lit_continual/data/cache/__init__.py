"""Volumes as they were preprocessed, kept in files."""
