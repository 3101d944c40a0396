"""A config for data of your own: what a data set holds, what is wrong with it, and how it would be learnt."""
