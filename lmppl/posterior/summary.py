"""A posterior in words: a table of draws, then what is known and how well."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size

from lmppl.errors.plain import acts
from lmppl.posterior.draws import WeightedDraws
from lmppl.posterior.estimate import Estimate
from lmppl.posterior.layout import table
from lmppl.posterior.meaning import (
    evidence_estimate,
    kl_from_guide,
    kl_to_prior,
    one_in,
    perplexity,
    prior_expectation,
    probabilities,
)
from lmppl.posterior.questions import factor_mean

_DEFAULT_WIDTH = 96
_MAX_LINES = 6
# Longer prompts are shown by their end.
_LONGEST_PROMPT = 24
# More values of a choice than this are not listed one by one.
_MOST_VALUES = 8


@dataclass(frozen=True, slots=True)
class Shown:
    """Draws chosen to be shown: a sentence that says which, and rows of weight and values.

    `prompts` has, for every value of every row, what it continues; empty where it is no text.
    """

    caption: str
    rows: tuple[tuple[float, tuple[Any, ...]], ...]
    prompts: tuple[tuple[str, ...], ...]


def choose_draws(draws: WeightedDraws, num_draws: int) -> Shown:
    """The heaviest distinct results; where all weigh the same, some of them evenly spaced.

    Equal results are one row with their weights added up.
    """
    names = draws.outputs
    columns = [draws.column(name) for name in names]
    prompts = [_prompts_of(draws, name) for name in names]
    weights = draws.weights
    totals: dict[tuple[tuple[Any, ...], tuple[str, ...]], float] = {}
    for index in np.flatnonzero(weights > 0):
        key = (
            tuple(_hashable(column[index]) for column in columns),
            tuple(prompt[index] if prompt else "" for prompt in prompts),
        )
        totals[key] = totals.get(key, 0.0) + float(weights[index])
    num_distinct, num_all = len(totals), len(draws)
    rows = [(weight, values, before) for (values, before), weight in totals.items()]
    what = "results" if num_distinct < num_all else "draws"
    if num_distinct <= num_draws:
        rows.sort(key=lambda row: -row[0])
        same = "" if what == "draws" else f", from {num_all} draws"
        caption = "1 result" if num_distinct == 1 else f"all {num_distinct} {what}"
        return _shown(caption + same, rows)
    if max(totals.values()) <= min(totals.values()) * (1 + 1e-9):
        picked = [rows[i * num_distinct // num_draws] for i in range(num_draws)]
        return _shown(f"{num_draws} of {num_distinct} draws, evenly spaced", picked)
    rows.sort(key=lambda row: -row[0])
    of = f"{num_distinct} distinct {what}" if what == "results" else f"{num_distinct} draws"
    heaviest = f"the {num_draws} heaviest" if num_draws > 1 else "the heaviest"
    return _shown(f"{heaviest} of {of}", rows[:num_draws])


def _shown(caption: str, rows: list[tuple[float, tuple[Any, ...], tuple[str, ...]]]) -> Shown:
    return Shown(
        caption,
        tuple((weight, values) for weight, values, _ in rows),
        tuple(before for _, _, before in rows),
    )


def _prompts_of(draws: WeightedDraws, name: str) -> list[str]:
    """What the texts of a returned name continue, `[draws]`; nothing where they are no texts."""
    kept, sites = draws.prompts, draws.sites
    if name not in kept:
        # A text may be returned by another name.
        column = draws.outputs[name]
        is_text = isinstance(column, tuple)
        name = next((site for site in kept if is_text and sites.get(site) == column), "")
    return draws.prompts_of(name) if name in kept else []


def after_prompt(prompt: str, text: str) -> str:
    """A text after the end of its prompt in brackets: "[Once upon a time], there was"."""
    if not prompt.strip():
        return text
    words = _cell(prompt)
    short = words if len(words) <= _LONGEST_PROMPT else "…" + words[1 - _LONGEST_PROMPT :].lstrip()
    return f"[{short}]{text}"


def _with_end(cell: str) -> str:
    """Spaces at the end made visible: they tell two texts apart."""
    bare = cell.rstrip(" ")
    return bare + "␣" * (len(cell) - len(bare))


def draw_table(draws: WeightedDraws, num_draws: int = 8, width: int | None = None) -> str:
    """A table of draws with their weights, wrapped to the width."""
    shown = choose_draws(draws, num_draws)
    cells = [
        [
            after_prompt(prompt, _with_end(_cell(value)))
            for prompt, value in zip(prompts, values, strict=True)
        ]
        for (_, values), prompts in zip(shown.rows, shown.prompts, strict=True)
    ]
    rows = [
        (format_weight(weight), *row) for (weight, _), row in zip(shown.rows, cells, strict=True)
    ]
    lines = table(
        ("weight", *draws.outputs),
        rows,
        width=(width or _DEFAULT_WIDTH) - 2,
        max_lines=_MAX_LINES,
    )
    return "\n".join([f"{shown.caption}:", *(f"  {line}" for line in lines)])


def facts(draws: WeightedDraws) -> list[tuple[str, str]]:
    """What is known of the result: pairs of a name and a sentence."""
    rows: list[tuple[str, str]] = []
    if draws.log_evidence is not None:
        rows.append(("log evidence", str(draws.log_evidence)))
    elif draws.log_evidence_reason:
        rows.append(("log evidence", f"none: {draws.log_evidence_reason}"))
    rows.extend(_from_the_prior(draws))
    diagnostics = draws.diagnostics
    if draws.enumerated:
        rows.append(("draws", f"{len(draws)}: the whole support, with exact weights"))
    else:
        size = diagnostics.get("ess", 1.0 / float(np.sum(draws.weights**2)))
        if draws.num_chains is not None:
            size = diagnostics.get("ess_bulk", diagnostics.get("ess"))
            chains = f" in {draws.num_chains} chains"
        else:
            chains = ""
        if _is_number(size):
            text = f"{size:.1f} of {len(draws)} draws{chains}"
            rows.append(("effective sample size", text))
    if "num_states" in diagnostics:
        states = f"{diagnostics['num_states']:,}"
        rows.append(("how", f"texts summed over by dynamic programming, {states} states"))
    for name, words in _NAMED.items():
        value = diagnostics.get(name)
        if _is_number(value):
            rows.append((words, f"{value:.3g}"))
    if frontier := diagnostics.get("acceptance_by_distance"):
        rows.extend(_approximate(diagnostics, frontier))
    if moves := diagnostics.get("moves"):
        rows.append(("moves", ", ".join(_move(kind, of) for kind, of in moves.items())))
    rows.extend(_work(draws.manifest))
    for label, values in draws.log_potentials.items():
        alive = values[draws.alive]
        if np.isfinite(alive).all() and np.ptp(alive) > 0.0:
            values = np.where(np.isfinite(values), values, 0.0)
            rows.append((f"mean of {label}", str(factor_mean(draws, label))))
            if draws.enumerated or draws.from_prior:
                before = prior_expectation(draws, values)
                rows.append((f"mean of {label} before", f"{before}, under the prior"))
            elif label in draws.diagnostics.get("factors_before", {}):
                before = prior_expectation(draws, label)
                rows.append((f"mean of {label} before", f"{before}, under the prior"))
    for name in draws.outputs:
        if name in draws.manifest.get("choices", {}):
            rows.extend(_probabilities(draws, name))
    return rows


def _approximate(
    diagnostics: Mapping[str, Any], frontier: Mapping[str, float]
) -> list[tuple[str, str]]:
    """How far approximate draws are from the posterior, and what being nearer would cost."""
    value, error = diagnostics["total_variation"], diagnostics["total_variation_error"]
    known = f" ± {error:.2g}" if math.isfinite(error) else ", of unknown error"
    told = [f"{100.0 * share:.3g} % at {distance}" for distance, share in frontier.items()]
    return [
        ("distance to the posterior", f"{value:.2g}{known} (total variation, estimated)"),
        ("  acceptance by distance", ", ".join(told)),
    ]


def _move(kind: str, of: Mapping[str, float]) -> str:
    """How often chains made a kind of move, and how often it was accepted."""
    return f"{kind} {100.0 * of['share']:.0f} % ({of['acceptance']:.2g} accepted)"


def _from_the_prior(draws: WeightedDraws) -> list[tuple[str, str]]:
    """How far the posterior is from the prior, and how likely its texts are there."""
    rows: list[tuple[str, str]] = []
    if "elbo" in draws.diagnostics:
        importance, gap = evidence_estimate(draws), kl_from_guide(draws)
        if importance is not None and importance is not draws.log_evidence:
            rows.append(("  by importance", str(importance)))
        if gap is not None:
            rows.append(("KL(guide ‖ posterior)", f"{gap}, the gap between the two"))
    alive = draws.alive
    is_event = bool(draws.log_potentials) and not draws.total_log_potential.any()
    evidence = evidence_estimate(draws)
    if is_event and evidence is not None and evidence.value < 0.0:
        rows.append(("prior draws that pass", _share_that_passes(evidence)))
    elif draws.log_potentials and alive.any():
        distance = kl_to_prior(draws)
        if distance is None:
            why = draws.log_evidence_reason or "no estimate of the evidence"
            rows.append(("KL to the prior", f"unknown: {why}"))
        else:
            far = distance.value >= 0.05
            like = f", like keeping {one_in(distance.value)} prior draws" if far else ""
            rows.append(("KL to the prior", f"{distance} nats{like}"))
    if any(name in draws.log_priors for name in draws.tokens):
        rows.append(("perplexity", f"{perplexity(draws)} per token, under the prior"))
    return rows


def _share_that_passes(evidence: Estimate) -> str:
    """How many draws of the prior satisfy every requirement, with the interval of the evidence."""
    about = "" if evidence.is_exact else "about "
    passing = -evidence.value < 0.05
    words = "nearly all satisfy" if passing else f"{about}{one_in(-evidence.value)} satisfies"
    if evidence.is_exact:
        return f"{words} every require"
    most, fewest = one_in(-min(evidence.upper, 0.0)), one_in(-evidence.lower)
    return f"{words} every require ({100.0 * evidence.confidence:g}%: {fewest} to {most})"


def _probabilities(draws: WeightedDraws, name: str) -> list[tuple[str, str]]:
    """A row for each value of a choice, the likeliest first."""
    found = probabilities(draws, name)
    rows = [
        (f"P({name} = {_cell(value)})", str(estimate))
        for value, estimate in list(found.items())[:_MOST_VALUES]
    ]
    left = len(found) - len(rows)
    if left:
        rows.append((f"P({name} = …)", f"{left} more values, each no likelier than these"))
    return rows


# On a busy machine everything takes a second; what takes a fifth of a run does so anywhere.
_LONG_SECONDS = 1.0
_LARGE_SHARE = 0.2


def _work(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What took long or went another way than usual: rewards that are worth a look, constraints."""
    rows = []
    seconds, share = manifest.get("reward_seconds", 0.0), manifest.get("reward_share", 0.0)
    if seconds >= _LONG_SECONDS and share >= _LARGE_SHARE:
        total = manifest["seconds"]
        scored = sum(each["num_scored"] for each in manifest["rewards"].values())
        rows.append(
            ("rewards", f"{share:.0%} of {total:.1f} seconds, for {scored:,} distinct texts")
        )
    for name, each in manifest.get("rewards", {}).items():
        rows.extend((f"reward {name}", note) for note in each.get("notes", ()))
    for site, followed in manifest.get("constraints", {}).items():
        unusual = [kind for kind in followed["kinds"] if kind != "table"]
        late = [f"`{label}` only on finished texts" for label in followed["over_budget"]]
        if unusual or late:
            rows.append((f"constraints of {site}", ", ".join([*unusual, *late])))
    return rows


