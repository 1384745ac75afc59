"""Target → Pyro: a model, a trainable guide, text distributions and objectives."""

from lmppl.lowering.distribution import TokenSequences
from lmppl.lowering.guide import Guide
from lmppl.lowering.objective import LeaveOneOutELBO
from lmppl.lowering.program import PyroGuide, PyroModel, lower

__all__ = ["Guide", "LeaveOneOutELBO", "PyroGuide", "PyroModel", "TokenSequences", "lower"]
