"""MAS: weights are held by how much the answers depend on them."""
