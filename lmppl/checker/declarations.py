"""The top of a file: types, constants, rewards, externs, imports and infer lines."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from lmppl.builtins import FACTORS, PLANNED
from lmppl.checker.calls import Formal
from lmppl.checker.expressions import ExpressionChecker, unknown
from lmppl.checker.files import FileReader, Place
from lmppl.checker.reordering import warn_of_reordering
from lmppl.checker.report import Report, did_you_mean
from lmppl.checker.scope import KIND_IN_WORDS, Scope, Symbol, SymbolKind
from lmppl.checker.sources import SourceChecker
from lmppl.checker.typing_rules import (
    BOUNDS_OF,
    FOREIGN_NAMES,
    KINDS,
    fits,
    in_words,
    is_inside,
    literal,
)
from lmppl.errors import Label, LmpError, Span
from lmppl.ir import expr as ir
from lmppl.ir.model import Extern, InferSpec, Parameter, Reward, RewardSource
from lmppl.ir.types import UNKNOWN, Interval, Type
from lmppl.syntax import ast
from lmppl.syntax.parser import parse

_BUILTIN_NAMES = frozenset(each.name for each in FACTORS) | frozenset(PLANNED) | {"file"}
# Files that import one another in a chain; each is read inside the one before.
_DEEPEST = 50
_FORMATS = ("lines", "json", "text")


class FileChecker:
    """Checks the declarations of one file, and of the files that it imports."""

    def __init__(
        self,
        program: ast.Program,
        place: Place,
        report: Report,
        opened: Sequence[str] = (),
        modules: dict[str, FileChecker | None] | None = None,
    ) -> None:
        self.program = program
        self.place = place
        self.report = report
        self.scope = Scope()
        self.expressions = ExpressionChecker(self.scope, report, self._read_file)
        self.reader = FileReader(place, report)
        self.sources = SourceChecker(self.expressions, self.reader, report)
        self.rewards: dict[str, Reward] = {}
        self.externs: dict[str, Extern] = {}
        # Real paths of the files that are being imported, outermost first.
        self._opened = tuple(opened)
        # The imported files by real path and by what they are called: each is checked once.
        self._modules = {} if modules is None else modules

    def check_declarations(self) -> None:
        """Declares everything at the top of the file, in order; problems go to the report."""
        for item in self.program.items:
            if isinstance(item, (ast.Let, ast.Reward, ast.Extern)):
                self.scope.later[item.name] = item.name_span
        for item in self.program.items:
            match item:
                case ast.Import():
                    self._check_import(item)
                case ast.Let():
                    self._check_constant(item)
                case ast.Reward():
                    self._check_reward(item)
                case ast.Extern():
                    self._check_extern(item)
        self.scope.later.clear()

    def declare(self, name: str, symbol: Symbol, *, callable: bool = False) -> bool:
        """Adds a name to the scope; reports, and gives false, where it is taken."""
        earlier = self.scope.find(name)
        if earlier is not None:
            self.report.error(
                "LMP103",
                symbol.span,
                f"`{name}` is already {KIND_IN_WORDS[earlier.kind]}",
                labels=[Label(earlier.span, "declared here")],
                help="nothing shadows anything: choose another name",
            )
            self.scope.later.pop(name, None)
            return False
        if callable and name in _BUILTIN_NAMES:
            self.report.error(
                "LMP103",
                symbol.span,
                f"`{name}` is a built-in of the language",
                help="choose another name",
            )
        self.scope.add(name, symbol)
        return True

    # -- types and parameters ------------------------------------------------------------------

    def check_type(self, node: ast.TypeExpr) -> Type:
        """The type that was written; `unknown`, and reported, where it is none."""
        kind = next((each for each in KINDS if each == node.name), None)
        if kind is None:
            foreign = FOREIGN_NAMES.get(node.name)
            self.report.error(
                "LMP102",
                node.name_span,
                f"there is no type `{node.name}`",
                help=f"did you mean `{foreign}`?"
                if foreign
                else did_you_mean(node.name, KINDS) or f"the types are {', '.join(KINDS)}",
            )
            return UNKNOWN
        found: dict[str, Any] = {}
        spans: dict[str, Span] = {}
        for bound in node.bounds:
            value = self._check_bound(kind, bound)
            if bound.name in found:
                self.report.error("LMP110", bound.span, f"`{bound.name}` is given twice")
            elif value is not None:
                found[bound.name] = value
                spans[bound.name] = bound.span
        lower, upper = found.get("lower", -math.inf), found.get("upper", math.inf)
        shortest, longest = found.get("min_length", 0), found.get("max_length")
        if lower > upper or (longest is not None and shortest > longest):
            names = ("lower", "upper") if "upper" in spans else ("min_length", "max_length")
            self.report.error(
                "LMP113",
                spans[names[1]],
                "no value lies within these bounds",
                labels=[Label(spans[names[0]], "")],
                help=f"`{names[0]}` is at most `{names[1]}`",
            )
            lower, upper, shortest, longest = -math.inf, math.inf, 0, None
        range = Interval(float(lower), float(upper))
        return Type(kind, node.dimensions, range, shortest, longest)

    def _check_bound(self, kind: str, bound: ast.Bound) -> Any:
        allowed = BOUNDS_OF[kind]  # type: ignore[index]
        value = self.expressions.check(bound.value)
        if bound.name not in allowed:
            self.report.error(
                "LMP109",
                bound.name_span,
                f"`{kind}` has no bound `{bound.name}`",
                help=did_you_mean(bound.name, allowed)
                or (f"it has {' and '.join(allowed)}" if allowed else "it has none"),
            )
            return None
        if value.type.kind == "unknown":
            return None
        if not isinstance(value, ir.Constant) or not value.type.is_number:
            self.report.error("LMP113", bound.value.span, "a bound is a constant number")
            return None
        if bound.name.endswith("length") and value.type.kind != "int":
            self.report.error("LMP113", bound.value.span, "a length is an int")
            return None
        return value.value

    def check_parameters(
        self, nodes: Sequence[ast.Parameter], *, may_default: bool, owner: str
    ) -> tuple[Parameter, ...]:
        """The parameters with their types and defaults."""
        parameters: list[Parameter] = []
        seen: dict[str, Span] = {}
        for node in nodes:
            type = self.check_type(node.type)
            if type.kind == "uncertain":
                self.report.error(
                    "LMP105",
                    node.type.span,
                    "only a reward is uncertain, not a parameter",
                    help="give it the mean and the spread as two numbers",
                )
                type = UNKNOWN
            if node.name in seen:
                self.report.error(
                    "LMP103",
                    node.name_span,
                    f"`{owner}` has two parameters `{node.name}`",
                    labels=[Label(seen[node.name], "the first")],
                )
                continue
            seen[node.name] = node.name_span
            default = None
            if node.default is not None:
                default = self._check_default(node, type, {each.name for each in nodes})
                if not may_default:
                    self.report.error(
                        "LMP111", node.default.span, f"a parameter of `{owner}` has no default"
                    )
            parameters.append(Parameter(node.name, type, node.name_span, default))
        return tuple(parameters)

    def _check_default(self, node: ast.Parameter, type: Type, names: set[str]) -> ir.Expr | None:
        assert node.default is not None
        if isinstance(node.default, ast.Name) and node.default.name in names:
            self.report.error(
                "LMP114",
                node.default.span,
                "a default is a constant, and not another parameter",
            )
            return None
        value = self.expressions.check(node.default)
        if value.type == UNKNOWN:
            return None
        if not isinstance(value, ir.Constant):
            self.report.error("LMP114", node.default.span, "a default is a constant")
            return None
        if not self.require_type(value, type, f"`{node.name}`", node.type.span):
            return None
        kind = type.kind if type.kind != "unknown" else value.type.kind
        constant = _as_real(value.value) if kind == "real" else value.value
        return replace(value, value=constant, type=replace(value.type, kind=kind))

    def require_type(self, value: ir.Expr, type: Type, what: str, declared: Span) -> bool:
        """Whether a value has a declared type and lies within its bounds; reported if not."""
        if "unknown" in (value.type.kind, type.kind) and value.type.dimensions <= type.dimensions:
            return True
        labels = [Label(declared, "declared here")]
        if not fits(value.type, type):
            self.report.error(
                "LMP105",
                value.span,
                f"{what} is {in_words(type)}, but this is {in_words(value.type)}",
                labels=labels,
            )
            return False
        if type.kind in ("int", "real") and not is_inside(value.type.range, type.range):
            shown = (
                literal(value.value)
                if isinstance(value, ir.Constant)
                else value.type.range.in_words()
            )
            self.report.error(
                "LMP106",
                value.span,
                f"{what} must be {type.range.in_words()}",
                label=f"this is {shown}",
                labels=labels,
                help=None
                if isinstance(value, ir.Constant)
                else "bound it: `clamp(…, lower=…, upper=…)`",
            )
            return False
        if type.kind == "string" and isinstance(value, ir.Constant):
            problem = length_problem(value.value, type)
            if problem is not None:
                self.report.error("LMP106", value.span, f"{what} {problem}", labels=labels)
                return False
        return True

    # -- constants and files -------------------------------------------------------------------

    def _check_constant(self, node: ast.Let) -> None:
        value = self.expressions.check(node.value)
        symbol = Symbol(node.name, "constant", node.name_span)
        if value.type != UNKNOWN and not isinstance(value, ir.Constant):
            self.report.error(
                "LMP114",
                node.value.span,
                f"`{node.name}` stands outside the model, and this is not a constant",
                help="what depends on a choice or a reward is a `let` inside the model",
            )
            value = unknown(node.value.span)
        if value.type == UNKNOWN:
            symbol.kind = "unknown"
        elif node.type is not None:
            type = self.check_type(node.type)
            if not self.require_type(value, type, f"`{node.name}`", node.type.span):
                symbol.kind = "unknown"
        if isinstance(value, ir.Constant):
            symbol.value = value
        symbol.type = value.type
        self.declare(node.name, symbol)

    def _read_file(self, node: ast.Call, expressions: ExpressionChecker) -> ir.Expr:
        """The constant that `file("x", format="lines")` reads."""
        formals = (Formal("path"), Formal("format", required=False))
        bound, complete = expressions.calls.bind(
            "file", formals, node.arguments, node.function.span
        )
        given = {name: expressions.check(argument.value) for name, argument in bound.items()}
        if not complete:
            return unknown(node.span)
        for name, value in given.items():
            if value.type == UNKNOWN:
                return unknown(node.span)
            if not isinstance(value, ir.Constant) or not isinstance(value.value, str):
                self.report.error(
                    "LMP114", value.span, f"the `{name}` of `file` is a constant string"
                )
                return unknown(node.span)
        path_node = given["path"]
        assert isinstance(path_node, ir.Constant) and isinstance(path_node.value, str)
        path = path_node.value
        format: object = "json" if path.endswith(".json") else "text"
        if "format" in given:
            format_node = given["format"]
            assert isinstance(format_node, ir.Constant)
            format = format_node.value
            if format not in _FORMATS:
                self.report.error(
                    "LMP115",
                    format_node.span,
                    f"`file` cannot read the format {literal(format)}",
                    help=did_you_mean(str(format), _FORMATS)
                    or f"the formats are {', '.join(_FORMATS)}",
                )
                return unknown(node.span)
        text = self.reader.read_text(path, path_node.span)
        if text is None:
            return unknown(node.span)
        return self.reader.constant(text, str(format), path, path_node.span, node.span)

    # -- rewards and externs -------------------------------------------------------------------

    def _check_reward(self, node: ast.Reward) -> None:
        parameters = self.check_parameters(node.parameters, may_default=False, owner=node.name)
        declared = None if node.type is None else self._check_reward_type(node.type)
        checked = self.sources.check(node.source, parameters, node)
        symbol = Symbol(node.name, "reward", node.name_span, parameters=parameters)
        if checked is not None:
            source, found = checked
            type = self._reward_type(node, declared, found)
            if type is not None and all(each.type.kind != "unknown" for each in parameters):
                symbol.type = type
                symbol.reward = Reward(node.name, parameters, type, source, node.name_span)
            elif declared is not None and declared.kind == found.kind:
                # Only the range was wrong, so calls are still checked.
                symbol.type = declared
        elif declared is not None and declared.kind != "unknown":
            # The source was reported; calls are still checked against what was declared.
            symbol.type = declared
        if self.declare(node.name, symbol, callable=True) and symbol.reward is not None:
            self.rewards[node.name] = symbol.reward

    def _check_reward_type(self, node: ast.TypeExpr) -> Type:
        type = self.check_type(node)
        if type.kind in ("int", "real", "uncertain") and not type.is_array:
            return type
        if type.kind != "unknown":
            self.report.error(
                "LMP218",
                node.span,
                f"a reward is a number, or uncertain, and not {in_words(type)}",
            )
        return UNKNOWN

    def _reward_type(self, node: ast.Reward, declared: Type | None, found: Type) -> Type | None:
        """The type of a reward from what was declared and what its source gives."""
        if declared is None:
            return found
        if declared.kind == "unknown":
            return None
        assert node.type is not None
        if (declared.kind == "uncertain") != (found.kind == "uncertain"):
            gives = "an uncertain reward" if found.kind == "uncertain" else "a certain number"
            self.report.error(
                "LMP218",
                node.type.span,
                f"`{node.name}` is declared {declared.kind}, but its source gives {gives}",
                labels=[Label(node.source.span, gives)],
                help="declare it `uncertain`, and name a risk rule where it is used"
                if found.kind == "uncertain"
                else "declare it `real`, or make it an `ensemble([…])`",
            )
            return None
        if declared.kind == "int" and found.kind == "real":
            self.report.error(
                "LMP218",
                node.type.span,
                f"`{node.name}` is declared int, but its source gives real numbers",
                labels=[Label(node.source.span, "real numbers")],
            )
            return None
        too_narrow = (
            math.isfinite(found.range.lower) and declared.range.lower > found.range.lower
        ) or (math.isfinite(found.range.upper) and declared.range.upper < found.range.upper)
        if too_narrow:
            self.report.error(
                "LMP217",
                node.type.span,
                f"`{node.name}` is declared {declared.range.in_words()}, but its source"
                f" gives values {found.range.in_words()}",
                labels=[Label(node.source.span, found.range.in_words())],
                notes=["a declared range is a promise that rejection and exact inference rely on"],
                help="declare the wider range, and use `clamp(…)` where the reward is used",
            )
            return None
        lower = max(declared.range.lower, found.range.lower)
        upper = min(declared.range.upper, found.range.upper)
        return replace(declared, range=Interval(lower, upper))

    def _check_extern(self, node: ast.Extern) -> None:
        parameters = self.check_parameters(node.parameters, may_default=False, owner=node.name)
        inputs = self._check_options(node)
        known = all(each.type.kind != "unknown" for each in parameters)
        kind: SymbolKind = node.kind
        symbol = Symbol(node.name, kind, node.name_span, parameters=parameters)
        if node.kind == "reward":
            type = Type("real") if node.type is None else self._check_reward_type(node.type)
            if type.kind != "unknown" and known:
                symbol.type = type
                source = RewardSource("extern", {}, (), node.span)
                symbol.reward = Reward(node.name, parameters, type, source, node.name_span, inputs)
        elif node.kind == "function":
            assert node.type is not None
            type = self.check_type(node.type)
            if type.kind == "uncertain":
                self.report.error(
                    "LMP218",
                    node.type.span,
                    "only a reward is uncertain",
                    help=f"declare it as `extern reward {node.name}(…): uncertain`",
                )
            elif type.kind != "unknown" and known:
                symbol.type = type
                symbol.extern = Extern(node.name, "function", parameters, type, node.name_span)
        else:
            symbol.extern = Extern(node.name, "lm", (), None, node.name_span)
        if self.declare(node.name, symbol, callable=True):
            if symbol.reward is not None:
                self.rewards[node.name] = symbol.reward
            if symbol.extern is not None:
                self.externs[node.name] = symbol.extern

    def _check_options(self, node: ast.Extern) -> Literal["text", "tokens"]:
        inputs: Literal["text", "tokens"] = "text"
        for option in node.options:
            assert option.name is not None and option.name_span is not None
            value = self.expressions.check(option.value)
            if option.name != "inputs" or node.kind != "reward":
                allowed = ("inputs",) if node.kind == "reward" else ()
                self.report.error(
                    "LMP109",
                    option.name_span,
                    f"an extern {node.kind} has no option `{option.name}`",
                    help=did_you_mean(option.name, allowed),
                )
            elif not isinstance(value, ir.Constant) or value.value not in ("text", "tokens"):
                self.report.error("LMP115", option.value.span, '`inputs` is "text" or "tokens"')
            elif value.value == "tokens":
                inputs = "tokens"
        return inputs

    # -- imports -------------------------------------------------------------------------------

    def _check_import(self, node: ast.Import) -> None:
        symbol = Symbol(node.name, "import", node.name_span)
        module = self._import(node)
        if module is None:
            symbol.module = {"?": Symbol("?", "unknown", node.name_span)}
        else:
            symbol.module = {
                name: _qualified(member, node.name)
                for name, member in module.scope.symbols.items()
                if member.kind != "import"
            }
            # What the file imports in its turn has no name here.
            for name, reward in module.rewards.items():
                if "." not in name:
                    qualified = f"{node.name}.{name}"
                    self.rewards[qualified] = replace(reward, name=qualified)
            for name, extern in module.externs.items():
                if "." not in name:
                    qualified = f"{node.name}.{name}"
                    self.externs[qualified] = replace(extern, name=qualified)
            self.reader.digests.update(module.reader.digests)
        self.declare(node.name, symbol)

    def _import(self, node: ast.Import) -> FileChecker | None:
        path = node.file.value
        on_disk = self.reader.where(path, node.file.span)
        if on_disk is None:
            return None
        shown = path
        if self.program.path is not None:
            shown = os.path.normpath(os.path.join(os.path.dirname(self.program.path), path))
        if on_disk in self._opened:
            self.report.error(
                "LMP118",
                node.file.span,
                f"`{path}` imports itself"
                if on_disk == self._opened[-1]
                else f"`{path}` is already being imported: the imports go in a circle",
            )
            return None
        if len(self._opened) > _DEEPEST:
            self.report.error(
                "LMP118",
                node.file.span,
                f"`{path}` is imported through more than {_DEEPEST} files, one by the other",
                help="import it here and there, and not in a chain",
            )
            return None
        # Not how it is called: links give one file many names.
        key = on_disk
        if key not in self._modules:
            self._modules[key] = self._checked_module(path, on_disk, shown, node.file.span)
        return self._modules[key]

    def _checked_module(
        self, path: str, on_disk: str, shown: str, span: Span
    ) -> FileChecker | None:
        text = self.reader.read_text(path, span, is_program=True)
        if text is None:
            return None
        self.report.add_source(shown, text)
        try:
            program = parse(text, shown)
        except LmpError as error:
            self.report.diagnostics.extend(error.diagnostics)
            return None
        opened = (*self._opened, on_disk)
        warn_of_reordering(program, self.report)
        module = FileChecker(program, self.place.of(on_disk), self.report, opened, self._modules)
        module.check_declarations()
        return module

    # -- infer ---------------------------------------------------------------------------------

    def check_infers(self) -> tuple[InferSpec, ...]:
        """The `infer` lines with constant options and names that differ."""
        specs: list[InferSpec] = []
        by_name: dict[str | None, Span] = {}
        for node in self.program.infers:
            options: dict[str, object] = {}
            spans: dict[str, Span] = {}
            for argument in node.options:
                value = self.expressions.check(argument.value)
                if argument.name is None or argument.name_span is None:
                    self.report.error(
                        "LMP108",
                        argument.span,
                        "the options of a method are named",
                        help="write `num_particles=256`, not `256`",
                    )
                elif value.type == UNKNOWN:
                    continue
                elif not isinstance(value, ir.Constant):
                    self.report.error(
                        "LMP114", argument.value.span, "an option of `infer` is a constant"
                    )
                elif argument.name in options:
                    self.report.error(
                        "LMP110", argument.name_span, f"`{argument.name}` is given twice"
                    )
                else:
                    options[argument.name] = value.value
                    spans[argument.name] = argument.value.span
            if node.name in by_name:
                self._report_same_infer(node, by_name[node.name])
            else:
                by_name[node.name] = node.name_span or node.method_span
            specs.append(InferSpec(node.method, options, node.method_span, node.name, spans))
        return tuple(specs)

    def _report_same_infer(self, node: ast.Infer, first: Span) -> None:
        if node.name is None:
            self.report.error(
                "LMP222",
                node.method_span,
                "only one `infer` may be without a name",
                labels=[Label(first, "the first one")],
                help=f"name it: `infer {node.method}(…) as my_{node.method}`",
            )
        else:
            self.report.error(
                "LMP222",
                node.name_span or node.span,
                f"two `infer` lines are called `{node.name}`",
                labels=[Label(first, "the first one")],
            )


def _qualified(symbol: Symbol, owner: str) -> Symbol:
    """The symbol as the importing file calls it."""
    name = f"{owner}.{symbol.name}"
    reward = None if symbol.reward is None else replace(symbol.reward, name=name)
    extern = None if symbol.extern is None else replace(symbol.extern, name=name)
    return replace(symbol, name=name, reward=reward, extern=extern)


def length_problem(text: object, type: Type) -> str | None:
    """What is wrong with the length of a string, as the end of a sentence; None if nothing."""
    texts = text if isinstance(text, (list, tuple)) else (text,)
    for each in texts:
        if not isinstance(each, str):
            continue
        if len(each) < type.min_length:
            return f"must have at least {type.min_length} characters"
        if type.max_length is not None and len(each) > type.max_length:
            return f"must have at most {type.max_length} characters"
    return None


def _as_real(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_as_real(each) for each in value)
    return float(value) if isinstance(value, int) else value
