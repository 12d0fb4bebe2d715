"""The page's words: numbers as text, and the sentences that depend on what a study found; knows results, no files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffaug.data.split import ENOUGH_GROUPS
from diffaug.report.tables import Group, Interval, Results, groups_of
from diffaug.study.arms import SCORED, parse_arm
from diffaug.study.statistics import Comparison

CANDIDATES = (
    "selected+mean-teacher", "selected+pseudo-label", "selected", "no-negatives", "validated", "fixed-threshold",
    "random-kept", "unfiltered", "mean-teacher", "pseudo-label", "copy-paste",
)  # fmt: skip
SUBJECTS = {  # of the headline; others are painted
    "copy-paste": "Pasted lesions", "pseudo-label": "Pseudo-labels", "mean-teacher": "The averaged network's labels",
}  # fmt: skip
LABELLED_BY = {"pseudo-label": "real", "mean-teacher": "the average of the network's weights during training"}
NO_VALUE = "–"
FEW_ITERATIONS = 100  # a network that was trained for fewer has learned nothing
LEARNED = 0.2  # Dice and precision under which a network has not learned the task, or marks nearly everything


@dataclass(frozen=True)
class Verdict:
    """The headline of the page.

    Attributes:
        kind: What the interval of the difference shows; "nothing" where nothing was compared, or where the networks
            have not learned the task, or there are too few groups of test cases, so that the difference says nothing.
        title: The same in a few words, with every reason why it says nothing.
        text: The same in sentences, with the difference, unless it says nothing.
    """

    kind: Literal["gain", "loss", "none", "nothing"]
    title: str
    text: str


# numbers as text


def case_counts(counts: Mapping[str, int], arm: str) -> str:
    """Write what an arm was trained on, such as 50 + 100 + 50: real cases, synthetic ones, negatives."""
    if parse_arm(arm).kind == "copy-paste":
        return f"{counts['real']}, lesions pasted while training"
    negatives, labelled = counts.get("trained_negatives", 0), counts.get("labelled", 0)
    text = f"{counts['real']} + {counts['pool'] - negatives - labelled} + {negatives}"
    return text + "".join(f" + {counts[name]} {name}" for name in ("labelled", "taught") if counts.get(name))


def fraction(interval: Interval) -> str:
    """Write an interval of fractions, such as 0.785 [0.751, 0.812]; a dash where there is no value or no interval."""
    return _interval(interval, lambda value: f"{value:.3f}")


def percent(interval: Interval) -> str:
    """Write an interval of shares in percent, such as 12.0 % [8.1, 15.5]."""
    return _interval(interval, lambda value: f"{100 * value:.1f}", " %")


def pixels(interval: Interval) -> str:
    """Write an interval of distances in pixels, such as 21.3 [18.0, 25.1]."""
    return _interval(interval, lambda value: f"{value:.1f}")


def points(interval: Interval) -> str:
    """Write an interval of differences in hundredths, with signs, such as +1.2 [−0.3, +2.6]."""
    return _interval(interval, signed)


def signed_percent(interval: Interval) -> str:
    """Write an interval of relative changes in percent, with signs, such as −28.0 % [−40.1, −12.3]."""
    return _interval(interval, signed, " %")


def _interval(interval: Interval, write: Callable[[float], str], unit: str = "") -> str:
    if interval["mean"] is None:
        return NO_VALUE
    ends = NO_VALUE if interval["low"] is None else f"{write(interval['low'])}, {write(interval['high'])}"
    return f"{write(interval['mean'])}{unit} [{ends}]"


def signed(value: float) -> str:
    """Write a fraction in hundredths with a sign; a value that rounds to zero has no sign."""
    text = f"{abs(100 * value):.1f}"
    return text if text == "0.0" else f"{'+' if value > 0 else '−'}{text}"


def is_sure(interval: Interval) -> bool:
    """Tell whether an interval lies on one side of zero, and comes from enough groups of test cases to say so.

    That of a single case has no width and shows nothing.
    """
    low, high, groups = interval["low"], interval["high"], interval.get("groups")
    apart = low is not None and high is not None and (low > 0 or high < 0) and low < high
    return apart and (groups is None or groups >= ENOUGH_GROUPS)


def contrast_limit(cuts: tuple[float, ...]) -> str:
    """Write below which contrast a lesion counts as low-contrast, a range where draws have limits of their own."""
    if not cuts:
        return "no limit"
    low, high = f"{min(cuts):.1f}", f"{max(cuts):.1f}"
    return low if low == high else f"{low} to {high}"


# sentences


def headline_arm(results: Results) -> str | None:
    """Return the arm that the page is about: of those compared with `real`, the one with most steps of the pipeline.

    It is never `oracle`, which gains by having more annotations.
    """
    compared = [arm for arm, _ in results.against_real if arm != "oracle"]
    return next((arm for arm in CANDIDATES if arm in compared), compared[0] if compared else None)


def verdict(results: Results, arm: str | None) -> Verdict:
    """Return the headline about one arm."""
    if arm is None:
        return Verdict(
            "nothing",
            "Nothing was compared",
            "This study did not compare any arm with real, except perhaps oracle. It shows how well a model does, "
            "not what helps.",
        )
    difference, measured = results.difference(arm, "real")["dice"], results.arms[arm]
    added = "Painted and labelled cases" if labelled_count(measured) else SUBJECTS.get(arm, "Synthetic cases")
    where = f"{measured['n']} held-out real cases{_of_groups(measured)}, with {repeats(measured)}"
    if weak := reasons_against(results, arm):
        why = " ".join(reason.text for reason in weak)
        text = f"Arms were compared on {where}, but their differences show nothing. {why}"
        return Verdict("nothing", f"No conclusion: {'; '.join(reason.title for reason in weak)}", text)
    text = (
        f"On {where}, the arm {arm} changed mean Dice by {signed(difference['mean'])} points against real"
        f"{_ends(difference, '95 % interval ')}"
    )
    if not is_sure(difference):
        return Verdict("none", "No difference shown", f"{text}; the interval includes zero.")
    if difference["mean"] > 0:
        return Verdict("gain", f"{added} helped", f"{text}.")
    return Verdict("loss", f"{added} hurt", f"{text}.")


def _ends(interval: Interval, what: str = "") -> str:
    """Write the ends of an interval of differences in brackets; nothing where there is none."""
    low, high = interval["low"], interval["high"]
    return "" if low is None or high is None else f" ({what}{signed(low)} to {signed(high)})"


def _of_groups(arm: Group) -> str:
    """Say of how many groups the test cases are; nothing where every case is a group of its own."""
    groups = groups_of(arm)
    said = f" of {groups} group{'s' * (groups != 1)} (patients, or images that look alike)"
    return said if groups != arm["n"] else ""


@dataclass(frozen=True)
class Reason:
    """Why a study supports no conclusion: in a few words, and in sentences that say what to do."""

    title: str
    text: str


def reasons_against(results: Results, arm: str | None) -> list[Reason]:
    """Return every reason why a comparison with `real` shows nothing, that of the training first.

    Args:
        results: Of the study.
        arm: The arm that is compared; None looks at the first arm alone, where nothing was compared.
    """
    name = next(iter(results.arms)) if arm is None else arm
    found = [_short_training(results), _few_groups(results.arms[name]), _not_learned(results, name)]
    return [reason for reason in found if reason is not None]


def _short_training(results: Results) -> Reason | None:
    if results.iterations is None or results.iterations >= FEW_ITERATIONS:
        return None
    return Reason(
        f"the networks were trained for {results.iterations} iterations",
        f"A network learns nothing in fewer than {FEW_ITERATIONS} iterations: leave --preset smoke out, or train "
        "longer (--iterations), before you compare arms.",
    )


def _few_groups(measured: Group) -> Reason | None:
    groups = groups_of(measured)
    if groups >= ENOUGH_GROUPS:
        return None
    own = groups == measured["n"]
    what = f"{groups} {'case' if own else 'group'}{'s' * (groups != 1)}{'' if own else ' (patients)'}"
    return Reason(
        f"{what} {'is' if groups == 1 else 'are'} too few to compare on",
        f"Fewer than {ENOUGH_GROUPS} groups of test cases cannot show a difference between arms: test on every "
        "annotated case (import with --split 100:0:0, and study with --folds 5).",
    )


def _not_learned(results: Results, arm: str) -> Reason | None:
    """Say why a comparison of two arms says nothing; None where both networks have learned to segment."""
    for name in dict.fromkeys(("real", arm)):
        measured = results.arms.get(name, results.arms[arm])
        dice, precision = (measured[metric]["mean"] for metric in ("dice", "precision"))
        if dice < LEARNED or (precision is not None and precision < LEARNED):
            told = "no precision" if precision is None else f"a precision of {precision:.2f}"
            return Reason(
                "the networks have not learned to segment",
                f"The arm {name} has a mean Dice of {dice:.2f} and {told}: its network finds little of the lesions or "
                "marks nearly everything. Train longer (--iterations) or annotate more cases before you compare arms.",
            )
    return None


def repeats(arm: Mapping[str, Any]) -> str:
    """Say how often an arm was trained: on how many draws of the annotated cases, and with how many seeds each."""
    draws, seeds = arm["draws"], arm["seeds"]
    text = f"{seeds} seeds" if seeds > 1 else "a single seed"
    if draws == 1:
        return text
    return f"{draws} draws of the annotated cases" + (f", {text} each" if seeds > 1 else "")


def averaged_over(arm: Mapping[str, Any]) -> str:
    """Say over what repeats an arm's numbers are means, as far as there are several."""
    named = [(arm["draws"], "draws"), (arm["seeds"], "seeds")]
    return " and ".join(f"{count} {what}" for count, what in named if count > 1)


