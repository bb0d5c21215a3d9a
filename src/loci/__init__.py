"""Loci: memory for action world models."""

__version__ = "0.1.0"
