"""The suite of the tabletop."""
