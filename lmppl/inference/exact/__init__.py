"""Enumeration of every execution."""
