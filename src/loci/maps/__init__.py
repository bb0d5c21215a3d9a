"""Maps: what is built of depth, colour and poses, and drawn from any pose again."""
