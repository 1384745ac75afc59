"""Whole executions on their way from the prior to the posterior, factors brought in by degrees."""
