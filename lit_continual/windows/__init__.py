"""A whole volume through a network that sees windows of it, in bounded memory."""
