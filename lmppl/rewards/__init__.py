"""Rewards: where the scores of texts come from."""

from lmppl.rewards.loading import load_reward
from lmppl.rewards.scorer import Scorer

__all__ = ["Scorer", "load_reward"]
