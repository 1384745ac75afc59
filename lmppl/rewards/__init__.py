"""Rewards: where the scores of texts come from."""

from lmppl.rewards.scorer import Scorer

__all__ = ["Scorer"]
