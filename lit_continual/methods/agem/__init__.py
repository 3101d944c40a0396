"""A-GEM: no step makes the loss on the past worse."""
