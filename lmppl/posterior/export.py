"""A posterior for other tools: JSON lines, pandas, ArviZ."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lmppl.posterior.draws import WeightedDraws
from lmppl.posterior.selection import resampled_indices
from lmppl.writing import write_whole


def records(draws: WeightedDraws) -> list[dict[str, Any]]:
    """A mapping for each draw: values of outputs and sites, weight, log densities in nats."""
    columns: dict[str, Any] = {}
    for name in (*draws.outputs, *draws.sites):
        columns.setdefault(name, draws.column(name))
    numbers: dict[str, Any] = {"weight": draws.weights, "log_weight": draws.log_weights}
    if draws.log_prior is not None:
        numbers["log_prior"] = draws.log_prior
    potentials = draws.log_potentials
    if draws.num_chains is not None:
        length = len(draws) // draws.num_chains
        numbers["chain"] = np.arange(len(draws)) // length
    made = []
    for index in range(len(draws)):
        row = {
            "values": {name: _item(column[index]) for name, column in columns.items()},
            **{name: _item(column[index]) for name, column in numbers.items()},
        }
        if potentials:
            row["log_potentials"] = {k: _item(column[index]) for k, column in potentials.items()}
        made.append(row)
    return made


def to_jsonl(draws: WeightedDraws, path: str | os.PathLike[str] | TextIO) -> None:
    """One JSON object a line for each draw, written to a file (whole or not at all) or a stream."""
    _write(records(draws), path)


def bindings_to_jsonl(
    bindings: Sequence[WeightedDraws | None], path: str | os.PathLike[str] | TextIO
) -> None:
    """The lines of several bindings: `binding` says whose draw a line is, counted from 1.

    A binding that has no draws has no lines.
    """
    rows = [
        {"binding": number, **record}
        for number, draws in enumerate(bindings, start=1)
        for record in (() if draws is None else records(draws))
    ]
    _write(rows, path)


def _write(rows: Sequence[dict[str, Any]], path: str | os.PathLike[str] | TextIO) -> None:
    lines = [json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    if not isinstance(path, (str, os.PathLike)):
        path.writelines(lines)
        return
    # A lone surrogate, which a text may get from a parameter, has no UTF-8; JSON can escape it.
    text = "".join(lines)
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        encoded = "".join(json.dumps(json.loads(line)) + "\n" for line in lines).encode("ascii")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, encoded)


def to_pandas(draws: WeightedDraws) -> Any:
    """A data frame with a row for each draw."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "to_pandas needs pandas, which is not installed: pip install 'lmppl[pandas]'"
        ) from error
    rows = records(draws)
    flat = []
    for row in rows:
        values = row.pop("values")
        potentials = row.pop("log_potentials", {})
        flat.append({**values, **row, **{f"log_potential[{k}]": v for k, v in potentials.items()}})
    return pandas.DataFrame(flat)


def to_arviz(draws: WeightedDraws, *, weighted: bool = False) -> Any:
    """ArviZ data with every numeric value, log density and log potential, `[chain, draw]`."""
    try:
        import arviz
    except ImportError as error:
        raise ImportError(
            "to_arviz needs arviz, which is not installed: pip install 'lmppl[arviz]'"
        ) from error
    groups, attributes = arviz_groups(draws, weighted=weighted)
    # Before 1.0 the groups are keywords, and the data are no tree.
    is_old = hasattr(arviz, "InferenceData")
    data = arviz.from_dict(**groups) if is_old else arviz.from_dict(groups)
    data.attrs.update(attributes)
    data["posterior"].attrs.update(attributes)
    return data


def arviz_groups(
    draws: WeightedDraws, *, weighted: bool = False
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The groups of `to_arviz`, arrays `[chain, draw]` by name, and the attributes.

    `log_weight` among the statistics is what a draw weighs here, in nats, normalised; where the
    draws were resampled, what the draw weighs that it is a copy of, and `draw_index` its number.
    """
    log_weights, rows = draws.log_weights, np.arange(len(draws))
    is_weighted = bool(np.ptp(log_weights) > 1e-9)
    if is_weighted and not weighted:
        rows = resampled_indices(draws)
    attributes: dict[str, Any] = {
        "inference_library": "lmppl",
        "inference_library_version": draws.manifest.get("versions", {}).get("lmppl", ""),
        "method": draws.method,
        "weights": "unequal: use log_weight of sample_stats in every mean"
        if is_weighted and weighted
        else "equal after resampling; log_weight of sample_stats is of the draw that was copied"
        if is_weighted
        else "equal",
    }
    if draws.log_evidence is not None:
        evidence = draws.log_evidence
        attributes["log_evidence"] = evidence.value
        attributes["log_evidence_standard_error"] = evidence.standard_error
        attributes["log_evidence_kind"] = evidence.kind
    shape = (draws.num_chains or 1, -1)

    def laid_out(column: Any) -> Any:
        return np.array(column)[rows].reshape(shape)

    values = {}
    for name in dict.fromkeys((*draws.outputs, *draws.sites)):
        column = draws.column(name)
        if isinstance(column, np.ndarray):
            values[name] = laid_out(column)
    statistics = {
        f"log_potential_{label}": laid_out(values) for label, values in draws.log_potentials.items()
    }
    statistics["log_weight"] = laid_out(log_weights)
    statistics["draw_index"] = rows.reshape(shape)
    if draws.log_prior is not None:
        # A text has no place in ArviZ; its log density stands for it among the variables.
        statistics["lp"] = laid_out(draws.log_density)
        values.setdefault("log_density", statistics["lp"])
    return {"posterior": values, "sample_stats": statistics}, attributes


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _finite(value: Any) -> Any:
    """Non-finite numbers as the strings that protobuf's JSON uses, because JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
