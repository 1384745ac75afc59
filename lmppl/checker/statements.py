"""The body of a model: choices, factors, requirements, claims and what is returned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lmppl.builtins import EXTERN_LM, PLANNED, Builtin, named
from lmppl.builtins.signature import Argument
from lmppl.checker.calls import formals_of
from lmppl.checker.declarations import FileChecker
from lmppl.checker.files import PATH_ARGUMENTS
from lmppl.checker.models import check_model_name
from lmppl.checker.report import did_you_mean
from lmppl.checker.scope import KIND_IN_WORDS, Symbol
from lmppl.checker.typing_rules import in_words, literal
from lmppl.errors import Label, Span
from lmppl.ir import expr as ir
from lmppl.ir.model import (
    TEXT_DISTRIBUTIONS,
    Distribution,
    Expectation,
    Facts,
    Let,
    Output,
    Parameter,
    Potential,
    Site,
)
from lmppl.ir.types import BOOL, STRING, UNKNOWN, Interval, Type
from lmppl.syntax import ast

_DISTRIBUTIONS = named("distribution")
_STATISTICS = named("statistic")
_FLIPPED = {"<=": ">=", "<": ">", ">=": "<=", ">": "<", "==": "=="}
_PLACEHOLDER = Facts(Interval(), "end")
_HELP_FOR_TEXTS = {
    "max_tokens": "say how long a text can get: `max_tokens=40`",
    "prompt": 'give it a prompt: `prompt="…"`, or `prompt=""` to start from nothing',
}


@dataclass(slots=True)
class Body:
    """What a model's statements came to, in program order."""

    parameters: tuple[Parameter, ...] = ()
    sites: list[Site] = field(default_factory=list)
    lets: list[Let] = field(default_factory=list)
    potentials: list[Potential] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    expectations: list[Expectation] = field(default_factory=list)


