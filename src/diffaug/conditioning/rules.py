"""Rules of a data set's frames: what in them is border, box, text, glare, too dark or too uneven to be painted on.

The rules were made for endoscopes. On other images some of them are wrong: dark is no border under a fluorescence
microscope, and a white ground is no glare. So they are learned from the annotated lesions of each data set
(`rule_learning.py`), which lie on tissue by definition. Knows numbers and words, no pixels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from diffaug.artifacts import read_json, write_json
from diffaug.errors import DataError, ModelError

RULES_FILE = "rules.json"  # of a model folder
MOST_LOST = 0.02  # share of the annotated lesions' pixels that a rule in force may lose

# The levels of a rule that are tried, the endoscopic one first; each loses no more than the one before it.
LEVELS: Mapping[str, tuple[float, ...]] = {
    "border": (26.0, 16.0, 8.0),  # of 255
    "coloured_boxes": (12.0, 30.0, 60.0),  # of 255
    "grey_boxes": (1.5, 0.75),  # L*
    "text": (0.12, 0.3, 1.1),  # share of the frames; beyond 1, level rows of strokes alone are text
}
GLARE, UNEVEN, SHINY = 0.15, 7.5, 0.05  # endoscopic: share of highlights around a pixel; L*; share of a shape
# Beyond these a level excludes nothing that matters, and the rule is not in force.
MOST_GLARE, MOST_DARK, MOST_UNEVEN = 0.9, 20.0, 25.0

NAMES: Mapping[str, str] = {  # rule: what it keeps paint off, for people
    "border": "dark border",
    "coloured_boxes": "coloured boxes",
    "grey_boxes": "grey boxes",
    "text": "text",
    "glare": "glare",
    "dark": "too dark",
    "uneven": "uneven light",
}


@dataclass(frozen=True)
class FrameRules:
    """The level of each rule; None where it is not in force. The defaults are the endoscopic rules.

    Attributes:
        border: Of 255; pixels without a brighter channel are border if they touch the frame's edge.
        coloured_boxes: Of 255; filled rectangles whose green or blue exceeds red by this much are no tissue.
        grey_boxes: L*; filled grey rectangles whose light spreads less than this are no tissue.
        text: Share of the frames from which on a stroke at one place is printed onto them. Level rows of strokes are
            text as well.
        glare: Share of highlights around a pixel from which on it is no tissue.
        dark: L* by which tissue may be darker than in endoscopy.
        uneven: L*; largest spread of light under a shape on lesion-free tissue.
        shiny: Largest share of a shape on lesion-free tissue that may lie on highlights and in deep shadow. It belongs
            to the rule of glare.
        domain: What the frames show; it names lesion-free tissue.
        grey: Whether the frames are grey, so that no word of colour is said of them.
    """

    border: float | None = LEVELS["border"][0]
    coloured_boxes: float | None = LEVELS["coloured_boxes"][0]
    grey_boxes: float | None = LEVELS["grey_boxes"][0]
    text: float | None = LEVELS["text"][0]
    glare: float | None = GLARE
    dark: float | None = 0.0
    uneven: float | None = UNEVEN
    shiny: float = SHINY
    domain: str = "endoscopy"
    grey: bool = False

    @property
    def in_force(self) -> tuple[str, ...]:
        """The rules that apply."""
        return tuple(rule for rule in NAMES if getattr(self, rule) is not None)

    @property
    def is_upright(self) -> bool:
        """Whether down is away from the probe: lesions keep their upper side, and change what lies below them."""
        return self.domain == "ultrasound"

    def at(self, rule: str, level: float | None) -> "FrameRules":
        """Return the rules with one of them at another level, or out of force."""
        return replace(self, **{rule: level})  # type: ignore[arg-type]

    def described(self) -> str:
        """Return the rules in force for people."""
        return ", ".join(NAMES[rule] for rule in self.in_force) or "none"

    @property
    def left_out(self) -> tuple[str, ...]:
        """The rules that do not."""
        return tuple(rule for rule in NAMES if getattr(self, rule) is None)


ENDOSCOPIC = FrameRules()
NO_RULES = FrameRules(None, None, None, None, None, None, None)


@dataclass(frozen=True)
class Loss:
    """What an endoscopic rule would lose of a data set.

    Attributes:
        pixels: Share of the annotated lesions' pixels, 0 to 1.
        frames: Frames of which it would leave nearly nothing.
    """

    pixels: float
    frames: int


@dataclass(frozen=True)
class LearnedRules:
    """The rules of a data set, and what they were learned from.

    Attributes:
        rules: What is in force.
        frames: Annotated frames with a lesion that were looked at; 0 where nothing was learned.
        painted_on: Those of them that have a place to paint under the rules.
        losses: What each rule would lose at its endoscopic level.
        reason: Why the frames are taken to be of their domain.
    """

    rules: FrameRules = ENDOSCOPIC
    frames: int = 0
    painted_on: int = 0
    losses: Mapping[str, Loss] = field(default_factory=dict)
    reason: str = ""

    def line(self) -> str:
        """Return one line for people: the rules in force, those that are not, and how many frames are painted on."""
        kept = self.rules.described()
        if not self.frames:
            told = "those of endoscopy: this model was fitted before rules were learned"
            return f"rules in force, which keep paint off: {kept} ({told})"
        gone = ", ".join(f"{NAMES[rule]} ({self._reason(rule)})" for rule in self.rules.left_out)
        return (
            f"rules in force, which keep paint off: {kept}{f'; not in force: {gone}' if gone else ''}; "
            f"{self.painted_on} of {self.frames} images with a lesion can be painted on"
        )

    def domain_line(self) -> str:
        """Return one line for people: the domain with its reason, and whether words of colour are said."""
        words = "grey images, so no word of colour is said" if self.rules.grey else "colour images"
        reason = self.reason or "as models of before had it"
        return f"domain, which sets the words of prompts: {self.rules.domain} ({reason}); {words}"

    def _reason(self, rule: str) -> str:
        if rule == "uneven":
            return "light is uneven on the tissue of these images"
        loss = self.losses.get(rule, Loss(0.0, 0))
        if loss.frames:
            return f"it would hide {loss.frames} frame{'s' if loss.frames > 1 else ''}"
        return f"it would hide {100 * loss.pixels:.0f} % of the lesions"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def learned_from_values(values: Any) -> LearnedRules:
    """Return learned rules from JSON values.

    Raises:
        DataError: They are not those of `LearnedRules.as_dict`.
    """
    try:
        rules: dict[str, Any] = {name: _level(values["rules"][name]) for name in NAMES}
        rules |= {"shiny": float(values["rules"]["shiny"]), "domain": str(values["rules"]["domain"])}
        rules["grey"] = bool(values["rules"]["grey"])
        losses = {name: Loss(float(one["pixels"]), int(one["frames"])) for name, one in values["losses"].items()}
        return LearnedRules(
            FrameRules(**rules), int(values["frames"]), int(values["painted_on"]), losses, str(values["reason"])
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        names = ", ".join(each.name for each in fields(LearnedRules))
        raise DataError(f"learned rules hold {names}: these do not; fit the model again") from None


def _level(value: Any) -> float | None:
    return None if value is None else float(value)


def write_rules(folder: Path, learned: LearnedRules) -> None:
    """Write the rules of a model's frames into its folder, before it is sealed."""
    write_json(folder / RULES_FILE, learned.as_dict())


def read_rules(folder: Path) -> LearnedRules:
    """Read the rules of a model's frames; those of endoscopy for a model that was fitted before rules were learned.

    Raises:
        ModelError: The file is malformed.
    """
    path = folder / RULES_FILE
    if not path.is_file():
        return LearnedRules()
    try:
        return learned_from_values(read_json(path))
    except (DataError, ValueError):
        raise ModelError(
            f"{path} holds the rules of a model's frames: it cannot be read; fit the model again"
        ) from None