def negatives_sentence(results: Results, arm: str) -> str:
    """Say that an arm was trained on fewer negatives than belong to its painted lesions. Empty where it was not."""
    counts = results.arms[arm]["cases"]
    held, wanted = counts.get("trained_negatives", 0), counts.get("wanted_negatives", 0)
    if held >= wanted:
        return ""
    painted = counts["pool"] - held - counts.get("labelled", 0)
    return (
        f"{arm} was trained on {painted} painted lesion case{'s' * (painted != 1)} and {held} "
        f"negative{'s' * (held != 1)} (painted cases without a lesion). {wanted} negatives were wanted for so many "
        "lesions, but too few were accepted. (A quarter of the accepted ones trains nothing: false alarms are counted "
        "on it.)"
    )


def too_hard_sentence(plan: Mapping[str, Any], results: Results) -> str:
    """Say why an arm with chosen cases may have fewer than were accepted. Empty without such an arm."""
    cut = plan["config"].get("select", {}).get("hard_cut", 1.0)
    arms = [arm for arm in results.arms if parse_arm(arm).kind in SCORED]
    if not arms or cut >= 1:
        return ""
    return (
        f"{arms[0]} leaves out accepted lesions that the network of real finds harder than {100 * cut:.0f} % of those "
        "of their size (--select.hard-cut), since they are more often wrong than informative."
    )


