from dataclasses import replace

import pytest

from diffaug.report.tables import Results, difference_table, results_from
from diffaug.report.wording import (
    averaged_over,
    bases_sentence,
    case_counts,
    clean_sentence,
    contrast_limit,
    data_sentence,
    first_of_several,
    fraction,
    headline_arm,
    is_sure,
    labelled_sentence,
    missed_sentence,
    negatives_sentence,
    percent,
    points,
    signed,
    studied_sentence,
    verdict,
)
from diffaug.study.statistics import Comparison

EMPTY = {"mean": None, "low": None, "high": None}


def summary_of(mean, low, high, seeds=3, draws=1):
    interval = {"mean": mean, "low": low, "high": high}
    group = {"n": 9, "dice": interval, "missed": interval, "false_negative_rate": interval}
    arm = {
        "n": 40,
        "seeds": seeds,
        "draws": draws,
        "dice": {**interval, "mean": 0.7},
        "precision": {**interval, "mean": 0.8},
        "strata": {"small": group, "large": {**group, "n": 0}},
    }
    difference = {"dice": interval, "missed": interval, "false_negative_rate": interval, "missed_small": interval}
    difference["strata"] = {
        "small": group,
        "large": {"n": 0, "dice": EMPTY, "missed": EMPTY, "false_negative_rate": EMPTY},
    }
    return {"arms": {"real": arm, "validated": arm}, "differences": {"validated - real": difference}}


def results_of(*values, **counts):
    return results_from(summary_of(*values, **counts))


def test_a_difference_of_a_single_case_is_not_sure():
    assert not is_sure({"mean": -0.066, "low": -0.066, "high": -0.066})


@pytest.mark.parametrize(
    ("interval", "kind", "words"),
    [
        ((0.05, 0.01, 0.09), "gain", "+5.0 points"),
        ((-0.05, -0.09, -0.01), "loss", "−5.0 points"),
        ((0.05, -0.01, 0.09), "none", "the interval includes zero"),
        ((0.0, 0.0, 0.0), "none", "0.0 points"),
    ],
)
def test_the_headline_claims_no_more_than_the_interval(interval, kind, words):
    found = verdict(results_of(*interval), "validated")
    assert found.kind == kind
    assert words in found.text
    assert "40 held-out real cases" in found.text


@pytest.mark.parametrize(("metric", "mean"), [("dice", 0.14), ("precision", 0.1)])
@pytest.mark.parametrize("arm", ["real", "validated"])
def test_networks_that_have_not_learned_to_segment_support_no_conclusion(arm, metric, mean):
    summary = summary_of(0.05, 0.01, 0.09)
    summary["arms"][arm] = {**summary["arms"][arm], metric: {"mean": mean, "low": 0.0, "high": 0.3}}
    found = verdict(results_from(summary), "validated")
    assert found.kind == "nothing" and found.title.startswith("No conclusion")
    assert f"The arm {arm} has a mean Dice of" in found.text and "--iterations" in found.text


@pytest.mark.parametrize(
    ("sizes", "iterations", "title", "words"),
    [
        (
            {"n": 6, "groups": 3},
            5000,
            "3 groups (patients) are too few",
            "6 held-out real cases of 3 groups (patients, or images that look alike),",
        ),
        ({"n": 6, "groups": 6}, 5000, "6 cases are too few", "cannot show a difference"),
        ({"n": 6, "groups": 6}, 5000, "6 cases are too few", "6 held-out real cases, with"),
        ({"n": 40, "groups": 20}, 8, "the networks were trained for 8 iterations", "--iterations"),
    ],
)
def test_few_patients_or_a_short_training_support_no_conclusion(sizes, iterations, title, words):
    summary = summary_of(0.05, 0.01, 0.09)
    summary["arms"]["validated"] = {**summary["arms"]["validated"], **sizes}
    found = verdict(results_from(summary, iterations=iterations), "validated")
    assert found.kind == "nothing" and found.title.startswith(f"No conclusion: {title}") and words in found.text
    assert "changed mean Dice" not in found.text and "5.0" not in found.text
    summary["arms"]["validated"] |= {"n": 40, "groups": 8}
    assert verdict(results_from(summary, iterations=100), "validated").kind == "gain"


