"""Hold of a fit that is not ours: steps, forward calls, layers and precision of anybody's module."""
