"""Denoising: the module, its studies and scores."""
