"""Causal language models of Hugging Face transformers, stepped with a cache of our own."""

from lmppl.lm.huggingface.model import HuggingFaceLM

__all__ = ["HuggingFaceLM"]
