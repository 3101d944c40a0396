"""Fine-tuning of some layers only."""
