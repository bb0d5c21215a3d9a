"""Executors of a rule, and what queries and keys are made of."""
