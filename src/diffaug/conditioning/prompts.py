"""Words for measured attributes: the text that conditions the painter.

A word stands for one attribute beyond one threshold; between two thresholds a prompt has no word, so that words mean
extremes. The thresholds cut off roughly the outer quarters or thirds of real colonoscopy lesions (the 600 training
cases of Kvasir-SEG). Words claim nothing that a 2-D mask and its colours do not show: no millimetres, no histology.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product

from diffaug.conditioning.attributes import Attributes
from diffaug.data.lesions import SIZES, size_class
from diffaug.errors import FindingsError

NORMAL_PROMPT = "normal mucosa"
NORMAL: Mapping[str, str] = {  # domain: what lesion-free tissue is called there
    "endoscopy": NORMAL_PROMPT,
    "fundus": "normal retina",
    "ultrasound": "normal tissue",
    "microscopy": "normal background",
    "dermoscopy": "normal skin",
    "x-ray": "normal tissue",
    "generic": "normal tissue",
}
EMPTY_PROMPT = ""

IRREGULAR = 0.93  # solidity; a shape under it is irregular, whatever its eccentricity
ROUND, ELONGATED = 0.6, 0.8  # eccentricity; under the first (axes of 4:5) round, over the second (3:5) elongated
REDDISH = 10.0  # a* against the ring; a lesion of at least this is reddish, whatever its lightness
PALE, DARK = 17.0, -10.0  # L* against the ring; a lesion is lighter than its surroundings as a rule, rarely darker
LOW_CONTRAST, HIGH_CONTRAST = 10.0, 22.0  # CIELAB distance; LOW_CONTRAST <= REDDISH, PALE, -DARK: no faint vivid lesion
INDISTINCT, SHARP = 6.5, 11.0  # L* per tenth of the diameter
SMOOTH, TEXTURED = 0.9, 1.25  # roughness of the lesion over that of its ring

ASPECTS = ("size", "contrast", "shape", "colour", "border", "surface")
WORDS: dict[str, tuple[str, ...]] = {
    "size": SIZES,
    "contrast": ("low-contrast", "high-contrast"),
    "shape": ("round", "oval", "elongated", "irregular"),
    "colour": ("pale", "dark", "reddish"),
    "border": ("indistinct", "sharp"),
    "surface": ("smooth", "textured"),
}


GREY_COLOURS = ("bright", "dark")  # what is said of lightness in grey images


def words_allowed(grey: bool) -> dict[str, tuple[str, ...]]:
    """Return the words of each aspect that may be said: of grey images no word of colour."""
    return {**WORDS, "colour": GREY_COLOURS} if grey else dict(WORDS)


def shape_word(eccentricity: float, solidity: float) -> str:
    """Return round, oval, elongated or irregular."""
    if solidity < IRREGULAR:
        return "irregular"
    return _outer(eccentricity, ROUND, ELONGATED, "round", "elongated") or "oval"


def words_of(attributes: Attributes, grey: bool = False) -> dict[str, str]:
    """Return the word of each aspect; "" where the attribute is not extreme, and no word of colour of grey images."""
    a = attributes
    light = _outer(a.lightness_contrast, DARK, PALE, "dark", "bright" if grey else "pale")
    return {
        "size": size_class(a.relative_area),
        "contrast": _outer(a.colour_contrast, LOW_CONTRAST, HIGH_CONTRAST, "low-contrast", "high-contrast"),
        "shape": shape_word(a.eccentricity, a.solidity),
        "colour": "reddish" if a.redness_contrast >= REDDISH and not grey else light,
        "border": _outer(a.edge_sharpness, INDISTINCT, SHARP, "indistinct", "sharp"),
        "surface": _outer(a.texture, SMOOTH, TEXTURED, "smooth", "textured"),
    }


def describe(attributes: Attributes, keep: Collection[str] | None = None) -> str:
    """Describe a lesion, such as "a small round pale lesion with indistinct borders and a smooth surface".

    Args:
        attributes: Measured in the whole frame: the size is a word about the frame, never about a window.
        keep: The aspects to mention: some of size, contrast, shape, colour, border and surface; None mentions all.

    Raises:
        FindingsError: An aspect to mention is unknown.

    Example:
        >>> image, mask = np.full((100, 100, 3), (200, 120, 110), np.uint8), np.zeros((100, 100), bool)
        >>> mask[30:60, 40:70] = True
        >>> image[mask] = (170, 60, 60)
        >>> attributes = diffaug.measure_attributes(image, mask)
        >>> diffaug.describe(attributes)
        'a medium high-contrast round reddish lesion with sharp borders and a smooth surface'
        >>> diffaug.describe(attributes, keep=("size", "shape"))
        'a medium round lesion'
    """
    for aspect in keep or ():
        if aspect not in ASPECTS:
            raise FindingsError(f"an aspect must be one of {', '.join(ASPECTS)}: {aspect!r} is not; correct it")
    return phrase(words_of(attributes), ASPECTS if keep is None else keep, "lesion")


def describe_words(words: Mapping[str, str], keep: Collection[str] | None = None) -> str:
    """Describe a lesion by the word of each aspect; an aspect with "" or without a word is not mentioned."""
    return phrase(words, ASPECTS if keep is None else keep, "lesion")


def describe_region(attributes: Attributes, keep: Collection[str] | None = None) -> str:
    """Describe a region that is not known to be a lesion as an "area"; without `keep`, its size is left out."""
    return phrase(words_of(attributes), ASPECTS[1:] if keep is None else keep, "area")


def all_prompts() -> Iterator[str]:
    """Yield every prompt of the grammar: the corpus of the tokenizer."""
    yield NORMAL_PROMPT
    choices = [("", *WORDS[aspect]) for aspect in ASPECTS]
    for noun in ("lesion", "area"):
        for words in product(*choices):
            yield phrase(dict(zip(ASPECTS, words, strict=True)), ASPECTS, noun)


def _outer(value: float, low: float, high: float, below: str, above: str) -> str:
    return below if value < low else above if value > high else ""


def phrase(words: Mapping[str, str], keep: Collection[str], noun: str, traits: Sequence[str] = ()) -> str:
    """Return a noun with its article, the words of some aspects around it, and further traits after these.

    Args:
        words: The word of each aspect; an aspect with "" or without a word is not mentioned.
        keep: The aspects that may be mentioned.
        noun: What is described, without an article.
        traits: What else it comes with, such as "a mucus cap".
    """
    said = {aspect: word for aspect, word in words.items() if aspect in keep and word}
    adjectives = [said[aspect] for aspect in ("size", "contrast", "shape", "colour") if aspect in said]
    start = " ".join([*adjectives, noun])
    ends = []
    if "border" in said:
        ends.append(f"{said['border']} borders")
    if "surface" in said:
        ends.append(f"a {said['surface']} surface")
    ends += traits
    article = "an" if start[0] in "aeiou" else "a"
    return f"{article} {start}" + (f" with {_listed(ends)}" if ends else "")


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
