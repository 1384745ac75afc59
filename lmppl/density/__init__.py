"""Model, language models and factors joined: log densities and stepping over token sequences."""

from lmppl.density.rows import SiteRows
from lmppl.density.stages.choice import ChoiceBatch, ChoiceStage, draw_choices
from lmppl.density.stages.protocol import Run, Stage
from lmppl.density.stages.run import TextRun
from lmppl.density.stages.text import TextStage
from lmppl.density.stages.text_batch import TextBatch
from lmppl.density.steering.automaton import Automata
from lmppl.density.target import Target
from lmppl.density.traces import SiteValue, Traces, concatenate

__all__ = [
    "Automata",
    "ChoiceBatch",
    "ChoiceStage",
    "Run",
    "SiteRows",
    "SiteValue",
    "Stage",
    "Target",
    "TextBatch",
    "TextRun",
    "TextStage",
    "Traces",
    "concatenate",
    "draw_choices",
]
