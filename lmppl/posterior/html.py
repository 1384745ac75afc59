"""A posterior as HTML: a fragment for notebooks and a page that needs nothing else."""

from __future__ import annotations

import json
import math
import os
from html import escape as escape_markup
from typing import Any

import numpy as np

from lmppl.errors.plain import harmless
from lmppl.posterior.draws import WeightedDraws
from lmppl.posterior.plain import readable
from lmppl.posterior.summary import choose_draws, claim, facts, format_weight, heading, visible
from lmppl.writing import write_whole

_STYLE = """
.lmppl { font: 15px/1.45 system-ui, sans-serif; max-width: 64rem; }
.lmppl table { border-collapse: collapse; margin: .6rem 0; }
.lmppl th, .lmppl td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid #8884; }
.lmppl td.text { white-space: pre-wrap; }
.lmppl .prompt { color: #777; }
.lmppl td.number { font-variant-numeric: tabular-nums; }
.lmppl .warning { border-left: 4px solid #d90; padding: .2rem .8rem; margin: .5rem 0; }
.lmppl .failed { border-color: #c22; }
.lmppl figure { margin: .8rem 0; }
.lmppl polyline { fill: none; stroke: #27c; stroke-width: 1.5; }
.lmppl figcaption, .lmppl caption { color: #777; text-align: left; }
"""


def escape(text: str) -> str:
    """The text as HTML shows it, with nothing in it that acts or reorders."""
    return escape_markup(harmless(text))


def fragment(draws: WeightedDraws, num_draws: int = 10) -> str:
    """The summary as a piece of HTML."""
    return f"<style>{_STYLE}</style><div class='lmppl'>{_body(draws, num_draws)}</div>"


def write_report(draws: WeightedDraws, path: str | os.PathLike[str]) -> None:
    """A page with draws, evidence, warnings, diagnostics, traces of the run and the manifest."""
    title = escape(heading(draws))
    sections = [f"<h1>{title}</h1>", _body(draws, num_draws=100, headed=False)]
    curves = _curves(draws.info)
    if curves:
        sections.append("<h2>Course of the run</h2>" + "".join(curves))
    if draws.diagnostics:
        rows = [(name, _value(value)) for name, value in draws.diagnostics.items()]
        sections.append("<h2>Diagnostics</h2>" + _table(("name", "value"), rows))
    if draws.checks:
        rows = [(name, "passed" if ok else "FAILED") for name, ok in draws.checks.items()]
        sections.append("<h2>Checks</h2>" + _table(("check", "result"), rows))
    if draws.manifest:
        manifest = json.dumps(readable(draws.manifest), indent=2, default=_value)
        sections.append(f"<h2>Manifest</h2><pre>{escape(manifest)}</pre>")
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'><title>{title}</title>"
        f"<style>{_STYLE}</style></head><body><main class='lmppl'>"
        + "\n".join(sections)
        + "</main></body></html>\n"
    )
    write_whole(path, page.encode("utf-8", errors="replace"))


def _body(draws: WeightedDraws, num_draws: int, headed: bool = True) -> str:
    parts = [f"<p><b>{escape(heading(draws))}</b></p>"] if headed else []
    parts += [f"<div class='warning'>{escape(text)}</div>" for text in draws.warnings]
    parts += [
        f"<div class='warning failed'>failed check: {escape(name)}</div>"
        for name, passed in draws.checks.items()
        if not passed
    ]
    rows = facts(draws)
    rows += [(f"expect {result.source}", claim(result)) for result in draws.expectations]
    parts.append(_table(None, rows))
    shown = choose_draws(draws, num_draws)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("weight", *draws.outputs))
    body = "".join(
        f"<tr><td class='number'>{format_weight(weight)}</td>"
        + "".join(
            f"<td class='text'>{_prompt(prompt)}{escape(_value(value))}</td>"
            for prompt, value in zip(prompts, values, strict=True)
        )
        + "</tr>"
        for (weight, values), prompts in zip(shown.rows, shown.prompts, strict=True)
    )
    parts.append(f"<table><caption>{escape(shown.caption)}</caption><tr>{head}</tr>{body}</table>")
    return "".join(parts)


def _prompt(prompt: str) -> str:
    """What a text continues, fainter than the text."""
    if not prompt.strip():
        return ""
    shown = "".join(c if c in "\n\t" else visible(c) for c in prompt)
    return f"<span class='prompt'>{escape(shown)}</span>"


def _table(head: tuple[str, ...] | None, rows: list[tuple[str, str]]) -> str:
    top = "" if head is None else "<tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr>"
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{top}{body}</table>"


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else str(value)


def _curves(info: Any, prefix: str = "") -> list[str]:
    """A line chart for every numeric series of the info."""
    made = []
    for name, value in info.items():
        if isinstance(value, dict):
            made += _curves(value, f"{prefix}{name} / ")
            continue
        try:
            series = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            continue
        if series.ndim == 1 and series.size >= 2 and np.isfinite(series).any():
            made.append(_curve(f"{prefix}{name}", series))
    return made


def _curve(name: str, series: Any) -> str:
    width, height, most = 640.0, 140.0, 640
    if series.size > most:
        series = series[np.linspace(0, series.size - 1, most).astype(int)]
    finite = series[np.isfinite(series)]
    low, high = float(finite.min()), float(finite.max())
    span = high - low or 1.0
    points = " ".join(
        f"{width * i / (series.size - 1):.1f},{height * (1 - (y - low) / span):.1f}"
        for i, y in enumerate(series.tolist())
        if math.isfinite(y)
    )
    return (
        f"<figure><svg viewBox='-4 -4 {width + 8:g} {height + 8:g}' width='{width:g}' role='img'>"
        f"<polyline points='{points}'/></svg>"
        f"<figcaption>{escape(name)}: from {low:.4g} to {high:.4g}</figcaption></figure>"
    )
