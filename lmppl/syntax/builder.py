"""From lark's tree to the frozen classes of `ast`: one method per rule of the grammar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from lark import Token, Tree

from lmppl.errors import Diagnostic, InternalError, Label, Span
from lmppl.syntax import ast, literals
from lmppl.syntax.scanner import Scan

# Deeper trees would overflow the stack of whoever walks them.
MAX_DEPTH = 150

Branch = Tree[Token]


class _TooDeep(Exception):
    """An expression is nested beyond MAX_DEPTH."""

    def __init__(self, span: Span) -> None:
        self.span = span


def literal_diagnostics(token: Token, scan: Scan, reserved: frozenset[str]) -> list[Diagnostic]:
    """What is wrong inside a literal token; nothing for other tokens."""
    match token.type:
        case "INT":
            problems = literals.decode_int(token)[1]
        case "FLOAT":
            problems = literals.decode_real(token)[1]
        case "STRING" | "RAW_STRING" | "LONG_STRING" | "F_STRING" | "LONG_F_STRING":
            problems = literals.decode_string(token, reserved)[1]
        case _:
            return []
    start = int(token.start_pos or 0)
    return [
        Diagnostic(
            each.code,
            "error",
            each.message,
            scan.span(start + each.start, start + each.end),
            help=each.help,
        )
        for each in problems
    ]


class Builder:
    """Builds one program; what is wrong with it beyond the grammar lands in `diagnostics`."""

    def __init__(self, scan: Scan, reserved: frozenset[str]) -> None:
        self._scan = scan
        self._path = scan.path
        self._reserved = reserved
        self._depth = 0
        self.diagnostics: list[Diagnostic] = []

    def program(
        self, tree: Branch, allowances: tuple[tuple[int, tuple[str, ...]], ...]
    ) -> ast.Program | None:
        """The program, or None where it is nested too deeply to be built."""
        source = self._scan.source
        items: list[Any] = []
        for child in tree.children:
            if isinstance(child, Token):
                continue
            try:
                items.append(self._build(child))
            except _TooDeep as error:
                self.diagnostics.append(too_deep(error.span))
                return None
        span = self._scan.span(0, len(source))
        return ast.Program(self._path, source, tuple(items), allowances, span)

    # ---- machinery ----

    def _build(self, tree: Branch) -> Any:
        rule = str(tree.data)
        method = self._METHODS.get(rule)
        if method is None:
            raise InternalError(f"the grammar rule {rule} has no builder")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _TooDeep(self._span(tree))
        built = method(self, tree)
        self._depth -= 1
        return built

    def _expression(self, child: Branch | Token) -> ast.Expr:
        if isinstance(child, Token):
            raise InternalError(f"a token {child.type} where an expression belongs")
        built: ast.Expr = self._build(child)
        return built

    def _trees(self, tree: Branch) -> list[Branch]:
        return [child for child in tree.children if isinstance(child, Tree)]

    def _tokens(self, tree: Branch, kind: str) -> list[Token]:
        return [child for child in tree.children if isinstance(child, Token) and child.type == kind]

    def _token_span(self, token: Token) -> Span:
        return Span(
            self._path,
            token.start_pos or 0,
            token.end_pos or 0,
            token.line or 1,
            token.column or 1,
            token.end_line or 1,
            token.end_column or 1,
        )

    def _span(self, tree: Branch) -> Span:
        first: Branch | Token = tree
        while isinstance(first, Tree):
            first = first.children[0]
        last: Branch | Token = tree
        while isinstance(last, Tree):
            last = last.children[-1]
        return Span(
            self._path,
            first.start_pos or 0,
            last.end_pos or 0,
            first.line or 1,
            first.column or 1,
            last.end_line or 1,
            last.end_column or 1,
        )

    def _name(self, tree: Branch, which: int = 0) -> tuple[str, Span]:
        token = self._tokens(tree, "NAME")[which]
        return str(token), self._token_span(token)

    def _optional(self, tree: Branch, rule: str) -> Any:
        for child in self._trees(tree):
            if child.data == rule:
                return self._build(child)
        return None

    def _label(self, tree: Branch) -> tuple[ast.TermLabel | None, list[Branch]]:
        """The label of a statement, if it has one, and its expressions."""
        trees = self._trees(tree)
        if trees and trees[0].data == "label":
            return self._build(trees[0]), trees[1:]
        return None, trees

    # ---- the top of a file ----

    def _import(self, tree: Branch) -> ast.Import:
        name, name_span = self._name(tree)
        literal = tree.children[1]
        file = self._literal(literal)
        return ast.Import(file, name, name_span, self._span(tree))

    def _reward(self, tree: Branch) -> ast.Reward:
        name, name_span = self._name(tree)
        trees = self._trees(tree)
        parameters = self._build(trees[0])
        declared = self._optional(tree, "type")
        source = self._expression(trees[-1])
        return ast.Reward(name, name_span, parameters, declared, source, self._span(tree))

    def _extern_reward(self, tree: Branch) -> ast.Extern:
        name, name_span = self._name(tree)
        parameters, options = self._build(self._trees(tree)[0])
        declared = self._optional(tree, "type")
        span = self._span(tree)
        return ast.Extern("reward", name, name_span, parameters, options, declared, span)

    def _extern_function(self, tree: Branch) -> ast.Extern:
        name, name_span = self._name(tree)
        parameters, options = self._build(self._trees(tree)[0])
        declared = self._optional(tree, "type")
        span = self._span(tree)
        return ast.Extern("function", name, name_span, parameters, options, declared, span)

    def _extern_lm(self, tree: Branch) -> ast.Extern:
        name, name_span = self._name(tree)
        return ast.Extern("lm", name, name_span, (), (), None, self._span(tree))

    def _model(self, tree: Branch) -> ast.Model:
        head, *body = self._trees(tree)
        name, name_span = self._name(head)
        parameters = self._build(self._trees(head)[0])
        statements = tuple(self._build(child) for child in body)
        return ast.Model(
            name, name_span, parameters, statements, self._span(head), self._span(tree)
        )

    def _infer(self, tree: Branch) -> ast.Infer:
        method, method_span = self._name(tree)
        options = self._optional(tree, "arguments") or ()
        name = name_span = None
        if self._tokens(tree, "AS"):
            name, name_span = self._name(tree, 1)
        return ast.Infer(method, method_span, options, name, name_span, self._span(tree))

    def _parameters(self, tree: Branch) -> tuple[ast.Parameter, ...]:
        return tuple(self._build(child) for child in self._trees(tree))

    def _extern_parameters(
        self, tree: Branch
    ) -> tuple[tuple[ast.Parameter, ...], tuple[ast.Argument, ...]]:
        parameters: list[ast.Parameter] = []
        options: list[ast.Argument] = []
        for child in self._trees(tree):
            built = self._build(child)
            if isinstance(built, ast.Argument):
                options.append(built)
            elif options:
                self._report(
                    "LMP024",
                    built.span,
                    "a parameter after an option",
                    "put the parameters first, then the options",
                )
            else:
                parameters.append(built)
        self._forbid_repeated(options)
        return tuple(parameters), tuple(options)

    def _parameter(self, tree: Branch) -> ast.Parameter:
        name, name_span = self._name(tree)
        declared, *default = (self._build(child) for child in self._trees(tree))
        return ast.Parameter(
            name, name_span, declared, default[0] if default else None, self._span(tree)
        )

    def _type(self, tree: Branch) -> ast.TypeExpr:
        name, name_span = self._name(tree)
        trees = self._trees(tree)
        bounds = tuple(self._build(child) for child in trees if child.data == "bound")
        dimensions = sum(child.data == "dimension" for child in trees)
        return ast.TypeExpr(name, name_span, bounds, dimensions, self._span(tree))

    def _bound(self, tree: Branch) -> ast.Bound:
        name, name_span = self._name(tree)
        value = self._expression(tree.children[-1])
        return ast.Bound(name, name_span, value, self._span(tree))

    # ---- statements ----

    def _sample(self, tree: Branch) -> ast.Sample:
        name, name_span = self._name(tree)
        return ast.Sample(name, name_span, self._expression(tree.children[-1]), self._span(tree))

    def _factor(self, tree: Branch) -> ast.Factor:
        label, (value,) = self._label(tree)
        return ast.Factor(label, self._expression(value), self._span(tree))

    def _require(self, tree: Branch) -> ast.Require:
        label, (condition, *guard) = self._label(tree)
        return ast.Require(
            label,
            self._expression(condition),
            self._expression(guard[0]) if guard else None,
            self._span(tree),
        )

    def _observe(self, tree: Branch) -> ast.Observe:
        value, distribution = self._trees(tree)
        return ast.Observe(
            self._expression(value), self._expression(distribution), self._span(tree)
        )

    def _moment(self, tree: Branch) -> ast.Moment:
        label, (statistic, target) = self._label(tree)
        return ast.Moment(
            label, self._expression(statistic), self._expression(target), self._span(tree)
        )

    def _expect(self, tree: Branch) -> ast.Expect:
        label, (claim,) = self._label(tree)
        return ast.Expect(label, self._expression(claim), self._span(tree))

    def _let(self, tree: Branch) -> ast.Let:
        name, name_span = self._name(tree)
        declared = self._optional(tree, "type")
        value = self._expression(tree.children[-1])
        return ast.Let(name, name_span, declared, value, self._span(tree))

    def _return(self, tree: Branch) -> ast.Return:
        values = tuple(self._expression(child) for child in self._trees(tree))
        return ast.Return(values, self._span(tree))

    def _term_label(self, tree: Branch) -> ast.TermLabel:
        return ast.TermLabel(*self._name(tree))

    # ---- expressions ----

    def _conditional(self, tree: Branch) -> ast.Conditional:
        condition, positive, negative = (self._expression(child) for child in self._trees(tree))
        return ast.Conditional(condition, positive, negative, self._span(tree))

    def _disjunction(self, tree: Branch) -> ast.Logical:
        operands = tuple(self._expression(child) for child in self._trees(tree))
        return ast.Logical("or", operands, self._span(tree))

    def _conjunction(self, tree: Branch) -> ast.Logical:
        operands = tuple(self._expression(child) for child in self._trees(tree))
        return ast.Logical("and", operands, self._span(tree))

    def _negation(self, tree: Branch) -> ast.Unary:
        return ast.Unary("not", self._expression(tree.children[1]), self._span(tree))

    def _minus(self, tree: Branch) -> ast.Unary:
        return ast.Unary("-", self._expression(tree.children[1]), self._span(tree))

    def _comparison(self, tree: Branch) -> ast.Compare:
        left, *operator, right = tree.children
        tokens = [each for each in operator if isinstance(each, Token)]
        words: Any = " ".join(str(each) for each in tokens)
        where = self._token_span(tokens[0]).to(self._token_span(tokens[-1]))
        return ast.Compare(
            words, self._expression(left), self._expression(right), where, self._span(tree)
        )

    def _binary(self, tree: Branch) -> ast.Binary:
        # `a + b + c` leans to the left. Going along it, not down it, a sum may have any length.
        chain = [tree]
        while isinstance(left := chain[-1].children[0], Tree) and left.data in ("sum", "product"):
            chain.append(left)
        built = self._expression(left)
        start = self._span(chain[-1])
        for each in reversed(chain):
            _, operator, right = each.children
            if not isinstance(operator, Token) or not isinstance(right, Tree):
                raise InternalError("an operator is missing from a binary expression")
            sign: Any = str(operator)
            built = ast.Binary(
                sign,
                built,
                self._expression(right),
                self._token_span(operator),
                start.to(self._span(right)),
            )
        assert isinstance(built, ast.Binary)
        return built

    def _call(self, tree: Branch) -> ast.Call:
        function, arguments = self._trees(tree)
        return ast.Call(self._build(function), self._build(arguments), self._span(tree))

    def _attribute(self, tree: Branch) -> ast.Attribute:
        name, name_span = self._name(tree)
        value = self._build(self._trees(tree)[0])
        return ast.Attribute(value, name, name_span, self._span(tree))

    def _index(self, tree: Branch) -> ast.Index:
        value, index = self._trees(tree)
        return ast.Index(self._expression(value), self._expression(index), self._span(tree))

    def _arguments(self, tree: Branch) -> tuple[ast.Argument, ...]:
        built: tuple[ast.Argument, ...] = tuple(self._build(child) for child in self._trees(tree))
        named: ast.Argument | None = None
        for argument in built:
            if argument.name is not None:
                named = argument
            elif named is not None:
                self._report(
                    "LMP024",
                    argument.span,
                    "a positional argument after a named one",
                    "put the positional arguments first, or name this one, too",
                    Label(named.span, "named from here on"),
                )
        self._forbid_repeated([each for each in built if each.name is not None])
        return built

    def _positional_argument(self, tree: Branch) -> ast.Argument:
        value = self._expression(tree.children[0])
        return ast.Argument(None, None, value, self._span(tree))

    def _named_argument(self, tree: Branch) -> ast.Argument:
        name, name_span = self._name(tree)
        value = self._expression(tree.children[-1])
        return ast.Argument(name, name_span, value, self._span(tree))

    def _integer(self, tree: Branch) -> ast.Int:
        token = self._literal_token(tree)
        return ast.Int(literals.decode_int(token)[0], str(token), self._token_span(token))

    def _real(self, tree: Branch) -> ast.Real:
        token = self._literal_token(tree)
        return ast.Real(literals.decode_real(token)[0], str(token), self._token_span(token))

    def _string(self, tree: Branch) -> ast.String:
        return self._literal(tree.children[0])

    def _f_string(self, tree: Branch) -> ast.FString:
        token = self._literal_token(tree)
        base = token.start_pos or 0
        pieces, _ = literals.decode_string(token, self._reserved)
        parts: list[ast.Segment | ast.Interpolation] = []
        for piece in pieces:
            span = self._scan.span(base + piece.start, base + piece.end)
            if piece.name is None:
                if piece.value:
                    parts.append(ast.Segment(piece.value, span))
            else:
                inside = self._scan.span(base + piece.name_start, base + piece.name_end)
                parts.append(ast.Interpolation(piece.name, inside, span))
        return ast.FString(tuple(parts), str(token), self._token_span(token))

    def _boolean(self, tree: Branch) -> ast.Bool:
        token = self._literal_token(tree)
        return ast.Bool(token.type == "TRUE", self._token_span(token))

    def _variable(self, tree: Branch) -> ast.Name:
        return ast.Name(*self._name(tree))

    def _list(self, tree: Branch) -> ast.List:
        items = tuple(self._expression(child) for child in self._trees(tree))
        return ast.List(items, self._span(tree))

    def _group(self, tree: Branch) -> ast.Expr:
        return self._expression(tree.children[1])

    def _literal_token(self, tree: Branch) -> Token:
        token = tree.children[0]
        if not isinstance(token, Token):
            raise InternalError("a literal is missing its token")
        self.diagnostics.extend(literal_diagnostics(token, self._scan, self._reserved))
        return token

    def _literal(self, token: Branch | Token) -> ast.String:
        if not isinstance(token, Token):
            raise InternalError("a string is missing its token")
        self.diagnostics.extend(literal_diagnostics(token, self._scan, self._reserved))
        pieces, _ = literals.decode_string(token, self._reserved)
        value = "".join(piece.value for piece in pieces)
        return ast.String(value, str(token), self._token_span(token))

    # ---- what the grammar does not say ----

    def _forbid_repeated(self, arguments: list[ast.Argument]) -> None:
        seen: dict[str, ast.Argument] = {}
        for argument in arguments:
            if argument.name is None:
                continue
            if argument.name in seen:
                self._report(
                    "LMP025",
                    argument.span,
                    f"`{argument.name}` is given twice",
                    "keep one of them",
                    Label(seen[argument.name].span, "first given here"),
                )
            seen.setdefault(argument.name, argument)

    def _report(self, code: str, span: Span, message: str, help: str, *labels: Label) -> None:
        self.diagnostics.append(Diagnostic(code, "error", message, span, labels, (), help))

    _METHODS: ClassVar[dict[str, Callable[[Builder, Branch], Any]]] = {
        "import_": _import,
        "reward": _reward,
        "extern_reward": _extern_reward,
        "extern_function": _extern_function,
        "extern_lm": _extern_lm,
        "model": _model,
        "infer": _infer,
        "parameters": _parameters,
        "extern_parameters": _extern_parameters,
        "parameter": _parameter,
        "type": _type,
        "bound": _bound,
        "sample": _sample,
        "factor": _factor,
        "require": _require,
        "observe": _observe,
        "moment": _moment,
        "expect": _expect,
        "let": _let,
        "return_": _return,
        "label": _term_label,
        "conditional": _conditional,
        "disjunction": _disjunction,
        "conjunction": _conjunction,
        "negation": _negation,
        "minus": _minus,
        "comparison": _comparison,
        "sum": _binary,
        "product": _binary,
        "power": _binary,
        "call": _call,
        "attribute": _attribute,
        "index": _index,
        "arguments": _arguments,
        "positional_argument": _positional_argument,
        "named_argument": _named_argument,
        "integer": _integer,
        "real": _real,
        "string": _string,
        "f_string": _f_string,
        "boolean": _boolean,
        "name": _variable,
        "list": _list,
        "group": _group,
    }


def too_deep(span: Span) -> Diagnostic:
    """The diagnostic for an expression that is nested too deeply."""
    return Diagnostic(
        "LMP018",
        "error",
        "this expression is nested too deeply",
        span,
        (),
        (f"the limit is {MAX_DEPTH} levels",),
        "name parts of it with `let`",
    )
