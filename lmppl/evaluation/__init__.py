"""Expressions: their values for batches, their ranges, and their facts."""
