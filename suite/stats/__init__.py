"""The statistics of the suite: pure functions of arrays and frames.

docs/reference/statistics.md says how to read each of them.

`times` is a frame with a row a problem and a column a solver; `inf` = target not reached, NaN = not
run. `scores` is the same with values that are better when larger, unless `mode="min"`. One value
has no interval: None or NaN, no guess.
"""

from suite.stats.algoperf import study_time, with_held_out
from suite.stats.bootstrap import (
    apart_from_best,
    best_index,
    bootstrap_interval,
    curve_band,
    interquartile_mean,
    interval_of,
    intervals_of,
    mean_std,
    redrawn,
)
from suite.stats.budgets import budget_curve, expected_best
from suite.stats.improvement import (
    Improvement,
    improvement_interval,
    mean_improvement,
    probability_of_improvement,
)
from suite.stats.profile_bands import profile_band, score_interval
from suite.stats.profiles import (
    at,
    data_profile,
    ecdf,
    leave_one_out_profiles,
    leave_one_out_scores,
    pairwise_profiles,
    pairwise_scores,
    performance_profile,
    profile_score,
)
from suite.stats.ranks import (
    Friedman,
    Nemenyi,
    critical_difference,
    friedman,
    nemenyi,
    wilcoxon_holm,
)
from suite.stats.ratios import Ratio, ratio_interval
from suite.stats.running_time import (
    expected_running_time,
    median_with_failures,
    simulated_restarts,
    time_to_target,
)
from suite.stats.sensitivity import (
    GoodShare,
    RateSensitivity,
    SeedSensitivity,
    good_share,
    rate_sensitivity,
    seed_sensitivity,
)

__all__ = [
    "Friedman",
    "GoodShare",
    "Improvement",
    "Nemenyi",
    "RateSensitivity",
    "Ratio",
    "SeedSensitivity",
    "apart_from_best",
    "at",
    "best_index",
    "bootstrap_interval",
    "budget_curve",
    "critical_difference",
    "curve_band",
    "data_profile",
    "ecdf",
    "expected_best",
    "expected_running_time",
    "friedman",
    "good_share",
    "improvement_interval",
    "interquartile_mean",
    "interval_of",
    "intervals_of",
    "leave_one_out_profiles",
    "leave_one_out_scores",
    "mean_improvement",
    "mean_std",
    "median_with_failures",
    "nemenyi",
    "pairwise_profiles",
    "pairwise_scores",
    "performance_profile",
    "probability_of_improvement",
    "profile_band",
    "profile_score",
    "rate_sensitivity",
    "ratio_interval",
    "redrawn",
    "score_interval",
    "seed_sensitivity",
    "simulated_restarts",
    "study_time",
    "time_to_target",
    "wilcoxon_holm",
    "with_held_out",
]
