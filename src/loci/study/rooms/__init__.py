"""The suite of the rooms."""
