"""JSON that says two things is refused wherever it is read."""

from __future__ import annotations

import pytest

import lmppl
from lmppl.cli.entry import main
from lmppl.errors import LmpError
from lmppl.files import Folder
from lmppl.jsons import NotJson, half_character, read_json
from lmppl.rewards.texts import read_lexicon

TWICE = '{"a": 1, "a": 2}'


def test_json_is_read_as_ever():
    assert read_json('{"a": [1, 2.5, null, true, "é"], "b": {"a": {}}}') == {
        "a": [1, 2.5, None, True, "é"],
        "b": {"a": {}},
    }


def test_json_may_be_a_hundred_levels_deep():
    assert str(read_json("[" * 100 + "]" * 100)) == "[" * 100 + "]" * 100


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TWICE, "the key 'a' twice"),
        ('[{"b": {"a": 1, "a": 1}}]', "the key 'a' twice"),
        ("{", "at line 1, column 2"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ('{"a":' * 950 + "1" + "}" * 950, "nested too deeply"),
        ("1" * 5000, "digits"),
        ('["a", {"b": "c\\uD83D"}]', r"half a character, the lone surrogate U\+D83D"),
        ('{"\\udc00": 1}', r"half a character, the lone surrogate U\+DC00"),
    ],
)
def test_what_is_not_one_thing_is_refused(text, reason):
    with pytest.raises(NotJson, match=reason):
        read_json(text)


def test_half_a_character_is_named():
    assert half_character("whole 😀") is None
    assert half_character("a\udc00") == "U+DC00"
    assert read_json('"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{"good": 1, "good": -1}', "twice"),
        ('{"a\\ud800": 1}', r"U\+D800"),
        ('{"good": 1' + "0" * 400 + "}", "finite"),
        ("{" * 5, "not JSON"),
    ],
)
def test_a_lexicon_that_says_two_things_is_refused(tmp_path, content, what):
    path = tmp_path / "words.json"
    path.write_text(content)
    with pytest.raises(LmpError, match=f"(?s)LMP919.*{what}"):
        read_lexicon("words.json", Folder.of(tmp_path))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (f"[{TWICE}]", "twice"),
        ('["a\\ud800"]', r"U\+D800"),
        ("[1, 1e400]", "not finite"),
        ("[[1.5], [NaN]]", "not finite"),
        ("-Infinity", "not finite"),
        ("[" * 950 + "]" * 950, "nested too deeply"),
    ],
)
def test_a_file_of_a_program_that_is_not_plain_is_refused(tmp_path, content, what):
    (tmp_path / "data.json").write_text(content)
    program = """
        model m() {
            text ~ lm("builtin:stories", prompt="a", max_tokens=2)
            require never(text, file("data.json", format="json"))
            return text
        }
    """
    with pytest.raises(LmpError, match=f"(?s)LMP119.*{what}"):
        lmppl.compile(program, base_dir=tmp_path)


def test_parameters_that_say_two_things_are_refused(tmp_path, capsys):
    (tmp_path / "data.json").write_text(TWICE)
    (tmp_path / "m.lmp").write_text(
        "model m(a: int) {\n"
        '    text ~ lm("builtin:stories", prompt="a", max_tokens=2)\n'
        "    return text\n}\n"
    )
    arguments = ["run", str(tmp_path / "m.lmp"), "--data", str(tmp_path / "data.json")]
    assert main(arguments) == 2
    assert "the key 'a' twice" in capsys.readouterr().err
