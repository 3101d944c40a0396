"""L2-SP: weights are pulled to those of the source."""
