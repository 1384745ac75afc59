"""The surrogate of a language model: shipped with it, made before, or made now."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lmppl.caches import cache_directories, is_private, make_private
from lmppl.fence import within
from lmppl.lm.function import FunctionLM
from lmppl.lm.protocol import LanguageModel, Prompt
from lmppl.progress import ProgressEvent, ProgressListener, listener_here
from lmppl.surrogates.counting import BUDGET, Budget
from lmppl.surrogates.counts import Corpus
from lmppl.surrogates.drawing import STAGE, Sampling, draw_sample
from lmppl.surrogates.fitting import ORDERS, fit
from lmppl.surrogates.storage import (
    FORMAT,
    NotASurrogate,
    language_model_of,
    read_surrogate,
    write_surrogate,
)
from lmppl.surrogates.surrogate import Report, Surrogate, prompt_tokens

_log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "shipped"
# What is drawn on first use, where nobody says otherwise: as many texts, or as many seconds.
NUM_SAMPLES = 8_192
SECONDS = 60.0
# Longer texts say little more of what follows what, and cost as much again.
MOST_TOKENS = 64

# Characters of a key that say how tokens are warped.
_OF_WARP = 8
# Of this process, latest last; with the language model, which its number in memory stands for.
_MOST_KEPT = 8
_kept: dict[tuple[str, str, int], tuple[LanguageModel, Surrogate]] = {}
_lock = threading.Lock()


def surrogate_for(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int = MOST_TOKENS,
    sampling: Sampling | None = None,
    budget: Budget = BUDGET,
    progress: ProgressListener | None = None,
) -> Surrogate:
    """A surrogate of a language model for texts after some prompts.

    One that was made for these prompts before is taken from memory or from the user's cache; else
    one that is shipped with the language model, or one that was made of it for other prompts, the
    largest: both do for any prompt, as the texts behind resemble each other. Else it is made of
    `sampling`, by default up to 8,192 texts of at most 64 of `max_tokens` in a minute, and kept.
    What lies in the cache is used where it is of this language model, by digest, and whole, and
    made anew where not. Without `progress`, the run that this is part of tells how far it is.

    Raises:
        InferenceError: the language model cannot be prompted with that, or what it returns is no
            distribution.
    """
    if sampling is None:
        sampling = Sampling(NUM_SAMPLES, min(max_tokens, MOST_TOKENS), seconds=SECONDS)
    key = key_of(lm, prompts, sampling)
    # The digest of a function is not all of it.
    entry = lm.digest, key, id(lm) if isinstance(lm, FunctionLM) else 0
    with _lock:
        progress = progress or listener_here()
        if entry in _kept:
            _, found = _kept.pop(entry)
        else:
            found = _at_hand(lm, key) or _made_and_kept(
                lm, prompts, key, sampling, budget, progress
            )
        _kept[entry] = lm, found
        while len(_kept) > _MOST_KEPT:
            del _kept[next(iter(_kept))]
        return found


def surrogate_at_hand(lm: LanguageModel, prompts: Sequence[Prompt]) -> Surrogate | None:
    """A surrogate that `surrogate_for` need not make; None: there is none yet."""
    key = key_of(lm, prompts, Sampling(NUM_SAMPLES, MOST_TOKENS))
    entry = lm.digest, key, id(lm) if isinstance(lm, FunctionLM) else 0
    with _lock:
        if entry not in _kept and (found := _at_hand(lm, key)) is not None:
            _kept[entry] = lm, found
        return _kept[entry][1] if entry in _kept else None


def _at_hand(lm: LanguageModel, key: str) -> Surrogate | None:
    return _cached(lm, key) or _shipped(lm) or _of_other_prompts(lm, key)


def _made_and_kept(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    key: str,
    sampling: Sampling,
    budget: Budget,
    progress: ProgressListener | None,
) -> Surrogate:
    made = make_surrogate(lm, prompts, sampling, budget, progress)
    keep(lm, made, key)
    return made


def make_surrogate(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    budget: Budget = BUDGET,
    progress: ProgressListener | None = None,
) -> Surrogate:
    """Draws texts after the prompts and fits a surrogate to them."""
    distinct = list(dict.fromkeys(prompts))
    sample = within(lambda: draw_sample(lm, distinct, sampling, progress))
    if progress is not None:
        done = sample.num_texts
        progress(ProgressEvent(STAGE, done, done, "fitting", sample.num_tokens))
    began = time.monotonic()
    corpus = Corpus.of(
        lm.vocab.size,
        [prompt_tokens(lm, prompt) for prompt in distinct],
        list(sample.texts),
        max(ORDERS) - 1,
    )
    fitted = within(lambda: fit(corpus, budget))
    report = Report(
        sample.num_texts,
        sample.num_tokens,
        sampling.max_tokens,
        fitted.held_out,
        -sample.log_prob / sample.num_tokens,
        sample.seconds,
        time.monotonic() - began,
    )
    _log.info(
        "fitted a surrogate of %s to %d texts: %.3f nats per token, %.3f of its own",
        lm.name,
        report.num_texts,
        report.held_out,
        report.entropy,
    )
    return Surrogate(lm.digest, fitted, report)


def keep(
    lm: LanguageModel, surrogate: Surrogate, key: str, directory: Path | None = None
) -> Path | None:
    """Writes a surrogate to a directory, by default to the user's cache; None where it cannot be.

    That of a function is not written: what it refers to may change and its digest not.

    Raises:
        OSError: it cannot be written to the `directory` that was asked for.
    """
    if directory is not None:
        place = directory / file_name(lm, key)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_surrogate(place, surrogate, key)
        return place
    if isinstance(lm, FunctionLM):
        return None
    for each in cache_directories():
        place = each / file_name(lm, key)
        if make_private(each) and make_private(place.parent):
            try:
                # A file keeps its permissions when it is written anew.
                if place.exists() and not is_private(place):
                    place.unlink()
                write_surrogate(place, surrogate, key)
            except OSError as error:
                _log.info("a surrogate could not be kept in %s: %s", each, error)
                continue
            return place
    return None


def key_of(lm: LanguageModel, prompts: Sequence[Prompt], sampling: Sampling) -> str:
    """What a surrogate is of, beside its language model: how tokens are warped, and prompts."""
    warp = sampling.warp
    tokens = sorted({prompt_tokens(lm, prompt) for prompt in prompts})
    warped = _digest([FORMAT, warp.temperature, warp.top_k, warp.top_p])
    return warped[:_OF_WARP] + _digest(tokens)[:24]


def file_name(lm: LanguageModel, key: str) -> Path:
    """Where a surrogate lies below a cache directory."""
    return Path("surrogates") / f"{lm.digest[:32]}-{key}.safetensors"


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _cached(lm: LanguageModel, key: str) -> Surrogate | None:
    if isinstance(lm, FunctionLM):
        return None
    places = (directory / file_name(lm, key) for directory in cache_directories())
    return next(filter(None, (_read(lm, path, key) for path in places)), None)


def _of_other_prompts(lm: LanguageModel, key: str) -> Surrogate | None:
    """The largest of those that are warped alike and whole."""
    if isinstance(lm, FunctionLM):
        return None
    pattern = file_name(lm, key[:_OF_WARP] + "*")
    places = [path for each in cache_directories() for path in each.glob(str(pattern))]
    sizes = {path: path.stat().st_size for path in places if path.is_file()}
    ordered = sorted(sizes, key=lambda path: (-sizes[path], path))
    return next(filter(None, (_read(lm, path, None) for path in ordered)), None)


def _read(lm: LanguageModel, path: Path, key: str | None) -> Surrogate | None:
    try:
        if is_private(path.parent) and is_private(path):
            return read_surrogate(path, lm.digest, lm.vocab.size, key, "cache")
        _log.info("a surrogate in %s is not used: others can write it", path)
    except FileNotFoundError:
        pass
    except (OSError, NotASurrogate) as error:
        _log.info("a surrogate in %s is not used: %s", path, error)
    return None


def _shipped(lm: LanguageModel) -> Surrogate | None:
    for path in sorted(SHIPPED.glob("*.safetensors")):
        if language_model_of(path) == lm.digest:
            return read_surrogate(path, lm.digest, lm.vocab.size, None, "shipped")
    return None