def test_every_reason_against_a_conclusion_is_told_that_of_the_training_first():
    summary = summary_of(0.112, 0.038, 0.189)
    for arm in summary["arms"]:
        summary["arms"][arm] = {**summary["arms"][arm], "n": 18, "groups": 7, "precision": {"mean": 0.1}}
    found = verdict(results_from(summary, iterations=8), "validated")
    assert found.title == (
        "No conclusion: the networks were trained for 8 iterations; 7 groups (patients) are too few to compare on; "
        "the networks have not learned to segment"
    )
    told = [found.text.index(word) for word in ("--preset smoke", "--split 100:0:0", "precision of 0.10")]
    assert told == sorted(told) and "11.2" not in found.text


def test_fewer_than_three_groups_have_a_mean_without_an_interval_and_fewer_than_eight_show_nothing():
    summary = summary_of(0.05, 0.01, 0.09)
    parts = (summary["arms"]["real"]["strata"], summary["differences"]["validated - real"]["strata"])
    for groups, shown in ((2, "0.050 [–]"), (3, "0.050 [0.010, 0.090]"), (8, "0.050 [0.010, 0.090]")):
        for strata in parts:
            strata["small"] = {**strata["small"], "groups": groups}
        results = results_from(summary)
        assert fraction(results.arms["real"]["strata"]["small"]["dice"]) == shown
        small = results.difference("validated", "real")["strata"]["small"]["dice"]
        assert is_sure(small) is (groups == 8) and points(small).startswith("+5.0 [")
        assert ("too few to say anything" in missed_sentence(results, "validated")) is (groups < 8)
        assert is_sure(results.difference("validated", "real")["dice"])


@pytest.mark.parametrize(
    ("arm", "title"), [("copy-paste", "Pasted lesions helped"), ("pseudo-label", "Pseudo-labels helped")]
)
def test_the_headline_names_what_was_added(arm, title):
    summary = summary_of(0.05, 0.01, 0.09)
    summary["arms"][arm], summary["differences"][f"{arm} - real"] = (
        summary["arms"]["validated"], summary["differences"]["validated - real"]
    )  # fmt: skip
    assert verdict(results_from(summary), arm).title == title


def test_what_painting_adds_to_self_training_is_told_apart():
    summary, arm = summary_of(0.05, 0.01, 0.09), "validated+pseudo-label"
    assert labelled_sentence(results_from(summary), "validated") == "" == labelled_sentence(results_from(summary), None)
    summary["arms"][arm] = {**summary["arms"]["validated"], "cases": {"real": 6, "pool": 9, "labelled": 5}}
    summary["differences"][f"{arm} - real"] = summary["differences"]["validated - real"]
    assert "The arm pseudo-label was not run" in labelled_sentence(results_from(summary), arm)
    assert verdict(results_from(summary), arm).title == "Painted and labelled cases helped"
    against = {"dice": {"mean": 0.006, "low": -0.007, "high": 0.02, "p": 0.4}}
    summary["arms"]["pseudo-label"] = summary["arms"]["validated"]
    summary["differences"] = {f"{arm} - pseudo-label": against}
    text = labelled_sentence(results_from(summary), arm)
    taught = {**summary["arms"][arm], "cases": {"real": 6, "pool": 9, "taught": 5}}
    summary["arms"] |= {"validated+mean-teacher": taught, "mean-teacher": summary["arms"]["validated"]}
    summary["differences"]["validated+mean-teacher - mean-teacher"] = against
    by_teacher = labelled_sentence(results_from(summary), "validated+mean-teacher")
    assert "on 5 unannotated images, with masks predicted by the average of the network's weights" in by_teacher
    assert "Against mean-teacher" in by_teacher
    assert "on 5 unannotated images" in text and "by +0.6 points" in text and text.endswith("no difference shown.")


def test_the_page_claims_no_cleaner_test_than_there_was():
    plan = {"identity": {}, "duplicates": [], "shared_groups": []}
    results = replace(results_of(0.1, 0.0, 0.2), base_seen=None)
    assert clean_sentence(plan, results).startswith("No test image was used to train or to choose anything. No annot")
    assert "except for the repeated frames" in clean_sentence(plan | {"duplicates": [["a", "b"]]}, results)
    assert "not searched" in clean_sentence(plan | {"identity": {"folds": 3}}, results)
    seen = {"known": True, "of": 40, "unannotated": 40, "annotated": 0}
    known = replace(results, base_seen=seen)
    assert "except for the images that the base model has seen" in clean_sentence(plan, known)
    assert bases_sentence(replace(results, base_seen=seen | {"unannotated": 0})) == "" == bases_sentence(results)
    assert "not recorded" in bases_sentence(results_of(0.1, 0.0, 0.2))


