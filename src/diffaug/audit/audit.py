"""The audit of a synthetic set: diagnosis, quality, privacy and usefulness, as `audit.json` and one page."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from diffaug.artifacts import PathLike, write_json
from diffaug.audit.diagnosis import Diagnosis, diagnose
from diffaug.audit.lesions import Found, PaintedLesions, audited_rows, held_out_lesions, real_lesions
from diffaug.audit.page import write_page
from diffaug.audit.painted import Painted, look_at_all
from diffaug.audit.privacy import (
    ALPHA,
    FEWEST,
    Known,
    Likeness,
    Limits,
    background_share,
    control,
    copy_scores,
    held_out_likeness,
    limits_of,
)
from diffaug.audit.quality import Property, attributes_of, feature_scores, places_of, seam_scores
from diffaug.audit.results import Audit, Privacy
from diffaug.audit.scores import Score
from diffaug.compute.progress import tracked
from diffaug.data.copies import PAGE, write_copies
from diffaug.data.folder import Dataset, new_dataset, read_dataset, refuse_occupied
from diffaug.data.manifest import SyntheticSet, read_manifest
from diffaug.errors import StudyError
from diffaug.painting.looks import features_in
from diffaug.realism.measures import Features
from diffaug.report.tables import Study, read_study, understood
from diffaug.report.wording import Verdict, headline_arm, verdict
from diffaug.study.inputs import digest_of_set, numbered, without_rejected

FILE = "audit.json"


def audit_set(
    synthetic: PathLike,
    out: PathLike,
    data: PathLike | None = None,
    study: PathLike | None = None,
    *,
    progress: str = "",
) -> Audit:
    """Audit a synthetic set, and write OUT/audit.json, OUT/audit.html and OUT/copies.json.

    Args:
        synthetic: A finished synthetic set, or one that `select_set` made.
        out: A new folder.
        data: The data set that it was painted for; without it only the set itself is checked.
        study: A finished study of the set, whose verdict is its usefulness.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Raises:
        DataError: The manifest is damaged, or the set is not finished.
        StudyError: The study is not finished, or is of another set.
        ConfigError: `out` holds something else or cannot be written.

    Example:
        >>> diffaug.audit_set("synthetic/mine", "audits/mine", "data/mine")  # doctest: +SKIP
    """
    synthetic, out = Path(synthetic), Path(out)
    refuse_occupied(out, FILE, "an audit")
    made = read_manifest(synthetic)
    dataset = None if data is None else read_dataset(Path(data))
    read = None if study is None else _study_of(Path(study), made)
    found = _audit(made, dataset, read, progress)
    with new_dataset(out, FILE) as partial:
        if found.privacy:
            write_copies(partial, synthetic, len(found.privacy.painted), found.privacy.copies)
        write_page(partial / PAGE, found)
        write_json(partial / FILE, found.as_dict())
    return found


def _study_of(folder: Path, made: SyntheticSet) -> Study:
    read = read_study(folder)
    with understood(folder):
        studied = list(read.plan["identity"].get("synthetic", []))
    either = made, without_rejected(made)  # a review may have come before the study, or after it
    if not any(digest_of_set(numbered(one, place)) == digest for place, digest in enumerate(studied) for one in either):
        raise StudyError(
            f"usefulness is what a study of this set found: {folder} is of another set, or {made.folder} was changed "
            "since; name the study of this set"
        )
    return read


def _usefulness(study: Study) -> Verdict:
    with understood(study.folder):
        return verdict(study.results, headline_arm(study.results))


def _audit(made: SyntheticSet, dataset: Dataset | None, study: Study | None, progress: str) -> Audit:
    def said(what: str) -> str:
        return f"{progress}: {what}" if progress else ""

    diagnosis = diagnose(made, dataset, said("files"))
    quality, attributes, places = list[Score](), list[Property](), list[Property]()
    privacy, notices, lesions = None, list[str](), dict[str, int]()
    if dataset is None:
        notices.append("Without its data set (--with DATA) neither quality nor copies can be measured.")
    else:
        painted = PaintedLesions(made, dataset, audited_rows(made, diagnosis.damaged))
        training, held_out = real_lesions(dataset.annotated("train")), held_out_lesions(dataset)
        lesions = {"training": len(training), "held_out": len(held_out), "painted": painted.count(FEWEST)}
        if len(training) < FEWEST or not lesions["painted"]:
            notices.append(
                f"Quality and copies need {FEWEST} training lesions and a painted one: there are {len(training)} and "
                f"{lesions['painted']}{' or more' * (lesions['painted'] == FEWEST)}."
            )
        else:
            known, held = Known.of(training, said("training lesions")), _features(held_out, "")
            fresh = held_out_likeness(held_out, known, held)
            limits = limits_of(fresh) if len(fresh) >= FEWEST else None
            looked = look_at_all(painted, known, limits, said)
            lesions |= {"painted": len(looked), "compared": looked.compared}
            if len(looked) < FEWEST:
                notices.append(
                    f"Quality needs {FEWEST} painted lesions: there are {len(looked)}. The share of copies is that of "
                    "these few alone."
                )
            else:
                quality = _quality(looked, training, held_out, known, held)
                attributes = attributes_of(looked.attributes, training)
                notices += _sampled(looked)
                places, more = _places(dataset, made, diagnosis)
                notices += more
            shown = background_share(made, dataset, diagnosis.damaged)
            privacy, more = _privacy(looked, fresh, known, limits, shown, said)
            notices += more
    useful = _usefulness(study) if study else None
    return Audit(
        made.folder.absolute().name, lesions, diagnosis, quality, attributes, places, privacy, useful, notices
    )  # fmt: skip


def _features(lesions: Sequence[Found], progress: str) -> Features:
    rows = [features_in(one.image, one.mask) for one in tracked(lesions, len(lesions), progress)]
    return np.stack(rows) if rows else np.zeros((0, 1))


def _quality(
    painted: Painted, training: Sequence[Found], held_out: Sequence[Found], known: Known, held: Features
) -> list[Score]:
    """Compare with held-out lesions, so that copies of training gain nothing; with few, with half of training."""
    real, other = held, known.features[0]
    if len(held_out) < FEWEST:
        real, other = other[::2], other[1::2]
    return feature_scores(painted.features, real, other) + seam_scores(painted.seams, held_out or training)


def _sampled(painted: Painted) -> list[str]:
    """Say how many lesions averages are measured on, where these are not all."""
    if painted.compared == len(painted):
        return []
    return [
        f"Quality, attributes and places are measured on {painted.compared} of the {len(painted)} painted lesions, "
        "evenly spaced over the set; copies are looked for among all of them."
    ]


def _places(dataset: Dataset, made: SyntheticSet, diagnosis: Diagnosis) -> tuple[list[Property], list[str]]:
    if diagnosis.damaged:
        return [], ["Places are not measured, since files are damaged."]
    return places_of(dataset, made), []


def _privacy(
    painted: Painted,
    fresh: Sequence[Likeness],
    known: Known,
    limits: Limits | None,
    shown: tuple[float, float] | None,
    said: Callable[[str], str],
) -> tuple[Privacy | None, list[str]]:
    notices = list[str]()
    if limits is None:
        return None, [f"Copies need {FEWEST} held-out real lesions: there are {len(fresh)}; annotate more."]
    if limits.false_alarms > ALPHA:
        notices.append(
            f"Only {len(fresh)} real lesions set the limits of copies ({round(2 / ALPHA) - 1} are needed): up to "
            f"{100 * limits.false_alarms:.0f} % of fresh real lesions would be taken for copies, not "
            f"{100 * ALPHA:.0f} %."
        )
    recall = control(known, limits, said("planted copies"))
    scores = copy_scores(painted.groups, painted.likenesses, fresh, limits)
    mean = float(np.mean(list(recall.values())))
    meaning = "planted copies that are found: training lesions flipped, moved, saved again, resized, lighter or darker"
    scores.append(Score("control recall", meaning, mean, best=1.0, worst=0.0, unit="share"))
    if mean < 0.9:
        notices.append(
            f"The control failed: only {100 * mean:.0f} % of planted copies were found, so copies are missed."
        )
    own = [
        bool(flag) for flag, like in zip(painted.from_example, painted.likenesses, strict=True) if limits.is_copy(like)
    ]
    from_example = float(np.mean(own)) if own else None
    return Privacy(scores, recall, limits, len(fresh), painted, known, from_example, shown), notices
