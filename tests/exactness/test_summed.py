"""Exact by dynamic programming, against the plain referee of `finite_cases` and enumeration.

All seeds are fixed; criteria on draws have a false-alarm rate of 1e-5 over the choice of the seed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import lmppl
from lmppl.density import SiteRows, TextRun
from lmppl.density.steering.protocol import Steering
from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.backward import BackwardTables, backward
from lmppl.finite.hidden import HiddenStates
from lmppl.finite.known import KnownStates
from lmppl.finite.posterior import draw, summary
from lmppl.finite.prior import FiniteStateLM, Pull
from lmppl.inference.exact.sums import sums_of
from lmppl.inference.smc import SMC
from lmppl.inference.smc.engine import SMCEngine
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp
from tests.exactness.finite_cases import (
    EVERY,
    IN_PROGRAMS,
    LETTERS,
    LongCase,
    dyck,
    ending,
    hidden,
    keyword,
)
from tests.exactness.test_sampling import run_to_the_end

EXACT = 1e-9
ALPHA = 1e-5
SOLVED: dict[str, LongCase] = {}


def solved(make: object) -> LongCase:
    """The case, made and solved once."""
    name = make.__name__  # type: ignore[attr-defined]
    return SOLVED.setdefault(name, make())  # type: ignore[operator]


def automaton_of(case: LongCase) -> WeightedAutomaton:
    """The case as a weighted automaton, its states found one by one."""
    order = [(case.start, False)]
    number = {order[0]: 0}
    steps, weights = [], []
    for state, ended in order:
        row, own = [], []
        for token in range(len(case.table["tokens"])):
            found = None if ended else case.follow(state, token)
            if found is None:
                row.append(-1)
                own.append(0.0)
                continue
            key = (found[0], token == case.eos)
            if key not in number:
                number[key] = len(order)
                order.append(key)
            row.append(number[key])
            own.append(found[1])
        steps.append(row)
        weights.append(own)
    finals = [
        [case.final(state, n, ended) for state, ended in order] for n in range(case.max_tokens + 1)
    ]
    logs = [[-math.inf if w is None else w for w in row] for row in finals]
    return WeightedAutomaton(
        torch.tensor(steps),
        torch.tensor(weights, dtype=torch.float64),
        torch.arange(len(case.table["tokens"])),
        None,
        torch.tensor([ended for _, ended in order]),
        torch.tensor(logs, dtype=torch.float64),
    )


def log_rows(weights: Sequence[Sequence[float]]) -> Tensor:
    table = torch.tensor(weights, dtype=torch.float64)
    return (table / table.sum(-1, keepdim=True)).log()


def prior_of(case: LongCase) -> FiniteStateLM:
    table = case.table
    if case.kind == "hmm":
        initial = log_rows([table["initial"]])[0]
        return HiddenStates(initial, log_rows(table["transition"]), log_rows(table["emission"]))
    size = len(table["tokens"])
    emission = log_rows([*table["transition"], table["initial"]])
    return KnownStates.of(emission, torch.arange(size), size)


def tables_of(case: LongCase) -> BackwardTables:
    return backward(prior_of(case), automaton_of(case), case.max_tokens)


@pytest.mark.parametrize("make", EVERY)
def test_sums_are_those_of_the_referee(make: object) -> None:
    case = solved(make)
    expected = case.answers()
    found = summary(tables_of(case))
    assert found.log_evidence == pytest.approx(expected.log_z, abs=EXACT)
    assert found.kl_to_prior == pytest.approx(expected.kl, abs=EXACT)
    if expected.entropy is None:
        assert found.entropy is None
    else:
        assert found.entropy == pytest.approx(expected.entropy, abs=EXACT)
    assert np.abs(found.tokens.numpy() - np.array(expected.tokens)).max() < EXACT


def marginals_p_value(tokens: np.ndarray, lengths: np.ndarray, expected: np.ndarray) -> float:
    """Independent draws against the probability of every token at every place, by Bonferroni."""
    size, found = len(tokens), []
    for place, row in enumerate(expected):
        here = tokens[lengths > place, place]
        counts = np.bincount(here, minlength=len(row))
        if counts[row < 1e-300].any():
            return 0.0
        for token in np.flatnonzero((row > 0.01) & (row < 0.99)):
            spread = math.sqrt(size * row[token] * (1.0 - row[token]))
            found.append(2.0 * stats.norm.sf(abs(counts[token] - size * row[token]) / spread))
    return min(1.0, min(found) * len(found))


@pytest.mark.parametrize("make", EVERY)
def test_draws_have_the_marginals_of_the_referee(make: object) -> None:
    case = solved(make)
    stream = Stream.from_seed(7)
    drawn = draw(tables_of(case), 3000, stream.uniforms)
    expected = np.array(case.answers().tokens)
    tokens, lengths = drawn.tokens.numpy(), drawn.lengths.numpy()
    assert marginals_p_value(tokens, lengths, expected) > ALPHA
    shifted = np.roll(tokens, 1, axis=1)
    assert marginals_p_value(shifted, lengths, expected) < ALPHA


@pytest.mark.parametrize("make", IN_PROGRAMS)
def test_a_program_of_forty_tokens_is_exact(make: object, tmp_path: Path) -> None:
    case = solved(make)
    expected = case.answers()
    model = lmppl.compile(case.write(tmp_path), base_dir=tmp_path)
    post = lmppl.infer(model, method="exact", num_samples=2000, seed=1)
    assert post.log_evidence is not None and post.log_evidence.kind == "exact"
    assert post.log_evidence.value == pytest.approx(expected.log_z, abs=EXACT)
    kl = post.kl_to_prior
    assert kl.is_exact and kl.value == pytest.approx(expected.kl, abs=EXACT)
    assert post.diagnostics["summed"] is True
    if expected.entropy is not None:
        assert post.diagnostics["entropy"] == pytest.approx(expected.entropy, abs=EXACT)
    marginals = np.array(post.info["token_probabilities"]["text"])
    assert np.abs(marginals - np.array(expected.tokens)).max() < EXACT
    ids, lengths = post.tokens("text"), post.lengths("text")
    assert marginals_p_value(ids, lengths, np.array(expected.tokens)) > ALPHA


# ------------------------------------------------------------------------ against enumeration

CHAIN = {
    "tokens": ["a", "b", "c ", "<eos>"],
    "initial": [1, 2, 1, 0.5],
    "transition": [[1, 2, 3, 1], [2, 1, 1, 0], [1, 1, 0, 2], [0, 0, 0, 0]],
    "eos": "<eos>",
}
HIDDEN = {
    "tokens": ["a", "b", "c "],
    "initial": [1, 2],
    "transition": [[3, 1], [1, 4]],
    "emission": [[1, 2, 0], [1, 1, 5]],
    "eos": None,
}
HEAD = """
reward as_(t: string): int<lower=0> = count("a")
reward abs_(t: string): int<lower=0> = count("ab")
reward usual(t: string): real = lexicon("words.tsv", reduce="mean")
extern reward longest(t: string): real<lower=0, upper=99>
"""
PROGRAMS = {
    "markov, cold and cut": """
        text ~ markov("chain.json", max_tokens=5, temperature=0.6, top_k=3)
        require contains(text, "ab")
        factor f: as_(text) / 0.5
        return text""",
    "stop strings": """
        text ~ markov("chain.json", max_tokens=5, stop=["cb", "bb"])
        factor f: 0.3 * length(text, unit="characters") - abs_(text)
        return text""",
    "ends that are kept": r"""
        text ~ markov("chain.json", max_tokens=5, stop="cb", stop_after=["bb"], until=r"a+b?c .*a")
        require never(text, "bba")
        factor f: 0.3 * length(text) - abs_(text) + (if finished(text) then 1 else 0)
        return text""",
    "n-gram with a prompt": """
        start ~ categorical(["a", "ab"], probs=[0.4, 0.6])
        text ~ ngram("corpus.txt", order=3, prompt=start, max_tokens=4)
        factor f: (if start == "a" then 1 else -1) * as_(text)
        return start, text""",
    "hidden": """
        text ~ hmm("hidden.json", max_tokens=4)
        require as_(text) <= 2
        factor f: if contains(text, "ab") then 1.5 else 0
        return text""",
    "two texts and choices": """
        mood ~ bernoulli(0.3)
        one ~ markov("chain.json", max_tokens=3)
        require contains(one, "a") when mood
        kind ~ categorical(["a", "b"], probs=[0.5, 0.5])
        two ~ hmm("hidden.json", max_tokens=2)
        factor f: (if mood then as_(one) else -length(one)) + 1 - 0.3 * abs_(two) * (2 - 1)
        factor g: 0.5 * as_(two) * (if kind == "a" then 1 else 2)
        factor h: if kind == "b" and mood then longest("xyz") else 0
        return mood, one, two""",
    "powers of the prior": """
        mood ~ bernoulli(0.3)
        text ~ markov("chain.json", max_tokens=5)
        factor sharp: (if mood then 3 else 0.5) * log_prob(text) - 0.2 * as_(text)
        factor own: 2 * log_prob(mood)
        return mood, text""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("summed")
    (directory / "chain.json").write_text(json.dumps(CHAIN), encoding="utf-8")
    (directory / "hidden.json").write_text(json.dumps(HIDDEN), encoding="utf-8")
    (directory / "corpus.txt").write_text("abc\nab\nba\ncab\n", encoding="utf-8")
    (directory / "words.tsv").write_text("a\t1\nb\t-1\n", encoding="utf-8")
    return directory


