"""Plain draws of a language model to fit a surrogate to, as many as a limit of time allows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmppl.lm.protocol import LanguageModel, Prompt
from lmppl.progress import ProgressEvent, ProgressListener
from lmppl.records import brief
from lmppl.rng import Stream
from lmppl.sequences.drawing import IDENTITY_WARP, Warp, draw_tokens
from lmppl.surrogates.counts import NOTHING, Ints

# What progress calls this.
STAGE = "surrogate"
# Logits of one batch: rows × vocabulary.
_BATCH = 1 << 22
_MOST_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Sampling:
    """What is drawn: how many texts of at most how many tokens, warped or not, in what time.

    `seconds` bounds the time, of the wall, after the first batch of texts, with which a batch is
    always ended: what was drawn by then is used.
    """

    num_samples: int
    max_tokens: int
    seed: int = 0
    warp: Warp = IDENTITY_WARP
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts `[n, T]` of tokens after each prompt, an end token included, then `NOTHING`.

    `log_prob` is the log probability, in nats, of all `num_tokens` that were drawn: what they cost
    under the model itself, which no surrogate can undercut but by chance.
    """

    texts: tuple[Ints, ...]
    num_tokens: int
    log_prob: float
    seconds: float

    __repr__ = brief

    @property
    def num_texts(self) -> int:
        return sum(len(each) for each in self.texts)


def draw_sample(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    progress: ProgressListener | None = None,
) -> Sample:
    """Draws texts after the prompts in turns, batch by batch, so that an early end is fair to all.

    The texts depend on the seed and on the size of the vocabulary, which sets that of a batch.
    """
    began = time.monotonic()
    rows = max(1, min(_MOST_ROWS, _BATCH // lm.vocab.size))
    share = -(-sampling.num_samples // len(prompts))
    found: list[list[Ints]] = [[] for _ in prompts]
    stream = Stream.from_seed(sampling.seed).child(STAGE)
    done = num_tokens = 0
    log_prob = 0.0
    total = share * len(prompts)
    for first in range(0, share, rows):
        for number, prompt in enumerate(prompts):
            size = min(rows, share - first)
            texts, nats = _batch(lm, prompt, size, sampling, stream.child(number, first))
            found[number].append(texts)
            num_tokens += int((texts != NOTHING).sum())
            log_prob += nats
            done += size
            if progress is not None:
                progress(ProgressEvent(STAGE, done, total, "drawing", num_tokens))
            if sampling.seconds is not None and time.monotonic() - began > sampling.seconds:
                break
        else:
            continue
        break
    empty = np.full((0, sampling.max_tokens), NOTHING, np.int64)
    texts_of = tuple(np.concatenate([empty, *each]) for each in found)
    return Sample(texts_of, num_tokens, log_prob, time.monotonic() - began)


@torch.no_grad()
def _batch(
    lm: LanguageModel, prompt: Prompt, size: int, sampling: Sampling, stream: Stream
) -> tuple[Ints, float]:
    """`[size, T]` tokens drawn after a prompt, and the log probability of all of them."""
    device, last = lm.device, sampling.max_tokens - 1
    ends = torch.zeros(lm.vocab.size, dtype=torch.bool, device=device)
    ends[sorted(lm.vocab.eos_ids)] = True
    texts = torch.full((size, sampling.max_tokens), NOTHING, device=device)
    open_rows = torch.arange(size, device=device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    prefixes = lm.start([prompt] * size, max_new_tokens=sampling.max_tokens)
    for step in range(sampling.max_tokens):
        uniforms = stream.uniforms(open_rows, step)
        index: Tensor | None = None if prefixes.identity else prefixes.index
        drawn = draw_tokens(sampling.warp(prefixes.logits), uniforms, index=index)
        texts[open_rows, step] = drawn.tokens
        total += drawn.log_prob.sum()
        going = (~ends[drawn.tokens]).nonzero().squeeze(-1)
        if step == last or not len(going):
            break
        tokens = drawn.tokens
        if len(going) < len(open_rows):
            prefixes, open_rows, tokens = prefixes.select(going), open_rows[going], tokens[going]
        prefixes = lm.extend(prefixes, tokens)
    return texts.cpu().numpy(), float(total)
