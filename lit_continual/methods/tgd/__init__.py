"""Targeted gradient descent: useful kernels are kept, redundant ones retrained."""
