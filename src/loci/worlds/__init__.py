"""Worlds rendered by ray casting: rooms to look at, a table to work on, both with exact truth."""
