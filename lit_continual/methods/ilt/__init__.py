"""ILT: features of the old encoder."""
