"""MONAI bundles, in and out."""
