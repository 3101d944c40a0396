"""Torchmetrics classes: Dice, surface distance, the result matrix and what follows from it."""
