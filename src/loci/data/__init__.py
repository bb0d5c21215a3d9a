"""Episodes: rendered, cached, checked."""
