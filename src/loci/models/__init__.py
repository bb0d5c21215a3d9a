"""The networks: codecs and the video transformer."""
