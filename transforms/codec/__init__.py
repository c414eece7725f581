"""Codec codes: sound to [K, T] integers and back."""
