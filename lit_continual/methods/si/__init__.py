"""SI: weights are held by what they have done for the loss."""
