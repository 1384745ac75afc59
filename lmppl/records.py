"""Frozen data with slots whose classes cost little to make: `lmppl check` makes a hundred of them.

    from lmppl.records import dataclass

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: int = 0

To a reader and to a type checker that is the `dataclass` of the standard library, and it is one:
`fields`, `replace`, patterns, copying and pickling work. But the standard one writes and compiles
six methods for every class, a millisecond of work each; here all classes share them. What has a
`span` is shown in one line that ends with its place, without all that is under it.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

_T = TypeVar("_T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool, kw_only=False, eq=True, repr=True):
        """The decorator that makes a frozen class with slots of its annotations."""
        assert frozen and slots, "records have slots and cannot be changed"
        left_out = (() if eq else ("__eq__", "__hash__")) + (() if repr else ("__repr__",))
        return lambda cls: _record(cls, kw_only, left_out)


def _record(cls: type[_T], kw_only: bool, left_out: tuple[str, ...]) -> type[_T]:
    assert not hasattr(cls, "__post_init__"), f"{cls.__name__}: nothing runs after a record is made"
    own = {*vars(cls), *left_out}
    made: Any = dataclasses.dataclass(
        init=False, repr=False, eq=False, slots=True, kw_only=kw_only
    )(cls)
    fields = dataclasses.fields(made)
    names = tuple(field.name for field in fields)
    made._names = names
    # What sets a slot: faster than by name, and not stopped by `__setattr__`.
    made._setters = tuple(getattr(made, name).__set__ for name in names)
    made._defaults = {field.name: field for field in fields if _has_default(field)}
    compared = [field.name for field in fields if field.compare]
    made._values = staticmethod(attrgetter(*compared)) if compared else staticmethod(_nothing)
    for name, method in _METHODS.items():
        if name not in own:
            setattr(made, name, method)
    if "span" in names and "__repr__" not in own:
        made.__repr__ = brief
    return made  # type: ignore[no-any-return]


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _nothing(record: Any) -> tuple[()]:
    return ()


def _init(self: Any, *args: object, **kwargs: object) -> None:
    setters = self._setters
    if len(args) > len(self.__match_args__):
        taken = len(self.__match_args__)
        raise TypeError(f"{type(self).__name__} takes {taken} values by place, not {len(args)}")
    for put, value in zip(setters, args, strict=False):
        put(self, value)
    if len(args) == len(setters) and not kwargs:
        return
    for name, put in zip(self._names[len(args) :], setters[len(args) :], strict=True):
        if name in kwargs:
            put(self, kwargs.pop(name))
        elif name in self._defaults:
            field = self._defaults[name]
            is_made = field.default is dataclasses.MISSING
            put(self, field.default_factory() if is_made else field.default)
        else:
            raise TypeError(f"{type(self).__name__} needs `{name}`")
    if kwargs:
        raise TypeError(f"{type(self).__name__} does not take {', '.join(kwargs)}")


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return self is other or self._values(self) == self._values(other)


def _hash(self: Any) -> int:
    return hash(self._values(self))


def _repr(self: Any) -> str:
    values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names)
    return f"{type(self).__qualname__}({values})"


def brief(self: Any) -> str:
    """A dataclass in one line, for whoever meets it in a debugger: small fields are shown, of the
    others only what and how many they are, and where it stands in the program."""
    place = getattr(self, "span", None)
    shown = [
        f"{field.name}={_in_short(value)}"
        for field in dataclasses.fields(self)
        if field.repr and not field.name.endswith(("span", "spans"))
        if (value := getattr(self, field.name)) is not None
    ]
    line = ", ".join(shown)
    if len(line) > _LONGEST:
        line = line[: _LONGEST - 1] + "…"
    where = "" if place is None else f" at {place.line}:{place.column}"
    return f"{type(self).__qualname__}({line}){where}"


# Of a value and of all values of a record, in characters.
_LONG, _LONGEST = 32, 120


def _in_short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__}{list(shape)}"
    if isinstance(value, (tuple, list, dict, set, frozenset)) and value:
        return f"<{len(value)}>"
    kind: Any = type(value)
    is_data = dataclasses.is_dataclass(kind)
    # Data that has words for itself, such as a type, is shown by them.
    if kind.__repr__ is object.__repr__ or (is_data and kind.__str__ is object.__str__):
        return f"{kind.__name__}(…)"
    text = (str(value) if is_data else repr(value)).replace("\n", "\\n")
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


def _frozen(self: Any, name: str, *value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change the field {name!r}")


def _reduce(self: Any) -> tuple[Any, tuple[object, ...]]:
    return _made, (type(self), {name: getattr(self, name) for name in self._names})


def _made(cls: type[_T], values: dict[str, object]) -> _T:
    return cls(**values)


_METHODS = {
    "__init__": _init,
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _frozen,
    "__delattr__": _frozen,
    "__reduce__": _reduce,
}
