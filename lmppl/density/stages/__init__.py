"""The kinds of site: what can be drawn."""
