"""Studies: memories compared on the same cases with the same noise."""
