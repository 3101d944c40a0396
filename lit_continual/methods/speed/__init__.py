"""How a fit computes, and not what it learns: the layout of weights in memory, and compiled networks."""
