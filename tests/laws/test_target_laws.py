"""Laws of stepping through texts, on real and on tabulated language models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lmppl
from lmppl.density import Automata, Target, TextBatch, TextStage
from lmppl.density.stages.completing import complete, generate
from lmppl.density.stages.scoring import rescore, retrace
from lmppl.density.stages.strings import strings
from lmppl.lm.loading import load_language_model
from lmppl.rng import Stream
from lmppl.sequences.drawing import Warp

UNIFORMS = Stream.from_seed(3).child("laws")
PROMPTS = ["Once upon a time", "The dog", ""] * 5
WARPS = {
    "plain": Warp(),
    "temperature": Warp(temperature=0.6),
    "top-k": Warp(top_k=7),
    "top-p": Warp(top_p=0.8),
    "all three": Warp(temperature=1.4, top_k=50, top_p=0.9),
}


def stories(**options: object) -> TextStage:
    return TextStage(
        "text",
        load_language_model("builtin:stories"),
        max_tokens=12,
        **options,  # type: ignore[arg-type]
    )


def draws(at: torch.Tensor, step: int) -> torch.Tensor:
    return UNIFORMS.uniforms(at, step)


def constrained(source: str) -> tuple[Target, TextStage]:
    target = lmppl.compile(source)().target()
    stage = target.stages[0]
    assert isinstance(stage, TextStage)
    return target, stage


SENTENCE = """
model sentence() {
    text ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=10, stop=["."])
    require short: matches(text, r"[a-z, ]{10,40}")
    require clean: never(text, ["big", "lived"])
    return text
}
"""


def generated(
    target: Target, stage: TextStage, rows: int, name: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[TextBatch, torch.Tensor, torch.Tensor]:
    traces = target.start(torch.zeros(rows, dtype=torch.long))
    prompts = target.rows(0, traces).prompts
    automata = target.requirements.automata(0, traces, prompts)
    run, log_mass = generate(
        stage, prompts, automata, lambda at, step: draws(name(at), step), record=True
    )
    return stage.finish(run), run.log_prior, log_mass


@pytest.mark.parametrize("warp", WARPS.values(), ids=WARPS.keys())
def test_the_log_prob_of_a_draw_is_that_of_rescoring_it(warp: Warp) -> None:
    """To 1e-4 nats per text, in float32."""
    stage = stories(warp=warp)
    run, _ = generate(stage, PROMPTS, Automata((None,)), draws)
    text = stage.finish(run)
    assert torch.isfinite(run.log_prior).all()
    torch.testing.assert_close(rescore(stage, PROMPTS, text), run.log_prior, atol=1e-4, rtol=0)


def test_a_rescoring_at_another_temperature_is_rejected_by_the_same_law() -> None:
    stage = stories(warp=Warp(temperature=0.6))
    run, _ = generate(stage, PROMPTS, Automata((None,)), draws)
    other = rescore(stories(), PROMPTS, stage.finish(run))
    assert float((other - run.log_prior).abs().max()) > 1e-2


def test_retracing_a_text_finds_what_each_token_cost() -> None:
    target, stage = constrained(SENTENCE)
    text, _, log_mass = generated(target, stage, 32, lambda at: at)
    alive = (log_mass > -math.inf).nonzero().squeeze(-1)
    assert len(alive) > 20
    traces = target.start(torch.zeros(len(alive), dtype=torch.long))
    prompts = target.rows(0, traces).prompts
    automata = target.requirements.automata(0, traces, prompts)
    known = text.select(alive)
    again, possible = retrace(stage, prompts, automata, known)
    assert bool(possible.all())
    assert known.token_log_prob is not None and again.token_log_prob is not None
    assert known.token_log_mass is not None and again.token_log_mass is not None
    torch.testing.assert_close(again.token_log_prob, known.token_log_prob, atol=1e-4, rtol=0)
    torch.testing.assert_close(again.token_log_mass, known.token_log_mass, atol=1e-4, rtol=0)


def test_a_forbidden_text_cannot_be_retraced() -> None:
    target, stage = constrained(SENTENCE)
    free, free_stage = constrained(SENTENCE.replace("require", "# require"))
    text, _, _ = generated(free, free_stage, 64, lambda at: at)
    traces = target.start(torch.zeros(64, dtype=torch.long))
    prompts = target.rows(0, traces).prompts
    _, possible = retrace(stage, prompts, target.requirements.automata(0, traces, prompts), text)
    allowed = torch.tensor(
        [
            bool(re.fullmatch(r"[a-z, ]{10,40}", t)) and "big" not in t and "lived" not in t
            for t in text.strings
        ]
    )
    assert torch.equal(possible, allowed)
    assert 0 < int(allowed.sum()) < 64


def test_a_continued_text_costs_what_it_costs_from_the_start() -> None:
    target, stage = constrained(SENTENCE)
    text, _, log_mass = generated(target, stage, 32, lambda at: at)
    alive = (log_mass > -math.inf).nonzero().squeeze(-1)
    text = text.select(alive)
    traces = target.start(torch.zeros(len(alive), dtype=torch.long))
    prompts = target.rows(0, traces).prompts
    automata = target.requirements.automata(0, traces, prompts)
    cut = text.lengths // 2
    run = stage.begin(prompts, automata, kept=text, kept_lengths=cut, record=True)
    run, _ = complete(stage, run, lambda at, step: UNIFORMS.child("more").uniforms(at, step))
    new = stage.finish(run)
    again, possible = retrace(stage, prompts, automata, new)
    whole = run.finished | (run.positions == stage.max_tokens)
    assert torch.equal(possible[whole], torch.ones_like(possible[whole]))
    assert int(whole.sum()) > 10
    columns = torch.arange(stage.max_tokens)
    kept = columns < cut.unsqueeze(-1)
    assert torch.equal(new.tokens.masked_fill(~kept, 0), text.tokens.masked_fill(~kept, 0))
    assert new.token_log_prob is not None and again.token_log_prob is not None
    assert new.token_log_mass is not None and again.token_log_mass is not None
    torch.testing.assert_close(
        again.token_log_prob[whole], new.token_log_prob[whole], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        again.token_log_mass[whole], new.token_log_mass[whole], atol=1e-4, rtol=0
    )


def test_draws_do_not_depend_on_how_rows_are_batched() -> None:
    target, stage = constrained(SENTENCE)
    whole, log_prior, log_mass = generated(target, stage, 48, lambda at: at)
    for first in range(0, 48, 12):
        part, part_prior, part_mass = generated(target, stage, 12, lambda at, f=first: at + f)
        rows = slice(first, first + 12)
        assert part.strings == whole.strings[rows]
        torch.testing.assert_close(part_prior, log_prior[rows], atol=1e-5, rtol=0)
        torch.testing.assert_close(part_mass, log_mass[rows], atol=1e-5, rtol=0)


def test_a_dead_row_stays_dead_and_is_not_computed(tmp_path: Path) -> None:
    """Only texts of a's can be finished, and the budget is odd: every row ends in a dead end."""
    (tmp_path / "p.json").write_text(
        '{"tokens": ["aa", "b"], "initial": [1, 1], "transition": [[1, 1], [1, 1]], "eos": null}'
    )
    source = """
        model dead() {
            text ~ markov("p.json", max_tokens=3)
            require odd: length(text, unit="characters") == 7
            return text
        }
    """
    bound = lmppl.compile(source, base_dir=tmp_path)
    with pytest.raises(lmppl.LmpError, match="LMP901"):
        lmppl.infer(bound, method="importance", num_samples=8, seed=0)


def test_resampling_moves_texts_states_and_caches_together() -> None:
    """Selecting rows in the middle of a text and going on equals going on and then selecting."""
    target, stage = constrained(SENTENCE)
    traces = target.start(torch.zeros(10, dtype=torch.long))
    prompts = target.rows(0, traces).prompts
    automata = target.requirements.automata(0, traces, prompts)
    numbers = torch.arange(10)
    chosen = torch.tensor([3, 3, 7, 0, 9, 9, 9, 1])
    selected = stage.begin(prompts, automata)
    unselected = stage.begin(prompts, automata)
    for step in range(5):
        selected, _ = stage.step(selected, draws(numbers, step))
    selected = selected.select(chosen)
    for step in range(5, 10):
        if selected.num_open:
            selected, _ = stage.step(selected, draws(numbers, step)[chosen])
    for step in range(10):
        if unselected.num_open:
            unselected, _ = stage.step(unselected, draws(numbers, step))
    assert strings(stage, selected) == [strings(stage, unselected)[i] for i in chosen.tolist()]
    torch.testing.assert_close(selected.log_prior, unselected.log_prior[chosen], atol=1e-4, rtol=0)
