"""What programs put together of everything have shown to be wrong, each as its smallest program.

Answers are by hand; false-alarm rates are stated.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import lmppl


def coins(
    folder: Path, body: str, site: str = "max_tokens=2", eos: bool = False
) -> lmppl.CompiledModel:
    """A program of a text of fair coins, a and b, and perhaps an end."""
    tokens = ["a", "b", "<eos>"][: 2 + eos]
    table = {
        "tokens": tokens,
        "initial": [1] * len(tokens),
        "transition": [[1] * len(tokens)] * len(tokens),
        "eos": "<eos>" if eos else None,
    }
    (folder / "coins.json").write_text(json.dumps(table))
    program = f'model m() {{ text ~ markov("coins.json", {site}) {body} return text }}'
    return lmppl.compile(program, base_dir=folder)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rejection", {"num_samples": 300}),
        ("rejection", {"num_samples": 300, "upper_bound": "estimated"}),
        ("importance", {"proposal": "prior", "num_samples": 1000}),
    ],
    ids=["rejection", "estimated", "importance"],
)
def test_a_text_that_its_last_token_stops_and_kills_is_not_judged_by_what_it_seems_to_say(
    method: str, options: dict[str, object], tmp_path: Path
) -> None:
    """`ba` is empty, because it ends where `ba` is completed, and has no b: two of four are left.

    The evidence is within 5 errors of a half but for one seed in a million.
    """
    model = coins(tmp_path, 'require contains(text, "b")', 'max_tokens=2, stop=["ba"]')
    post = lmppl.infer(model, method=method, seed=0, progress=False, **options)
    assert set(post.texts) == {"ab", "bb"}
    assert post.log_evidence is not None
    off = abs(post.log_evidence.value - math.log(0.5))
    assert off < 5.0 * post.log_evidence.standard_error