def bound(folder: Path, body: str) -> lmppl.BoundModel:
    model = lmppl.compile(f"{HEAD}\nmodel m() {{{body}\n}}", base_dir=folder)
    return model(longest=lambda texts: [len(text) / 10 for text in texts])


@pytest.mark.parametrize("name", PROGRAMS)
def test_summing_agrees_with_listing(folder: Path, name: str) -> None:
    model = bound(folder, PROGRAMS[name])
    listed = lmppl.infer(model, method="exact")
    # So few that they cannot be listed; the choices can.
    summed = lmppl.infer(model, method="exact", max_sequences=8, num_samples=1500, seed=2)
    assert "summed" not in listed.diagnostics and summed.diagnostics["summed"] is True
    assert listed.log_evidence is not None and summed.log_evidence is not None
    assert summed.log_evidence.value == pytest.approx(listed.log_evidence.value, abs=EXACT)
    assert summed.kl_to_prior.value == pytest.approx(listed.kl_to_prior.value, abs=EXACT)
    weights = listed.weights
    alive = weights > 0
    if "hmm" not in PROGRAMS[name]:
        entropy = -float((weights[alive] * np.log(weights[alive])).sum())
        assert summed.diagnostics["entropy"] == pytest.approx(entropy, abs=EXACT)
    for site, found in summed.info["token_probabilities"].items():
        ids, lengths = listed.tokens(site), listed.lengths(site)
        expected = np.zeros_like(np.array(found))
        for place in range(expected.shape[0]):
            here = lengths > place
            np.add.at(expected[place], ids[here, place], weights[here])
        assert np.abs(np.array(found) - expected).max() < EXACT
        assert marginals_p_value(summed.tokens(site), summed.lengths(site), expected) > ALPHA


