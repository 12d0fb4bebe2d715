"""Finished folders of which one file is torn: whoever reads it must notice, or make it again."""

from collections import Counter
from pathlib import Path

from faulting.lanes import Found, Lane, part_of
from faulting.scene import COMMANDS
from faulting.trees import IGNORED, differences, tree_of

DAMAGES = ("empty", "zeros", "halved", "cut")
READERS = ("subset", "generate", "remove", "segment", "study", "report", "predict", "select", "export-nnunet")
MAKERS = (
    "phantom", "import", "subset", "fit", "generate", "remove", "segment", "study", "report", "predict", "select",
    "pseudo-label", "export-nnunet", "export-hf", "export-yolo", "run",
)  # fmt: skip
QUICK_MAKERS, QUICK_READERS = ("generate",), ("subset", "export-nnunet")
ALIKE = 2  # files of one folder and suffix that are damaged


def torn_trials(quick: bool, lane: Lane) -> list[str]:
    """Return names of damages: of what a command made, and of what it reads."""
    names = []
    for mode, commands in (
        ("made", QUICK_MAKERS if quick else MAKERS),
        ("read", QUICK_READERS if quick else READERS),
    ):
        for word in commands:
            files = _files(lane, word, mode)
            damages = DAMAGES[1:3] if quick else DAMAGES
            names += [f"torn:{word}:{mode}:{damage}:{path}" for path in files for damage in damages]
    return names[::6] if quick else names


def _files(lane: Lane, word: str, mode: str) -> list[str]:
    """Return the files that a command made, or read of its inputs; few of those that are alike."""
    usual, command = lane.undisturbed(word), COMMANDS[word]
    lane.lay_out(*command.inputs)
    given = set(tree_of(lane.case))
    paths = sorted(given & usual.ended.opened if mode == "read" else set(usual.tree) - given)
    counts: Counter[tuple[str, str]] = Counter()
    chosen = []
    for path in paths:
        kind = (str(Path(path).parent), Path(path).suffix) if "shards" not in path else (Path(path).parent.name, "")
        counts[kind] += 1
        if counts[kind] <= ALIKE and not path.endswith("/") and Path(path).name not in IGNORED:
            chosen.append(path)
    return chosen


def damaged(data: bytes, how: str) -> bytes:
    """Return torn bytes: none, zeros, a half, or all but the last."""
    half = data[: len(data) // 2]
    return {"empty": b"", "zeros": bytes(len(data)), "halved": half, "cut": data[:-1]}[how]


def try_torn(name: str, lane: Lane) -> Found:
    """Damage a file of what a command made or reads, and run the command."""
    _, word, mode, how, path = part_of(name)
    command, found, usual = COMMANDS[word], Found(name), lane.undisturbed(word)
    if mode == "made":
        lane.finish(word)
    else:
        lane.lay_out(*command.inputs)
    file = lane.case / path
    data = file.read_bytes()
    file.write_bytes(damaged(data, how))
    found.counted = damaged(data, how) != data
    ended = found.take(lane.run(command))
    if ended.flaw in ("traceback", "outside"):
        found.add("tracebacks", ended.said[-400:])
    lost, other = differences(usual.tree, tree_of(lane.case))
    changed = [each for each in lost + other if mode == "made" or each != path]
    if ended.status == 0 and changed:
        found.add("torn_accepted", ", ".join(changed))
    return found
