"""Click, in the words of this command line: its usage, suggestions and help."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import click
from click.core import ParameterSource

from lmppl.cli.logs import logging_to_stderr
from lmppl.cli.streams import show
from lmppl.errors import closest

_WIDEST = 100


class Arguments(SimpleNamespace):
    """What was written on the command line, an attribute for each option by its long name."""

    def changed(self, **values: object) -> Arguments:
        """A copy with other values."""
        return Arguments(**{**vars(self), **values})


class Number(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A whole number of at least `least`."""

    name = "number"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if number < self.least:
            what = "negative" if self.least == 0 else f"below {self.least}"
            self.fail(f"{value} is {what}", param, ctx)
        return number


class Option(click.Option):
    """An option; one that takes a value does not take the next option for it."""

    def consume_value(self, ctx: click.Context, opts: Any) -> tuple[Any, ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.COMMANDLINE and not (self.is_flag or self.count):
            others = option_names(ctx.command)
            for text in value if isinstance(value, (tuple, list)) else (value,):
                if text in others:
                    raise click.BadOptionUsage(
                        self.opts[-1], f"{self.opts[-1]} needs a value, before {text}", ctx
                    )
        return value, source


class Argument(click.Argument):
    """A positional argument that says what it is."""

    def __init__(self, declaration: str, about: str = "", **settings: Any) -> None:
        super().__init__([declaration], **settings)
        self.about = about


class _Formatter(click.HelpFormatter):
    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix or "usage: ")


class _Context(click.Context):
    formatter_class = _Formatter


class Command(click.Command):
    """A command whose parameters reach its function as one `Arguments`.

    Of the options in each row of `exclusive` one may be given.
    """

    context_class = _Context

    def __init__(
        self,
        name: str,
        about: str,
        function: Callable[[Arguments], int],
        params: Sequence[click.Parameter],
        exclusive: Iterable[tuple[str, ...]] = (),
    ) -> None:
        super().__init__(
            name,
            params=[*params, _verbose_option(), _help_option()],
            callback=lambda verbose, **values: _call(function, verbose, values),
            help=f"{about[0].upper()}{about[1:]}.",
            short_help=about,
            add_help_option=False,
            context_settings={"max_content_width": _WIDEST},
        )
        self.exclusive = tuple(exclusive)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, args)
        except click.UsageError as error:
            # Click's parser does not always say which command it was reading.
            error.ctx = error.ctx or ctx
            raise
        for names in self.exclusive:
            given = [name for name in names if ctx.params.get(name) is not None]
            if len(given) > 1:
                raise click.UsageError(f"--{given[0]} and --{given[1]} exclude each other", ctx)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [
            (parameter.human_readable_name, parameter.about)
            for parameter in self.params
            if isinstance(parameter, Argument) and parameter.about
        ]
        _write_rows(formatter, "arguments", arguments)
        _write_options(self, ctx, formatter)


class Group(click.Group):
    """The command that has all commands below it."""

    context_class = _Context

    def __init__(self, name: str, about: str, epilog: str, params: Sequence[click.Parameter]):
        super().__init__(
            name,
            params=[*params, _help_option()],
            help=about,
            epilog=epilog,
            add_help_option=False,
            no_args_is_help=False,
            subcommand_metavar="COMMAND ...",
            context_settings={"max_content_width": _WIDEST},
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, command.short_help or "") for name, command in self.commands.items()]
        _write_rows(formatter, "commands", rows)
        _write_options(self, ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = closest(name, self.commands)
        if near:
            hint = f"did you mean {near}?"
        elif name.endswith(".lmp"):
            hint = f"did you mean lmppl run {name}?"
        else:
            hint = f"the commands are {', '.join(self.commands)}"
        raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)


def usage_message(error: click.UsageError) -> str:
    """What is wrong with a command line, in one sentence, with what was probably meant."""
    command = error.ctx.command if error.ctx is not None else None
    if isinstance(error, click.NoSuchOption):
        hint = _option_hint(error.option_name, command)
        return f"there is no option {error.option_name}" + (f"; {hint}" if hint else "")
    if isinstance(error, click.MissingParameter) and error.param is not None:
        what = error.param.human_readable_name
        if isinstance(error.param, click.Option):
            what = f"{error.param.opts[-1]} {error.param.metavar or ''}".rstrip()
        return f"{what} is missing"
    if isinstance(error, click.BadParameter) and error.param is not None:
        name = error.param.opts[-1] if isinstance(error.param, click.Option) else error.param.name
        return f"{name}: {error.message}"
    message = error.format_message().rstrip(".")
    if message == "Missing command":
        return "name a command, or `lmppl --help`"
    return message[:1].lower() + message[1:]


def option_names(command: click.Command) -> set[str]:
    """Every way to write an option of a command."""
    return {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def _option_hint(name: str, command: click.Command | None) -> str:
    """What somebody who wrote an option that does not exist probably wanted."""
    if command is None:
        return ""
    names = option_names(command)
    plain = name.lstrip("-").replace("-", "_")
    beginning = sorted(each for each in names if plain and each.startswith(f"--{name.lstrip('-')}"))
    if beginning:
        return f"did you mean {' or '.join(beginning)}?"
    known: set[str] = set()
    if "--set" in names:
        from dataclasses import fields

        from lmppl.inference import METHODS

        known = {option.name for method in METHODS for option in fields(method)}
        if plain in known:
            return f"it is an option of the method: --set {plain}=…"
    if plain in ("n", "samples", "draws", "num_draws", "particles") and "--num-samples" in names:
        return "did you mean --num-samples?"
    near = closest(name, names)
    if near:
        return f"did you mean {near}?"
    meant = closest(plain, sorted(known))
    if meant:
        return f"did you mean the option of the method, --set {meant}=…?"
    if "--param" in names and plain.isidentifier():
        return f"a parameter of the model is given by --param {plain}=…"
    return ""


def _call(function: Callable[[Arguments], int], verbose: int, values: Mapping[str, object]) -> int:
    with logging_to_stderr(verbose):
        return function(Arguments(**values))


def _verbose_option() -> click.Option:
    return Option(["-v", "--verbose"], count=True, help="say what is done; twice, every step of it")


def _help_option() -> click.Option:
    return click.Option(
        ["-h", "--help"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        help="show this help and exit",
        callback=_show_help,
    )


def _show_help(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        show(ctx.get_help() + "\n")
        ctx.exit()


def _write_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    records = (parameter.get_help_record(ctx) for parameter in command.params)
    options = (
        record
        for record, parameter in zip(records, command.params, strict=True)
        if isinstance(parameter, click.Option) and record is not None
    )
    _write_rows(formatter, "options", list(options))


def _write_rows(formatter: click.HelpFormatter, title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows, col_max=26)
