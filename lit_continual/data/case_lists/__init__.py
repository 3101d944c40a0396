"""Which cases a data set has, what it declares of them, and in which part of a split each is."""
