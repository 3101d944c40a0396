"""LightningModules, and the heads that grow on them."""