def test_few_texts_are_listed_and_many_are_summed(folder: Path) -> None:
    body = 'text ~ markov("chain.json", max_tokens=4)\n require contains(text, "ab")\n return text'
    model = bound(folder, body)
    size = len(lmppl.infer(model, method="exact"))
    assert "summed" not in lmppl.infer(model, method="exact", max_sequences=size).diagnostics
    assert lmppl.infer(model, method="exact", max_sequences=size - 1, seed=0).diagnostics["summed"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            'text ~ markov("chain.json", max_tokens=9)\n factor f: longest(text)\n return text',
            "`factor f: longest(text)`|factor f is neither an automaton nor a sum",
        ),
        (
            'a ~ markov("chain.json", max_tokens=6)\n b ~ markov("chain.json", max_tokens=6)\n'
            " require as_(a) == as_(b)\n return a, b",
            "looks at a and b",
        ),
        (
            'a ~ markov("chain.json", max_tokens=6)\n b ~ markov("chain.json", max_tokens=6)\n'
            " factor f: as_(a) * as_(b)\n return a, b",
            "two texts together",
        ),
        (
            'text ~ hmm("hidden.json", max_tokens=9, temperature=0.5)\n return text',
            "not in a hidden",
        ),
        (
            'text ~ hmm("hidden.json", max_tokens=9)\n factor f: 2 * log_prob(text)\n return text',
            "power of a mixture",
        ),
        (
            'a ~ ngram("corpus.txt", max_tokens=6)\n b ~ ngram("corpus.txt", prompt=a,'
            " max_tokens=6)\n return b",
            "drawn given the text of a",
        ),
        (
            'text ~ markov("chain.json", max_tokens=9)\n require log_prob(text) > -9\n return text',
            "all probabilities of texts.*leave it out",
        ),
        (
            'text ~ markov("chain.json", max_tokens=9)\n factor f: log_prob(text)^2\n return text',
            "multiplied by a number only.*known number",
        ),
        (
            'text ~ markov("chain.json", max_tokens=9)\n factor f: usual(text)\n return text',
            "mean of scores.*sum its scores",
        ),
        (
            'text ~ markov("chain.json", max_tokens=9)\n factor f: as_(text) / length(text)\n'
            " return text",
            "no finite value on some texts.*on every text",
        ),
    ],
)
def test_what_is_neither_listed_nor_summed_is_refused(folder: Path, body: str, reason: str) -> None:
    with pytest.raises(lmppl.InferenceError, match="LMP416") as caught:
        lmppl.infer(bound(folder, body), method="exact", max_sequences=100)
    (diagnostic,) = caught.value.diagnostics
    # Why, and what to change.
    found = " ".join((*diagnostic.notes, str(diagnostic.help)))
    assert re.search(reason, found) and "smc" in str(diagnostic.help)


