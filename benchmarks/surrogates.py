"""What surrogates of `builtin:stories` believe of rare words, against plain draws.

    python benchmarks/surrogates.py --truth TRUTH.jsonl --draws FIT.jsonl

Each file has a text a line as {"ids": [...]}, drawn after "Once upon a time" to at most 40 tokens;
one that does not exist is drawn and written (`--num-truth`, `--num-draws`; one core draws 250 texts
a second). Of the draws to fit, 30 words are chosen that 1 text in 200 to 1 in 3,000 has; of the
others their masses are counted. Prints, for each kind of surrogate, its states and counted pairs,
its nats per token of the others, and the errors of its log masses: mean, root of the mean square,
the worst; and CPU seconds for the tables of a word.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmppl.automata import compile_constraint
from lmppl.automata.stopping import NO_STOPPING
from lmppl.builtins.predicates.contains import CONTAINS
from lmppl.finite.backward import backward
from lmppl.finite.building import weighted_constraints
from lmppl.lm.loading import load_language_model
from lmppl.surrogates import Budget, Sampling, surrogate_for
from lmppl.surrogates.backoff import BackoffLM
from lmppl.surrogates.counting import count_contexts
from lmppl.surrogates.counts import NOTHING, Corpus
from lmppl.surrogates.drawing import draw_sample
from lmppl.surrogates.fitting import nats_per_token
from lmppl.surrogates.smoothing import smoothed

PROMPT = "Once upon a time"
TOKENS = 40
NUM_WORDS = 30
MOST, LEAST = 4.8e-3, 3.3e-4
# Discount by length of contexts; what texts held out choose.
DISCOUNTS = {2: (0.75,), 3: (0.85, 0.85), 4: (0.9, 0.9, 0.9)}
WORD = re.compile(r"(?<![A-Za-z'])[a-z]{4,}(?![A-Za-z'])")


def texts_of(lm: Any, path: Path, num: int, seed: int) -> np.ndarray:
    """`[num, TOKENS]`, from the file or into it."""
    if not path.exists():
        sample = draw_sample(lm, [PROMPT], Sampling(num, TOKENS, seed))
        with path.open("w", encoding="utf-8") as stream:
            for row in sample.texts[0].tolist():
                stream.write(json.dumps({"ids": [each for each in row if each != NOTHING]}) + "\n")
    rows = [json.loads(line)["ids"] for line in path.open(encoding="utf-8")]
    found = np.full((len(rows), TOKENS), NOTHING, np.int64)
    for row, ids in zip(found, rows, strict=True):
        row[: len(ids)] = ids
    return found


def strings(lm: Any, rows: np.ndarray) -> list[str]:
    return [lm.vocab.decode([each for each in row if each != NOTHING]) for row in rows.tolist()]


def choose(texts: list[str]) -> list[str]:
    """Words whose shares of texts are spread evenly, in logs, between the two bounds."""
    counts = Counter(word for text in texts for word in set(WORD.findall(text)))
    share = {
        word: sum(word in text for text in texts) / len(texts)
        for word, count in counts.items()
        if 12 <= count <= 2 * MOST * len(texts)
    }
    chosen: list[str] = []
    for aim in np.geomspace(MOST, LEAST, NUM_WORDS):
        others = (w for w in share if not any(w[:4] == each[:4] for each in chosen))
        chosen.append(min(others, key=lambda w: (round(abs(math.log(share[w] / aim)), 3), w)))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--draws", type=Path, required=True)
    parser.add_argument("--num-truth", type=int, default=200_000)
    parser.add_argument("--num-draws", type=int, default=60_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lm = load_language_model("builtin:stories")
    draws = texts_of(lm, arguments.draws, arguments.num_draws, 2)
    truth = texts_of(lm, arguments.truth, arguments.num_truth, 1)
    words, held = choose(strings(lm, draws)), strings(lm, truth)
    mass = np.array([sum(word in text for text in held) / len(held) for word in words])
    noise = math.sqrt(np.mean((1 - mass) / (mass * len(held))))
    automata = [
        weighted_constraints(
            compile_constraint([CONTAINS.asked(words=[word])], lm.vocab, NO_STOPPING, TOKENS)
        )
        for word in words
    ]
    print(f"{len(held):,} texts; words from 1 in {1 / mass.max():.0f} to 1 in {1 / mass.min():.0f}")
    prompt = tuple(lm.prompts.ids(PROMPT))
    size = lm.vocab.size
    test = Corpus.of(size, [prompt], [truth[:3000]], 3)

    def report(name: str, model: BackoffLM) -> None:
        began, errors = time.process_time(), []
        for automaton in automata:
            found = backward(model, automaton, TOKENS, keep=torch.float32)
            errors.append(float(found.log_evidence([prompt])[0]))
        seconds = (time.process_time() - began) / len(words)
        error = np.array(errors) - np.log(mass)
        worst = int(np.abs(error).argmax())
        print(
            f"{name:<34} {model.num_states:6} {len(model.token):7} "
            f"{nats_per_token(model, test):6.3f} {error.mean():+6.2f} "
            f"{math.sqrt(np.mean(error**2)):5.2f} {words[worst]:>10} {error[worst]:+6.2f} "
            f"{seconds:5.2f}",
            flush=True,
        )

    print(f"{'surrogate':<34} states   pairs   nats   mean   rms      worst        s a word")
    for num in (2_000, 8_000, len(draws)):
        for order, states in ((2, 10_000), (3, 3_000), (3, 6_000), (3, 12_000), (4, 12_000)):
            if num < len(draws) and (order, states) not in ((2, 10_000), (3, 6_000)):
                continue
            texts = Corpus.of(size, [prompt], [draws[:num]], order - 1)
            counts = count_contexts(texts, order, Budget(states, 10**7))
            smooth = smoothed(counts, DISCOUNTS[order])
            report(f"{num:,} texts, order {order}", BackoffLM.of(counts, smooth))
    shipped = surrogate_for(lm, [PROMPT])
    report(f"{shipped.origin}: {shipped.report.num_texts:,} texts", shipped.model)
    print(f"noise of counting: {noise:.2f}")


if __name__ == "__main__":
    main()
