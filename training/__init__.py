"""What eats the shards: a streaming reader, layouts, packing, a hybrid speech-text LM, its loop, evaluation and sampling.

Reading order: `options`, `reader` (shards -> rows), `text` (words -> ids), `layouts` (row -> ids, labels, weights), `packing`,
`loader` (rows -> batches in an order that depends on seed and step alone), `model`, `train`, `checkpoint`, `evaluate`, `generate`.
Imports `schemas` only; torch and transformers are imported by `model` and what stands on it.
"""
