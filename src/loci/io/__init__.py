"""Files, checkpoints, pictures and video in and out; progress; processes."""
