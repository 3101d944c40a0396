"""DER++: exemplars are trained on their labels and on the old network's logits."""