# -------------------------------------------------------------------------------- wrong variants


def log_z(prior: FiniteStateLM, automaton: WeightedAutomaton, case: LongCase) -> float:
    return float(backward(prior, automaton, case.max_tokens).log_evidence([()]))


def test_wrong_sums_are_noticed() -> None:
    case = solved(ending)
    prior, automaton = prior_of(case), automaton_of(case)
    truth = case.answers().log_z
    assert log_z(prior, automaton, case) == pytest.approx(truth, abs=EXACT)

    @dataclass(frozen=True, slots=True)
    class Renormalised(KnownStates):
        """Tokens that lead nowhere are left out, and the others share their probability."""

        def pull(self, automaton: WeightedAutomaton) -> Pull:
            step = KnownStates.pull(self, automaton)

            def wrong(log_next: Tensor) -> Tensor:
                alive = torch.where(log_next > -math.inf, 0.0, -math.inf).double()
                return step(log_next) - step(alive)

            return wrong

    assert isinstance(prior, KnownStates)
    renormalised = Renormalised(prior.log_emission, prior.successor, prior.family, prior.initial)
    assert abs(log_z(renormalised, automaton, case) - truth) > 1e-3
    # Texts that were cut count as if they had ended.
    cut = automaton.log_final.clone()
    cut[-1, ~automaton.ended] += 1.5
    assert abs(log_z(prior, replace(automaton, log_final=cut), case) - truth) > 1e-6
    # A score that end tokens have too.
    scores = torch.full((automaton.vocab_size,), 0.1, dtype=torch.float64)
    twice = replace(automaton, log_token=scores)
    once = replace(automaton, log_token=scores.index_fill(0, torch.tensor([19]), 0.0))
    assert abs(log_z(prior, twice, case) - log_z(prior, once, case)) > 1e-2


