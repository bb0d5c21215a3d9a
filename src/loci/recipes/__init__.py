"""Functions that return the configuration of a run."""
