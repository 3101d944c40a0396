"""The mathematics of each paper: tensors in, tensors out, torch only."""
