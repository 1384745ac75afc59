"""The checked program: types, typed expressions and the model. Knows neither syntax nor torch."""
