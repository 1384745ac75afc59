"""Sources of rewards that need no model, and what a scorer accepts from any source."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from lmppl.builtins.loading import load_reward
from lmppl.errors import InferenceError, Span
from lmppl.ir.model import Parameter, Reward, RewardSource
from lmppl.ir.types import INT, REAL, STRING, UNCERTAIN, Interval, Type
from lmppl.rewards import Scorer
from lmppl.rewards.scorer import REMEMBERED
from lmppl.rewards.uncertain import UncertainScores

SPAN = Span(None, 0, 1, 1, 1, 1, 2)


def declare(
    kind: str,
    *,
    type: Type = REAL,
    parameters: Sequence[Type] = (STRING,),
    inputs: str = "text",
    **arguments: object,
) -> Reward:
    named = tuple(Parameter("tuvw"[i], each, SPAN) for i, each in enumerate(parameters))
    source = RewardSource(kind, arguments, span=SPAN)
    return Reward("score", named, type, source, SPAN, inputs)  # type: ignore[arg-type]


def load(kind: str, base_dir: Path | str = ".", **options: object) -> Scorer:
    return load_reward(declare(kind, **options), base_dir=str(base_dir))  # type: ignore[arg-type]


def hosted(function: Callable[..., object], **options: object) -> Scorer:
    return load_reward(declare("extern", **options), base_dir=".", host=function)  # type: ignore[arg-type]


def codes(error: pytest.ExceptionInfo[InferenceError]) -> list[str]:
    return [diagnostic.code for diagnostic in error.value.diagnostics]


# ------------------------------------------------------------------ texts


def test_vader_is_the_package_component_by_component() -> None:
    texts = ["I love this!", "It was a terrible, sad day.", "", "The table."]
    analyzer = SentimentIntensityAnalyzer()
    for component in ("compound", "pos", "neg", "neu"):
        expected = [analyzer.polarity_scores(text)[component] for text in texts]
        assert load("vader", component=component).score(texts).tolist() == expected
    assert load("vader").score(texts)[0] > 0.5


def test_count_counts_matches_that_do_not_overlap() -> None:
    assert load("count", pattern="aa").score(["aaaa", "aaa", "b", ""]).tolist() == [2, 1, 0, 0]
    assert load("count", pattern="A", ignore_case=True).score(["banana"]).tolist() == [3]
    with pytest.raises(InferenceError, match="not a regular expression") as caught:
        load("count", pattern="(")
    assert codes(caught) == ["LMP919"]


def test_a_lexicon_sums_or_averages_the_words_it_knows(tmp_path: Path) -> None:
    (tmp_path / "l.tsv").write_text("good\t2\nbad\t-1.5\t0.7\tignored\nwell-made\t1\n")
    total = load("lexicon", tmp_path, path="l.tsv")
    texts = ["Good, good; BAD!", "goodness", "'good' well-made.", ""]
    assert total.score(texts).tolist() == [2.5, 0.0, 3.0, 0.0]
    average = load("lexicon", tmp_path, path="l.tsv", reduce="mean")
    assert np.allclose(average.score(texts), [2.5 / 3, 0.0, 1.5, 0.0])
    exact = load("lexicon", tmp_path, path="l.tsv", ignore_case=False)
    assert exact.score(texts).tolist() == [2.0, 0.0, 3.0, 0.0]


def test_a_lexicon_may_be_csv_with_a_header_or_json(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text('word,score\n"good",2\n\nbad,-1\n')
    (tmp_path / "l.json").write_text('{"good": 2, "bad": -1.0}')
    for name in ("l.csv", "l.json"):
        assert load("lexicon", tmp_path, path=name).score(["good bad bad"]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.tsv", "good\t2\nbad\tmuch\n", "line 2 .* has no score"),
        ("l.tsv", "good\t2\nbad\tnan\n", "line 2 .* has the score nan"),
        ("l.tsv", "good\t2\nGood\t3\n", "two scores, 2 and 3"),
        ("l.tsv", "", "has no words"),
        ("l.json", '["good"]', "must be an object"),
        ("l.json", "{", "is not JSON"),
        ("l.json", '{"good": true}', "the score True"),
        ("l.json", '{"good": 1e400}', "the score inf"),
        ("l.json", '{"good": Infinity}', "the score inf"),
    ],
)
def test_a_broken_lexicon_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InferenceError, match=message) as caught:
        load("lexicon", tmp_path, path=name)
    assert codes(caught) == ["LMP919"] and caught.value.diagnostics[0].span == SPAN


def test_a_missing_lexicon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="cannot be read"):
        load("lexicon", tmp_path, path="none.tsv")


# ------------------------------------------------------------------ the scorer


def test_duplicates_are_scored_once_and_remembered_between_calls() -> None:
    asked: list[list[str]] = []

    def f(texts: list[str]) -> list[int]:
        asked.append(texts)
        return [len(text) for text in texts]

    scorer = hosted(f)
    assert scorer.score(["a", "bb", "a"]).tolist() == [1.0, 2.0, 1.0]
    assert scorer.score(["bb", "ccc"]).tolist() == [2.0, 3.0]
    assert asked == [["a", "bb"], ["ccc"]] and scorer.num_scored == 3
    assert scorer.score([]).tolist() == []


def test_the_memory_is_bounded_and_large_batches_are_complete() -> None:
    scorer = hosted(lambda texts: [float(text) for text in texts])
    texts = [str(i) for i in range(REMEMBERED + 10)]
    assert scorer.score(texts).tolist() == list(range(REMEMBERED + 10))
    assert len(scorer._memory) == REMEMBERED
    assert scorer.score(["0", str(REMEMBERED)]).tolist() == [0.0, float(REMEMBERED)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_plus_infinity_name_the_text(value: float) -> None:
    with pytest.raises(InferenceError) as caught:
        hosted(lambda texts: [1.0, value]).score(["fine", "strange"])
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LMP921" and diagnostic.notes == ("t = 'strange'",)
    assert diagnostic.span == SPAN


def test_minus_infinity_is_zero_mass_where_the_range_has_no_lower_end() -> None:
    assert hosted(lambda texts: [-math.inf]).score(["a"]).tolist() == [-math.inf]
    bounded = Type("real", range=Interval(0.0, 1.0))
    with pytest.raises(InferenceError, match="outside its declared range"):
        hosted(lambda texts: [-math.inf], type=bounded).score(["a"])
    with pytest.raises(InferenceError, match="gave −∞"):
        hosted(lambda texts: [[-math.inf, 0.0]], type=UNCERTAIN).score(["a"])


def test_only_rounding_is_clipped_to_the_declared_range() -> None:
    unit = Type("real", range=Interval(0.0, 1.0))
    assert hosted(lambda texts: [1.0000001], type=unit).score(["a"]).tolist() == [1.0]
    for value in (1.00001, -0.1, 17.0):
        with pytest.raises(InferenceError) as caught:
            hosted(lambda texts, value=value: [0.5, value], type=unit).score(["a", "b"])
        assert codes(caught) == ["LMP922"] and "'b'" in caught.value.diagnostics[0].notes[0]


def test_every_member_lies_in_the_declared_range() -> None:
    unit = Type("uncertain", range=Interval(0.0, 1.0))
    with pytest.raises(InferenceError) as caught:
        hosted(lambda texts: [[0.1, 0.2], [0.3, 1.2]], type=unit).score(["a", "b"])
    assert codes(caught) == ["LMP922"] and "1.2" in caught.value.diagnostics[0].message
    with pytest.raises(InferenceError, match=r"gave 1\.5"):
        hosted(lambda texts: ([1.5], [0.1]), type=unit).score(["a"])


def test_an_int_reward_gives_whole_numbers() -> None:
    assert hosted(lambda texts: [2.0], type=INT).score(["a"]).tolist() == [2.0]
    with pytest.raises(InferenceError, match="not an int"):
        hosted(lambda texts: [2.5], type=INT).score(["a"])


# ------------------------------------------------------------------ host functions


def annotated_single(text: str) -> float:
    return float(len(text))


def annotated_batch(texts: list[str]) -> list[float]:
    return [float(len(text)) for text in texts]


class Callable_:
    def __call__(self, text: str) -> float:
        return float(len(text))


@pytest.mark.parametrize(
    "function",
    [
        annotated_single,
        annotated_batch,
        Callable_(),
        len,
        lambda t: len(t),
        lambda t: t.count("a") + len(t.replace("a", "")),
        lambda texts: [len(t) for t in texts],
        lambda texts: np.array([len(t) for t in texts], dtype=np.float32),
        lambda texts: torch.tensor([float(len(t)) for t in texts], requires_grad=True),
        lambda texts: torch.tensor([[len(t)] for t in texts]),
        lambda texts: [torch.tensor(len(t)) for t in texts],
        lambda t: torch.tensor(float(len(t.strip() + " ") - 1)),
    ],
)
@pytest.mark.parametrize("size", [1, 3])
def test_a_host_function_takes_a_batch_or_one_text(
    function: Callable[..., object], size: int
) -> None:
    scorer = hosted(function)
    assert scorer.score(["banana", "b", "ca"][:size]).tolist() == [6.0, 1.0, 2.0][:size]
    assert scorer.score(["abcd"]).tolist() == [4.0]


@pytest.mark.parametrize("reads", [1, 2])
def test_several_parameters_become_several_lists(reads: int) -> None:
    single = hosted(
        lambda q, a, n: len(q + a) * n if isinstance(n, int) else q.none,
        parameters=(STRING, STRING, INT),
    )
    batch = hosted(
        lambda q, a, n: [len(x + y) * z for x, y, z in zip(q, a, n, strict=True)],
        parameters=(STRING, STRING, INT),
    )
    for scorer in (single, batch):
        columns = (["a", "bb"][:reads], ["", "c"][:reads], np.array([2, 3])[:reads])
        assert scorer.score(*columns).tolist() == [2.0, 9.0][:reads]


def test_uncertain_rewards_give_members_or_a_mean_and_a_std() -> None:
    functions = [
        lambda texts: [[0.0, 1.0], [2.0, 2.0]],
        lambda texts: np.array([[0.0, 1.0], [2.0, 2.0]]),
        lambda text: {"a": [0.0, 1.0], "b": [2.0, 2.0]}[text],
    ]
    for function in functions:
        scores = hosted(function, type=UNCERTAIN).score(["a", "b", "a"])
        assert isinstance(scores, UncertainScores) and scores.members is not None
        assert scores.members.tolist() == [[0.0, 1.0], [2.0, 2.0], [0.0, 1.0]]
    functions = [
        lambda texts: ([0.5, 2.0], [0.1, 0.0]),
        lambda texts: (torch.tensor([0.5, 2.0]).double(), np.array([0.1, 0.0])),
        lambda text: {"a": (0.5, 0.1), "b": (2.0, 0.0)}[text],
    ]
    for function in functions:
        scores = hosted(function, type=UNCERTAIN).score(["a", "b"])
        assert isinstance(scores, UncertainScores) and scores.is_gaussian
        assert [array.tolist() for array in scores.moments()] == [[0.5, 2.0], [0.1, 0.0]]


@pytest.mark.parametrize(
    ("function", "type"),
    [
        (lambda texts: [1.0], REAL),
        (lambda texts: [1.0, 2.0, 3.0], REAL),
        (lambda texts: [[1.0, 2.0], [1.0, 2.0]], REAL),
        (lambda texts: ["a", "b"], REAL),
        (lambda texts: None, REAL),
        (lambda texts: [None, 1.0], REAL),
        (lambda texts: [1.0, 2.0], UNCERTAIN),
        (lambda texts: [[1.0, 2.0]], UNCERTAIN),
        (lambda texts: [[], []], UNCERTAIN),
        (lambda texts: [[1.0], [1.0, 2.0]], UNCERTAIN),
        (lambda texts: ([1.0, 2.0], [0.1]), UNCERTAIN),
        (lambda texts: ([1.0, 2.0], [0.1, -0.1]), UNCERTAIN),
    ],
)
def test_what_is_no_batch_of_scores_is_refused(function: Callable[..., object], type: Type) -> None:
    with pytest.raises(InferenceError) as caught:
        hosted(function, type=type).score(["a", "b"])
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LMP923" and diagnostic.help and "`score`" in diagnostic.message


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "function",
    [
        lambda texts: sum(len(text) for text in texts) / 10,
        lambda texts: np.mean([len(text) for text in texts]),
        lambda texts: torch.tensor([float(len(text)) for text in texts]).mean(),
        lambda text: sum(character in "aeiou" for character in text),
        lambda text: text[0] == "b",
    ],
)
def test_one_number_for_a_batch_is_not_read_as_the_score_of_characters(
    function: Callable[..., object], size: int
) -> None:
    with pytest.raises(InferenceError, match="a single number") as caught:
        hosted(function).score(["banana", "b"][:size])
    assert "annotate" in str(caught.value.diagnostics[0].help)


def test_a_function_of_one_text_that_takes_lists_too_is_read_so_and_says_so() -> None:
    scorer = hosted(len)
    assert scorer.score(["banana", "b"]).tolist() == [6.0, 1.0]
    assert "one text at a time" in scorer.notes[0]
    assert hosted(lambda texts: [len(text) for text in texts]).notes == ()


def test_a_mistake_inside_a_batched_function_does_not_make_it_one_of_one_text() -> None:
    def score(texts):  # type: ignore[no-untyped-def]
        return np.mean([1 / (len(text) - 3) for text in texts])

    with pytest.raises(InferenceError, match="ZeroDivisionError"):
        hosted(score).score(["aa", "bbb"])


@pytest.mark.parametrize(
    "function",
    [
        lambda texts: (texts.sort(), [len(text) for text in texts])[1],
        lambda texts: [len(texts.pop()) for _ in range(2)],
    ],
)
def test_a_reward_that_changes_its_list_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(InferenceError, match="LMP950"):
        hosted(function).score(["banana", "b"])


def test_a_reward_that_changes_its_tokens_is_refused() -> None:
    def f(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        ids.sort(axis=0)
        return ids[:, 0]

    with pytest.raises(InferenceError, match="LMP950"):
        hosted(f, inputs="tokens").score(
            ["a", "b"], tokens=((np.array([[2], [1]]), np.array([1, 1])),)
        )


@pytest.mark.parametrize(
    "function",
    [
        lambda texts: torch.tensor([1 + 2j, 3 + 0j]),
        lambda texts: [torch.tensor(1j), torch.tensor(1j)],
        lambda texts: np.array([1 + 2j, 3]),
        lambda texts: [1 + 2j, 3.0],
        lambda texts: np.ma.array([1.0, 2.0], mask=[False, True]),
        lambda texts: np.array(["1", "2"], dtype=object),
        lambda texts: torch.tensor([1.0, 2.0]).to_sparse(),
        lambda texts: torch.tensor([1.0, 2.0], device="meta"),
    ],
)
def test_numbers_with_parts_that_would_be_dropped_are_refused(
    function: Callable[..., object],
) -> None:
    with pytest.raises(InferenceError, match="LMP923"):
        hosted(function).score(["a", "b"])


def test_masked_arrays_that_hide_nothing_and_unsigned_integers_are_scores() -> None:
    shown = hosted(lambda texts: np.ma.array([1.0, 2.0], mask=[False, False]))
    assert shown.score(["a", "b"]).tolist() == [1.0, 2.0]
    assert hosted(lambda texts: np.array([1, 2], np.uint8)).score(["a", "b"]).tolist() == [1.0, 2.0]


def test_members_must_agree_in_number_between_calls() -> None:
    scorer = hosted(lambda texts: [[0.0] * len(texts[0])], type=UNCERTAIN)
    scorer.score(["ab"])
    with pytest.raises(InferenceError, match="different sizes: 2, 3"):
        scorer.score(["ab", "abc"])


def test_an_exception_is_chained_and_names_the_text_that_caused_it() -> None:
    def single(text: str) -> float:
        return 1 / len(text)

    def batch(texts: list[str]) -> list[float]:
        return [1 / len(text) for text in texts]

    for function in (single, batch, lambda t: 1 / len(t[0]) if len(t) > 0 else t.none):
        with pytest.raises(InferenceError) as caught:
            hosted(function).score(["a", "", "b"] if function in (single, batch) else [""])
        (diagnostic,) = caught.value.diagnostics
        assert diagnostic.code == "LMP924"
        assert diagnostic.notes == ("it was called with ''",)
        causes = [caught.value.__cause__, caught.value.__cause__.__cause__]  # type: ignore[union-attr]
        assert any(isinstance(cause, ZeroDivisionError) for cause in causes)


def test_an_exception_of_the_batch_alone_says_so() -> None:
    def fussy(texts: list[str]) -> list[float]:
        if len(texts) > 1:
            raise RuntimeError("too many")
        return [0.0]

    with pytest.raises(InferenceError, match="for none of its texts alone"):
        hosted(fussy).score(["a", "b"])


def test_an_interruption_is_not_an_error_of_the_reward() -> None:
    def stop(texts: list[str]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hosted(stop).score(["a"])


def test_a_reward_that_reads_tokens_gets_ids_and_lengths() -> None:
    seen = []

    def f(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        seen.append((ids.tolist(), lengths.tolist()))
        return (ids == 7).sum(1)

    scorer = hosted(f, inputs="tokens")
    ids, lengths = np.array([[7, 7, 0], [7, 1, 2], [7, 7, 9]]), np.array([2, 3, 2])
    # Rows 0 and 2 differ in padding only; equal strings with other tokens are other rows.
    scores = scorer.score(["a", "a", "a"], tokens=((ids, lengths),))
    assert scores.tolist() == [2.0, 1.0, 2.0]
    assert seen == [([[7, 7, 0], [7, 1, 2]], [2, 3])]


def test_an_extern_reward_that_was_not_given_is_refused() -> None:
    with pytest.raises(InferenceError, match=r"model\(score=function\)") as caught:
        load("extern")
    assert codes(caught) == ["LMP919"]


def test_an_ensemble_of_cheap_sources_is_cheap() -> None:
    members = tuple(RewardSource("count", {"pattern": p}) for p in "ab")
    declared = Reward(
        "score", (Parameter("t", STRING, SPAN),), UNCERTAIN,
        RewardSource("ensemble", members=members), SPAN,
    )  # fmt: skip
    scorer = load_reward(declared, base_dir=".")
    scores = scorer.score(["aab", "b"])
    assert isinstance(scores, UncertainScores) and scores.members is not None
    assert scores.members.tolist() == [[2.0, 1.0], [0.0, 1.0]] and scorer.cost == "cheap"


def test_the_digest_follows_the_options_the_file_and_the_function(tmp_path: Path) -> None:
    (tmp_path / "l.tsv").write_text("good\t2\n")
    first = load("lexicon", tmp_path, path="l.tsv")
    (tmp_path / "l.tsv").write_text("good\t3\n")
    digests = {
        first.digest,
        load("lexicon", tmp_path, path="l.tsv").digest,
        load("lexicon", tmp_path, path="l.tsv", reduce="mean").digest,
        load("count", pattern="a").digest,
        load("count", pattern="b").digest,
        load("vader").digest,
        hosted(annotated_single).digest,
        hosted(annotated_batch).digest,
    }
    assert len(digests) == 8
    assert hosted(annotated_single).digest == hosted(annotated_single).digest


def test_a_type_that_does_not_fit_the_source_is_refused() -> None:
    with pytest.raises(InferenceError, match="declared `uncertain`"):
        load("vader", type=UNCERTAIN).score(["a"])
