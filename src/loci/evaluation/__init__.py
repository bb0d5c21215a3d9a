"""What a memory row remembers: the same cases and the same noise for every row, and intervals."""
