"""Who sees whom: the rule, and what follows from its structure."""