class ModelChecker:
    """Checks the one model of a file against the file's declarations."""

    def __init__(self, node: ast.Model, file: FileChecker) -> None:
        self.node = node
        self.file = file
        self.report = file.report
        self.scope = file.scope
        self.expressions = file.expressions
        self.body = Body()
        self._return: ast.Return | None = None
        self._labels: dict[tuple[str, str], Span] = {}
        self._counts = {"factor": 0, "require": 0}
        self._drawn: dict[str, Span] = {}

    def check(self) -> Body:
        """The checked body; problems are in the report."""
        node = self.node
        self.body.parameters = self.file.check_parameters(
            node.parameters, may_default=True, owner=node.name
        )
        for parameter in self.body.parameters:
            symbol = Symbol(
                parameter.name,
                "unknown" if parameter.type.kind == "unknown" else "parameter",
                parameter.span,
                parameter.type,
            )
            self.file.declare(parameter.name, symbol)
        for statement in node.statements:
            if isinstance(statement, (ast.Sample, ast.Let)):
                if self.scope.find(statement.name) is None:
                    self.scope.later.setdefault(statement.name, statement.name_span)
        for statement in node.statements:
            self._check_statement(statement)
        if not self.body.sites and not any(
            isinstance(each, ast.Sample) for each in node.statements
        ):
            self.report.error(
                "LMP223",
                node.name_span,
                f"the model `{node.name}` draws nothing",
                help='draw something: `text ~ lm("builtin:stories", prompt="…", max_tokens=40)`',
            )
        if self._return is None:
            self._return_everything()
        return self.body

    def _return_everything(self) -> None:
        for site in self.body.sites:
            symbol = self.scope.use(site.name)
            assert symbol is not None
            reference = self.expressions.reference(symbol, site.span)
            self.body.outputs.append(Output(site.name, reference))

    def _check_statement(self, statement: ast.Statement) -> None:
        match statement:
            case ast.Sample():
                self._check_sample(statement)
            case ast.Let():
                self._check_let(statement)
            case ast.Factor():
                self._check_factor(statement)
            case ast.Require():
                self._check_require(statement)
            case ast.Expect():
                self._check_expect(statement)
            case ast.Return():
                self._check_return(statement)
            case ast.Observe():
                self._refuse_observe(statement)
            case ast.Moment():
                self._refuse(statement, "`moment`", len("moment"))

    def _refuse(self, statement: ast.Statement, what: str, length: int) -> None:
        """Refuses a statement at its keyword; the names in it count as used."""
        span = statement.span
        keyword = replace(
            span, end=span.start + length, end_line=span.line, end_column=span.column + length
        )
        self.expressions.calls.refuse(keyword, what)
        self.expressions.calls.use_names(statement)

    def _refuse_observe(self, statement: ast.Observe) -> None:
        value = statement.value
        if isinstance(value, ast.Name):
            symbol = self.scope.use(value.name)
            if symbol is not None and symbol.kind == "site":
                self.report.error(
                    "LMP214",
                    value.span,
                    f"`{value.name}` is drawn by the model, so it cannot also be observed",
                    labels=[Label(symbol.span, "drawn here")],
                    help="observe a parameter or a constant; to weight a choice, use `factor`",
                )
                self.expressions.calls.use_names(statement)
                return
        self._refuse(statement, "`observe`", len("observe"))

    # -- choices -------------------------------------------------------------------------------

    def _check_sample(self, node: ast.Sample) -> None:
        distribution = self._check_distribution(node.distribution)
        earlier = self.scope.find(node.name)
        if earlier is not None and node.name in self._drawn:
            self.report.error(
                "LMP104",
                node.name_span,
                f"`{node.name}` is drawn twice",
                labels=[Label(self._drawn[node.name], "first drawn here")],
                help="the name of a choice is its address: give the second one another name",
            )
            return
        self._drawn[node.name] = node.name_span
        symbol = Symbol(node.name, "site", node.name_span)
        if distribution is None:
            symbol.kind = "unknown"
            self.file.declare(node.name, symbol)
            return
        symbol.is_text = distribution.is_text
        budget = distribution.argument("max_tokens")
        if budget is not None:
            symbol.most_tokens = budget.type.range.upper
        symbol.type = self._site_type(distribution)
        if symbol.type.kind == "unknown":
            symbol.kind = "unknown"
        values = distribution.argument("values")
        support = None if values is None else self.scope.resolve(values)
        if isinstance(support, ir.Constant) and isinstance(support.value, tuple):
            symbol.values = support.value
        if self.file.declare(node.name, symbol):
            self.body.sites.append(Site(node.name, distribution, symbol.type, node.name_span))

    def _site_type(self, distribution: Distribution) -> Type:
        if distribution.is_text:
            return STRING
        if distribution.kind == "bernoulli":
            return BOOL
        values = distribution.argument("values")
        return UNKNOWN if values is None else values.type.element()

    def _check_distribution(self, node: ast.Expr) -> Distribution | None:
        """The distribution on the right of `~`; None when it was reported."""
        calls = self.expressions.calls
        if not isinstance(node, ast.Call):
            self._refuse_distribution(node)
            return None
        function = node.function
        extern: str | None = None
        builtin: Builtin | None = None
        name = self.report.text(function.span)
        if isinstance(function, ast.Attribute):
            symbol = self.expressions.member(function)
            if symbol is None:
                calls.use_names(node)
                return None
            if symbol.kind == "lm":
                builtin, extern = EXTERN_LM, symbol.name
        elif isinstance(function, ast.Name):
            declared = self.scope.find(function.name)
            if declared is not None and declared.kind == "unknown":
                calls.use_names(node)
                return None
            if declared is not None and declared.kind == "lm":
                declared.used = True
                builtin, extern = EXTERN_LM, declared.name
            else:
                builtin = _DISTRIBUTIONS.get(function.name)
            if builtin is None and function.name in PLANNED:
                what = f"`{function.name}`"
                calls.refuse(function.span, what)
                calls.use_names(node)
                return None
        if builtin is None:
            self._refuse_distribution(node)
            return None
        bound, _ = calls.bind(
            name, formals_of(builtin), node.arguments, function.span, _HELP_FOR_TEXTS
        )
        arguments, _ = calls.check_arguments(builtin, name, bound)
        # Arguments that were reported are absent; the choice exists all the same.
        return self._finish_distribution(builtin, extern, arguments, node.span)

    def _refuse_distribution(self, node: ast.Expr) -> None:
        calls = self.expressions.calls
        name = _called_name(node)
        if name is None:
            self.report.error(
                "LMP112",
                node.span,
                "what stands after `~` is a distribution",
                help="for a value that is not drawn, write `let x = …`",
            )
            calls.use_names(node)
            return
        assert isinstance(node, ast.Call)
        declared = self.scope.use(name)
        known = named("predicate", "function", "risk", "source", "statistic")
        if declared is not None or name in known:
            what = "a built-in function" if declared is None else KIND_IN_WORDS[declared.kind]
            self.report.error(
                "LMP112",
                node.function.span,
                f"`{name}` is {what}, not a distribution",
                help="for a value that is not drawn, write `let x = …`",
            )
        else:
            candidates = [*_DISTRIBUTIONS, *self.scope.names("lm")]
            self.report.error(
                "LMP101",
                node.function.span,
                f"no distribution is called `{name}`",
                help=did_you_mean(name, candidates)
                or "the distributions are " + ", ".join(f"`{each}`" for each in candidates),
            )
        calls.check_anyway(node)

    def _finish_distribution(
        self, builtin: Builtin, extern: str | None, arguments: dict[str, ir.Expr], span: Span
    ) -> Distribution:
        """The distribution, with what cannot be seen from one argument alone."""
        if builtin.name == "categorical" and "values" in arguments:
            self._check_categorical(arguments)
        for name, value in arguments.items():
            if (builtin.name, name) in PATH_ARGUMENTS and isinstance(value, ir.Constant):
                self.file.reader.read_text(str(value.value), value.span)
        model = arguments.get("model")
        if isinstance(model, ir.Constant):
            check_model_name(
                str(model.value),
                model.span,
                self.file.place,
                self.report,
                is_pinned="revision" in arguments,
                may_be_builtin=True,
            )
        prompt = arguments.get("prompt")
        if prompt is not None and prompt.type.kind == "chat":
            # A prompt is rendered by the language model, so a let of one is no value of its own.
            arguments["prompt"] = self.scope.resolve(prompt)
        stop = arguments.get("stop")
        if stop is not None:
            self._check_stop(stop)
        kind = "extern" if extern is not None else builtin.name
        assert kind in TEXT_DISTRIBUTIONS or not extern
        return Distribution(kind, arguments, span, extern)

    def _check_stop(self, written: ir.Expr) -> None:
        stop = self.scope.resolve(written)
        if isinstance(stop, ir.Constant):
            values = (stop.value,) if isinstance(stop.value, str) else stop.value
            if isinstance(values, tuple) and "" in values:
                self.report.error(
                    "LMP106",
                    written.span,
                    "a stop string cannot be empty: no text would have a token",
                )

    def _check_categorical(self, arguments: Mapping[str, ir.Expr]) -> None:
        values, probs = (
            None if each is None else replace(self.scope.resolve(each), span=each.span)
            for each in (arguments["values"], arguments.get("probs"))
        )
        assert values is not None
        count = _length(values)
        if isinstance(values, ir.Constant) and isinstance(values.value, tuple):
            if not values.value:
                self.report.error("LMP225", values.span, "there is nothing to choose from")
                return
            doubled = _first_doubled(values.value)
            if doubled is not None:
                self.report.error(
                    "LMP225",
                    values.span,
                    f"{literal(doubled)} stands here twice",
                    help="name each value once, and add up its probabilities",
                )
                return
        if probs is None:
            return
        if count is not None and (size := _length(probs)) is not None and size != count:
            self.report.error(
                "LMP225",
                probs.span,
                f"{size} probabilities for {count} values",
                labels=[Label(values.span, f"{count} values")],
            )
            return
        if not isinstance(probs, ir.Constant) or not isinstance(probs.value, tuple):
            return
        numbers = [float(each) for each in probs.value]
        if any(each < 0.0 for each in numbers):
            self.report.error("LMP225", probs.span, "a probability is at least 0")
            return
        if not math.isclose(sum(numbers), 1.0, abs_tol=1e-6):
            self.report.error(
                "LMP225",
                probs.span,
                f"these probabilities add up to {sum(numbers):g}, not to 1",
            )
            return
        return

    # -- values --------------------------------------------------------------------------------

    def _check_let(self, node: ast.Let) -> None:
        symbol = Symbol(node.name, "let", node.name_span)
        value = self._let_value(node)
        type = value.type
        if node.type is not None:
            declared = self.file.check_type(node.type)
            if not self.file.require_type(value, declared, f"`{node.name}`", node.type.span):
                type = UNKNOWN
            elif type.kind == "unknown":
                type = declared
        if type.kind == "unknown" and not type.is_array:
            symbol.kind = "unknown"
            self.file.declare(node.name, symbol)
            return
        symbol.type, symbol.expr = type, value
        symbol.sites = self.scope.sites_of(value)
        if self.file.declare(node.name, symbol):
            self.body.lets.append(Let(node.name, value, self._stage(value), node.name_span))

    def _let_value(self, node: ast.Let) -> ir.Expr:
        call = node.value
        name = _called_name(call)
        if isinstance(call, ast.Call) and name is not None:
            if self.scope.find(name) is None and name in _DISTRIBUTIONS:
                self.report.error(
                    "LMP112",
                    call.function.span,
                    f"`{name}` is a distribution, which is drawn with `~`",
                    help=f"write `{node.name} ~ {name}(…)`",
                )
                return self.expressions.calls.check_anyway(call)
        return self.expressions.check(node.value)

    def _stage(self, *exprs: ir.Expr | None) -> int:
        """The index of the last choice that the expressions depend on; −1 for none."""
        order = {site.name: index for index, site in enumerate(self.body.sites)}
        stages = [
            order[name]
            for expr in exprs
            if expr is not None
            for name in self.scope.sites_of(expr)
            if name in order
        ]
        return max(stages, default=-1)

    # -- factors and requirements --------------------------------------------------------------

    def _label(self, kind: str, label: ast.TermLabel | None) -> str:
        if label is None:
            self._counts[kind] += 1
            return f"{kind}_{self._counts[kind]}"
        key = ("potential", label.name)
        if key in self._labels:
            self.report.error(
                "LMP231",
                label.span,
                f"two terms are called `{label.name}`",
                labels=[Label(self._labels[key], "the first one")],
            )
        else:
            self._labels[key] = label.span
        return label.name

    def _check_factor(self, node: ast.Factor) -> None:
        value = self.expressions.check(node.value)
        label = self._label("factor", node.label)
        if value.type.kind == "unknown":
            return
        text = self.report.text(node.value.span)
        if value.type.kind == "uncertain":
            self.expressions.report_uncertain(value, "`factor`")
            return
        if value.type.kind == "bool" and not value.type.is_array:
            self.report.error(
                "LMP211",
                node.value.span,
                "`factor` takes a number, and this is a condition",
                help=f"to demand it, write `require {text}`; to favour it by two nats,"
                f" `factor if {text} then 2 else 0`",
            )
            return
        if not self.expressions.require_number(value, "`factor`"):
            return
        if not self.scope.sites_of(value):
            self.report.warning(
                "LMP209",
                node.value.span,
                "this factor is the same for every draw",
                label="no choice in it",
                notes=["it changes the evidence by a constant, and no draw"],
            )
        self._check_latent_index(value)
        self._add_potential("factor", label, node, value, None, node.value.span)

    def _check_require(self, node: ast.Require) -> None:
        condition = self.expressions.check(node.condition)
        guard = None if node.guard is None else self.expressions.check(node.guard)
        label = self._label("require", node.label)
        bad = condition.type.kind == "unknown"
        if not bad and not self._is_condition(condition):
            bad = True
        if guard is not None:
            if guard.type.kind == "unknown":
                bad = True
            elif not self.expressions.require_condition(guard, "`when`"):
                bad = True
        if bad:
            return
        applies = None if guard is None else self.scope.resolve(guard)
        if isinstance(applies, ir.Constant) and applies.value:
            guard = None
        asked = self.scope.resolve(condition)
        if isinstance(asked, ir.Constant) and guard is None:
            self._report_constant_requirement(asked, node)
        self._add_potential("require", label, node, condition, guard, node.condition.span)

    def _is_condition(self, condition: ir.Expr) -> bool:
        if condition.type.kind == "bool" and not condition.type.is_array:
            return True
        text = self.report.text(condition.span)
        if condition.type.is_number:
            self.report.error(
                "LMP212",
                condition.span,
                "`require` takes a condition, and this is a number",
                help=f"compare it, as in `require {text} >= 0`; to favour large values,"
                f" `factor {text}`",
            )
            return False
        return self.expressions.require_condition(condition, "`require`")

    def _report_constant_requirement(self, condition: ir.Constant, node: ast.Require) -> None:
        if condition.value:
            self.report.warning(
                "LMP304", node.condition.span, "this always holds, so it requires nothing"
            )
        else:
            self.report.error(
                "LMP302",
                node.condition.span,
                "this never holds, whatever is drawn",
                notes=["the posterior would have zero mass"],
            )

    def _add_potential(
        self,
        kind: str,
        label: str,
        node: ast.Factor | ast.Require,
        value: ir.Expr,
        guard: ir.Expr | None,
        span: Span,
    ) -> None:
        assert kind in ("factor", "require")
        self.body.potentials.append(
            Potential(
                label,
                "factor" if kind == "factor" else "require",
                value,
                _PLACEHOLDER,
                self._stage(value, guard),
                span,
                guard,
                self.report.text(node.span),
            )
        )

    def _check_latent_index(self, value: ir.Expr) -> None:
        """An ensemble's member chosen by a latent: weights favour the most optimistic member."""
        for node in self.scope.nodes(value):
            chosen: ir.Expr | None = None
            if isinstance(node, ir.Index) and self._calls_reward(node.array):
                chosen = node.index
            elif isinstance(node, ir.Conditional) and self._picks_reward(node):
                chosen = node.condition
            if chosen is None:
                continue
            for name in sorted(self.scope.sites_of(chosen)):
                symbol = self.scope.find(name)
                if symbol is None or symbol.is_text or self._feeds_a_choice(name):
                    continue
                self.report.error(
                    "LMP213",
                    chosen.span,
                    f"the choice `{name}` picks which reward counts",
                    labels=[Label(symbol.span, "drawn here")],
                    notes=[
                        "the factor weights this choice too, so the posterior favours whichever"
                        " reward is the most optimistic about each text"
                    ],
                    help="make them members of one `ensemble([…])` and name a risk rule",
                )
                return

    def _calls_reward(self, expr: ir.Expr) -> bool:
        return any(isinstance(node, ir.RewardCall) for node in self.scope.nodes(expr))

    def _picks_reward(self, node: ir.Conditional) -> bool:
        """Whether a conditional chooses between two rewards."""
        branches = (self.scope.resolve(each) for each in (node.consequent, node.alternative))
        rewards = [each.reward for each in branches if isinstance(each, ir.RewardCall)]
        return len(rewards) == 2 and rewards[0] != rewards[1]

    def _feeds_a_choice(self, name: str) -> bool:
        return any(
            name in self.scope.sites_of(argument)
            for site in self.body.sites
            for argument in site.distribution.arguments.values()
        )

    # -- claims and outputs --------------------------------------------------------------------

    def _check_expect(self, node: ast.Expect) -> None:
        claim = node.claim
        call, bound_node, operator = None, None, ""
        if isinstance(claim, ast.Compare) and claim.operator in _FLIPPED:
            if _is_statistic(claim.left):
                call, bound_node, operator = claim.left, claim.right, claim.operator
            elif _is_statistic(claim.right):
                call, bound_node = claim.right, claim.left
                operator = _FLIPPED[claim.operator]
        if call is None or bound_node is None:
            self._report_claim(node)
            return
        assert isinstance(call, ast.Call) and isinstance(call.function, ast.Name)
        builtin = _STATISTICS[call.function.name]
        arguments = self.check_statistic(builtin, call)
        bound = self.expressions.check(bound_node)
        if "unknown" in (bound.type.kind,) or arguments is None:
            return
        if not self.expressions.require_number(bound, "the bound of a claim"):
            return
        if self.scope.sites_of(bound):
            self.report.error(
                "LMP216",
                bound_node.span,
                "the bound of a claim depends on a choice",
                help="compare the statistic with a constant or a parameter",
            )
            return
        source = self.report.text(claim.span)
        label = source
        if node.label is not None:
            label = node.label.name
            key = ("expect", label)
            if key in self._labels:
                self.report.error(
                    "LMP231",
                    node.label.span,
                    f"two claims are called `{label}`",
                    labels=[Label(self._labels[key], "the first one")],
                )
            self._labels.setdefault(key, node.label.span)
        value = arguments.get("e", arguments.get("p"))
        assert value is not None
        self.body.expectations.append(
            Expectation(
                label,
                builtin.name,  # type: ignore[arg-type]
                value,
                operator,  # type: ignore[arg-type]
                bound,
                claim.span,
                source,
                arguments.get("q"),
            )
        )

    def check_statistic(self, builtin: Builtin, call: ast.Call) -> dict[str, ir.Expr] | None:
        """The arguments of a statistic of the posterior; None when one was reported."""
        calls = self.expressions.calls
        bound, good = calls.bind(
            builtin.name, formals_of(builtin), call.arguments, call.function.span
        )
        checked: dict[str, ir.Expr] = {}
        for argument in builtin.arguments:
            if argument.name not in bound:
                continue
            value = self.expressions.check(bound[argument.name].value)
            accepted = self._accept_statistic(argument, value, builtin)
            if accepted is None:
                good = False
            else:
                checked[argument.name] = accepted
        return checked if good else None

    def _accept_statistic(
        self, argument: Argument, value: ir.Expr, builtin: Builtin
    ) -> ir.Expr | None:
        text = self.report.text(value.span)
        if value.type.kind == "uncertain":
            self.report.error(
                "LMP210",
                value.span,
                f"`{text}` is uncertain, and `{builtin.name}` of the posterior takes a number",
                notes=["averaging over the posterior and over the reward's spread are two things"],
                help=f"name a risk rule inside: `{builtin.name}(mean({text}))`",
            )
            return None
        if builtin.name == "mean" and value.type.kind == "bool":
            self.report.error(
                "LMP105",
                value.span,
                "`mean` takes a number, and this is a condition",
                help=f"write `probability({text})`",
            )
            return None
        return self.expressions.calls.accept(argument, value, builtin.name)

    def _report_claim(self, node: ast.Expect) -> None:
        """Refuses a claim of another form, and finds what else is wrong with it."""
        claim = node.claim
        self.report.error(
            "LMP216",
            claim.span,
            "a claim compares one statistic of the posterior with a bound",
            help="write for instance `expect mean(sentiment(text)) >= 0.5` or"
            ' `expect probability(contains(text, "she")) >= 0.4`',
        )
        self.expressions.calls.use_names(claim)

    def _check_return(self, node: ast.Return) -> None:
        if self._return is not None:
            self.report.error(
                "LMP224",
                node.span,
                "a model returns once",
                labels=[Label(self._return.span, "the first `return`")],
            )
            return
        self._return = node
        taken: dict[str, Span] = {}
        for each in node.values:
            value = self.expressions.check(each)
            name = self.report.text(each.span)
            if name in taken:
                self.report.error(
                    "LMP103",
                    each.span,
                    f"`{name}` is returned twice",
                    labels=[Label(taken[name], "the first time")],
                )
                continue
            taken[name] = each.span
            if value.type.kind == "unknown":
                continue
            if value.type.kind == "uncertain":
                self.expressions.report_uncertain(value, "`return`")
                continue
            if value.type.is_array or value.type.kind == "chat":
                self.report.error(
                    "LMP105",
                    each.span,
                    f"a draw reports strings, numbers and conditions, not {in_words(value.type)}",
                )
                continue
            self.body.outputs.append(Output(name, value))


def _called_name(node: ast.Expr) -> str | None:
    """The name that a call calls; None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.function, ast.Name):
        return node.function.name
    return None


def _is_statistic(node: ast.Expr) -> bool:
    return _called_name(node) in _STATISTICS


def _length(expr: ir.Expr) -> int | None:
    if isinstance(expr, ir.Constant) and isinstance(expr.value, tuple):
        return len(expr.value)
    return len(expr.elements) if isinstance(expr, ir.Array) else None


def _first_doubled(values: tuple[object, ...]) -> object | None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