def test_the_cases_of_an_arm_say_what_was_pasted_and_why_negatives_are_few():
    counts = {"real": 22, "pool": 15, "trained_negatives": 3, "wanted_negatives": 7}
    assert case_counts(counts, "selected") == "22 + 12 + 3"
    assert case_counts({"real": 22, "pool": 0}, "copy-paste") == "22, lesions pasted while training"
    results = results_of(0.1, 0.0, 0.2)
    results.arms["validated"]["cases"], results.arms["real"]["cases"] = counts, {"real": 22, "pool": 0}
    assert "12 painted lesion cases and 3 negatives" in (text := negatives_sentence(results, "validated"))
    assert "7 negatives were wanted" in text and negatives_sentence(results, "real") == ""


def test_repeats_and_folds_are_named_only_where_there_are_several():
    assert averaged_over({"draws": 1, "seeds": 1}) == "" and averaged_over({"draws": 1, "seeds": 2}) == "2 seeds"
    assert averaged_over({"draws": 3, "seeds": 2}) == "3 draws and 2 seeds"
    plan = {"identity": {"test": ["test"]}, "cases": {"train": 18, "test": 36, "unannotated": 4}, "draws": [0]}
    assert studied_sentence(plan) == "study of 18 annotated cases, tested on 36" and first_of_several(plan) == ""
    folds = plan | {"folds": 2}
    assert studied_sentence(folds) == "study of 36 annotated cases in 2 folds"
    assert first_of_several(folds) == "the first fold"
    assert first_of_several(folds | {"draws": [0, 1]}) == "the first fold of the first draw"
    assert "18 in the first fold" in data_sentence(folds)


def test_a_single_seed_is_said():
    assert "a single seed" in verdict(results_of(0.1, 0.05, 0.2, seeds=1), "validated").text


def test_draws_are_not_counted_as_seeds():
    text = verdict(results_of(0.1, 0.05, 0.2, seeds=2, draws=3), "validated").text
    assert "with 3 draws of the annotated cases, 2 seeds each, the arm" in text
    text = verdict(results_of(0.1, 0.05, 0.2, seeds=1, draws=3), "validated").text
    assert "with 3 draws of the annotated cases, the arm" in text


def test_the_contrast_under_which_a_lesion_is_low_contrast_is_given_for_all_draws():
    assert contrast_limit((5.04,)) == "5.0"
    assert contrast_limit(()) == "no limit"
    assert contrast_limit((4.21, 5.04)) == "4.2 to 5.0"


def test_small_lesions_are_reported_or_said_to_be_absent():
    summary = summary_of(-0.1, -0.2, 0.1)
    assert missed_sentence(results_from(summary), "validated").endswith("no difference shown.")
    summary["differences"]["validated - real"]["missed_small"] = EMPTY
    assert "no small lesion" in missed_sentence(results_from(summary), "validated")


def test_the_headline_is_about_the_arm_furthest_along_the_pipeline():
    def headline(*arms):
        return headline_arm(Results({}, {Comparison(arm, "real"): {} for arm in arms}))

    assert headline("copy-paste", "validated") == "validated"
    assert headline("oracle", "selected@2") == "selected@2"
    assert headline("oracle") is None and headline() is None


def test_an_empty_stratum_is_shown_as_empty_and_never_as_zero():
    table = difference_table(results_of(0.1, 0.0, 0.2))
    row = next(row for row in table if row.label == "Dice, large")
    assert row.n == 0
    assert [points(interval) for interval in row.intervals] == ["–"]
    assert (fraction(EMPTY), percent(EMPTY)) == ("–", "–")


def test_numbers_are_written_with_signs_and_without_a_signed_zero():
    assert [signed(value) for value in (0.0123, -0.0123, 0.0001, -0.0001)] == ["+1.2", "−1.2", "0.0", "0.0"]
    assert percent({"mean": 0.125, "low": 0.0, "high": 0.25}) == "12.5 % [0.0, 25.0]"
    assert is_sure({"mean": 0.1, "low": 0.01, "high": 0.2})
    assert not is_sure({"mean": 0.1, "low": 0.0, "high": 0.2})
