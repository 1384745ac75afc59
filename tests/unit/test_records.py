"""Records are dataclasses, frozen and with slots, as those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, field, fields, replace
from typing import ClassVar

import pytest

from lmppl import records
from lmppl.ir.types import Interval
from lmppl.records import dataclass


@dataclass(frozen=True, slots=True)
class Base:
    """What both have."""

    name: str


@dataclass(frozen=True, slots=True)
class Mine(Base):
    """A record with defaults."""

    size: int = 2
    parts: list[int] = field(default_factory=list)

    @property
    def double(self) -> int:
        return 2 * self.size


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    """The same, as the standard library makes it."""

    name: str
    size: int = 2
    parts: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Named:
    """A record that is equal to itself only."""

    name: str
    size: int = 1


@dataclass(frozen=True, slots=True)
class Remembering:
    """A record that remembers what it found out."""

    name: str
    known: dict[str, int] = field(default_factory=dict, init=False, compare=False)


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing."""


def test_values_are_given_by_place_or_name_and_have_their_defaults() -> None:
    assert Mine("a").size == 2 and Mine("a", 3).double == 6
    assert Mine("a", parts=[1]) == Mine(parts=[1], size=2, name="a")
    assert Mine("a").parts is not Mine("a").parts
    assert [each.name for each in fields(Mine)] == ["name", "size", "parts"]
    match Mine("a", 7):
        case Mine(name, size=7):
            assert name == "a"
        case _:
            pytest.fail("a pattern by place does not match")


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), (("a", 1, [], 2), {}), (("a",), {"name": "b"})]
)
def test_what_a_dataclass_does_not_take_a_record_does_not_take(
    args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    for kind in (Mine, Standard):
        with pytest.raises(TypeError):
            kind(*args, **kwargs)  # type: ignore[arg-type]


def test_a_record_does_not_change_and_has_no_other_attributes() -> None:
    record = Mine("a")
    with pytest.raises(FrozenInstanceError):
        record.size = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del record.size
    with pytest.raises(AttributeError):
        record.other = 1  # type: ignore[attr-defined]
    assert not hasattr(record, "__dict__")


def test_equal_records_have_equal_hashes_and_say_what_they_hold() -> None:
    assert hash(Interval(0.0, 1.0)) == hash(Interval(0.0, 1.0))
    assert Interval(0.0, 1.0) != Interval(0.0, 2.0)
    assert Base("a") != Mine("a") and Base("a") == Base("a")
    assert Empty() == Empty() and hash(Empty()) == hash(Empty())
    assert repr(Mine("a", 3)) == "Mine(name='a', size=3, parts=[])"


def test_what_is_not_compared_makes_no_difference_and_is_not_taken_over() -> None:
    first, second = Remembering("a"), Remembering("a")
    first.known["b"] = 1
    assert first == second and hash(first) == hash(second)
    assert replace(first, name="c").known == {}
    assert pickle.loads(pickle.dumps(first)).known == {"b": 1}


def test_records_are_copied_pickled_and_replaced() -> None:
    record = Mine("a", 3, [1])
    for same in (copy.copy(record), copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert same == record
    assert replace(record, size=4) == Mine("a", 4, [1])
    assert dataclasses.asdict(record) == {"name": "a", "size": 3, "parts": [1]}


def test_keywords_only_and_identity_are_as_in_a_dataclass() -> None:
    record = Named(name="a")
    with pytest.raises(TypeError):
        Named("a")  # type: ignore[misc]
    assert record != Named(name="a") and len({record, record, Named(name="a")}) == 2
    assert "object at" in repr(record)
    assert pickle.loads(pickle.dumps(record)).name == "a"
    assert replace(record, name="b").size == 1


def test_all_records_share_their_methods() -> None:
    for method in ("__init__", "__eq__", "__hash__", "__repr__", "__setattr__"):
        assert getattr(Mine, method) is getattr(Interval, method)


def test_a_record_that_would_run_something_once_it_is_made_is_refused() -> None:
    class Checked:
        x: int

        def __post_init__(self) -> None:
            raise ValueError

    with pytest.raises(AssertionError, match="Checked"):
        dataclass(frozen=True, slots=True)(Checked)


@dataclass(slots=True)
class Counting:
    """A record that changes."""

    size: int = 0
    parts: list[int] = field(default_factory=list)


def test_a_record_may_change_and_has_no_hash_then() -> None:
    record = Counting()
    record.size += 1
    record.parts.append(2)
    assert record == Counting(1, [2]) and Counting().parts == []
    with pytest.raises(TypeError):
        hash(record)
    with pytest.raises(AttributeError):
        record.other = 1  # type: ignore[attr-defined]
    assert copy.deepcopy(record) == record


def test_fields_are_those_of_the_standard_library_and_made_when_asked_for() -> None:
    def said(kind: type) -> list[tuple[object, ...]]:
        return [
            (each.name, each.type, each.default, each.default_factory, each.init, each.kw_only)
            for each in fields(kind)
        ]

    @dataclass(frozen=True, slots=True)
    class Late(Base):
        """With what no field is."""

        kind: ClassVar[str] = "late"
        size: int = 2
        parts: list[int] = field(default_factory=list)

    assert not isinstance(vars(Late)["__dataclass_fields__"], dict)
    assert said(Late) == said(Standard) and Late.kind == "late"
    assert dataclasses.is_dataclass(Late) and isinstance(vars(Late)["__dataclass_fields__"], dict)


def test_what_is_replaced_here_is_replaced_as_in_the_standard_library() -> None:
    record = Mine("a", 3, [1])
    assert records.replace(record, size=4) == replace(record, size=4)
    assert records.replace(Standard("a"), size=4) == Standard("a", 4)
    assert records.replace(Remembering("a"), name="c").known == {}
    with pytest.raises(TypeError):
        records.replace(record, other=1)  # type: ignore[call-arg]
    assert records.names(record) == ("name", "size", "parts")
    assert records.names(Standard("a")) == records.names(record)
    assert records.names(Mine) is None and records.names("a") is None


def test_a_default_that_all_records_would_share_is_refused() -> None:
    with pytest.raises(AssertionError, match="share"):

        @dataclass(frozen=True, slots=True)
        class Shared:
            parts: list[int] = []  # noqa: RUF012
