"""What memory costs."""
