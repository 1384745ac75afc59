"""Constraints on the text of one LM site, read as automata.

`predicates` says what a constraint means; `regex` and `dfa` decide questions about it without any
model; `tokens` (the only part that needs torch) turns it into tables over a vocabulary.
"""
