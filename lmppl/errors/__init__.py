"""Diagnostics: what is wrong, where, why, and what to do about it."""

from lmppl.errors.diagnostic import Diagnostic, Label, Severity, Span
from lmppl.errors.failure import InferenceError, InternalError, LmpError, StorageError
from lmppl.errors.rendering import render, render_diagnostic
from lmppl.errors.suggestion import closest

__all__ = [
    "Diagnostic",
    "InferenceError",
    "InternalError",
    "Label",
    "LmpError",
    "Severity",
    "Span",
    "StorageError",
    "closest",
    "render",
    "render_diagnostic",
]
