"""Worlds rendered by ray casting, with exact depth, identity masks and poses."""
