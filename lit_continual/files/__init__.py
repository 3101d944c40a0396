"""Files, read as those of a stranger and written so that they are there whole or not at all."""
