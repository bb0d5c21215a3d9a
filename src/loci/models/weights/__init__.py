"""Weights in other layouts than ours."""
