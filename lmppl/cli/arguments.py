"""The commands and options of `lmppl`, and nothing heavy: parsing them must be instant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lmppl import __version__

_EXIT_CODES = (
    "exit codes: 0 fine, 1 the program has errors, 2 usage, 3 inference failed or refused, "
    "130 interrupted (a partial result is saved)"
)


def build_parser() -> argparse.ArgumentParser:
    """The parser; the chosen command is in `command` of what it returns."""
    parser = argparse.ArgumentParser(
        prog="lmppl",
        description="A probabilistic programming language for language-model posteriors.",
        epilog=_EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lmppl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False
        )

    run = command("run", "infer the posterior of a program and show it")
    run.add_argument("file", metavar="FILE", help="the program (.lmp)")
    _choose_method(run)
    _bind(run)
    _configure(run)
    target = run.add_mutually_exclusive_group()
    target.add_argument("--out", metavar="DIR", help="save the posterior to a directory")
    target.add_argument(
        "--jsonl", metavar="FILE", help="write the draws as JSON lines; - is standard output"
    )
    run.add_argument("--report", metavar="FILE", help="write an HTML report")
    run.add_argument(
        "--show", type=_count, default=8, metavar="N", help="draws to show (default 8)"
    )
    run.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")

    check = command("check", "report every problem of programs without running them")
    check.add_argument("files", metavar="FILE", nargs="+")
    check.add_argument(
        "--pedantic", action="store_true", help="also warn of what is legal and often not meant"
    )

    fmt = command("fmt", "format programs in place")
    fmt.add_argument("files", metavar="FILE", nargs="+", help="- reads and writes the standards")
    fmt.add_argument("--check", action="store_true", help="change nothing; exit 1 if it would")

    info = command("info", "show what a program is made of")
    info.add_argument("file", metavar="FILE")
    info.add_argument("--json", action="store_true", help="as JSON")

    explain = command(
        "explain", "explain a diagnostic (LMP303), or whether a method would run a program"
    )
    explain.add_argument("subject", metavar="FILE|CODE")
    _choose_method(explain)
    _bind(explain)
    explain.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="an inference option"
    )

    compare = command("compare", "run several methods on one program and compare their answers")
    compare.add_argument("file", metavar="FILE")
    compare.add_argument(
        "--methods", required=True, metavar="A,B,…", help="the methods, as smc,mcmc,importance"
    )
    _bind(compare)
    _configure(compare)
    compare.add_argument("-q", "--quiet", action="store_true", help="no progress")

    bench = command("bench", "measure where the time of a step goes, for a model and a batch")
    bench.add_argument("model", metavar="MODEL", nargs="?", default="builtin:stories")
    bench.add_argument("--batch", type=_positive, default=256, metavar="N", help="particles")
    bench.add_argument("--tokens", type=_positive, default=48, metavar="N", help="tokens drawn")
    bench.add_argument("--prompt", default="Once upon a time", metavar="TEXT")
    bench.add_argument("--matches", metavar="REGEX", help="require the text to match")
    bench.add_argument(
        "--lookahead", type=_count, default=0, metavar="K", help="look ahead every K tokens"
    )
    bench.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps, …")
    bench.add_argument("--dtype", metavar="T", help="float32, bfloat16, float16 or float64")
    bench.add_argument(
        "--compile",
        default="none",
        metavar="HOW",
        help="compute tokens by none, step or cuda-graph",
    )
    _choose_threads(bench)

    command("models", "list the language models that come with lmppl")
    methods = command("methods", "list the inference methods and their options")
    methods.add_argument("method", metavar="METHOD", nargs="?", help="show the options of one")
    return parser


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line; exits with 2 where it is wrong, 0 after help or version."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_usage()
        parser.exit(2, "lmppl: name a command, or `lmppl --help`\n")
    return parsed


def _choose_method(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--infer", metavar="NAME", help="a named `infer` line of the file")
    choice.add_argument("--method", metavar="M", help="a method, with the file's options if it has")


def _bind(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="K=V",
        help="a parameter of the model; arrays as JSON",
    )
    parser.add_argument("--data", metavar="FILE.json", help="parameters as a JSON object")
    parser.add_argument(
        "--extern",
        action="append",
        default=[],
        metavar="K=MODULE:ATTR",
        help="an extern of the program from Python (a module, or a path ending in .py); runs code",
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="an inference option"
    )
    parser.add_argument("--num-samples", type=_positive, metavar="N", help="how many draws")
    parser.add_argument("--seed", type=_count, metavar="S", help="the seed of all randomness")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps, …")
    parser.add_argument("--dtype", metavar="T", help="float32, bfloat16, float16 or float64")
    parser.add_argument(
        "--budget", metavar="B", help='stop after this much: "90s", "2min", "100000 tokens"'
    )
    _choose_threads(parser)


def _choose_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="by default as many as are idle"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


# argparse names these in "invalid … value".
_count.__name__ = _positive.__name__ = "number"
