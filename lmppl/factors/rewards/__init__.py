"""Rewards: where the scores of texts come from."""

from lmppl.factors.rewards.loading import load_reward
from lmppl.factors.rewards.scorer import Scorer

__all__ = ["Scorer", "load_reward"]
