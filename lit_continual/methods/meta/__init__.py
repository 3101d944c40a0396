"""Meta-tune: fine-tuning by the gradient after adaptation."""