def labelled_count(arm: Mapping[str, Any]) -> int:
    """Return how many unannotated images an arm was trained on beside painted cases."""
    counts = arm.get("cases", {})
    return int(counts.get("labelled", 0) or (counts.get("taught", 0) if counts.get("pool") else 0))


def labelled_sentence(results: Results, arm: str | None) -> str:
    """Say what painted cases add to self-training. Empty for an arm that has not both."""
    if arm is None or not (count := labelled_count(results.arms[arm])):
        return ""
    first = " in the first draw" if results.arms[arm].get("draws", 1) > 1 else ""
    added = parse_arm(arm).added
    text = f"{arm} was also trained on {count} unannotated images{first}, with masks predicted by {LABELLED_BY[added]}"
    difference = results.differences.get(Comparison(arm, added), {}).get("dice")
    if difference is None:
        return f"{text}. The arm {added} was not run, so how much these images contribute is not known."
    return (
        f"{text}. Against {added}, which was trained on the same images without painted cases, it changed mean "
        f"Dice by {signed(difference['mean'])} points{_ends(difference)}"
        f"{'.' if is_sure(difference) else '; no difference shown.'}"
    )


def missed_sentence(results: Results, arm: str | None) -> str:
    """Say how the share of missed small lesions changed, if there are enough of them to say so."""
    if arm is None or "real" not in results.arms:
        return ""
    small, real = results.arms[arm]["strata"]["small"], results.arms["real"]["strata"]["small"]
    difference = results.difference(arm, "real")["missed_small"]
    if difference["mean"] is None:
        return "The test cases contain no small lesion, so the page says nothing about small lesions."
    if (groups := difference.get("groups", groups_of(small))) < ENOUGH_GROUPS:
        return (
            f"The small lesions of the test cases (n = {small['n']}) are of {groups} group{'s' * (groups != 1)} "
            "(patients), too few to say anything about small lesions."
        )
    return (
        f"Of the small lesions (n = {small['n']}), real missed {100 * real['missed']['mean']:.1f} % and {arm} missed "
        f"{100 * small['missed']['mean']:.1f} %: {signed(difference['mean'])} points"
        f"{_ends(difference)}"
        f"{'.' if is_sure(difference) else '; no difference shown.'}"
    )


