"""Inference: a folder per method, one loop for all of them.

Importing this room loads no tensors: what methods say of themselves is static, and a method's
engine is imported when it runs.
"""

from lmppl.inference.methods import METHODS, check_method, default_method, method_named
from lmppl.inference.options import settings_from_options
from lmppl.inference.settings import Settings

__all__ = [
    "METHODS",
    "Settings",
    "check_method",
    "default_method",
    "method_named",
    "settings_from_options",
]
