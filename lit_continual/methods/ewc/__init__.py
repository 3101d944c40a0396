"""EWC: weights are held by their Fisher information."""
