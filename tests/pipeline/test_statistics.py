"""Statistics against independent computations: binomial sums by hand, enumerated coverage, simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from s2robot.errors import S2RobotError
from s2robot.pipeline.statistics import (
    Contrast,
    Interval,
    contrast,
    detectable_difference,
    mcnemar_exact,
    mcnemar_power,
    paired_interval,
    two_way_bootstrap,
    verdict,
    wilson,
)


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_equals_its_closed_form_and_that_of_statsmodels(kn):
    k, n = kn
    z, p = 1.959963984540054, k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    interval = wilson(k, n)
    assert (interval.low, interval.high) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-9)
    assert (interval.low, interval.high) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)


def test_the_wilson_interval_covers_the_true_rate_about_95_times_in_100():
    for n in (50, 100):
        intervals = [wilson(k, n) for k in range(n + 1)]
        rates = np.linspace(0.02, 0.98, 97)
        coverage = [sum(binomial(k, n, p) for k, i in enumerate(intervals) if i.low <= p <= i.high) for p in rates]
        assert 0.945 < np.mean(coverage) < 0.96
        assert min(coverage) > 0.88


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_success_counts_are_refused(k, n):
    with pytest.raises(S2RobotError, match="is no success rate; give 0 <= k <= n"):
        wilson(k, n)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_smaller_binomial_tail_and_agrees_with_statsmodels(a_only, b_only):
    m = a_only + b_only
    tail = sum(binomial(k, m, 0.5) for k in range(min(a_only, b_only) + 1))
    assert mcnemar_exact(a_only, b_only) == pytest.approx(min(1.0, 2 * tail), abs=1e-9)
    assert mcnemar_exact(a_only, b_only) == pytest.approx(mcnemar([[0, a_only], [b_only, 0]]).pvalue, abs=1e-9)


def test_the_paired_interval_covers_the_true_difference_when_all_outcomes_are_enumerated():
    n = 30
    for p_a, p_b in [(0.1, 0.1), (0.3, 0.1), (0.25, 0.2), (0.02, 0.02), (0.4, 0.05)]:
        coverage = 0.0
        for a in range(n + 1):
            for b in range(n - a + 1):
                interval = paired_interval(a, b, n)
                if interval.low <= p_a - p_b <= interval.high:
                    ways = math.comb(n, a) * math.comb(n - a, b)
                    coverage += ways * p_a**a * p_b**b * (1 - p_a - p_b) ** (n - a - b)
        assert 0.93 < coverage <= 1.0


def test_the_paired_interval_turns_over_when_the_arms_are_swapped():
    one, other = paired_interval(9, 3, 50), paired_interval(3, 9, 50)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.low < 6 / 50 < one.high


def test_the_paired_interval_keeps_a_width_when_no_episode_was_discordant():
    interval = paired_interval(0, 0, 50)
    assert (interval.low, interval.high) == pytest.approx((-0.0533, 0.0533), abs=1e-4)  # 1.96 sqrt(2 / 52 / 52)


def test_more_discordant_episodes_than_episodes_are_refused():
    with pytest.raises(S2RobotError, match="6 \\+ 5 discordant episodes do not fit into 10"):
        paired_interval(6, 5, 10)


@pytest.mark.parametrize(("n", "diff", "discordance"), [(12, 0.3, 0.5), (25, 0.4, 0.4), (20, 0.0, 0.3), (8, 0.6, 0.9)])
def test_the_power_of_mcnemar_equals_the_sum_over_every_outcome(n, diff, discordance):
    p_a, p_b = (discordance + diff) / 2, (discordance - diff) / 2
    power = 0.0
    for a in range(n + 1):
        for b in range(n - a + 1):
            if mcnemar_exact(a, b) <= 0.05:
                ways = math.comb(n, a) * math.comb(n - a, b)
                power += ways * p_a**a * p_b**b * (1 - discordance) ** (n - a - b)
    assert mcnemar_power(n, diff, discordance) == pytest.approx(power, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 150).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n // 2), st.integers(0, n // 2))))
def test_the_detectable_difference_is_found_with_80_percent_power_and_a_smaller_one_is_not(counts):
    n, a_only, b_only = counts
    observed, found = (a_only + b_only) / n, detectable_difference(a_only, b_only, n)
    assert found is not None
    assert mcnemar_power(n, found, max(observed, found)) == pytest.approx(0.8, abs=1e-3)
    assert mcnemar_power(n, 0.9 * found, max(observed, 0.9 * found)) < 0.8


def test_the_detectable_difference_is_near_connors_normal_approximation_for_many_episodes():
    # Connor (1987), Biometrics 43:207: n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2.
    n, psi = 2000, 0.2
    found = detectable_difference(300, 100, n)
    assert found is not None
    connor = (1.959964 * math.sqrt(psi) + 0.841621 * math.sqrt(psi - found**2)) ** 2 / found**2
    assert connor == pytest.approx(n, rel=0.06)


def test_fewer_than_six_episodes_can_detect_nothing():
    assert detectable_difference(0, 0, 5) is None
    assert detectable_difference(0, 0, 6) is not None


def test_the_bootstrap_spreads_like_the_pigeonhole_formula_on_rows_that_differ_only_by_seed():
    # No spread over states: only the seeds are resampled, so the variance is that of a mean of s values.
    a = np.zeros((10, 40), dtype=bool)
    a[:4] = True
    samples = two_way_bootstrap(a, np.zeros_like(a))
    assert samples.mean() == pytest.approx(0.4, abs=0.005)
    assert samples.var() == pytest.approx(0.4 * 0.6 / 10, rel=0.05)


def test_the_bootstrap_resamples_states_too():
    a = np.zeros((10, 40), dtype=bool)
    a[:, :10] = True
    assert two_way_bootstrap(a, np.zeros_like(a)).var() == pytest.approx(0.25 * 0.75 / 40, rel=0.05)


def test_the_bootstrap_gives_the_same_samples_for_the_same_input():
    rng = np.random.default_rng(3)
    a, b = rng.random((3, 20)) < 0.6, rng.random((3, 20)) < 0.5
    np.testing.assert_array_equal(two_way_bootstrap(a, b), two_way_bootstrap(a, b))


def test_the_bootstrap_interval_covers_no_difference_when_seeds_and_states_vary():
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(60):
        states = rng.normal(0, 1.5, 50)
        logits = 0.8 + states + rng.normal(0, 0.4, (2, 5, 1)) + rng.normal(0, 0.5, (2, 1, 50))
        a, b = rng.random((2, 5, 50)) < 1 / (1 + np.exp(-logits))
        interval = contrast(a, b).interval
        covered += interval.low <= 0 <= interval.high
    assert covered >= 0.93 * 60


def test_a_contrast_counts_the_first_checkpoints_and_averages_all():
    a = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]], dtype=bool)
    b = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    result = contrast(a, b)
    assert (result.train_seeds, result.n, result.a_only, result.b_only) == (3, 4, 1, 1)
    assert result.diff == pytest.approx((8 - 3) / 12)
    assert result.mcnemar_p == 1.0


def test_arms_of_different_shape_are_not_paired():
    with pytest.raises(S2RobotError, match=r"shape \(1, 4\) and \(1, 5\) cannot be paired"):
        contrast(np.zeros((1, 4), dtype=bool), np.zeros((1, 5), dtype=bool))


def of(train_seeds: int, diff: float, low: float, high: float, **needed: int) -> Contrast:
    return Contrast(train_seeds, 50, diff, Interval(low, high), 5, 2, 0.4, 0.1, **needed)


def test_one_training_seed_makes_no_claim_however_clear_the_difference():
    a, b = np.ones((1, 50), dtype=bool), np.zeros((1, 50), dtype=bool)
    assert contrast(a, b).mcnemar_p < 1e-10
    assert verdict("s2", "large", contrast(a, b), "s2 wins") == "no claim: one training seed"


def test_two_training_seeds_make_no_claim_either():
    assert verdict("s2", "large", of(2, 0.5, 0.3, 0.7)) == "no claim: 2 training seeds, at least 3 are needed"


def test_a_separated_contrast_names_winner_size_and_interval():
    text = verdict("s2", "large", of(10, 0.084, 0.021, 0.146), "several scales win")
    assert text.startswith("s2 beats large by 8.4 points (95 % interval +2.1 to +14.6 of s2 - large; 10 training seeds")
    assert text.endswith("in line with the claim that several scales win")


def test_a_result_against_the_paper_says_so():
    text = verdict("s2", "large", of(10, -0.1, -0.15, -0.05), "several scales win")
    assert text.startswith("large beats s2 by 10.0 points")
    assert text.endswith("AGAINST the claim that several scales win")


def test_an_unseparated_contrast_says_what_n_it_would_take():
    text = verdict("s2", "fine", of(10, 0.03, -0.02, 0.08, states_needed=310, seeds_needed=44))
    assert text.startswith("not separated: s2 - fine = +3.0 points")
    assert "310 initial states with 10 training seeds or 44 training seeds with 50 initial states" in text


def test_arms_that_ended_alike_every_time_are_not_separated_by_any_n():
    same = np.ones((3, 50), dtype=bool)
    assert "so no n would separate the arms" in verdict("s2", "base", contrast(same, same))


def test_the_n_asked_for_separates_the_arms_and_a_quarter_of_it_mostly_does_not():
    rng = np.random.default_rng(0)

    def arms(states: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.random((5, states)) < 0.8, rng.random((5, states)) < 0.6

    needed = contrast(*arms(2000)).states_needed  # a large sample knows the population's variance and difference
    assert needed is not None
    assert sum(contrast(*arms(needed)).interval.excludes_zero() for _ in range(15)) >= 12
    assert sum(contrast(*arms(needed // 4)).interval.excludes_zero() for _ in range(15)) <= 9
