"""A binding draws in a list of bindings what it draws alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lmppl

# Texts of very different lengths, two sites, a choice, constraints, and factors that weigh.
PROGRAM = """
reward many(t: string): real<lower=0, upper=9> = count("a")
model several(shift: real, most: int, mood: string) {
    first ~ markov("chain.json", max_tokens=9)
    side ~ categorical(["left", "right"])
    second ~ markov("chain.json", max_tokens=5)
    require never(first, mood)
    factor pull: shift * many(first) - 0.3 * many(second)
    factor turn: if side == "left" then shift else 0.1 * many(second)
    require length(first) <= most
    return first, second
}
"""
BINDINGS = (
    {"shift": 0.5, "most": 9, "mood": "bb"},
    {"shift": -1.0, "most": 2, "mood": "ab"},
    {"shift": 0.25, "most": 6, "mood": "aa"},
)
METHODS = {
    "smc": {"method": "smc", "num_particles": 12},
    "smc, many resamplings": {"method": "smc", "num_particles": 9, "ess_threshold": 1.0},
    "smc, runs": {"method": "smc", "num_particles": 6, "num_runs": 3, "lookahead_every": 2},
    "tempered": {"method": "tempered", "num_particles": 9, "num_runs": 2},
    "ais": {"method": "ais", "num_samples": 9},
    "importance": {"method": "importance", "num_samples": 30, "batch_size": 7},
    "rejection": {"method": "rejection", "num_samples": 6, "batch_size": 50},
    "mcmc": {"method": "mcmc", "num_samples": 12, "num_chains": 3, "warmup_steps": 2},
    "mcmc from the prior": {
        "method": "mcmc",
        "num_samples": 8,
        "num_chains": 2,
        "start": "prior",
    },
    "mcmc by particles and infilling": {
        "method": "mcmc",
        "num_samples": 6,
        "num_chains": 2,
        "warmup_steps": 2,
        "particle_probability": 0.5,
        "infill_probability": 0.5,
        "num_particles": 3,
        "joints": 2,
    },
    "exact": {"method": "exact", "num_samples": 20},
    "exact, summed": {"method": "exact", "num_samples": 20, "max_sequences": 8},
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    place = tmp_path_factory.mktemp("bindings")
    spec = {
        "tokens": ["a", "b", "<eos>"],
        "initial": [2, 2, 0.2],
        "transition": [[3, 1, 0.5], [1, 2, 0.7], [1, 1, 1]],
        "eos": "<eos>",
    }
    (place / "chain.json").write_text(json.dumps(spec))
    return lmppl.compile(PROGRAM, base_dir=place)


def infer(bound, name):
    return lmppl.infer(bound, seed=5, progress=False, **METHODS[name])


@pytest.mark.parametrize("name", METHODS)
def test_a_binding_draws_in_a_list_what_it_draws_alone(compiled, name):
    together = infer([compiled(**values) for values in BINDINGS], name)
    for number, values in enumerate(BINDINGS):
        alone = infer(compiled(**values), name)
        found = together[number]
        assert list(found["first"]) == list(alone["first"])
        assert list(found["second"]) == list(alone["second"])
        assert list(found["side"]) == list(alone["side"])
        np.testing.assert_allclose(found.log_weights, alone.log_weights, rtol=0, atol=1e-9)
        if alone.log_evidence is not None:
            assert abs(found.log_evidence.value - alone.log_evidence.value) < 1e-9


def test_a_binding_draws_the_same_at_every_place(compiled):
    one, other = compiled(**BINDINGS[0]), compiled(**BINDINGS[1])
    for name in ("smc", "importance", "mcmc"):
        forth, back = infer([one, other], name), infer([other, one], name)
        for site in ("first", "side", "second"):
            assert list(forth[0][site]) == list(back[1][site])
            assert list(forth[1][site]) == list(back[0][site])
