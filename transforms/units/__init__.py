"""Discrete units of speech: an encoder's layer, quantised by k-means and de-duplicated."""
