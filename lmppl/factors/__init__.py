"""The kinds of factor a model can have: one file each; constraints share one automaton engine."""
