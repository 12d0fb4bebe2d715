"""What the classes of a data set mean for describing, painting and scoring its cases.

Most data sets have lesions: any number of them, wherever there is tissue. Classes `disc` and `cup` are an optic disc
with its cup: a frame has one, which stays where it is. Callers ask the domain of their classes and know no kind of it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from diffaug.conditioning.cups import describe_disc, terms
from diffaug.conditioning.prompts import NORMAL, describe_words
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.data.case import Case
from diffaug.data.fundus import disc_and_cup, vertical_ratio
from diffaug.data.images import Mask
from diffaug.errors import ConfigError

CUP = "cup"  # the aspect of an optic disc that its vertical cup-to-disc ratio decides
LARGE_CUP = 0.7  # vertical cup-to-disc ratio; from here on a cup is very large (`findings/fundus.yaml`)
CUP_STRATA = ("smaller-cup", "very-large-cup")


@dataclass(frozen=True)
class Domain:
    """Lesions: any number of them in a frame, wherever there is tissue.

    Attributes:
        names: Of the classes; one class `lesion` where a data set declares none.
        rules: What is known of the frames; their domain names lesion-free tissue.
        stays_in_place: Whether a frame has one structure with all classes that is painted where it is. Then there are
            no negatives, no placement `free`, and no other backgrounds than annotated ones.
        aspects: What a prompt may mention beside the aspects of every lesion.
        columns: What evaluation measures beside the metrics of each class.
        summary: Those of the columns that a study's tables show.
        strata: Subgroups of test cases beside those of every lesion.
    """

    names: tuple[str, ...]
    rules: FrameRules = ENDOSCOPIC
    stays_in_place: ClassVar[bool] = False
    aspects: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[str, ...]] = ()
    summary: ClassVar[tuple[str, ...]] = ()
    strata: ClassVar[tuple[str, ...]] = ()

    @property
    def noun(self) -> str:
        """What a lesion is called where nothing more is known of it."""
        return "lesion"

    @property
    def normal_prompt(self) -> str:
        """What lesion-free tissue is called."""
        return NORMAL.get(self.rules.domain, NORMAL["generic"])

    def describe(self, words: Mapping[str, str], keep: Collection[str], masks: Mask) -> str:
        """Describe a lesion.

        Args:
            words: The word of each aspect; "" or a missing aspect says nothing.
            keep: The aspects to mention, those of `aspects` among them.
            masks: The lesion's mask of each class, upright, (K, H, W).
        """
        return describe_words(words, keep)

    def nested(self, case: Case, lesion: Mask, target: Mask) -> list[tuple[Mask, Mask]]:
        """Return the structures inside a lesion, each with where it goes when the lesion is moved, innermost first.

        Args:
            case: Where the lesion is annotated.
            lesion: Its mask, (H, W).
            target: The mask of each class of the lesion to be painted, (K, H', W').
        """
        return []

    def check_place(self, place: str) -> None:
        """Refuse a placement that the frames do not allow.

        Raises:
            ConfigError: The placement is `free`, and a frame has one structure that stays where it is.
        """

    def ratio(self, masks: Mask) -> float | None:
        """Return the vertical cup-to-disc ratio of a frame's classes, (K, H, W); None where it has no meaning."""
        return None

    def scores(self, references: Mask, predictions: Mask) -> dict[str, float | None]:
        """Return the value of each of `columns` for the reference and the prediction of a frame, both (K, H, W)."""
        return {}


@dataclass(frozen=True)
class OpticDisc(Domain):
    """An optic disc with its cup."""

    stays_in_place: ClassVar[bool] = True
    aspects: ClassVar[tuple[str, ...]] = (CUP,)
    columns: ClassVar[tuple[str, ...]] = ("vcdr", "vcdr_error")
    summary: ClassVar[tuple[str, ...]] = ("vcdr_error",)
    strata: ClassVar[tuple[str, ...]] = CUP_STRATA

    @property
    def noun(self) -> str:
        """What a disc is called where nothing more is known of it."""
        return terms()["disc"]

    @property
    def normal_prompt(self) -> str:
        """What lies around a disc."""
        return NORMAL["fundus"]

    def describe(self, words: Mapping[str, str], keep: Collection[str], masks: Mask) -> str:
        """Describe a disc and, if that is to be mentioned, its cup."""
        return describe_disc(words, keep, self.ratio(masks) if CUP in keep else None)

    def nested(self, case: Case, lesion: Mask, target: Mask) -> list[tuple[Mask, Mask]]:
        """Return the cup, if both discs have one."""
        (_, cup), (_, other) = self._disc_and_cup(case.read_masks() & lesion), self._disc_and_cup(target)
        return [(cup, other)] if cup.any() and other.any() else []

    def check_place(self, place: str) -> None:
        """Refuse a second disc in an eye."""
        if place == "free":
            raise ConfigError("an eye has one disc, which is repainted where it is: place is free; set it to replace")

    def ratio(self, masks: Mask) -> float | None:
        """Return the vertical cup-to-disc ratio; None without a disc."""
        return vertical_ratio(*self._disc_and_cup(masks))

    def scores(self, references: Mask, predictions: Mask) -> dict[str, float | None]:
        """Return the ratio of the prediction, and how far it is from the reference's.

        A prediction without a disc counts as a ratio of 0. A reference without a disc has no error.
        """
        wanted, ratio = self.ratio(references), self.ratio(predictions)
        return {"vcdr": ratio, "vcdr_error": None if wanted is None else abs((ratio or 0.0) - wanted)}

    def _disc_and_cup(self, masks: Mask) -> tuple[Mask, Mask]:
        return masks[self.names.index("disc")], masks[self.names.index("cup")]


def domain_of(names: Sequence[str], rules: FrameRules = ENDOSCOPIC) -> Domain:
    """Return what the classes of a data set mean, from their names and what is known of its frames."""
    return OpticDisc(tuple(names), rules) if disc_and_cup(names) else Domain(tuple(names), rules)


def strata_of_ratio(ratio: float | None) -> tuple[str, ...]:
    """Return the stratum of a case by its vertical cup-to-disc ratio; none where the ratio has no meaning."""
    return () if ratio is None else (CUP_STRATA[int(ratio >= LARGE_CUP)],)
