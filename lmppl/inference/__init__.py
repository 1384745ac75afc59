"""Inference: one file per method, one loop for all of them.

Importing this room loads no tensors: the registry below is static, and a method's engine is
imported when it runs.
"""

from lmppl.inference.settings import (
    METHODS,
    Settings,
    check_method,
    method_named,
    settings_from_options,
)

__all__ = ["METHODS", "Settings", "check_method", "method_named", "settings_from_options"]
