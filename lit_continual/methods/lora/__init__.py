"""LoRA: low-rank adapters are trained and merged."""
