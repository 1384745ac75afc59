"""Text ⇄ Program: parsing `.lmp` files with all their syntax errors, and formatting them."""

from lmppl.syntax import ast
from lmppl.syntax.ast import Program
from lmppl.syntax.formatter import format_source
from lmppl.syntax.parser import parse
from lmppl.syntax.reading import read_program, require_text

__all__ = ["Program", "ast", "format_source", "parse", "read_program", "require_text"]
