"""Language models with finitely many states, weighted automata over tokens, and what follows from
both together exactly, by dynamic programming.

`prior` says what a finite-state language model is (`known`, `hidden`: two kinds), `automaton` and
`building` what a weighted automaton is and how one is made of constraints, `backward` is the pass
from the end of a text to its beginning.
"""
