"""PLOP: pooled features of the old network, and its certain answers as labels."""
