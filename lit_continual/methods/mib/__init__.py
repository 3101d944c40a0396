"""MiB: a background that may hold old and new classes."""
