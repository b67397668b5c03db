"""How sure are we? Intervals, paired tests, detectable differences and the verdict.

Dims: s training seeds, i initial states.

Two designs occur. With one training seed per arm two *checkpoints* meet on the same initial states: exact McNemar,
and no claim about the arms, since another training run may reverse it. With several, both the training runs and the
states are samples, and the interval resamples both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import optimize, stats

from s2robot.errors import S2RobotError

ALPHA = 0.05
POWER = 0.8
BOOTSTRAP_SAMPLES = 10_000
MIN_TRAIN_SEEDS = 3  # fewer say nothing about the spread between training runs


@dataclass(frozen=True)
class Interval:
    """A two-sided 95 % confidence interval."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Contrast:
    """Arm a minus arm b on the same initial states. Rates are fractions.

    `n`, `a_only`, `b_only` and `mcnemar_p` compare two checkpoints, those of the first training seed; `diff`,
    `interval` and `detectable` are over all `train_seeds`. With one training seed both are the same episodes.
    """

    train_seeds: int
    n: int
    diff: float
    interval: Interval
    a_only: int
    b_only: int
    mcnemar_p: float
    detectable: float | None
    states_needed: int | None = None
    seeds_needed: int | None = None


def wilson(k: int, n: int) -> Interval:
    """Wilson (1927) score interval of a success rate, k successes in n episodes.

    Raises S2RobotError unless 0 <= k <= n and n > 0.
    """
    if not (n > 0 and 0 <= k <= n):
        raise S2RobotError(f"{k} successes in {n} episodes is no success rate; give 0 <= k <= n with n > 0")
    interval = stats.binomtest(k, n).proportion_ci(confidence_level=1 - ALPHA, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def mcnemar_exact(a_only: int, b_only: int) -> float:
    """Two-sided p of the exact McNemar test, from the episodes that only one of two checkpoints solved.

    Under the null each of them is a fair coin toss; episodes that ended alike carry no information.
    """
    discordant = a_only + b_only
    return float(stats.binomtest(a_only, discordant).pvalue) if discordant else 1.0


def paired_interval(a_only: int, b_only: int, n: int) -> Interval:
    """95 % interval of the difference of two success rates on the same n initial states.

    Wald with one success added to each discordant cell (Bonett and Price 2012, J. Educ. Behav. Stat. 37:479), one of
    the intervals that Fagerland, Lydersen and Laake (2014, Stat. Med. 33:2850) recommend for paired proportions.
    Raises S2RobotError when the counts do not fit into n.
    """
    if min(a_only, b_only) < 0 or n <= 0 or a_only + b_only > n:
        raise S2RobotError(f"{a_only} + {b_only} discordant episodes do not fit into {n}; count each episode once")
    p_a, p_b = (a_only + 1) / (n + 2), (b_only + 1) / (n + 2)
    half = float(stats.norm.isf(ALPHA / 2)) * math.sqrt((p_a + p_b - (p_a - p_b) ** 2) / (n + 2))
    return Interval(max(-1.0, p_a - p_b - half), min(1.0, p_a - p_b + half))


def mcnemar_power(n: int, diff: float, discordance: float) -> float:
    """Probability that exact McNemar rejects at alpha 0.05, for n paired episodes.

    `discordance` is the share of episodes that end differently in the two arms, `diff` the true difference of the
    success rates, |diff| <= discordance. Averages the exact conditional power over the number m of discordant episodes:
    sum_m Bin(m; n, discordance) P(reject | X ~ Bin(m, (1 + diff / discordance) / 2)). Duffy (1984), Biometrics 40:1005.
    """
    m = np.arange(1, n + 1)
    # The largest x with 2 P(X <= x) <= alpha under the null; -1 where even x = 0 is too likely (m < 6).
    critical = stats.binom.ppf(ALPHA / 2, m, 0.5)
    critical -= stats.binom.cdf(critical, m, 0.5) > ALPHA / 2
    share = min(1.0, (1 + diff / discordance) / 2)
    reject = stats.binom.cdf(critical, m, share) + stats.binom.sf(m - critical - 1, m, share)
    return float(np.sum(stats.binom.pmf(m, n, discordance) * reject))


def detectable_difference(a_only: int, b_only: int, n: int) -> float | None:
    """Smallest true difference that n paired episodes would detect with 80 % power at alpha 0.05 (exact McNemar).

    Solves `mcnemar_power(n, diff, max(observed discordance, diff)) = 0.8` for diff: a difference cannot exceed the
    discordance, so beyond the observed one every discordant episode favours the same arm. When no episode was
    discordant this is the stated assumption throughout, hence the best case. None when n < 6 can detect nothing.
    """
    observed = (a_only + b_only) / n

    def lack(diff: float) -> float:
        return mcnemar_power(n, diff, max(observed, diff)) - POWER

    tiny = 1e-6
    return float(optimize.brentq(lack, tiny, 1.0, xtol=1e-6)) if lack(1.0) >= 0 else None


def two_way_bootstrap(a: Bool[np.ndarray, "s i"], b: Bool[np.ndarray, "s i"], seed: int = 0) -> np.ndarray:
    """Resampled differences of the mean success of arms a and b, (BOOTSTRAP_SAMPLES,), the same for the same input.

    Training seeds and initial states are drawn with replacement, independently of one another, the same draw for both
    arms: the pigeonhole bootstrap (Owen 2007, Ann. Appl. Stat. 1:386). It counts the residual variance three times and
    the spread of few seeds too lightly; over 3 to 10 simulated seeds by 50 states its 95 % interval covered 94 to 99 %.
    """
    diff = a.astype(np.float64) - b
    seeds, states = diff.shape
    rng = np.random.default_rng(seed)
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=BOOTSTRAP_SAMPLES) / seeds
    state_weights = rng.multinomial(states, np.full(states, 1 / states), size=BOOTSTRAP_SAMPLES) / states
    return np.einsum("ki,ki->k", seed_weights @ diff, state_weights)


