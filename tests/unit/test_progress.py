"""What is seen of long work: a line on a terminal, a plain one elsewhere, and the log."""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import sys
import time
import types
from pathlib import Path

import pytest

import lmppl
from lmppl.cli import main
from lmppl.inference.listening import listening
from lmppl.inference.terminal import TerminalProgress
from lmppl.progress import Course, PlainProgress, ProgressEvent, duration_in_words, progress_line

EXAMPLES = Path(__file__).parents[2] / "examples"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _seen(terminal: Terminal) -> str:
    """What was written, without the escapes that place and colour it."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())


def test_a_course_tells_the_pace_and_what_is_left() -> None:
    course = Course(100.0)
    course.note(ProgressEvent("loading", 0, None, "libraries"), 100.0)
    assert course.tokens_per_second() is None and course.seconds_left(105.0) is None
    course.note(ProgressEvent("loading", 0, None, "the prior of text"), 106.0)
    # The stage began when what was before it ended.
    course.note(ProgressEvent("text", 10, 40, num_tokens=600), 108.0)
    assert course.tokens_per_second() == pytest.approx(300.0)
    assert course.seconds_left(108.0) == pytest.approx(6.0)
    assert course.seconds_left(110.0) == pytest.approx(4.0)
    assert course.seconds_left(200.0) == 0.0
    assert progress_line(course, 109.0) == "text 10/40, 300 tokens/s, 9 s, about 5 s left"
    course.note(ProgressEvent("text", 40, 40, num_tokens=2400), 114.0)
    assert course.seconds_left(114.0) is None


def test_a_stage_without_an_end_has_no_time_left() -> None:
    course = Course(0.0)
    course.note(ProgressEvent("draws", 3, None, "accepted 2"), 50.0)
    assert progress_line(course, 60.0) == "draws 3, accepted 2, 1 min 0 s"
    course.note(ProgressEvent("draws", 20, 10), 51.0)
    assert progress_line(course, 60.0) == "draws 10/10, 1 min 0 s"


def test_durations_are_for_people() -> None:
    spoken = [duration_in_words(s) for s in (-1, 0.4, 59.4, 59.6, 125, 3600, 4800)]
    assert spoken == ["0 s", "0 s", "59 s", "1 min 0 s", "2 min 5 s", "1 h 0 min", "1 h 20 min"]


def test_without_a_terminal_short_work_says_nothing() -> None:
    stream = io.StringIO()
    with_line = PlainProgress(stream, first=60.0)
    with_line(ProgressEvent("text", 1, 2))
    with_line.close()
    assert stream.getvalue() == ""


def test_without_a_terminal_long_work_says_a_plain_line_now_and_then() -> None:
    stream = io.StringIO()
    spoken = PlainProgress(stream, first=0.01, every=0.01)
    spoken(ProgressEvent("loading", 0, None, "libraries"))
    while stream.getvalue().count("\n") < 2:  # no event comes while a model loads
        time.sleep(0.005)
    spoken.close()
    lines = stream.getvalue().splitlines()
    assert all(re.fullmatch(r"lmppl: (starting|loading, libraries), \d+ s", line) for line in lines)
    assert "\x1b" not in stream.getvalue()
    time.sleep(0.03)
    assert stream.getvalue().splitlines() == lines


def test_on_a_terminal_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    bar = TerminalProgress(terminal, delay=60.0)
    bar(ProgressEvent("text", 1, 2))
    bar.close()
    assert terminal.getvalue() == ""


def test_the_line_shows_the_stage_its_pace_and_wipes_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    before = (sys.stdout, sys.stderr)
    bar = TerminalProgress(terminal, delay=0.0)
    try:
        bar(ProgressEvent("loading", 0, None, "libraries"))
        while "libraries" not in _seen(terminal):
            time.sleep(0.02)
        now = time.monotonic()
        bar.course.note(ProgressEvent("loading", 0, None, "[red]the prior[/red]"), now - 10.0)
        bar(ProgressEvent("text", 10, 40, "ess 12", num_tokens=6000))
        while "ess 12" not in _seen(terminal):
            time.sleep(0.02)
        # Results printed meanwhile go where they belong.
        assert sys.stdout is before[0]
    finally:
        bar.close()
    seen = _seen(terminal)
    assert re.search(r"text \S+ 10/40  \d+ tokens/s  ess 12 \d+ s, about \d+ s left", seen)
    assert (sys.stdout, sys.stderr) == before
    # The cursor's line is erased, and nothing after it.
    assert terminal.getvalue().rstrip().endswith("\x1b[2K")


def test_nobody_listens_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with listening(None) as nobody, listening(False) as off, listening(True) as plain:
        assert nobody is None and off is None and isinstance(plain, PlainProgress)
    with monkeypatch.context() as notebook:
        notebook.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
        with listening(None) as seen, listening(False) as off:
            assert isinstance(seen, PlainProgress) and off is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    with listening(None) as simple:
        assert isinstance(simple, PlainProgress)
    monkeypatch.setenv("TERM", "xterm")
    with listening(None) as line:
        assert isinstance(line, TerminalProgress)


def test_a_function_hears_of_loading_and_of_every_step() -> None:
    heard: list[ProgressEvent] = []
    model = lmppl.load(EXAMPLES / "markov.lmp")
    lmppl.infer(model, method="importance", num_samples=20, seed=0, progress=heard.append)
    stages = list(dict.fromkeys(event.stage for event in heard))
    assert stages == ["loading", "draws", "judging"]
    assert [event.message for event in heard if event.stage == "loading"] == [
        "libraries",
        "the prior of text",
        "the reward vowels",
    ]
    assert heard[-1].num_tokens > 0


def test_the_log_says_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lmppl"):
        model = lmppl.load(EXAMPLES / "markov.lmp")
        lmppl.infer(model, method="importance", num_samples=20, seed=0)
    said = [record.getMessage() for record in caplog.records]
    assert any(re.match(r"checked .*markov\.lmp in ", line) for line in said)
    assert any(line.startswith("loaded the prior of text in ") for line in said)
    assert any(re.match(r"done after 8 steps, \d+ tokens, ", line) for line in said)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"lmppl"}


def test_a_library_is_silent_until_it_is_asked() -> None:
    importlib.import_module("lmppl.inference.loop")
    handlers = logging.getLogger("lmppl").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


def test_verbose_shows_the_log_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = os.fspath(EXAMPLES / "markov.lmp")
    before = list(logging.getLogger("lmppl").handlers)
    assert main(["check", "-v", file]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "ms lmppl.pipeline: checked" in captured.err
    assert logging.getLogger("lmppl").handlers == before
    assert main(["run", "-vv", file, "--method", "importance", "--num-samples", "20", "-q"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "lmppl.inference.loop: draws 20 of 20" in captured.err
    assert main(["check", file]) == 0
    assert "checked" not in capsys.readouterr().err
    monkeypatch.setenv("LMPPL_LOG", "info")
    assert main(["check", file]) == 0
    assert "ms lmppl.pipeline: checked" in capsys.readouterr().err
    monkeypatch.setenv("LMPPL_LOG", "loud")
    assert main(["check", file]) == 2
    assert "LMPPL_LOG is one of warning, info, debug" in capsys.readouterr().err
