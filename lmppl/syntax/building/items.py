"""The top of a file: imports, rewards, externs, models and infer lines; parameters and types."""

from __future__ import annotations

from lmppl.syntax import ast
from lmppl.syntax.building.builder import Builder, Rule
from lmppl.syntax.tokens import Tree


def _import(make: Builder, tree: Tree) -> ast.Import:
    name, name_span = make.name(tree)
    literal = tree.children[1]
    file = make.literal(literal)
    return ast.Import(file, name, name_span, make.span(tree))


def _reward(make: Builder, tree: Tree) -> ast.Reward:
    name, name_span = make.name(tree)
    trees = make.trees(tree)
    parameters = make.build(trees[0])
    declared = make.optional(tree, "type")
    source = make.expression(trees[-1])
    return ast.Reward(name, name_span, parameters, declared, source, make.span(tree))


def _extern_reward(make: Builder, tree: Tree) -> ast.Extern:
    name, name_span = make.name(tree)
    parameters, options = make.build(make.trees(tree)[0])
    declared = make.optional(tree, "type")
    span = make.span(tree)
    return ast.Extern("reward", name, name_span, parameters, options, declared, span)


def _extern_function(make: Builder, tree: Tree) -> ast.Extern:
    name, name_span = make.name(tree)
    parameters, options = make.build(make.trees(tree)[0])
    declared = make.optional(tree, "type")
    span = make.span(tree)
    return ast.Extern("function", name, name_span, parameters, options, declared, span)


def _extern_lm(make: Builder, tree: Tree) -> ast.Extern:
    name, name_span = make.name(tree)
    return ast.Extern("lm", name, name_span, (), (), None, make.span(tree))


def _model(make: Builder, tree: Tree) -> ast.Model:
    head, *body = make.trees(tree)
    name, name_span = make.name(head)
    parameters = make.build(make.trees(head)[0])
    statements = tuple(make.build(child) for child in body)
    return ast.Model(name, name_span, parameters, statements, make.span(head), make.span(tree))


def _infer(make: Builder, tree: Tree) -> ast.Infer:
    method, method_span = make.name(tree)
    options = make.optional(tree, "arguments") or ()
    name = name_span = None
    if make.tokens(tree, "AS"):
        name, name_span = make.name(tree, 1)
    return ast.Infer(method, method_span, options, name, name_span, make.span(tree))


def _parameters(make: Builder, tree: Tree) -> tuple[ast.Parameter, ...]:
    return tuple(make.build(child) for child in make.trees(tree))


def _extern_parameters(
    make: Builder, tree: Tree
) -> tuple[tuple[ast.Parameter, ...], tuple[ast.Argument, ...]]:
    parameters: list[ast.Parameter] = []
    options: list[ast.Argument] = []
    for child in make.trees(tree):
        built = make.build(child)
        if isinstance(built, ast.Argument):
            options.append(built)
        elif options:
            make.report(
                "LMP024",
                built.span,
                "a parameter after an option",
                "put the parameters first, then the options",
            )
        else:
            parameters.append(built)
    make.forbid_repeated(options)
    return tuple(parameters), tuple(options)


def _parameter(make: Builder, tree: Tree) -> ast.Parameter:
    name, name_span = make.name(tree)
    declared, *default = (make.build(child) for child in make.trees(tree))
    return ast.Parameter(
        name, name_span, declared, default[0] if default else None, make.span(tree)
    )


def _type(make: Builder, tree: Tree) -> ast.TypeExpr:
    name, name_span = make.name(tree)
    trees = make.trees(tree)
    bounds = tuple(make.build(child) for child in trees if child.data == "bound")
    dimensions = sum(child.data == "dimension" for child in trees)
    return ast.TypeExpr(name, name_span, bounds, dimensions, make.span(tree))


def _bound(make: Builder, tree: Tree) -> ast.Bound:
    name, name_span = make.name(tree)
    value = make.expression(tree.children[-1])
    return ast.Bound(name, name_span, value, make.span(tree))


ITEMS: dict[str, Rule] = {
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
}
