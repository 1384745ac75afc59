"""The commands and options of `lmppl`, and nothing heavy: parsing them must be instant."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import click

from lmppl import __version__
from lmppl.cli.parsing import Argument, Arguments, Command, Group, Number, Option
from lmppl.cli.streams import show

_EXIT_CODES = (
    "exit codes: 0 fine, 1 the program has errors, 2 usage, 3 inference failed or refused, "
    "130 interrupted (a partial result is saved)"
)
_COUNT, _POSITIVE = Number(0), Number(1)


def _calls(function: str) -> Callable[[Arguments], int]:
    """The function at `module:name` of this package, imported when it is called."""

    def call(arguments: Arguments) -> int:
        module, _, name = function.partition(":")
        found = getattr(importlib.import_module(f"lmppl.cli.{module}"), name)
        return int(found(arguments))

    return call


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        show(f"lmppl {__version__}\n")
        ctx.exit()


def _choose_method() -> list[click.Parameter]:
    return [
        Option(["--infer"], metavar="NAME", help="a named `infer` line of the file"),
        Option(["--method"], metavar="M", help="a method, with the file's options if it has"),
    ]


def _allow() -> click.Parameter:
    return Option(
        ["--allow-path"],
        multiple=True,
        metavar="DIR",
        help="a folder, beside the program's own, that it may read files in",
    )


def _bind() -> list[click.Parameter]:
    return [
        Option(
            ["--param"],
            multiple=True,
            metavar="K=V",
            help="a parameter of the model; arrays as JSON",
        ),
        Option(
            ["--data"],
            metavar="FILE.json",
            help="parameters as a JSON object; in FILE.jsonl many of them, one a line",
        ),
        Option(
            ["--extern"],
            multiple=True,
            metavar="K=MODULE:ATTR",
            help="an extern of the program from Python (a module, or a path ending in .py); "
            "runs code",
        ),
    ]


def _set() -> click.Parameter:
    return Option(["--set"], multiple=True, metavar="K=V", help="an inference option")


def _device() -> list[click.Parameter]:
    return [
        Option(["--device"], metavar="D", help="cpu, cuda, cuda:1, mps, …"),
        Option(["--dtype"], metavar="T", help="float32, bfloat16, float16 or float64"),
    ]


def _threads() -> click.Parameter:
    return Option(["--threads"], type=_POSITIVE, metavar="N", help="by default as many as are idle")


def _configure() -> list[click.Parameter]:
    return [
        _set(),
        Option(["--num-samples"], type=_POSITIVE, metavar="N", help="how many draws"),
        Option(["--seed"], type=_COUNT, metavar="S", help="the seed of all randomness"),
        *_device(),
        Option(
            ["--budget"],
            metavar="B",
            help='stop after this much: "90s", "2min", "100000 tokens"',
        ),
        _threads(),
    ]


_METHODS_EXCLUDE = ("infer", "method")

RUN = Command(
    "run",
    "infer the posterior of a program and show it",
    _calls("running:run"),
    [
        Argument("file", "the program (.lmp)", metavar="FILE"),
        _allow(),
        *_choose_method(),
        *_bind(),
        *_configure(),
        Option(["--out"], metavar="DIR", help="save the posterior to a directory"),
        Option(
            ["--jsonl"],
            metavar="FILE",
            help="write the draws as JSON lines; - is standard output",
        ),
        Option(["--report"], metavar="FILE", help="write an HTML report"),
        Option(["--show"], type=_COUNT, default=8, metavar="N", help="draws to show (default 8)"),
        Option(["-q", "--quiet"], is_flag=True, help="no progress and no summary"),
    ],
    exclusive=[_METHODS_EXCLUDE, ("out", "jsonl")],
)

CHECK = Command(
    "check",
    "report every problem of programs without running them",
    _calls("programs:check"),
    [
        Argument("files", "the programs (.lmp)", metavar="FILE...", nargs=-1, required=True),
        _allow(),
        Option(["--pedantic"], is_flag=True, help="also warn of what is legal and often not meant"),
    ],
)

FMT = Command(
    "fmt",
    "format programs in place",
    _calls("programs:fmt"),
    [
        Argument(
            "files", "- reads and writes the standards", metavar="FILE...", nargs=-1, required=True
        ),
        Option(["--check"], is_flag=True, help="change nothing; exit 1 if it would"),
    ],
)

INFO = Command(
    "info",
    "show what a program is made of",
    _calls("programs:info"),
    [
        Argument("file", "the program (.lmp)", metavar="FILE"),
        _allow(),
        Option(["--json"], is_flag=True, help="as JSON"),
    ],
)

EXPLAIN = Command(
    "explain",
    "explain a diagnostic (LMP303), or whether a method would run a program",
    _calls("explaining:explain"),
    [
        Argument("subject", "a program, or a code", metavar="FILE|CODE"),
        _allow(),
        *_choose_method(),
        *_bind(),
        _set(),
    ],
    exclusive=[_METHODS_EXCLUDE],
)

COMPARE = Command(
    "compare",
    "run several methods on one program and compare their answers",
    _calls("comparing:compare"),
    [
        Argument("file", "the program (.lmp)", metavar="FILE"),
        _allow(),
        Option(
            ["--methods"],
            required=True,
            metavar="A,B,…",
            help="the methods, as smc,mcmc,importance",
        ),
        *_bind(),
        *_configure(),
        Option(["-q", "--quiet"], is_flag=True, help="no progress"),
    ],
)

BENCH = Command(
    "bench",
    "measure where the time of a step goes, for a model and a batch",
    _calls("bench:bench"),
    [
        Argument(
            "model",
            "what lm(...) takes (default builtin:stories)",
            metavar="[MODEL]",
            default="builtin:stories",
        ),
        Option(["--batch"], type=_POSITIVE, default=256, metavar="N", help="particles"),
        Option(["--tokens"], type=_POSITIVE, default=48, metavar="N", help="tokens drawn"),
        Option(["--prompt"], default="Once upon a time", metavar="TEXT", help="what they continue"),
        Option(["--matches"], metavar="REGEX", help="require the text to match"),
        Option(
            ["--lookahead"],
            type=_COUNT,
            default=0,
            metavar="K",
            help="look ahead every K tokens",
        ),
        *_device(),
        Option(
            ["--compile"],
            default="none",
            metavar="HOW",
            help="compute tokens by none, step or cuda-graph",
        ),
        _threads(),
    ],
)

SURROGATE = Command(
    "surrogate",
    "fit the small model that looks ahead in the place of a language model",
    _calls("surrogates:surrogate"),
    [
        Argument("model", "what lm(...) takes", metavar="MODEL"),
        Option(
            ["--prompt"],
            multiple=True,
            metavar="TEXT",
            help="what the texts continue; may be repeated (default: nothing)",
        ),
        Option(["--num-samples"], type=_POSITIVE, metavar="N", help="texts drawn (default 8192)"),
        Option(["--tokens"], type=_POSITIVE, metavar="N", help="tokens of each (default 64)"),
        Option(["--seed"], type=_COUNT, metavar="S", help="the seed of the texts (default 0)"),
        Option(["--out"], metavar="DIR", help="keep it below a directory, not in the cache"),
        *_device(),
        _threads(),
        Option(["-q", "--quiet"], is_flag=True, help="no progress"),
    ],
)

MODELS = Command(
    "models", "list the language models that come with lmppl", _calls("listing:models"), []
)

METHODS = Command(
    "methods",
    "list the inference methods and their options",
    _calls("listing:methods"),
    [Argument("method", "show the options of one", metavar="[METHOD]", required=False)],
)

COMMANDS = Group(
    "lmppl",
    "A probabilistic programming language for language-model posteriors.",
    _EXIT_CODES,
    [
        Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            help="show the version and exit",
            callback=_show_version,
        )
    ],
)
for _command in (RUN, CHECK, FMT, INFO, EXPLAIN, COMPARE, BENCH, SURROGATE, MODELS, METHODS):
    COMMANDS.add_command(_command)
