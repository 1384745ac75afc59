"""Counts with fresh seeds what intervals and verdicts miss, and prints the tables.

    python -m tests.exactness.coverage --seeds 200 --first-seed 0 --keep runs.jsonl --write

Run from the root of the checkout. A file given by `--keep` is read first and grows by one line a
run, so that an interrupted count goes on where it stopped; `--write` puts the tables into
docs/guides/coverage.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.exactness.coverage.counting import Run, Runner, Setting, read_runs
from tests.exactness.coverage.settings import SETTINGS
from tests.exactness.coverage.tables import PAGE, tables, write


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.exactness.coverage", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="of each setting; slow ones fewer")
    parser.add_argument("--first-seed", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="settings whose name has a match of this regex")
    parser.add_argument("--keep", type=Path, help="a file of runs to go on with and to add to")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    parser.add_argument("--no-runs", action="store_true", help="only what --keep has")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = [setting for setting in SETTINGS if re.search(options.only, setting.name)]
    runs: dict[str, dict[int, Run]] = {setting.name: {} for setting in settings}
    for run in read_runs(options.keep) if options.keep else ():
        if run.setting in runs:
            runs[run.setting][run.seed] = run
    if not options.no_runs:
        _add_runs(settings, runs, options.seeds, options.first_seed, options.keep)
    found = {
        setting.name: (setting, list(runs[setting.name].values()))
        for setting in settings
        if runs[setting.name]
    }
    text = tables(found)
    print(text)
    if options.write:
        write(PAGE, text)
    return 0


def _add_runs(
    settings: Sequence[Setting],
    runs: dict[str, dict[int, Run]],
    num_seeds: int,
    first_seed: int,
    keep: Path | None,
) -> None:
    """Runs what is missing, seed by seed, so that an early end has something of every setting."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder))
        for number in range(num_seeds):
            for setting in settings:
                seed = setting.seed(first_seed + number)
                if number % setting.every or seed in runs[setting.name]:
                    continue
                run = runs[setting.name][seed] = runner.run(setting, seed)
                if keep is not None:
                    with keep.open("a", encoding="utf-8") as file:
                        file.write(run.to_json() + "\n")
            print(f"\r{number + 1} of {num_seeds} seeds", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
