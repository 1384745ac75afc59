"""What is known of a program, right or wrong, saved or not."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmppl.checker import Analysis, analyse, analyse_text, check, program_files
from lmppl.checker.analysis import Annotations
from lmppl.checker.scope import Scope
from lmppl.errors import LmpError
from lmppl.files import Edited, Folder, NotPlain, Outside
from lmppl.syntax import parse

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.lmp"))
WRONG = sorted((ROOT / "tests" / "golden").rglob("*.lmp"))


def analysed(text: str | bytes, folder: Path = ROOT, path: str | None = None) -> Analysis:
    return analyse_text(text, path, program_files(str(folder)))


def codes(analysis: Analysis) -> list[str]:
    return [each.code for each in analysis.diagnostics]


TEXT = """reward mood(t: string): real<lower=-1, upper=1> = vader()
model m(heat: real<lower=0> = 1) {
  text ~ lm("builtin:stories", prompt="x", max_tokens=8)
  let score = mood(text) / heat
  factor 2 * score
  return text
}
"""


# -- what stands where ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "number", "kind", "uses"),
    [
        ("mood", 1, "reward", 2),
        ("heat", 1, "parameter", 2),
        ("text", 0, "site", 3),
        ("score", 1, "let", 2),
        ("text", 2, "site", 3),
    ],
)
def test_a_name_stands_for_the_same_wherever_it_is(
    word: str, number: int, kind: str, uses: int
) -> None:
    found = analysed(TEXT)
    places = [match.start() for match in re.finditer(rf"\b{word}\b", TEXT)]
    symbol = found.symbol_at(places[number])
    assert symbol is not None
    assert (symbol.name, symbol.kind) == (word, kind)
    assert found.symbol_at(places[number] + len(word) - 1) is symbol
    spans = found.uses_of(symbol)
    assert [TEXT[span.start : span.end] for span in spans] == [word] * uses


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("mood(text)", "real<lower=-1, upper=1>"),
        ("mood(text) / heat", "real"),
        ("2 * score", "real"),
        ('"builtin:stories"', "string"),
        ("text\n}", "string"),
    ],
)
def test_an_expression_has_the_type_that_it_was_found_to_have(part: str, expected: str) -> None:
    found = analysed(TEXT)
    start = TEXT.index(part)
    end = start + len(part.removesuffix("\n}"))
    by_place = {(span.start, span.end): str(type) for span, type in found.types.items()}
    assert by_place[start, end] == expected
    assert str(found.type_at(start)) in by_place.values()
    assert found.type_at(TEXT.index("model")) is None


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_name_and_expression_of_an_example_is_known(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    found = analysed(source, path.parent, path.name)
    assert found.model is not None and found.errors == ()
    own = {site.name for site in found.model.sites} | {let.name for let in found.model.lets}
    own |= {parameter.name for parameter in found.model.parameters}
    named = {symbol.name for symbol in found.symbols.values()}
    assert own <= named
    for span, symbol in found.symbols.items():
        if span.path == path.name:
            assert source[span.start : span.end] == symbol.name.rpartition(".")[2]
    assert all(type.kind != "unknown" for type in found.types.values() if not type.is_array)


def test_names_of_an_imported_file_lead_to_that_file(tmp_path: Path) -> None:
    (tmp_path / "shared.lmp").write_text('let words = ["a", "b"]\n')
    source = 'import "shared.lmp" as s\nmodel m() { x ~ categorical(values=s.words) return x }\n'
    found = analysed(source, tmp_path, "main.lmp")
    owner, member = source.rindex("s.words"), source.rindex("words")
    symbols = [found.symbol_at(place, "main.lmp") for place in (owner, member)]
    assert [each.kind for each in symbols if each is not None] == ["import", "constant"]
    assert symbols[1] is not None and symbols[1].span.path == "shared.lmp"


def test_what_is_met_in_a_debugger_says_in_one_line_what_it_is() -> None:
    found = analysed(TEXT)
    symbol = found.symbol_at(TEXT.index("score"))
    assert repr(symbol) == "<Symbol score: real, a value at 4:7>"
    assert repr(found.model) == "<Model m from a text, choices: 1, terms: 1>"
    assert repr(found) == "<Analysis of model m, errors: 0, warnings: 0>"
    assert repr(Annotations(dict(found.symbols), dict(found.types))) == (
        "<Annotations of 9 names and 16 expressions>"
    )
    scope = Scope({str(number): each for number, each in enumerate(found.symbols.values())})
    assert repr(scope) == "<Scope of 9 names: 0, 1, 2, 3, 4, 5, …>"


# -- wrong programs ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WRONG, ids=lambda p: f"{p.parent.parent.name}-{p.stem}")
def test_nothing_is_raised_of_a_wrong_program(path: Path) -> None:
    found = analysed(path.read_bytes(), path.parent, path.name)
    for each in found.diagnostics:
        assert each.span is None or each.span.path in found.sources


def _damaged(source: str, random_: random.Random) -> Iterator[str]:
    """The text cut off, with a part missing, and with parts in each other's place."""
    words = re.split(r"(\W)", source)
    for _ in range(25):
        yield source[: random_.randrange(len(source))]
        start = random_.randrange(len(source))
        yield source[:start] + source[start + random_.randrange(1, 30) :]
        mixed = list(words)
        first, second = random_.randrange(len(words)), random_.randrange(len(words))
        mixed[first], mixed[second] = mixed[second], mixed[first]
        yield "".join(mixed)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_nothing_is_raised_of_a_damaged_program(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    for damaged in _damaged(source, random.Random(path.stem)):
        found = analysed(damaged, path.parent, path.name)
        assert found.model is not None or found.errors
        assert repr(found).startswith("<Analysis of ")


def test_nothing_is_raised_of_bytes_that_are_no_text() -> None:
    assert codes(analysed(b"model m() { \xff }")) == ["LMP023"]


def test_a_wrong_statement_takes_nothing_else_of_the_model_away() -> None:
    wrong = TEXT.replace("2 * score", "2 * scare").replace("vader()", "vadar()")
    found = analysed(wrong)
    assert codes(found) == ["LMP101", "LMP101"]
    assert found.model is not None
    assert [site.name for site in found.model.sites] == ["text"]
    assert [let.name for let in found.model.lets] == ["score"]
    assert [output.name for output in found.model.outputs] == ["text"]
    assert found.model.potentials == ()
    with pytest.raises(LmpError):
        found.checked()


def test_what_stands_beside_a_mistake_has_its_facts() -> None:
    wrong = TEXT.replace(
        "factor 2 * score", "factor mood(text) factor oops require length(text) > 2"
    )
    model = analysed(wrong).model
    assert model is not None
    factor, require = model.potentials
    assert factor.facts.range.upper == 1.0
    assert require.facts.decidable == "liveness"


def test_what_is_left_of_wrong_syntax_is_a_model_too() -> None:
    found = analysed(TEXT.replace("2 * score", "2 * * score"))
    assert found.errors and all(code < "LMP100" for code in codes(found))
    assert found.model is not None
    assert [site.name for site in found.model.sites] == ["text"]
    assert found.symbol_at(TEXT.index("score")) is not None


# -- infer lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "statement", "code"),
    [
        ("rejection(seed=0)", "factor open(text)", "LMP410"),
        ("svi(seed=0)", "factor log(count_a(text))", "LMP411"),
        ("smc(seed=0)", "factor if heat > 1 then 1 else 2", "LMP414"),
    ],
)
def test_what_an_infer_line_will_be_refused_for_is_said_at_once(
    line: str, statement: str, code: str
) -> None:
    head = 'reward open(t: string): real = count("a")\nreward count_a(t: string): real<lower=0> = '
    source = head + 'count("a")\n' + TEXT.replace("factor 2 * score", statement)
    found = analysed(f"{source}infer {line}\n")
    (foreseen,) = (each for each in found.warnings if each.code == code)
    assert foreseen.span is not None
    assert source.count("\n", 0, foreseen.span.start) == source.count("\n")
    allowed = analysed(f"{source}infer {line} # lmp: allow {code}\n")
    assert code not in codes(allowed)


