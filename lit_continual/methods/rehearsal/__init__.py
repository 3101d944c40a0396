"""Exemplars: what a stream keeps of the past, how it is chosen, and how it comes back."""
