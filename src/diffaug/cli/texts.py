"""What the commands print for people: results as short tables, and the command that usually comes next.

Knows results, no files. With `--json` the commands print the whole result for machines instead.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffaug.data.origin import Origin
    from diffaug.data.request import Request
    from diffaug.data.segmented import SegmentSummary
    from diffaug.export.export import Exported
    from diffaug.study.sets import Labelling, Selection
    from diffaug.synthesis.explain import Explanation
    from diffaug.synthesis.generate import GenerateSummary
    from diffaug.synthesis.remove import RemoveSummary
    from diffaug.synthesis.reproduce import Reproduction
    from diffaug.synthesis.share import ShareSummary
    from diffaug.training.fit import FitSummary

SHOWN = 5  # names in a line
FOLDS = 5  # of a study that the next command makes, where no case is annotated to test on
NO_VALUE = "-"
PLAIN = str.maketrans({"−": "-", "–": NO_VALUE})  # what a terminal without Unicode can show
NEW = "\n"
UNKNOWN = "not known"
STATES = {
    "same": "that of the set, byte for byte",
    "pixels": "saved anew, with the pixels of the set's",
    "other": "changed: the set's has other pixels",
}


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines of text in columns, the first of which is aligned left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def facts(pairs: Mapping[str, Any]) -> str:
    """Return names and values as lines of text; further lines of a value stand below its first."""
    width = max(len(name) for name in pairs)
    further = "\n" + " " * (width + 4)
    return "\n".join(f"  {name.ljust(width)}  {further.join(str(value).split(NEW))}" for name, value in pairs.items())


def next_command(*words: Any) -> str:
    """Return the line that says what to do next, with words quoted as a shell needs it."""
    return "Next: " + " ".join(["diffaug", *(quote(str(word)) for word in words)])


def preset_words(preset: str) -> list[str]:
    """Return the words with which a command takes the same preset as the one before it; none for the default."""
    return [] if preset == "default" else ["--preset", preset]


def counted(count: int, what: str) -> str:
    """Return a number with its noun, such as `1 case` and `2 cases`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def minutes(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds > 7200:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _named(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def fit_text(summary: "FitSummary", data: Path, model: Path, preset: str = "default", again: bool = False) -> str:
    """Return what a fit learned, and how to paint with it.

    Args:
        summary: Of the fit.
        data: What it was fitted on.
        model: The model folder.
        preset: Of its settings; the next command takes the same.
        again: Whether the model was fitted before, and nothing was done now.
    """
    sizes = ", ".join(f"{count} {size}" for size, count in summary.lesions.items() if count)
    lesion_free = f" ({summary.lesion_free} of them lesion-free)" if summary.lesion_free else ""
    known = {
        "images": f"{summary.annotated} annotated{lesion_free}, {summary.unannotated} unannotated",
        "lesions": sizes or "none",
        "codec": f"{summary.codec.psnr_db:.1f} dB (above 30 dB an image loses little that is seen)",
    }
    if summary.realism:
        told = summary.realism
        known["critic"] = (
            f"gives painted lesions a mean score of {told.mean:.2f}, from 0 to 1 (at 0.5 readers cannot tell them from "
            f"real ones), and keeps {100 * told.accepted:.0f} % of them"
        )
    elif summary.no_critic:
        known["critic"] = f"none, so painted lesions are not checked for looking painted: {summary.no_critic}"
    took = minutes(sum(summary.seconds.values()))
    return "\n".join(
        [
            f"The model {model} was already fitted; nothing was done."
            if again
            else f"The model {model} is fitted; this took {took}.",
            facts(known),
            next_command("generate", model, data, f"synthetic/{model.name}", *preset_words(preset)),
        ]
    )


def generate_text(
    summary: "GenerateSummary", data: Path, out: str, sheet: str, preset: str = "default", tested: bool = True
) -> str:
    """Return how many cases were kept, why others were not, where to look, and how to study them.

    Args:
        summary: Of the set.
        data: The data set that it was painted from.
        out: The synthetic set.
        sheet: Its contact sheet.
        preset: Of its settings; the next command takes the same.
        tested: Whether cases of the split `test` are annotated. Without any, a study needs folds, which paint sets of
            their own, and this set is for training.
    """
    kept, negatives = summary.funnel.lesions.kept, summary.funnel.negatives.kept
    beside = f", and {counted(negatives, 'negative')} (painted without a lesion) beside them" if negatives else ""
    total = sum(summary.reasons.values())
    rows = [(f"{count}", f"{100 * count / max(1, total):.0f} %", reason) for reason, count in summary.reasons.items()]
    lines = [f"{counted(kept, 'lesion case')} on {counted(summary.painted_on, 'image')}{beside}, in {out}."]
    if summary.annotated:
        sizes, annotated = (
            ", ".join(f"{count} {size}" for size, count in found.items())
            for found in (summary.sizes, summary.annotated)
        )
        lines.append(
            f"The painted lesions are {sizes}. They are made from {summary.shown} of the annotated lesions "
            f"({annotated})."
        )
    if rows:
        lines += [f"Of {counted(total, 'request')}:", *(f"  {n:>5}  {share:>5}  {reason}" for n, share, reason in rows)]
    lines.append(f"Look at them: {sheet}")
    name, away = Path(out).name, "://" in out
    here, study, same = name if away else out, ("study", data, f"studies/{name}"), preset_words(preset)
    if tested:
        fetch = ["Fetch it before you study it."] if away else []
        return "\n".join([*lines, *fetch, next_command(*study, "--synthetic", here, *same)])
    lines.append("No test case is annotated: a study by folds tests each training case once, and paints for each fold.")
    fetch = ["Fetch it before you export it."] if away else []
    export = ("export", here, f"exported/{name}", "--format", "nnunet", "--with", data, "--folds", FOLDS)
    return "\n".join([*lines, next_command(*study, "--folds", FOLDS, *same), *fetch, next_command(*export)])


def share_text(summary: "ShareSummary", out: str, again: Sequence[str]) -> str:
    """Return what a share of a synthetic set has, and the command that joins all shares.

    Args:
        summary: What was made.
        out: The synthetic set.
        again: The words of the same command for the whole set.
    """
    lines = [f"Share {summary.index} of {summary.shares} (from 0) of {out} is made:"]
    rows = {
        "finished shards": summary.shards,
        "kept cases": f"{summary.kept} of {summary.requested} requests; its part is {summary.wanted}",
        "computing": minutes(summary.seconds),
    }
    lines += [facts(rows), "When all shares are made, join them:"]
    return "\n".join([*lines, next_command(*again)])


def study_text(summary: Mapping[str, Any], out: Path, synthetic: Sequence[Path], iterations: int) -> str:
    """Return the arms of a study with their scores and their differences to `real`, and how to read more of it."""
    painted = [word for one in synthetic[:1] for word in ("--synthetic", one)]
    return "\n".join([arms_text(summary, iterations), next_command("report", out, *painted)])


def folds_text(
    summary: Mapping[str, Any],
    order: Sequence[str],
    folds: int,
    report: Path,
    data: Path,
    iterations: int,
    preset: str = "default",
) -> str:
    """Return the same of a study by folds, whose report is written, and how to paint with every annotated case.

    Where models/NAME is there already, the next command is the one after its fit.
    """
    told = f"Each case was tested once, by networks that were trained on the other {folds - 1} of {folds} folds."
    name = data.resolve().name
    model = Path("models", name)
    words = ("generate", model, data, f"synthetic/{name}") if model.exists() else ("fit", data, model)
    after = next_command(*words, *preset_words(preset))
    return "\n".join([arms_text(summary, iterations, order), told, f"Report: {report}", after])


def arms_text(summary: Mapping[str, Any], iterations: int, order: Sequence[str] = ()) -> str:
    """Return the arms of a study with their scores and their differences to `real`, as a table with a legend.

    Args:
        summary: Of the study.
        iterations: How long each network was trained. `report.wording.verdict` concludes nothing from too few.
        order: The names of the arms; by default they are those of the summary, which a file sorts.
    """
    from diffaug.report.tables import results_from
    from diffaug.report.wording import headline_arm, points, verdict

    results = results_from(summary, order, iterations)
    gains, arm = dict(results.against_real), headline_arm(results)
    rows = [("arm", "Dice", "against real, points", "small lesions", "missed")]
    for name, found in results.arms.items():
        gain = gains.get(name, {}).get("dice")
        rows.append(
            (
                name,
                _fraction(found["dice"]),
                points(gain).translate(PLAIN) if gain else NO_VALUE,
                _fraction(found["strata"]["small"]["dice"]),
                _percent(found["missed"]),
            )
        )
    first = results.first
    repeats = f"{first['draws']} draws, " if first["draws"] > 1 else ""
    free, lesions = first.get("n_lesion_free", 0), first["missed"].get("n", first["n"])
    told = (
        f"{counted(first['n'], 'test case')}{f' ({free} of them lesion-free)' if free else ''}, {repeats}"
        f"{counted(first['seeds'], 'seed')}. In brackets: 95 % intervals. Missed: cases with an IoU under 0.1"
        f"{f', of the {lesions} with a lesion' if lesions < first['n'] else ''}."
    )
    if free:
        told += " The Dice of a lesion-free case is 1 if nothing is predicted in it, and 0 otherwise."
    headline = verdict(results, arm)
    return "\n".join([table(rows), told, *([f"{headline.title}."] if arm and headline.kind == "nothing" else [])])


def _fraction(interval: Mapping[str, Any]) -> str:
    return NO_VALUE if interval["mean"] is None else f"{interval['mean']:.3f}"


def _percent(interval: Mapping[str, Any]) -> str:
    return NO_VALUE if interval["mean"] is None else f"{100 * interval['mean']:.1f} %"


def remove_text(summary: "RemoveSummary", out: Path) -> str:
    """Return how many cases were cleared, and which could not be."""
    left = summary.left_out
    lines = [f"{counted(summary.cases, 'case')} with {counted(summary.regions, 'lesion')} painted away, in {out}."]
    if summary.regions:
        lines.append(
            f"The validators found {summary.found_before:.2f} of a lesion's area before and {summary.found_after:.2f} "
            "after (medians)."
        )
    if left:
        lines.append(
            f"{counted(len(left), 'case')} left out, since no tissue of the image covers the lesion, or it lies where "
            f"none is seen: {_named(left)}."
        )
    return "\n".join([*lines, f"Look at them: {out / 'before_after.png'}"])


def segment_text(summary: "SegmentSummary", out: Path) -> str:
    """Return how many images were segmented, in how many something was found, and which could not be read."""
    with_lesion = sum(share > 0 for share in summary.found.values())
    lines = [
        f"{counted(summary.segmented, 'image')} segmented, something found in {with_lesion} of them, in {out}.",
        f"Shares of the images that were found: {out / 'summary.json'}",
    ]
    if summary.failed:
        lines.insert(1, f"{counted(len(summary.failed), 'file')} could not be read: {_named(summary.failed)}.")
    return "\n".join(lines)


def selection_text(found: "Selection", out: Path) -> str:
    """Return how many painted cases were chosen."""
    sizes = ", ".join(f"{count} {size}" for size, count in found.by_size.items())
    beside = f", and {counted(found.negatives, 'negative')} beside them" if found.negatives else ""
    copies = f" {found.copies} {'copy' if found.copies == 1 else 'copies'} left out." if found.copies else ""
    rejected = f" {counted(found.rejected, 'picture')} that a review rejected left out." if found.rejected else ""
    said = f"{found.kept} of {counted(found.accepted, 'accepted case')} chosen ({sizes}){beside}, in {out}."
    return f"{said}{copies}{rejected}"


def audit_text(lines: Sequence[str], pictures: int, synthetic: Path, out: Path, page: str, data: Path | None) -> str:
    """Return what an audit found, a line each, where its page is, and how to leave copies out.

    Args:
        lines: What was found.
        pictures: Number of pictures that show a copy of a training lesion.
        synthetic: The set.
        out: The folder of the audit.
        page: The name of its page.
        data: The data set of the set, if it was named.
    """
    told = [*lines, f"The page: {out / page}"]
    if not pictures:
        return "\n".join(told)
    what = f"{counted(pictures, 'picture')} that {'shows' if pictures == 1 else 'show'} a copy"
    told.append(f"--without-copies {quote(str(out))} of `export` and `select` leaves out the {what}.")
    beside = ["--with", data] if data else []
    words = ("export", synthetic, f"exported/{synthetic.resolve().name}", "--format", "nnunet", *beside)
    return "\n".join([*told, next_command(*words, "--without-copies", out)])


def exported_text(found: "Exported", synthetic: Path, audited: bool) -> str:
    """Return how many cases of each split were exported, what each fold has, and whether copies were looked for.

    Args:
        found: What was exported.
        synthetic: The set that it is of.
        audited: Whether copies were left out.
    """
    lines = [f"{split}: {words}" for split, words in found.counts.items()]
    if found.folds:
        rows = [("fold", "train real", "train synthetic", "validate real", "left out synthetic")]
        for number, fold in enumerate(found.folds):
            counts = (fold.real, fold.synthetic, fold.val, fold.left_out)
            rows.append((str(number), *map(str, counts)))  # type: ignore[arg-type] # five words
        lines += [table(rows), "Left out are synthetic cases that show something of what the fold validates on."]
    lines.append(f"Exported to {found.folder}.")
    if not audited:
        lines.append(
            "Pictures that show copies of training lesions were not left out. To find and leave them out, run "
            f"`diffaug audit {quote(str(synthetic))} AUDIT --with DATA`, then this command with --without-copies AUDIT."
        )
    return "\n".join(lines)


def labels_text(found: "Labelling", out: Path) -> str:
    """Return how many unannotated images were labelled."""
    return f"{found.labelled} of {counted(found.unannotated, 'unannotated image')} labelled, in {out}."


def leaks_text(summary: Mapping[str, Any]) -> str:
    """Return how much careless splits overstate the Dice of `real`."""
    from diffaug.report.wording import points

    rows = [("split", "Dice", "more than the honest one, points")]
    for name, found in summary["ways"].items():
        rows.append((name, _fraction(found["dice"]), points(found["flattered"]).translate(PLAIN)))
    return table(rows)


def explanation_text(found: "Explanation", image: Path) -> str:
    """Return what a synthetic picture was made of, a fact a line, and how to paint it again."""
    origin, is_mask = found.origin, found.what not in ("picture", "preview")
    kinds = {
        "picture": "a picture painted by diffaug",
        "preview": "a window of a sample that was turned down",
        "removed": "an image whose lesions were painted away",
    }
    what = f"is the {found.what} of" if is_mask else "is synthetic:"
    lines = [f"{plain(found.image)} {what} {kinds[origin.kind]}, {origin.id}."]
    several = len(origin.requests) > 1
    for number, request in enumerate(origin.requests, start=1):
        lines += [*([f"Lesion {number}:"] if several else []), facts(_request_facts(request))]
    lines += [*(["All of it:"] if several else []), facts(_origin_facts(found))]
    apart = [name for name in ("model", "data") if not found.beside(name)]
    missing = [word for name in apart for word in (f"--{name}", name.upper())]
    return "\n".join([*lines, *([] if is_mask else [next_command("reproduce", image, *missing)])])


def _request_facts(request: "Request") -> dict[str, str]:
    """Return what one lesion of a picture was made of."""
    moved = request.transform
    lesion = "the largest lesion" if not request.component else f"lesion {request.component + 1} by size"
    how = f"{moved.scale:.2f} times its size, turned by {moved.angle:.0f} degrees{', mirrored' if moved.flip else ''}"
    edge = ", cut off by the edge as its own image cuts it off" if moved.at_edge else ""
    same = request.example == request.mask_case and request.cup_ratio is None
    example = "the lesion of the mask" if same else f"the largest lesion of case {request.example}"
    where = {"free": "on tissue", "replace": "over a lesion", "removed": "where lesions were painted away first"}
    return {
        "painted": f"{'tissue without a lesion' if request.negative else 'a lesion'}, {where[request.placement]}",
        "background": f"case {request.background}",
        "mask": f"{lesion} of case {request.mask_case}, {how}; "
        f"from row {request.top} and column {request.left} on{edge}",
        "example": example if request.example else "none",
        "prompt": plain(request.prompt),
        "findings": plain(", ".join(request.findings)) or "none",
        "seed": str(request.seed),
    }


def _origin_facts(found: "Explanation") -> dict[str, str]:
    """Return what a picture was made with, and what its set says of it."""
    origin = found.origin
    told = {
        "source": f"case {origin.source}" if origin.source else "",
        "references": NEW.join(found.references),
        "model": plain(origin.model or UNKNOWN) + (f", validators {plain(origin.validator)}" * bool(origin.validator)),
        "settings": plain(_settings(origin)) or UNKNOWN,
        "set": f"{origin.set_digest}, {f'in {found.folder}' if found.folder else 'not looked at; --in names it'}",
        "versions": plain(", ".join(f"{name} {version}" for name, version in origin.versions.items())) or UNKNOWN,
        "processor": plain(origin.processor) or UNKNOWN,
        "decision": plain(
            found.reason if found.reason.startswith(found.decision) else f"{found.decision}: {found.reason}"
        ),
        "file": STATES.get(found.state, ""),
        "metadata": "" if found.marked else "none; what stands here is from the set",
    }
    return {name: value for name, value in told.items() if value}


def _settings(origin: "Origin") -> str:
    """Return the preset of a set, the settings that are not those of the preset, and its seed."""
    from diffaug.config import PRESETS
    from diffaug.presets import DEFAULT, preset_of

    preset = preset_of("generate", origin.settings)
    defaults = PRESETS[preset or DEFAULT].generate.model_dump(mode="json")
    values = {name.removeprefix("generate."): value for name, value in origin.settings.items()}
    apart = ("model", "data", "findings", "backgrounds", "budget")
    changed = {name: value for name, value in values.items() if name not in apart and value != defaults.get(name)}
    named = [f"preset {preset}"] if preset else []
    return ", ".join([*named, *(f"{name} {_value(value)}" for name, value in changed.items())])


def plain(text: str) -> str:
    """Return a text that is not trusted as a terminal may show it: hidden characters as codes."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def reproduction_text(found: "Reproduction") -> str:
    """Return how a picture that was painted again differs from what it is."""
    pairs = found.changed.items()
    changed = "; ".join(f"{name} was {plain(before) or UNKNOWN}, is {plain(here)}" for name, (before, here) in pairs)
    elsewhere = f" ({changed})" if changed else ""
    if found.equal:
        same = "the file is the same, byte for byte" if found.same_file else "its metadata or its coding differ"
        return f"{found.id} was painted again: all pixels are equal, and {same}{elsewhere}."
    return (
        f"{found.id} was painted again: the largest difference of a pixel is {found.largest} of 255, and "
        f"{100 * found.share:.2f} % of the pixels differ{elsewhere}"
    )
