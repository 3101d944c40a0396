"""Brain tumours in four MR sequences."""
