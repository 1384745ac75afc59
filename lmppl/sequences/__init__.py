"""Weights, resampling and drawing over batches of token sequences: what every engine shares."""
