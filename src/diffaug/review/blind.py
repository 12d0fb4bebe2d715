"""Can a reader tell painted frames from real ones? Which frames are shown, how answers are kept, and how they count.

Real frames come from the annotated training cases first, then from val and test, which are only looked at; none of
them is of a group that a shown painted frame was made of. The answers stand in `blind.jsonl` in the set, one appended
line each; a session is continued where its reader left it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import beta

from diffaug.artifacts import append_jsonl, digest_of_value, read_jsonl, write_text
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import Row, kept, lesions, read_manifest
from diffaug.data.reviews import When
from diffaug.errors import DataError
from diffaug.names import Inside, Name
from diffaug.reading import read_bytes, typed

FILE = "blind.jsonl"
FIX = "restore the file, or remove the line"
ANSWERS = ("real", "painted", "cannot tell")
Kind = Literal["real", "painted"]
Said = Literal["real", "painted", "cannot tell"]


@dataclass(frozen=True)
class Frame:
    """A frame that is shown."""

    kind: Kind
    case: Case


@dataclass(frozen=True)
class Frames:
    """What is shown in a session.

    Attributes:
        frames: Painted ones first.
        notices: What a reader should know of them, a sentence each.
    """

    frames: tuple[Frame, ...]
    notices: tuple[str, ...]

    def shuffled(self, seed: int) -> tuple[Frame, ...]:
        """Return the frames in the order in which they are shown."""
        order = np.random.default_rng((seed, 1)).permutation(len(self.frames))
        return tuple(self.frames[place] for place in order)


def frames_of(data: Path, synthetic: Path, count: int, seed: int) -> Frames:
    """Return painted frames, each on another background as far as there are so many, and as many real ones.

    Args:
        data: Data set of the real frames.
        synthetic: Finished synthetic set that was painted on it.
        count: Frames of each kind; fewer are returned where there are fewer.
        seed: Of the draw.

    Raises:
        DataError: There are no frames of one kind.
    """
    dataset, made, rng = read_dataset(data), read_manifest(synthetic), np.random.default_rng(seed)
    rows = _spread(kept(lesions(made.rows)), count, rng)
    by_id = {case.id: case for case in dataset.cases}
    used = {by_id[name].group for row in rows for name in row.request.sources if name in by_id}
    real: list[Case] = []
    for split in ("train", "val", "test"):
        cases = [case for case in dataset.annotated(split) if case.group not in used and case.read_mask().any()]
        real += [cases[place] for place in rng.permutation(len(cases))]
    shown = min(count, len(rows), len(real))
    if shown < 1:
        raise DataError(
            f"a blind session needs frames of both kinds: {len(rows)} lesions are kept in {synthetic}, and {len(real)} "
            f"real cases of {data} are the source of none of them; generate some, or give a data set with more cases"
        )
    notices = []
    if shown < count:
        notices.append(f"{shown} frames of each kind: {len(rows)} painted and {len(real)} unused real ones are there")
    backgrounds = len({row.request.background for row in rows[:shown]})
    if backgrounds < shown:
        notices.append(f"{shown} painted frames show {backgrounds} backgrounds: a reader may notice that they repeat")
    painted = (Frame("painted", made.case(row)) for row in rows[:shown])
    return Frames((*painted, *(Frame("real", case) for case in real[:shown])), tuple(notices))


def _spread(rows: Sequence[Row], count: int, rng: np.random.Generator) -> list[Row]:
    """Return `count` rows drawn at random, as many backgrounds among them as there are."""
    waiting: dict[str, list[Row]] = {}
    for place in rng.permutation(len(rows)):
        waiting.setdefault(rows[place].request.background, []).append(rows[place])
    chosen: list[Row] = []
    while waiting and len(chosen) < count:
        chosen += [some.pop() for some in waiting.values()]
        waiting = {name: some for name, some in waiting.items() if some}
    return chosen[:count]


# --- Scores -----------------------------------------------------------------------------------------------------------


def interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval of a share. Source: Clopper and Pearson 1934."""
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, total - count)) if count < total else 1.0
    return low, high


