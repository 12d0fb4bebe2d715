"""What manifests say: what a request asks for, what is measured on its result, and what a removal painted away."""

from dataclasses import dataclass
from typing import Literal

from diffaug.names import Name, OptionalName

Placement = Literal["free", "replace", "removed"]


@dataclass(frozen=True)
class MaskTransform:
    """An elastic transform, then a similarity transform: flip left-right, then rotate, then scale.

    `scale` is relative to the frame: 1 keeps the lesion's share of its area, whatever the elastic transform does.
    A lesion that is cut by the edge of its frame keeps its cut side `at_edge` of another; elsewhere it is rounded off.
    """

    scale: float = 1.0
    angle: float = 0.0  # degrees, counter-clockwise
    flip: bool = False
    elastic: float = 0.0  # standard deviation of the shifts, as a share of the equivalent diameter
    warp: int = 0  # seeds the shifts
    at_edge: bool = False  # an edge of the frame cuts it


@dataclass(frozen=True)
class Request:
    """What to paint: which mask, where, on which background, and from which seed. Nothing is measured on the result."""

    index: int
    id: Name
    seed: int  # of the painter's noise; derived from the base seed and the index
    background: Name  # case id
    mask_case: Name  # case id
    component: int  # of the mask case, 0 = the largest
    placement: Placement
    transform: MaskTransform
    top: int  # px of the background's frame, of the transformed mask's bounding box
    left: int
    prompt: str
    size_bin: str  # small, medium or large: the new mask's share of the background's frame
    findings: tuple[str, ...] = ()  # that the prompt is made of
    unknown_words: tuple[str, ...] = ()  # left out of the prompt, since the model was not trained on them
    aim: str = ""  # the stratum it was drawn for, if any
    cup_ratio: float | None = None  # vertical cup-to-disc ratio of the new cup in the background's own disc
    negative: bool = False  # lesion-free tissue is painted where the mask lies, and labelled background
    example: OptionalName = (
        ""  # case id; its largest lesion, moved onto the mask, is what sampling starts from, if anything
    )

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the training cases that it is made of, sorted."""
        return tuple(sorted({self.background, self.mask_case, self.example} - {""}))


@dataclass(frozen=True)
class Check:
    """One look of the gate at one sample.

    Attributes:
        step: Steps done.
        t: Timestep of the estimate.
        score: Agreement with the requested mask inside the region, in [0, 1].
        threshold: The least accepted score.
    """

    step: int
    t: int
    score: float
    threshold: float

    @property
    def accepted(self) -> bool:
        """Whether the sample may go on."""
        return self.score >= self.threshold


@dataclass(frozen=True)
class RemovedRegion:
    """A region of a background from which a lesion was painted away.

    Attributes:
        window: Top, left and side of the window, px of the frame.
        seed: Of the painter's noise.
        found_before: Share of the lesion's area that the validator found before.
        found_after: The same after.
        patched: Whether tissue of the frame covers the region; without, tissue was mirrored at its border.
    """

    window: tuple[int, int, int]
    seed: int
    found_before: float
    found_after: float
    patched: bool = True


@dataclass(frozen=True)
class Scores:
    """What was measured on a painted case with a study's baseline, see `study.derive`.

    Attributes:
        loss: 1 - soft Dice of the baseline's prediction.
        novelty: Distance of the attributes from those of the nearest training lesion, in standard deviations.
        low_contrast: Whether its contrast is under the lowest third of the training lesions.
        features: The attributes, in standard deviations from the mean of the training lesions.
    """

    loss: float
    novelty: float
    low_contrast: bool
    features: tuple[float, ...]


@dataclass(frozen=True)
class RemovedCase:
    """A case whose lesions were painted away: a row of the manifest that `diffaug remove` writes.

    Attributes:
        id: Of the new case.
        source: The case that it was.
        model: Digest of the model.
        regions: What was painted.
        image_digest: Of the picture's bytes.
        mask_digest: Of the empty mask's.
    """

    id: Name
    source: Name
    model: str
    regions: tuple[RemovedRegion, ...]
    image_digest: str
    mask_digest: str

    @property
    def image(self) -> str:
        """The path of its picture in the folder."""
        return f"images/{self.id}.png"

    @property
    def mask(self) -> str:
        """The path of its empty mask in the folder."""
        return f"masks/{self.id}.png"

    @property
    def digests(self) -> dict[str, str]:
        """The digests of its files by path."""
        return {self.image: self.image_digest, self.mask: self.mask_digest}
