"""The statements of a model."""

from __future__ import annotations

from lmppl.syntax import ast
from lmppl.syntax.building.builder import Builder, Rule
from lmppl.syntax.tokens import Tree


def _sample(make: Builder, tree: Tree) -> ast.Sample:
    name, name_span = make.name(tree)
    return ast.Sample(name, name_span, make.expression(tree.children[-1]), make.span(tree))


def _factor(make: Builder, tree: Tree) -> ast.Factor:
    label, (value,) = make.label(tree)
    return ast.Factor(label, make.expression(value), make.span(tree))


def _require(make: Builder, tree: Tree) -> ast.Require:
    label, (condition, *guard) = make.label(tree)
    return ast.Require(
        label,
        make.expression(condition),
        make.expression(guard[0]) if guard else None,
        make.span(tree),
    )


def _observe(make: Builder, tree: Tree) -> ast.Observe:
    value, distribution = make.trees(tree)
    return ast.Observe(make.expression(value), make.expression(distribution), make.span(tree))


def _moment(make: Builder, tree: Tree) -> ast.Moment:
    label, (statistic, target) = make.label(tree)
    return ast.Moment(label, make.expression(statistic), make.expression(target), make.span(tree))


def _expect(make: Builder, tree: Tree) -> ast.Expect:
    label, (claim,) = make.label(tree)
    return ast.Expect(label, make.expression(claim), make.span(tree))


def _let(make: Builder, tree: Tree) -> ast.Let:
    name, name_span = make.name(tree)
    declared = make.optional(tree, "type")
    value = make.expression(tree.children[-1])
    return ast.Let(name, name_span, declared, value, make.span(tree))


def _return(make: Builder, tree: Tree) -> ast.Return:
    values = tuple(make.expression(child) for child in make.trees(tree))
    return ast.Return(values, make.span(tree))


def _term_label(make: Builder, tree: Tree) -> ast.TermLabel:
    return ast.TermLabel(*make.name(tree))


STATEMENTS: dict[str, Rule] = {
    "sample": _sample,
    "factor": _factor,
    "require": _require,
    "observe": _observe,
    "moment": _moment,
    "expect": _expect,
    "let": _let,
    "return_": _return,
    "label": _term_label,
}
