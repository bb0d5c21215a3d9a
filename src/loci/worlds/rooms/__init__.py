"""Procedural rooms and camera paths through them."""
