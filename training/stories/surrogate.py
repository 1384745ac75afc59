"""Make the surrogate that is shipped for ``builtin:stories`` (see docs/guides/surrogates.md).

    python training/stories/surrogate.py lmppl/surrogates/shipped/stories.safetensors

draws 60,000 texts of 48 tokens from the embedded model, half of them after nothing and half after
"Once upon a time", and fits to them what every other surrogate is made of. The seed is fixed: on
one machine the file comes out the same but for the seconds that it took, on another but for the
rounding of the network. To be run again when the model or the format changes: a surrogate of
another model is never used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lmppl.lm.loading import load_language_model
from lmppl.surrogates import Sampling, make_surrogate
from lmppl.surrogates.finding import key_of
from lmppl.surrogates.storage import write_surrogate

MODEL = "builtin:stories"
PROMPTS = ("", "Once upon a time")
SAMPLING = Sampling(num_samples=60_000, max_tokens=48, seed=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lm = load_language_model(MODEL)
    made = make_surrogate(lm, PROMPTS, SAMPLING, progress=lambda event: print(event, flush=True))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_surrogate(arguments.out, made, key_of(lm, PROMPTS, SAMPLING))
    print(made.report, arguments.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
