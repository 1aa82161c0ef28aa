"""AlgoPerf: its published scores from its published times, and its rules for held-out workloads."""

from __future__ import annotations

import io
import math

import pandas as pd
import pytest

from suite import stats

INF = math.inf
# Steps to the target on criteo1tb, fastmri, finewebedu_lm, imagenet_resnet, imagenet_vit,
# librispeech_conformer, librispeech_deepspeech, ogbg and wmt, and the score that AlgoPerf printed
# for them: mlcommons/submissions_algorithms, artifacts/leaderboard_v2/time_to_targets_steps.csv
# (commit 0b40d9c) and scores_steps.csv (commit 05f7967)
PUBLISHED = """
AdEMAMix,8371,10206,44503,inf,inf,67706,inf,27247,112742,0.5258136924803595
Cautious NAdamW,inf,7518,58199,inf,inf,inf,inf,24948,112372,0.31986531986531946
Lion,inf,10645,59524,inf,inf,inf,inf,33386,109080,0.2732884399551064
Muon (JAX),inf,8801,40724,inf,151926,inf,inf,inf,inf,0.31986531986531946
Muon (PyTorch),7716,inf,39220,inf,inf,inf,inf,7711,97224,0.4326599326599318
NAdamW,8286,9924,58784,inf,152461,inf,inf,inf,inf,0.40404040404040326
NAdamW (Baseline v0.5),9145,6648,47039,inf,inf,inf,inf,20879,118600,0.45454545454545503
NAdamW (ResNet),inf,9220,53029,inf,inf,inf,inf,32738,inf,0.19528619528619492
Schedule-Free AdamW,10346,10599,inf,inf,inf,inf,90588,15853,133517,0.4461279461279469
Schedule-Free AdamW (JAX),inf,7160,57242,inf,175889,inf,inf,27341,122198,0.4090909090909087
Schedule-Free AdamW (JAX v2),9005,8750,68640,inf,164206,inf,inf,27457,inf,0.41245791245791213
Schedule-Free AdamW v2,7951,12431,inf,inf,inf,83184,78669,28449,73222,0.5252525252525259
DiLoCo (Single Worker),inf,9342,61209,inf,inf,inf,inf,inf,inf,0.18630751964085265
DiLoCo v2 (Single Worker),inf,10140,59550,inf,inf,inf,inf,inf,inf,0.1829405162738493
"""
# Seconds in the same order, from analysis/data/time_to_targets.csv and leaderboard.csv (commit
# 0007993); an empty field is a workload on which the submission has no result
SECONDS = """
ademamix,7839.193164110184,1517.7321906089785,18025.89689064026,inf,inf,48894.85426735878,inf,6329.966245889664,17399.639942407608,0.5067340067340069
cautious_nadamw,inf,1608.188658952713,25738.981688261032,inf,inf,inf,inf,4992.686820983887,14232.458706855774,0.2951739618406281
lion,inf,1394.1750195026398,23172.039316177368,inf,inf,inf,inf,7223.987207174301,15475.552730083466,0.2626262626262625
muon,inf,1869.765276670456,20594.037749767303,inf,77162.91657114029,inf,inf,inf,inf,0.269921436588103
muon_torch,7141.604691028595,inf,15471.922557115557,inf,inf,inf,inf,1833.473667144776,14214.779582500458,0.41189674523007774
muon_torch_jax_hps,inf,inf,inf,inf,inf,,inf,inf,inf,0.0
muon_torch_jax_hps_achandr,inf,1357.4687869548798,10338.734079360962,inf,inf,,inf,inf,inf,0.21492704826038114
muon_torch_jax_hps_lr_fix,inf,1482.8616108894348,15474.614253282549,inf,inf,inf,inf,1848.2556867599487,inf,0.30246913580246876
nadamw,7492.6946766376495,1800.7732002735138,25733.847669363025,inf,72015.5787293911,inf,inf,inf,inf,0.36531986531986466
nadamw_baselinev05,8206.103132247925,1620.5153810977936,20589.912857055664,inf,inf,inf,inf,4089.775626659393,14865.7885992527,0.4360269360269367
nadamw_resnet,inf,1920.545307636261,23163.02198767662,inf,inf,inf,inf,6349.506216049194,inf,0.17003367003367006
schedule_free_adamw,10337.671689033508,1188.9131379127502,inf,inf,inf,inf,40463.388149023056,3640.148542404175,19957.71787595749,0.466891133557801
schedule_free_adamw_jax,inf,2397.40203499794,12875.283079862596,inf,87468.86081624031,inf,inf,5446.973826885223,16161.202248096466,0.40123456790123496
schedule_free_adamw_jax_v2,8204.54053902626,1850.625381946564,15451.99134683609,inf,84891.75501847267,inf,inf,5444.019295454025,inf,0.42929292929292967
schedule_free_adamw_v2,7480.571330547333,1128.837876081467,inf,inf,inf,55846.44081497192,41911.17554831505,6325.430662155151,10325.45705485344,0.5679012345679016
single_worker_diloco,inf,2379.3425666093826,28314.81918931008,inf,inf,inf,inf,inf,inf,0.11672278338944997
"""