_NAMED = {
    "pareto_k": "Pareto k-hat",
    "max_weight": "largest weight",
    "r_hat": "R-hat (largest)",
    "acceptance_rate": "acceptance rate",
}


def summarise(draws: WeightedDraws, num_draws: int = 8, width: int | None = None) -> str:
    """The whole summary as plain text."""
    width = width or _DEFAULT_WIDTH
    parts = [heading(draws)]
    if num_draws > 0 and draws.outputs:
        parts.append(draw_table(draws, num_draws, width))
    rows = facts(draws)
    if rows:
        parts.append(_pairs(rows, width))
    if draws.expectations:
        parts.append(_pairs([(f"expect {r.source}", claim(r)) for r in draws.expectations], width))
    failed = [name for name, passed in draws.checks.items() if not passed]
    if failed:
        parts.append(_bulleted("failed check: ", failed, width))
    if draws.warnings:
        parts.append(_bulleted("warning: ", draws.warnings, width))
    return "\n\n".join(parts) + "\n"


def heading(draws: WeightedDraws) -> str:
    """One line: the method, the model, the number of draws, and whether it is complete."""
    model = draws.manifest.get("model")
    of = f" of {model}" if isinstance(model, str) and model else ""
    count = "1 draw" if len(draws) == 1 else f"{len(draws)} draws"
    state = "" if draws.complete else " — INCOMPLETE: interrupted or out of budget"
    return f"{draws.method or 'posterior'}{of}: {count}{state}"


