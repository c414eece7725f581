"""TASTE: one speech token for each word (arXiv 2504.07053).

Reading order: `words` (what a word is, in two vocabularies), `aggregator` (one vector for each word), `rvq` (the vector as
codes), `model` (all of it, and its file), `stage` (in the pipeline); `decoder`, `examples` and `fit` make the file.
"""
