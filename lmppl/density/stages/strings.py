"""What the tokens of a text site spell: decoded, without a leading space, cut at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lmppl.density.stages.run import TextRun
from lmppl.density.stages.text_batch import TextBatch
from lmppl.lm.protocol import Prompt

if TYPE_CHECKING:
    from lmppl.density.stages.text import TextStage


def strings(stage: TextStage, run: TextRun) -> list[str]:
    """The value of every text so far: decoded, cut where it ended."""
    decode = stage.lm.vocab.decode
    pairs = zip(run.tokens.tolist(), run.positions.tolist(), strict=True)
    return _values(stage, [decode(ids[:length]) for ids, length in pairs], run.stopped, run.strip)


def growing_strings(stage: TextStage, run: TextRun, rows: Tensor) -> list[str]:
    """`strings` of some rows (LongTensor); only tokens that are new since last time are read.

    For texts that are looked at again and again while they grow.
    """
    texts = run.growing.read(run.tokens, rows, run.positions[rows], stage.lm.vocab.token_bytes)
    strip = None if run.strip is None else run.strip[rows]
    return _values(stage, texts, run.stopped[rows], strip)


def own_lengths(stage: TextStage, run: TextRun) -> Tensor:
    """`[rows]`: the tokens of every text so far, without an end token."""
    last = run.tokens.gather(1, (run.positions - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
    ended_by_token = stage.is_eos[last] & run.finished & (run.positions > 0)
    return run.positions - ended_by_token.long()


def _values(stage: TextStage, texts: list[str], stopped: Tensor, strip: Tensor | None) -> list[str]:
    """Decoded tokens as values of the site, `[rows]` each."""
    if strip is not None:
        pairs = zip(texts, strip.tolist(), strict=True)
        texts = [text[1:] if bare and text.startswith(" ") else text for text, bare in pairs]
    if stage.stopping:
        pairs = zip(texts, stopped.tolist(), strict=True)
        texts = [stage.stopping.cut(text)[0] if cut else text for text, cut in pairs]
    return texts


def decode(stage: TextStage, text: TextBatch, prompts: Sequence[Prompt]) -> list[str]:
    """The values of given token sequences after these prompts."""
    strips = stage.lm.vocab.strips_leading_space
    tokens, lengths = text.tokens.tolist(), text.lengths.tolist()
    finished = text.finished.tolist()
    texts = []
    for row, prompt in enumerate(prompts):
        value = stage.lm.vocab.decode(tokens[row][: lengths[row]])
        if strips and prompt == "" and value.startswith(" "):
            value = value[1:]
        texts.append(stage.stopping.cut(value)[0] if finished[row] else value)
    return texts