def bases_sentence(results: Results) -> str:
    """Say which test images the painter's base model was trained on. Empty if there are none."""
    seen = results.base_seen
    if seen is None:
        return ""
    texts = [
        f"The painter's base model was trained on {seen[kind]} of the {seen['of']} test images, {kind}."
        for kind in ("unannotated", "annotated")
        if seen[kind]
    ]
    if not seen["known"]:
        texts.append(
            "It is not recorded which images the painter's base model was trained on: test images may be among them."
        )
    return " ".join(texts)


def studied_sentence(plan: Mapping[str, Any]) -> str:
    """Say how many annotated cases were studied, and how they were tested on. The first line of the page."""
    cases = plan["cases"]
    if folds := folds_of(plan):
        return f"study of {cases['test']} annotated cases in {folds} folds"
    return f"study of {cases['train']} annotated cases, tested on {cases['test']}"


def data_sentence(plan: Mapping[str, Any]) -> str:
    """Say what the data set holds, by how it was used."""
    cases, folds = plan["cases"], folds_of(plan)
    beside = f"{cases['unannotated']} unannotated"
    if folds and plan["identity"].get("folds"):
        return f"{cases['test']} annotated cases in {folds} folds, each tested by a network trained on the other folds"
    if folds:
        return (
            f"{cases['test']} annotated cases in {folds} folds, each tested by networks trained on cases of the other "
            f"folds ({cases['train']} in the first fold); {beside}"
        )
    tests = ", ".join(plan["identity"]["test"])
    return f"{cases['train']} annotated training cases, {beside}, {cases['test']} test cases ({tests})"


def first_of_several(plan: Mapping[str, Any]) -> str:
    """Name the draw and fold of which numbers of training cases are; empty where there is one alone."""
    several = len(plan.get("draws", ())) > 1, bool(folds_of(plan))
    return " of ".join(
        what for what, there in zip(("the first fold", "the first draw"), several[::-1], strict=True) if there
    )


def folds_of(plan: Mapping[str, Any]) -> int:
    """Return into how many folds the annotated cases were divided; 0 without folds."""
    return int(plan.get("folds") or plan["identity"].get("folds") or 0)


def clean_sentence(plan: Mapping[str, Any], results: Results) -> str:
    """Say what kept training and test apart, and name every exception."""
    if plan["identity"].get("folds"):
        return (
            "Each case is tested by a network that was trained on no case of its group. "
            "The data set was not searched for repeated frames."
        )
    exceptions = [
        *(["the repeated frames and groups that were allowed"] if plan["duplicates"] or plan["shared_groups"] else []),
        *(["the images that the base model has seen"] if bases_sentence(results) else []),
    ]
    but = f", except for {' and '.join(exceptions)} (see the top of the page)" if exceptions else ""
    oracle = ", and of the full data set in the arm oracle" if "oracle" in results.arms else ""
    return (
        f"No test image was used to train or to choose anything{but}. No annotations were used but those of the "
        f"training cases{oracle}. Digests of files, fingerprints of images and the sources of each synthetic case "
        "were checked for this."
    )
