"""Names: what is declared, what each stands for, and which there are not."""

from __future__ import annotations

from lmppl.builtins import FACTORS, PLANNED, named
from lmppl.checker.analysis import Annotations
from lmppl.checker.operands import unknown
from lmppl.checker.report import Report, did_you_mean
from lmppl.checker.scope import KIND_IN_WORDS, Scope, Symbol
from lmppl.errors import Label, Span, closest
from lmppl.ir import expr as ir
from lmppl.records import replace
from lmppl.syntax import ast
from lmppl.syntax.trees import walk

_CONDITIONS = ("true", "false")
_BUILTIN_NAMES = frozenset(each.name for each in FACTORS) | frozenset(PLANNED) | {"file"}
_DISTRIBUTION_NAMES = frozenset(named("distribution"))


class NameChecker:
    """Knows the names of a file, and of its model; problems go to the report."""

    def __init__(self, scope: Scope, report: Report, annotations: Annotations) -> None:
        self.scope = scope
        self.report = report
        self.annotations = annotations

    def declare(self, name: str, symbol: Symbol, *, callable: bool = False) -> bool:
        """Adds a name to the scope; reports, and gives false, where it is taken."""
        self.annotations.symbols[symbol.span] = symbol
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

    def value(self, name: str, span: Span) -> ir.Expr:
        """The value that a name stands for; reported where it stands for none."""
        symbol = self.scope.find(name)
        if symbol is None:
            self.report_unknown(name, span)
            return unknown(span)
        self.mark(symbol, span)
        return self.reference(symbol, span)

    def mark(self, symbol: Symbol, span: Span) -> None:
        """Counts what stands at a span as a use of the symbol."""
        symbol.used = True
        self.annotations.symbols[span] = symbol

    def reference(self, symbol: Symbol, span: Span) -> ir.Expr:
        """The value that a symbol stands for."""
        match symbol.kind:
            case "constant":
                assert symbol.value is not None
                return replace(symbol.value, span=span)
            case "parameter" | "site" | "let":
                assert symbol.type is not None
                return ir.Reference(symbol.type, span, symbol.name, symbol.kind)
            case "unknown":
                return unknown(span)
        name = symbol.name
        if symbol.kind in ("reward", "function"):
            arguments = ", ".join(each.name for each in symbol.parameters)
            help = f"call it: `{name}({arguments})`"
        elif symbol.kind == "language model":
            help = f"draw from it: `text ~ {name}(max_tokens=40)`"
        else:
            help = f"name what you want of it: `{name}.…`"
        self.report.error(
            "LMP111",
            span,
            f"`{name}` is {KIND_IN_WORDS[symbol.kind]}, not a value",
            labels=[Label(symbol.span, "declared here")],
            help=help,
        )
        return unknown(span)

    def report_unknown(self, name: str, span: Span) -> None:
        """Says that a value of this name does not exist, and what may have been meant."""
        later = self.scope.later.get(name)
        if later is not None:
            self.report.error(
                "LMP116",
                span,
                f"`{name}` is used before it has a value",
                labels=[Label(later, "it gets its value here")],
                help=f"move this below the line that gives `{name}` its value",
            )
            return
        if name in _BUILTIN_NAMES:
            # Nobody calls a distribution where a number belongs: a name of one's own is missing.
            own = name in _DISTRIBUTION_NAMES or name in PLANNED
            self.report.error(
                "LMP111",
                span,
                f"`{name}` is a built-in, not a value",
                help=f"to have a value of that name, declare it, as in `model m({name}: real)`"
                if own
                else f"call it: `{name}(…)`",
            )
            return
        candidates = [
            *self.scope.names("constant", "parameter", "site", "let", "unknown"),
            *self.scope.later,
            *_CONDITIONS,
        ]
        near = closest(name, candidates)
        if near is not None:
            # A misspelt name is a use of what was meant, which is then not called unused.
            self.scope.use(near)
        self.report.error(
            "LMP101",
            span,
            f"nothing is called `{name}`",
            help=near and f"did you mean `{near}`?",
        )

    def attribute(self, node: ast.Attribute) -> ir.Expr:
        """The value of `q.name`, a constant of an imported file."""
        symbol = self.member(node)
        return unknown(node.span) if symbol is None else self.reference(symbol, node.span)

    def member(self, node: ast.Attribute) -> Symbol | None:
        """What `q.name` stands for; reported, and None, where it is nothing."""
        if not isinstance(node.value, ast.Name):
            self.report.error(
                "LMP111",
                node.name_span,
                f"`{self.report.text(node.value.span)}` has no parts with names",
                help="a dot follows the name of an imported file only",
            )
            return None
        owner = self.scope.find(node.value.name)
        if owner is not None:
            self.mark(owner, node.value.span)
        if owner is None or owner.kind != "import":
            imports = self.scope.names("import")
            self.report.error(
                "LMP111" if owner is not None else "LMP101",
                node.value.span,
                f"`{node.value.name}` is {KIND_IN_WORDS[owner.kind]}, not an imported file"
                if owner is not None
                else f"nothing is imported as `{node.value.name}`",
                help=_no_method(node)
                if owner is not None
                else did_you_mean(node.value.name, imports)
                or f'import a file first: `import "….lmp" as {node.value.name}`',
            )
            return None
        if "?" in owner.module:  # the imported file could not be read, which was reported
            return None
        found = owner.module.get(node.name)
        if found is None:
            self.report.error(
                "LMP101",
                node.name_span,
                f"`{node.value.name}` has nothing called `{node.name}`",
                help=did_you_mean(node.name, owner.module)
                or ("it has " + ", ".join(sorted(owner.module)) if owner.module else None),
            )
            return None
        self.mark(found, node.name_span)
        return found

    def use_all(self, node: ast.Node) -> None:
        """Counts every name below a refused part of the program as used."""
        for each in walk(node):
            if isinstance(each, (ast.Name, ast.Interpolation)):
                self.scope.use(each.name)
            elif isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
                owner = self.scope.use(each.value.name)
                if owner is not None and each.name in owner.module:
                    owner.module[each.name].used = True

    def refuse(self, span: Span, what: str) -> None:
        """Refuses what the language has but this version cannot do."""
        self.report.error(
            "LMP230",
            span,
            f"{what} has no meaning yet in this version",
            notes=["it is refused, because ignoring it would change the posterior"],
        )


def _no_method(node: ast.Attribute) -> str:
    """What to write for `text.startswith(…)`, which is how other languages say it."""
    near = closest(node.name, named("predicate", "function"))
    written = (
        f"write `{near}({node.value.name}, …)`" if isinstance(node.value, ast.Name) and near else ""
    )
    return written or "values have no methods: a dot follows the name of an imported file only"
