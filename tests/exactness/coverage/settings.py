"""What is counted: every case under the methods that can do it."""

from __future__ import annotations

from tests.exactness.coverage import cases
from tests.exactness.coverage.brute_force import Case
from tests.exactness.coverage.cases import CASES
from tests.exactness.coverage.counting import Setting

_MCMC: dict[str, object] = {"num_chains": 4, "num_samples": 100, "warmup_steps": 50}
_PARTICLES: dict[str, object] = {**_MCMC, "particle_probability": 1.0}
_ESTIMATED: dict[str, object] = {"num_samples": 100, "upper_bound": "estimated", "tolerance": 0.1}
_TEMPERED: dict[str, object] = {"num_particles": 64}
_AIS: dict[str, object] = {"num_samples": 64}
_SVI: dict[str, object] = {"num_steps": 60, "num_particles": 16, "num_samples": 128}
# Enough for as many draws of the prior to look for what the guide lost as by default.
_SVI_LONGER: dict[str, object] = {"num_steps": 130, "num_particles": 64, "num_samples": 512}

# Nothing but scores of unfinished texts guides the particles.
_PREFIX: dict[str, object] = {"lookahead": "prefix"}

# Where the acceptance rate is high enough, and a declared range gives the envelope.
_REJECTION = (
    cases.SOFT, cases.HARD, cases.LATE, cases.RARE, cases.RARE_TILTED, cases.ACCEPTED,
    cases.MIXED, cases.KEYWORD, cases.LINKED,
)  # fmt: skip
# Automata follow all that weighs, and no claim is about something rare.
_FOLLOWED = (
    cases.SOFT, cases.HARD, cases.SPIKE, cases.TWO_MODES, cases.TWO_MODES_MILD, cases.HEAVY,
    cases.FAR_APART, cases.KEYWORD,
)  # fmt: skip
_LARGE = (cases.SPIKE, cases.GARDEN, cases.FAR_APART, cases.HEAVY, cases.ENDINGS)
# Near enough to the prior for any method.
_EASY = (cases.SOFT, cases.HARD, cases.MIXED)
_MCMC_CASES = (
    cases.SOFT, cases.HARD, cases.RARE_TILTED, cases.TWO_MODES, cases.TWO_MODES_MILD,
    cases.HEAVY, cases.ENDINGS, cases.FAR_APART, cases.MIXED, cases.SPIKE, cases.LINKED,
)  # fmt: skip
# Moves and bounds that are asked for.
_PARTICLE_CASES = (cases.SOFT, cases.TWO_MODES_MILD)
# A guide that fits, one that has lost a mode, one that no draw of the prior would find.
_GUIDED = (cases.SOFT, cases.TWO_MODES, cases.TWO_MODES_MILD, cases.SPIKE)
_TEMPERED_CASES = (cases.SOFT, cases.TWO_MODES, cases.HEAVY, cases.COLD, cases.MIXED)
_SVI_CASES = (
    cases.SOFT, cases.RARE_TILTED, cases.TWO_MODES, cases.TWO_MODES_MILD, cases.HEAVY,
    cases.ENDINGS, cases.SPIKE, cases.MIXED,
)  # fmt: skip


def _settings_of(case: Case) -> list[Setting]:
    easy = case in _EASY
    found = [
        Setting(case, "exact", every=50),
        Setting(case, "exact", {"num_samples": 100}),
        Setting(case, "importance", {"num_samples": 100}),
        Setting(case, "importance", easy=easy),
        # The prior looks ahead by itself.
        Setting(case, "smc", easy=case in _FOLLOWED),
        Setting(case, "smc", _PREFIX),
        Setting(case, "smc", {"num_particles": 1000, **_PREFIX}, easy=easy),
        Setting(case, "smc", {"num_particles": 64, "lookahead": "none"}, every=4),
        Setting(case, "smc", {"num_particles": 64, "num_runs": 2, **_PREFIX}),
        Setting(case, "smc", {"num_particles": 64, "num_runs": 4, **_PREFIX}),
        Setting(case, "smc", surrogate=0.5, every=2),
        Setting(case, "smc", surrogate=2.0, every=2),
    ]
    if case in _GUIDED:
        found.append(Setting(case, "smc", {"num_particles": 100}, every=2, guide=_SVI_LONGER))
        found.append(Setting(case, "importance", {"num_samples": 100}, every=2, guide=_SVI_LONGER))
    if case in (cases.HARD, cases.KEYWORD):
        found.append(Setting(case, "importance", {"proposal": "prior"}))
    if case in _REJECTION:
        found.append(Setting(case, "rejection", {"num_samples": 20}, every=2))
        found.append(Setting(case, "rejection", {"num_samples": 100}))
        found.append(Setting(case, "rejection", {"num_samples": 400}, easy=easy))
    if case in _MCMC_CASES:
        found.append(Setting(case, "mcmc", _MCMC, every=4))
        found.append(Setting(case, "mcmc", every=4))
    if case in _PARTICLE_CASES:
        found.append(Setting(case, "mcmc", _PARTICLES, every=4))
        found.append(Setting(case, "rejection", _ESTIMATED, every=4))
    if case in _TEMPERED_CASES:
        found.append(Setting(case, "tempered", _TEMPERED, every=2))
        found.append(Setting(case, "ais", _AIS, every=2))
    if case in _SVI_CASES:
        found.append(Setting(case, "svi", _SVI, every=8))
        found.append(Setting(case, "svi", _SVI_LONGER, every=8))
    return found


SETTINGS = tuple(setting for case in CASES for setting in _settings_of(case))


def _quick() -> tuple[tuple[Setting, int], ...]:
    """Settings with how many seeds each: a few hundred runs."""
    plan: tuple[tuple[str, dict[str, object], int], ...] = (
        ("exact", {"num_samples": 100}, 2),
        ("rejection", {"num_samples": 100}, 4),
        ("importance", {"num_samples": 100}, 2),
        ("importance", {}, 2),
        ("smc", {}, 1),
        ("smc", _PREFIX, 2),
        ("smc", {"num_particles": 64, "num_runs": 2, **_PREFIX}, 1),
        ("smc", {"num_particles": 64, "num_runs": 4, **_PREFIX}, 2),
        ("tempered", _TEMPERED, 2),
        ("ais", _AIS, 1),
    )
    found = [
        (setting, num_seeds)
        for setting in SETTINGS
        for method, options, num_seeds in plan
        if setting.method == method
        and setting.options == options
        and setting.guide is None
        # Of surrogates that are far off something else is told, for every case.
        and setting.surrogate in (None, 2.0)
        # Listing all texts of these again for every seed takes long, and says no more.
        if method != "exact" or setting.case not in _LARGE
    ]
    slow = (cases.TWO_MODES, cases.FAR_APART, cases.LINKED)
    return (
        *found,
        *((s, 2) for s in SETTINGS if s.options == _MCMC and s.case in slow),
        *((s, 1) for s in SETTINGS if s.options == _SVI and s.case in slow),
    )


QUICK = _quick()
