"""Codecs: images to latent frames and back."""