def scored(answers: Mapping[int, str], key: Mapping[int, tuple[str, str]]) -> dict[str, Any]:
    """Return, for frames of each kind, how many were answered in which way, and the share that passes for real.

    A frame passes for real if the answer is "real" or "cannot tell". `told_apart` is the share of right answers among
    those that are not "cannot tell".

    Args:
        answers: By number of the frame.
        key: Kind and id of each frame.

    Raises:
        DataError: There is no answer, or one is to no frame of the key.
    """
    unknown = sorted(set(answers) - set(key))
    if unknown or not answers:
        rule = f"there is no frame {unknown[0]}" if unknown else "no frame is answered"
        raise DataError(f"answers belong to the frames of their key: {rule}; give the key of these frames")
    result: dict[str, Any] = {}
    for kind in ("painted", "real"):
        said = [answers[number] for number, (of, _) in key.items() if of == kind and number in answers]
        passed = sum(answer != "painted" for answer in said)
        low, high = interval(passed, len(said)) if said else (0.0, 1.0)
        counts = {answer: said.count(answer) for answer in ANSWERS}
        result[kind] = {"frames": len(said), **counts, "passed": passed, "low": round(low, 3), "high": round(high, 3)}
    firm = {number: answer for number, answer in answers.items() if answer != "cannot tell"}
    right = sum(answer == key[number][0] for number, answer in firm.items())
    low, high = interval(right, len(firm)) if firm else (0.0, 1.0)
    result["told_apart"] = {"right": right, "of": len(firm), "low": round(low, 3), "high": round(high, 3)}
    result["taken_for_painted"] = sorted(name for number, (_, name) in key.items() if answers.get(number) == "painted")
    return result


def table(result: Mapping[str, Any]) -> str:
    """Return scores as lines of text."""
    lines = []
    for kind in ("painted", "real"):
        found = result[kind]
        words = ", ".join(f"{answer} {found[answer]}" for answer in ANSWERS)
        lines.append(
            f"{kind}: {found['passed']} of {found['frames']} pass for real (95 % interval {found['low']:.2f} to "
            f"{found['high']:.2f}): {words}"
        )
    told = result["told_apart"]
    lines.append(
        f"right answers: {told['right']} of {told['of']} (95 % interval {told['low']:.2f} to {told['high']:.2f})"
    )
    return "\n".join(lines)


# --- Sessions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One answer of a reader.

    Attributes:
        session: Digest of the reader, the seed and the frames.
        number: Of the frame, from 1.
        id: Of its case.
        kind: What it is.
        answer: What the reader said.
        who: The reader.
        when: UTC, to the second.
        seed: Of the session.
        of: Frames of the session.
    """

    session: str
    number: int
    id: Name
    kind: Kind
    answer: Said
    who: Name
    when: When
    seed: int
    of: int


class Session:
    """The frames that a reader is shown, and the answers so far; when all are given they stay as they are.

    Raises:
        DataError: There are no frames of one kind, or `blind.jsonl` is damaged.
    """

    def __init__(self, shown: Frames, folder: Path, who: str, seed: int) -> None:
        self.frames = shown.shuffled(seed)
        self.who, self.seed = who, seed
        self.name = digest_of_value([who, seed, [[one.kind, one.case.id] for one in self.frames]])
        self._path = Inside(folder).path(FILE)
        values = read_jsonl(self._path)
        lines = [typed(Answer, line, f"{self._path} line {n}", FIX) for n, line in enumerate(values, start=1)]
        if self._path.exists() and not (data := read_bytes(self._path)).endswith(b"\n"):  # a kill cut the last line off
            whole = data.split(b"\n")[: len(lines)]
            write_text(self._path, "".join(f"{line.decode()}\n" for line in whole))
        own = [line for line in lines if line.session == self.name and 1 <= line.number <= len(self.frames)]
        self.answers = {line.number: str(line.answer) for line in own}

    @property
    def finished(self) -> bool:
        """Whether every frame is answered."""
        return len(self.answers) == len(self.frames)

    def say(self, number: int, answer: Said, when: str) -> None:
        """Record an answer.

        Raises:
            DataError: There is no such frame, or the session is finished.
        """
        if self.finished:
            raise DataError("a finished session stays as it is: all frames are answered; take another --seed")
        if not 1 <= number <= len(self.frames):
            raise DataError(f"a frame has a number from 1 to {len(self.frames)}: {number} is none")
        frame = self.frames[number - 1]
        place = {"session": self.name, "number": number, "id": frame.case.id, "kind": frame.kind}
        line = Answer(**place, answer=answer, who=self.who, when=when, seed=self.seed, of=len(self.frames))  # type: ignore[arg-type]
        append_jsonl(self._path, asdict(line))
        self.answers[number] = answer

    def result(self) -> dict[str, Any]:
        """Return the scores, as `scored` does."""
        return scored(self.answers, {n: (one.kind, one.case.id) for n, one in enumerate(self.frames, start=1)})
