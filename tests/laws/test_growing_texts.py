"""Texts that are read while they grow spell what a decoding of all their tokens spells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmppl.automata import compile_constraint
from lmppl.automata.stopping import Stopping
from lmppl.density import Automata, TextRun, TextStage
from lmppl.density.stages.growing import GrowingStrings
from lmppl.density.stages.strings import growing_strings, strings
from lmppl.lm.loading import load_language_model
from lmppl.lm.protocol import Vocabulary
from lmppl.rng import Stream

torch.set_num_threads(1)

# Whole characters, halves of them, bytes that no character has, surrogates, nothing.
PIECES = (
    "a", " ", "é", "€", "😀", b"\xc3", b"\xa9", b"\xe2\x82", b"\xac", b"\xf0\x9f", b"\x98",
    b"\x80", b"\xed\xa0", b"\xff", b"\xf0\x9fa\xc3", b"\x82\xac b", b"",
)  # fmt: skip
TOKEN_BYTES = tuple(piece.encode() if isinstance(piece, str) else piece for piece in PIECES)
VOCAB = Vocabulary(len(TOKEN_BYTES), TOKEN_BYTES, frozenset())
NUM_ROWS, MAX_TOKENS = 4, 12

tables = st.lists(
    st.lists(st.integers(0, VOCAB.size - 1), min_size=MAX_TOKENS, max_size=MAX_TOKENS),
    min_size=NUM_ROWS,
    max_size=NUM_ROWS,
).map(torch.tensor)
row_numbers = st.lists(st.integers(0, NUM_ROWS - 1), min_size=NUM_ROWS, max_size=NUM_ROWS)
# How far every row has come, which rows are asked for, and who takes whose place afterwards.
moments = st.lists(
    st.tuples(
        st.lists(st.integers(0, MAX_TOKENS), min_size=NUM_ROWS, max_size=NUM_ROWS),
        st.sets(st.integers(0, NUM_ROWS - 1)),
        st.none() | row_numbers,
    ),
    max_size=8,
)


def whole(vocab: Vocabulary, tokens: torch.Tensor, lengths: Sequence[int]) -> list[str]:
    return [
        vocab.decode(ids[:length]) for ids, length in zip(tokens.tolist(), lengths, strict=True)
    ]


@settings(max_examples=300, deadline=None)
@given(tables, moments)
def test_reading_new_tokens_spells_what_decoding_all_of_them_does(
    tokens: torch.Tensor,
    history: list[tuple[list[int], set[int], list[int] | None]],
) -> None:
    """Also where rows are skipped for a while, cut, dropped and copied."""
    growing = GrowingStrings()
    for lengths, asked, chosen in history:
        rows = torch.tensor(sorted(asked), dtype=torch.long)
        wanted = torch.tensor(lengths)[rows]
        found = growing.read(tokens, rows, wanted, TOKEN_BYTES)
        assert found == whole(VOCAB, tokens[rows], wanted.tolist())
        if chosen is not None:
            indices = torch.tensor(chosen)
            tokens = tokens[indices]
            growing = growing.select(indices, tokens)


def test_other_tokens_are_other_texts() -> None:
    growing = GrowingStrings()
    rows, lengths = torch.tensor([0]), torch.tensor([2])
    assert growing.read(torch.tensor([[0, 2]]), rows, lengths, TOKEN_BYTES) == ["aé"]
    assert growing.read(torch.tensor([[2, 0]]), rows, lengths, TOKEN_BYTES) == ["éa"]


def test_a_decoder_that_forgets_the_tail_is_rejected_by_the_same_law() -> None:
    tokens, rows = torch.tensor([[7, 8]]), torch.tensor([0])
    growing = GrowingStrings()
    growing.read(tokens, rows, torch.tensor([1]), TOKEN_BYTES)
    growing.tails = [b""]
    assert growing.read(tokens, rows, torch.tensor([2]), TOKEN_BYTES) != whole(VOCAB, tokens, [2])


def stories(stopping: Stopping, lm_strips: bool) -> TextStage:
    lm = load_language_model("builtin:stories")
    stage = TextStage("text", lm, max_tokens=MAX_TOKENS, stopping=stopping)
    if lm_strips:
        stripping = StrippingLM(lm)
        stage = replace(stage, lm=stripping)  # type: ignore[arg-type]
    return stage


class StrippingLM:
    """The same model, with texts that lose a leading space where nothing comes before them."""

    def __init__(self, lm: object) -> None:
        self.lm = lm
        self.vocab = replace(lm.vocab, strips_leading_space=True)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self.lm, name)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(
        [
            Stopping(),
            Stopping((".",)),
            Stopping((" a", "the")),
            Stopping(("e",)),
            Stopping(after=("e", "a")),
            Stopping((" a",), (" ",), ".*[ei]"),
        ]
    ),
    st.booleans(),
    st.integers(0, 1000),
    st.lists(st.none() | st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1),
)
def test_a_run_that_is_looked_at_at_every_step_spells_its_texts(
    stopping: Stopping, strips: bool, seed: int, resamplings: list[list[int] | None]
) -> None:
    """With stop strings, stripped spaces, texts that end early and resampling on the way."""
    stage = stories(stopping, strips)
    automata = Automata((None,))
    if stopping:
        automata = Automata((compile_constraint((), stage.lm.vocab, stopping, MAX_TOKENS, strips),))
    prompts = ["", "Once", "", "The dog", "", " "]
    run: TextRun = stage.begin(prompts, automata)
    stream = Stream.from_seed(seed)
    number = 0
    while run.num_open:
        rows = run.open
        uniforms = stream.uniforms(torch.arange(6), number)
        run, _ = stage.step(run, uniforms, masked=False)
        expected = strings(stage, run)
        assert growing_strings(stage, run, rows) == [expected[row] for row in rows.tolist()]
        chosen = resamplings[number % len(resamplings)]
        if chosen is not None and run.num_open:
            run = run.select(torch.tensor(chosen))
        number += 1
    assert growing_strings(stage, run, torch.arange(6)) == strings(stage, run)
