"""The one door to checkpoints, and the closed lists of what a file may name."""
