"""Which samples to keep: certainty, coverage, content, herding."""
