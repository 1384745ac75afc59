"""Data with slots whose classes cost little to make: `lmppl check` makes more than a hundred.

    from lmppl.records import dataclass

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: int = 0

To a reader and to a type checker that is the `dataclass` of the standard library, and it is one:
`fields`, `replace`, patterns, copying and pickling work. But the standard one writes and compiles
six methods for every class, half a millisecond of work each; here all classes share them, and
`fields` are made when somebody asks for them. What has a `span` is shown in one line that ends with
its place, without all that is under it.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

_T = TypeVar("_T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import replace as replace
else:

    def dataclass(*, slots: bool, frozen=False, kw_only=False, eq=True, repr=True):
        """The decorator that makes a class with slots of its annotations."""
        assert slots, "records have slots"
        left_out = (() if eq else ("__eq__", "__hash__")) + (() if repr else ("__repr__",))
        if not frozen:
            left_out = (*left_out, "__setattr__", "__delattr__")
            # What changes and is equal by its values has no hash: Python leaves it out by itself.
            left_out = (*left_out, "__hash__")
        return lambda cls: _record(cls, kw_only, left_out)

    def replace(record, /, **changes):
        """The record with some values changed: `replace` of the standard library, which would have
        the fields of every class made for that."""
        known = getattr(record, "_known", None)
        if known is None:
            return dataclasses.replace(record, **changes)
        kept = [name for name, each in known.items() if each.is_given and name not in changes]
        return type(record)(**{name: getattr(record, name) for name in kept}, **changes)


def names(value: object) -> tuple[str, ...] | None:
    """The names of the values of a record or another dataclass, in order; None for all else."""
    if isinstance(value, type):
        return None
    known = getattr(value, "_known", None)
    if known is not None:
        return tuple(known)
    if not dataclasses.is_dataclass(value):
        return None
    return tuple(field.name for field in dataclasses.fields(value))


class _Known(NamedTuple):
    """What is known of one value of a record: `dataclasses.Field` in short."""

    default: object
    factory: Any
    is_given: bool
    is_by_place: bool
    is_compared: bool


_MISSING = dataclasses.MISSING


class _Fields:
    """The fields of a record, as the standard library makes them, once they are asked for."""

    __slots__ = ("kw_only", "namespace", "owner")

    def __init__(self, owner: type, namespace: dict[str, Any], kw_only: bool) -> None:
        self.owner, self.namespace, self.kw_only = owner, namespace, kw_only

    def __get__(self, record: object, cls: type) -> dict[str, dataclasses.Field[Any]]:
        owner: Any = self.owner
        # Of a class that has the annotations and nothing else.
        bare = type(owner.__name__, (), self.namespace)
        made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=self.kw_only)(
            bare
        )
        found: dict[str, dataclasses.Field[Any]] = {}
        for base in owner.__mro__[-1:0:-1]:
            found |= getattr(base, "__dataclass_fields__", {})
        owner.__dataclass_fields__ = found | made.__dataclass_fields__
        return owner.__dataclass_fields__  # type: ignore[no-any-return]


def _record(cls: type[_T], kw_only: bool, left_out: tuple[str, ...]) -> type[_T]:
    assert not hasattr(cls, "__post_init__"), f"{cls.__name__}: nothing runs after a record is made"
    namespace = dict(vars(cls))
    own = {*namespace, *left_out}
    annotations = {
        name: kind
        for name, kind in namespace.get("__annotations__", {}).items()
        if not str(kind).startswith(("ClassVar", "typing.ClassVar"))
    }
    known: dict[str, _Known] = {}
    for base in cls.__mro__[-1:0:-1]:
        known |= getattr(base, "_known", {})
    inherited = {*known}
    defaults = {name: namespace.pop(name) for name in annotations if name in namespace}
    for name in annotations:
        known[name] = _known_of(defaults.get(name, _MISSING), kw_only)
    namespace.pop("__dict__", None)
    namespace.pop("__weakref__", None)
    namespace["__slots__"] = tuple(name for name in annotations if name not in inherited)
    namespace["__match_args__"] = tuple(name for name, each in known.items() if each.is_by_place)
    namespace["_known"] = known
    compared = [name for name, each in known.items() if each.is_compared]
    namespace["_values"] = staticmethod(attrgetter(*compared) if compared else _nothing)
    for name, method in _METHODS.items():
        if name not in own:
            namespace[name] = method
    if "span" in known and "__repr__" not in own:
        namespace["__repr__"] = brief
    make: Any = type(cls)
    made = make(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    # What sets a slot: faster than by name, and not stopped by `__setattr__`.
    made._setters = {name: getattr(made, name).__set__ for name in known}
    written = {
        "__annotations__": annotations,
        "__module__": cls.__module__,
        # Where there is none, the standard library would make one of the signature.
        "__doc__": cls.__doc__ or cls.__name__,
        **defaults,
    }
    made.__dataclass_fields__ = _Fields(made, written, kw_only)
    return made  # type: ignore[no-any-return]


def _known_of(default: Any, kw_only: bool) -> _Known:
    if not isinstance(default, dataclasses.Field):
        assert type(default).__hash__ is not None, "all records would share what can be changed"
        return _Known(default, _MISSING, True, not kw_only, True)
    by_name = kw_only if default.kw_only is _MISSING else default.kw_only
    return _Known(
        default.default,
        default.default_factory,
        default.init,
        default.init and not by_name,
        default.compare,
    )


def _nothing(record: Any) -> tuple[()]:
    return ()


def _init(self: Any, *args: object, **kwargs: object) -> None:
    setters = self._setters
    if len(args) > len(self.__match_args__):
        taken = len(self.__match_args__)
        raise TypeError(f"{type(self).__name__} takes {taken} values by place, not {len(args)}")
    for put, value in zip(setters.values(), args, strict=False):
        put(self, value)
    if len(args) == len(setters) and not kwargs:
        return
    num_given = 0
    for number, (name, put) in enumerate(setters.items()):
        if number < len(args):
            continue
        if name in kwargs:
            put(self, kwargs[name])
            num_given += 1
            continue
        known = self._known[name]
        if known.default is not _MISSING:
            put(self, known.default)
        elif known.factory is not _MISSING:
            put(self, known.factory())
        else:
            raise TypeError(f"{type(self).__name__} needs `{name}`")
    if num_given != len(kwargs):
        others = kwargs.keys() - [*setters][len(args) :]
        raise TypeError(f"{type(self).__name__} does not take {', '.join(sorted(others))}")


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return self is other or self._values(self) == self._values(other)


def _hash(self: Any) -> int:
    return hash(self._values(self))


def _repr(self: Any) -> str:
    values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._known)
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
    return _made, (type(self), {name: getattr(self, name) for name in self._known})


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