# ------------------------------------------------------------------------------ as a twist of SMC


@dataclass(frozen=True, slots=True)
class Expected(Steering):
    """What the tables expect of every next token, over what they expect before it."""

    tables: BackwardTables

    def begin(self, rows: Tensor) -> Tensor:
        belief = self.tables.prior.begin([()])
        belief = belief[:, None].double() if belief.dim() == 1 else belief
        first = torch.cat([belief, torch.zeros(1, 1, dtype=torch.float64)], 1)
        return first.repeat(rows.shape[0], 1)

    def _split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        belief = states[:, :-1]
        if isinstance(self.tables.prior, KnownStates):
            belief = belief.squeeze(1).long()
        return belief, states[:, -1].long()

    def log_next(self, run: TextRun, states: Tensor) -> Tensor:
        belief, own = self._split(states)
        remaining = run.remaining
        assert isinstance(remaining, int)
        now = self.tables.prior.log_expected(belief, self.tables.log_value[remaining], own)
        return self.tables.log_ahead(belief, own, remaining) - now[:, None]

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        belief, own = self._split(states)
        belief = self.tables.prior.advance(belief, tokens)
        belief = belief[:, None].double() if belief.dim() == 1 else belief
        own = self.tables.automaton.advance(own, tokens)
        return torch.cat([belief, own[:, None].double()], 1)


def evidence_runs(
    case: LongCase, tables: BackwardTables, folder: Path, num_runs: int
) -> np.ndarray:
    model = lmppl.compile(case.write(folder), base_dir=folder)

    class Twisted(SMCEngine):
        def steering(self, rows: SiteRows) -> tuple[Steering, ...]:
            return (Expected(tables),)

    settings = SMC(num_particles=8, num_runs=num_runs, lookahead="none")
    state = run_to_the_end(Twisted(settings, model().target(), Stream.from_seed(5)))
    return np.asarray((state.log_evidence + log_mean_exp(state.log_weight)).numpy())


@pytest.mark.parametrize("make", [keyword, hidden, ending])
def test_smc_with_the_exact_twist_has_no_variance(make: object, tmp_path: Path) -> None:
    case = solved(make)
    found = evidence_runs(case, tables_of(case), tmp_path, 4)
    assert np.abs(found - case.answers().log_z).max() < 1e-8


@pytest.mark.parametrize("make", [keyword, ending])
def test_smc_with_the_twist_of_a_wrong_surrogate_is_unbiased(make: object, tmp_path: Path) -> None:
    """E[Ẑ/Z] = 1 over 300 runs of 8 particles; and it is not the exact twist."""
    case = solved(make)
    prior = prior_of(case)
    assert isinstance(prior, KnownStates)
    noise = torch.from_numpy(np.random.default_rng(3).normal(size=prior.log_emission.shape))
    wrong = replace(prior, log_emission=(prior.log_emission + 0.7 * noise).log_softmax(-1))
    tables = backward(wrong, automaton_of(case), case.max_tokens)
    ratios = np.exp(evidence_runs(case, tables, tmp_path, 300) - case.answers().log_z)
    error = ratios.std(ddof=1) / math.sqrt(len(ratios))
    assert 1e-6 < error < 0.1
    assert abs(ratios.mean() - 1.0) < stats.norm.isf(ALPHA / 2) * error


