"""Text ⇄ Program: parsing `.lmp` files with all their syntax errors, and formatting them."""

from lmppl.syntax import ast
from lmppl.syntax.ast import Program
from lmppl.syntax.formatter import format_source
from lmppl.syntax.parser import parse

__all__ = ["Program", "ast", "format_source", "parse"]
