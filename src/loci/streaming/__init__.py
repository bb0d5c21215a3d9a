"""The streaming executor: what a stream keeps, and how it is written and read."""