def contrast(a: Bool[np.ndarray, "s i"], b: Bool[np.ndarray, "s i"]) -> Contrast:
    """Compare the successes of two arms, row by training seed, column by initial state.

    Raises S2RobotError when the shapes differ or are empty: pair on the same seeds and states first.
    """
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise S2RobotError(
            f"success tables of shape {a.shape} and {b.shape} cannot be paired; "
            "both must be (training seeds, initial states), the same ones"
        )
    a_only, b_only = int(np.sum(a[0] & ~b[0])), int(np.sum(b[0] & ~a[0]))
    seeds, n = a.shape
    diff = int(np.sum(a)) / a.size - int(np.sum(b)) / b.size
    p = mcnemar_exact(a_only, b_only)
    if seeds == 1:
        interval = paired_interval(a_only, b_only, n)
        return Contrast(1, n, diff, interval, a_only, b_only, p, detectable_difference(a_only, b_only, n))
    samples = two_way_bootstrap(a, b)
    low, high = (float(q) for q in np.quantile(samples, [ALPHA / 2, 1 - ALPHA / 2]))
    detectable = min(1.0, _quantile_sum() * float(np.std(samples)))
    states_needed, seeds_needed = _design_needed(a.astype(np.float64) - b)
    return Contrast(
        seeds, n, diff, Interval(low, high), a_only, b_only, p, detectable or None, states_needed, seeds_needed
    )


def verdict(a: str, b: str, result: Contrast, claim: str = "") -> str:
    """One sentence on arm `a` against arm `b`.

    `claim` is what the paper predicts, as a clause in which `a` wins; the sentence says when the result supports or
    contradicts it. Without three training seeds there is no claim, whatever the p value.
    """
    if result.train_seeds < MIN_TRAIN_SEEDS:
        count = "one training seed" if result.train_seeds == 1 else f"{result.train_seeds} training seeds"
        return f"no claim: {count}" + ("" if result.train_seeds == 1 else f", at least {MIN_TRAIN_SEEDS} are needed")
    interval = f"95 % interval {100 * result.interval.low:+.1f} to {100 * result.interval.high:+.1f}"
    basis = f"{result.train_seeds} training seeds x {result.n} initial states"
    if not result.interval.excludes_zero():
        return f"not separated: {a} - {b} = {100 * result.diff:+.1f} points ({interval}; {basis}); {_needed(result)}"
    winner, loser = (a, b) if result.diff > 0 else (b, a)
    text = f"{winner} beats {loser} by {100 * abs(result.diff):.1f} points ({interval} of {a} - {b}; {basis})"
    if not claim:
        return text
    relation = "in line with" if winner == a else "AGAINST"
    return f"{text}, {relation} the claim that {claim}"


def _needed(result: Contrast) -> str:
    if result.diff == 0:
        return "the observed difference is 0, so no n would separate the arms"
    options = []
    if result.states_needed is not None:
        options.append(f"{result.states_needed} initial states with {result.train_seeds} training seeds")
    if result.seeds_needed is not None:
        options.append(f"{result.seeds_needed} training seeds with {result.n} initial states")
    if not options:
        return "n would need to be larger in both training seeds and initial states to detect a difference of this size"
    return f"n would need to be about {' or '.join(options)} to detect a difference of this size with 80 % power"


def _quantile_sum() -> float:
    """z(1 - alpha / 2) + z(power): a normal estimate detects a true difference of this many standard errors."""
    return float(stats.norm.isf(ALPHA / 2) + stats.norm.ppf(POWER))


def _design_needed(diff: np.ndarray) -> tuple[int | None, int | None]:
    """Initial states (seeds kept) and training seeds (states kept) at which the mean of `diff` (s, i) is detected.

    Two-way random effects by the method of moments; the variance that the bootstrap will then show is
    var_seed / s + var_state / i + 3 var_residual / (s i) (Owen 2007). Where the residual dominates this asks for up to
    a third more than needed. None where no number of one factor makes up for too little of the other.
    """
    seeds, states = diff.shape
    mean, by_seed, by_state = diff.mean(), diff.mean(axis=1), diff.mean(axis=0)
    if mean == 0 or states == 1:
        return None, None
    residual = np.sum((diff - by_seed[:, None] - by_state + mean) ** 2) / ((seeds - 1) * (states - 1))
    var_seed = max(0.0, float(by_seed.var(ddof=1) - residual / states))
    var_state = max(0.0, float(by_state.var(ddof=1) - residual / seeds))
    wanted = (mean / _quantile_sum()) ** 2
    spare_states, spare_seeds = wanted - var_seed / seeds, wanted - var_state / states
    need_states = (var_state + 3 * residual / seeds) / spare_states if spare_states > 0 else None
    need_seeds = (var_seed + 3 * residual / states) / spare_seeds if spare_seeds > 0 else None
    return _round_up(need_states), _round_up(need_seeds)


def _round_up(value: float | None) -> int | None:
    """Two significant digits: more would pretend to know the variance."""
    if value is None:
        return None
    step = 10 ** max(0, math.floor(math.log10(max(value, 1.0))) - 1)
    return int(math.ceil(value / step) * step)