def published(text: str) -> tuple[pd.DataFrame, pd.Series]:
    table = pd.read_csv(io.StringIO(text.strip()), header=None, index_col=0)
    return table[table.columns[:-1]].T, table[table.columns[-1]]


@pytest.mark.parametrize("text", [PUBLISHED, SECONDS], ids=["steps", "seconds"])
def test_the_published_scores_follow_from_the_published_times(text: str) -> None:
    times, scores = published(text)
    own_scores = stats.profile_score(times, 4.0, points=100, not_run="fail")
    pd.testing.assert_series_equal(own_scores, scores, check_names=False, rtol=0, atol=1e-12)


@pytest.mark.parametrize("text", [PUBLISHED, SECONDS], ids=["steps", "seconds"])
def test_the_exact_area_differs_from_the_grid_by_less_than_a_cell(text: str) -> None:
    times, scores = published(text)
    own_scores = stats.profile_score(times, not_run="fail")
    assert 1e-4 < (own_scores - scores).abs().max() < 0.5 / 99
    if text == PUBLISHED:
        # the grid ties two pairs whose areas differ, and puts Muon (JAX) level with Cautious NAdamW
        assert scores["Muon (JAX)"] == scores["Cautious NAdamW"]
        assert own_scores["Muon (JAX)"] > own_scores["Cautious NAdamW"] + 5e-4


def test_a_workload_without_a_result_is_a_failure_to_algoperf_and_left_out_by_us() -> None:
    times, scores = published(SECONDS)
    name = "muon_torch_jax_hps_achandr"
    ours = stats.profile_score(times, points=100)
    assert ours[name] == pytest.approx(scores[name] * 9 / 8, rel=1e-12)
    pd.testing.assert_series_equal(
        ours.dropna().drop(name), scores.drop(name), check_names=False, atol=1e-12, rtol=0
    )


def test_the_time_of_a_workload_is_the_median_over_studies_of_the_fastest_trial() -> None:
    studies = [
        [9.0, 4.0, INF],
        [INF, INF, INF],
        [7.0, 5.0, 6.0],
        [3.0, INF, 8.0],
        [10.0, 11.0, 12.0],
    ]
    assert stats.study_time(studies) == 5.0  # 4, inf, 5, 3, 10
    assert stats.study_time(studies[1:3]) == INF
    assert stats.study_time([[2.0], [4.0]]) == 3.0
    with pytest.raises(ValueError, match="studies is empty"):
        stats.study_time([])


BASE = pd.DataFrame(
    {
        "a": [10.0, 10.0, 10.0],
        "b": [30.0, 20.0, INF],
        "c": [45.0, 15.0, 40.0],
        "d": [20.0, math.nan, 12.0],
    },
    index=["mnist", "wmt", "ogbg"],
)
HELD_OUT = pd.DataFrame(
    {"a": [8.0, INF], "b": [33.0, 5.0], "c": [4.0, 18.0], "d": [31.0, 1.0]},
    index=["mnist wide", "wmt long"],
)
BASE_OF = {"mnist wide": "mnist", "wmt long": "wmt"}


def test_held_out_workloads_disqualify_by_the_four_rules() -> None:
    times = stats.with_held_out(BASE, HELD_OUT, BASE_OF)
    # mnist: c is more than 4 x 10 (rule 2). Its 4 on the variant still sets the pace there: it
    # reached the base target, so that b and d, slower than 16, are out too (rule 4).
    assert times.loc["mnist"].tolist() == [10, INF, INF, INF]
    # wmt: a missed the variant (3). d was not run on the base (1), so that its 1 on the variant
    # sets no pace (4).
    assert times.loc["wmt"].tolist() == [INF, 20, 15, INF]
    assert times.loc["ogbg"].tolist() == [10, INF, 40, 12]  # no variant; 4 x 10 is just in time
    assert BASE.loc["mnist", "b"] == 30  # the input is left as it was


def test_the_score_takes_the_rules_as_an_option() -> None:
    by_rule = stats.profile_score(BASE, held_out=HELD_OUT, base_of=BASE_OF)
    pd.testing.assert_series_equal(
        by_rule, stats.profile_score(stats.with_held_out(BASE, HELD_OUT, BASE_OF))
    )
    assert by_rule["b"] == pytest.approx((4 - 20 / 15) / 3 / 3, rel=1e-12)
    assert by_rule["b"] < stats.profile_score(BASE)["b"]


def test_variants_that_belong_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match="no problem of times for wmt long"):
        stats.with_held_out(BASE, HELD_OUT, {"mnist wide": "mnist"})
    with pytest.raises(ValueError, match="held_out has no column for d"):
        stats.with_held_out(BASE, HELD_OUT[["a", "b", "c"]], BASE_OF)