def claim(result: Any) -> str:
    """The verdict on an `expect` line with its estimate, and why it is undecided."""
    because = f"; {result.reason}" if result.reason else ""
    return f"{result.verdict}: {result.estimate}{because}"


def format_weight(weight: float) -> str:
    """A weight in six characters."""
    return f"{weight:.4f}" if weight >= 5e-5 else f"{weight:.0e}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in value.items())
    return value.item() if isinstance(value, np.generic) else value


def _cell(value: Any) -> str:
    """A value on one line: control characters of a text are shown, not obeyed."""
    if isinstance(value, str):
        return "".join(_ESCAPED.get(c) or visible(c) for c in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_cell(item) for item in value) + "]"
    return str(value)


_ESCAPED = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


def visible(character: str) -> str:
    """The character, or what stands for one that a terminal would obey."""
    return "\ufffd" if acts(character) else character


def _pairs(rows: list[tuple[str, str]], width: int) -> str:
    column = min(max(cell_len(name) for name, _ in rows), width // 2)
    lines: list[str] = []
    for name, text in rows:
        if cell_len(name) > column:
            lines.append(name)
            name = ""
        body = textwrap.wrap(text, max(20, width - column - 2)) or [""]
        lines.append(f"{set_cell_size(name, column)}  {body[0]}")
        lines.extend(" " * (column + 2) + line for line in body[1:])
    return "\n".join(lines)


def _bulleted(lead: str, sentences: list[str] | tuple[str, ...], width: int) -> str:
    return "\n".join(
        textwrap.fill(sentence, width, initial_indent=lead, subsequent_indent="  ")
        for sentence in sentences
    )
