"""RWalk: weights are held by their Fisher information and by what they have done for the loss."""
