"""Model, language models and factors joined: log densities and stepping over token sequences."""

from lmppl.target.choices import ChoiceStage, draw_choices
from lmppl.target.target import Target
from lmppl.target.texts import Automata, TextRun, TextStage
from lmppl.target.traces import TextBatch, Traces, concatenate

__all__ = [
    "Automata",
    "ChoiceStage",
    "Target",
    "TextBatch",
    "TextRun",
    "TextStage",
    "Traces",
    "concatenate",
    "draw_choices",
]