# ------------------------------------------------------------------------------ the shared oracle


@pytest.mark.parametrize("name", ["c18_long_keyword", "c18t", "c19t", "c22t", "c24t"])
def test_sums_are_those_of_the_oracle(shared: Path, name: str) -> None:
    specs = json.loads((shared / "oracle" / "cases.json").read_text())["cases"]
    (spec,) = (spec for spec in specs if spec["name"] == name)
    size, eos = spec["V"], spec["eos"]
    factors = [factor for factor in spec["factors"] if factor["kind"] == "dfa"]
    tilt = [factor for factor in spec["factors"] if factor["kind"] == "tokens"]

    def follow(state: tuple[int, ...], token: int) -> tuple[tuple[int, ...], float] | None:
        after = tuple(f["delta"][s][token] for f, s in zip(factors, state, strict=True))
        score = sum(f["scores"][token] / f["beta"] for f in tilt)
        return None if min(after, default=0) < 0 else (after, score)

    def final(state: tuple[int, ...], num_tokens: int, ended: bool) -> float | None:
        # The oracle reads end tokens up to the full length.
        if eos is None and num_tokens < spec["T"]:
            return None
        for _ in range(spec["T"] - num_tokens):
            found = follow(state, eos)
            if found is None:
                return None
            state = found[0]
        weights = [f["final_logw"][s] for f, s in zip(factors, state, strict=True)]
        return None if None in weights else float(sum(weights))

    tokens = [f"t{i}" for i in range(size)]
    table = {
        "tokens": tokens,
        "initial": spec["prior"]["init"],
        "transition": spec["prior"]["trans"],
        "eos": None if eos is None else tokens[eos],
    }
    start = tuple(factor["start"] for factor in factors)
    case = LongCase(name, "markov", table, spec["T"], start, follow, final)
    found, exact = summary(tables_of(case)), spec["exact"]
    assert found.log_evidence == pytest.approx(exact["log_Z"], abs=EXACT)
    assert found.kl_to_prior == pytest.approx(exact["KL_post_prior"], abs=EXACT)
    assert found.entropy == pytest.approx(exact["entropy"], abs=EXACT)
    marginals = found.tokens.numpy().copy()
    if eos is not None:
        # There, a text that has ended goes on with end tokens.
        marginals[:, eos] += 1.0 - marginals.sum(-1)
    assert np.abs(marginals - np.array(exact["marginals"])).max() < EXACT


# ------------------------------------------------- the ends of the scale, by products of matrices


def matrices(folder: Path, weights: np.ndarray, eos: bool) -> tuple[np.ndarray, np.ndarray]:
    """A chain in a file, and its first row and its matrix, both normalised."""
    size = weights.shape[1]
    letters = [*LETTERS[: size - eos], "<eos>"][:size]
    table = {
        "tokens": letters,
        "initial": weights[-1].tolist(),
        "transition": weights[:-1].tolist(),
        "eos": "<eos>" if eos else None,
    }
    (folder / "scale.json").write_text(json.dumps(table))
    rows = weights / weights.sum(-1, keepdims=True)
    return rows[-1], rows[:-1]


