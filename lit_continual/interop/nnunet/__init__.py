"""Trained-model folders of nnU-Net v2: opened, extended, and written back."""
