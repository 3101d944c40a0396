"""What several methods share: base classes of callbacks, and what stands below them."""