def test_an_evidence_far_below_the_smallest_number_is_exact(tmp_path: Path) -> None:
    """Forty tokens of a few in 10¹⁰ each: e⁻⁹⁰⁰ and their marginals, rescaled at every step."""
    rng = np.random.default_rng(3)
    weights = rng.gamma(0.6, size=(31, 30)) + 1e-3
    weights[:, :2] = np.array([1e-10, 3e-11]) * rng.uniform(0.5, 1.5, (31, 2))
    first, matrix = (part[..., :2] for part in matrices(tmp_path, weights, eos=False))
    forward, log_z = [first / first.sum()], math.log(first.sum())
    for _ in range(39):
        grown = forward[-1] @ matrix[:2]
        log_z += math.log(grown.sum())
        forward.append(grown / grown.sum())
    assert log_z < -880.0
    backward_, marginals = np.ones(2), []
    for own in reversed(forward):
        marginals.append(own * backward_ / (own @ backward_))
        backward_ = matrix[:2] @ backward_
        backward_ /= backward_.sum()
    model = lmppl.compile(
        'model m() { text ~ markov("scale.json", max_tokens=40)'
        ' require matches(text, "[ab]+") return text }',
        base_dir=tmp_path,
    )
    post = lmppl.infer(model, method="exact", num_samples=50, seed=0, progress=False)
    assert post.log_evidence is not None
    assert post.log_evidence.value == pytest.approx(log_z, abs=EXACT)
    found = np.array(post.info["token_probabilities"]["text"])
    assert np.abs(found[:, :2] - np.array(marginals[::-1])).max() < EXACT
    assert found[:, 2:].max() == 0.0


@pytest.mark.parametrize("alpha", [0.5, 2, 8])
def test_powers_of_texts_that_end_at_any_place_are_products_of_matrices(
    alpha: float, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    first, matrix = matrices(tmp_path, rng.gamma(0.6, size=(31, 30)) + 1e-3, eos=True)
    first, matrix = first**alpha, matrix**alpha
    total, open_mass = first[-1], first[:-1]
    for _ in range(39):
        grown = open_mass @ matrix[:-1]
        total, open_mass = total + grown[-1], grown[:-1]
    model = lmppl.compile(
        'model m(a: real = 2) { text ~ markov("scale.json", max_tokens=40)'
        " factor (a - 1) * log_prob(text) return text }",
        base_dir=tmp_path,
    )
    post = lmppl.infer(model(a=alpha), method="exact", num_samples=50, seed=0, progress=False)
    assert post.log_evidence is not None
    assert post.log_evidence.value == pytest.approx(math.log(total + open_mass.sum()), abs=EXACT)


def test_beginnings_that_lead_nowhere_do_not_hide_that_there_is_no_text(tmp_path: Path) -> None:
    """The chain never writes the b after the a that the automaton waits for."""
    weights = np.ones((6, 5))
    weights[0, 1] = 0.0
    matrices(tmp_path, weights, eos=False)
    model = lmppl.compile(
        'model m() { text ~ markov("scale.json", max_tokens=40)'
        ' require contains(text, "ab") return text }',
        base_dir=tmp_path,
    )
    with pytest.raises(lmppl.InferenceError, match="LMP901"):
        lmppl.infer(model, method="exact", progress=False)


def test_a_few_texts_among_too_many_beginnings_are_summed(tmp_path: Path) -> None:
    """One text has an `ab`, and to find it all beginnings would be listed that have none yet."""
    weights = np.ones((6, 5))
    weights[:, :2] = 0.0
    weights[:2] = [0, 1, 0, 0, 0]
    weights[-1] = [1, 0, 3, 3, 3]
    matrices(tmp_path, weights, eos=False)
    model = lmppl.compile(
        'model m() { text ~ markov("scale.json", max_tokens=30)'
        ' require contains(text, "ab") return text }',
        base_dir=tmp_path,
    )
    post = lmppl.infer(model, method="exact", max_sequences=500, seed=0, progress=False)
    assert post.log_evidence is not None
    assert post.log_evidence.value == pytest.approx(math.log(0.1), abs=EXACT)
    assert set(post.texts) == {"a" + "b" * 29} and post.diagnostics["summed"]


def test_a_target_comes_to_few_sums(folder: Path) -> None:
    """Combinations of choices that ask for the same sum share it."""
    target = bound(folder, PROGRAMS["two texts and choices"]).target()
    sums = sums_of(target, 100)
    assert sums.choices.num_rows == 4
    assert len(sums.texts) == 4


def test_dyck_is_no_program_and_has_many_states() -> None:
    assert automaton_of(solved(dyck)).num_states == 31