def test_mistakes_in_infer_lines_stand_beside_those_of_the_model() -> None:
    found = analysed(TEXT.replace("2 * score", "2 * scare") + "infer smk(num_partciles=2)\n")
    assert codes(found) == ["LMP101", "LMP401", "LMP402"]


def test_check_is_the_analysis_of_a_program_without_errors() -> None:
    program = parse(TEXT)
    model, warnings = check(program)
    found = analyse(program, program_files("."))
    assert (model, warnings) == (found.model, found.diagnostics)


# -- files that are not saved --------------------------------------------------------------------


def test_what_is_in_an_editor_counts_and_not_what_is_on_disk(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a\n")
    (tmp_path / "shared.lmp").write_text("let number = 1\n")
    source = (
        'import "shared.lmp" as s\nlet words = file("words.txt", format="lines")\n'
        "model m() { x ~ categorical(values=words) factor s.other return x }\n"
    )
    folder = Folder.of(tmp_path)
    saved = analyse_text(source, "main.lmp", folder)
    assert codes(saved) == ["LMP101"]
    buffers = {
        str(tmp_path.resolve() / "words.txt"): b"b\nc\n",
        str(tmp_path.resolve() / "shared.lmp"): b"let other = 1\n",
    }
    edited = analyse_text(source, "main.lmp", Edited(folder, buffers))
    assert edited.errors == () and edited.model is not None
    values = edited.model.sites[0].distribution.argument("values")
    assert getattr(values, "value", None) == ("b", "c")


def test_a_file_that_was_never_saved_is_read_and_suggested(tmp_path: Path) -> None:
    source = 'import "new.lmp" as n\nmodel m() { x ~ bernoulli(n.p) return x }\n'
    buffers = {str(tmp_path.resolve() / "new.lmp"): b"let p = 0.5\n"}
    edited = Edited(Folder.of(tmp_path), buffers)
    assert codes(analyse_text(source, "main.lmp", edited)) == []
    wrong = analyse_text(source.replace("new.lmp", "now.lmp"), "main.lmp", edited)
    assert wrong.diagnostics[0].help == "did you mean `new.lmp`?"


def test_an_editor_opens_no_door(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "secret.txt"
    inside.mkdir()
    edited = Edited(Folder.of(inside), {str(outside.resolve()): b"x"})
    with pytest.raises(Outside):
        edited.read("../secret.txt")
    assert edited.list("..") == []
    large = Edited(Folder.of(inside), {str(inside.resolve() / "a"): b"x" * 9})
    with pytest.raises(NotPlain):
        large.read("a", most_bytes=8)
