"""Training: what is learnt, and the loop that drives it."""
