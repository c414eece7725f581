"""The bench of tokenizers: what their tokens cost, what sound and words they keep, and what can be read off them."""
