"""Requests: what to paint, on which background, where, and from which seed.

Request i is a pure function of the cases, the seed, the config and i: neither the number of requests nor the order in
which they are drawn matters. Masks and backgrounds come from annotated training cases, and from the user's lesion-free
images, which give backgrounds only.

Size follows the data: the mask is drawn first, then a place for it is sought; a mask that is too large for the
lesion-free parts of the backgrounds replaces a lesion of about its own size.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from diffaug.conditioning.attributes import measure_attributes, shape_of
from diffaug.conditioning.cup import (
    ASPECTS_OF_DISC,
    DECIDED,
    DISC,
    cup_class,
    cup_of_ratio,
    describe_disc,
    draw_ratio,
    terms,
)
from diffaug.conditioning.findings import GENERIC, library_of
from diffaug.conditioning.grammar import NOUN, Listener, draw_prompt, heard
from diffaug.conditioning.masks import (
    EIGHT,
    MaskBank,
    MaskEntry,
    MaskTransform,
    check_train,
    label_of_entry,
    paste,
    render,
    render_label,
    transform_from_dict,
)
from diffaug.conditioning.placement import Terrain, place_free, place_replace, terrain_of
from diffaug.conditioning.prompts import ASPECTS, NORMAL_PROMPT, describe_words, shape_word, size_bin, words_of
from diffaug.config import GenerateConfig
from diffaug.data.case import Case, Label, LabelClass, Mask, masks_from_label
from diffaug.data.fundus import disc_and_cup, vertical_ratio
from diffaug.errors import ConfigError, DataError, PlacementError

TRIES = 12  # backgrounds per mask and placement
MASKS = 40  # masks per request
SHRINK = 0.85  # a mask that is too large for `free` is tried once more at this scale
SIMILAR = (0.7, 1.4)  # area of a replacing mask over that of the old lesion: what is repainted is mostly new lesion
REPLACE_MARGIN = 0.3  # of the band: a replacing mask may come nearer to the border than a free one, as old lesions do

Placement = Literal["free", "replace"]


@dataclass(frozen=True)
class Request:
    """What to paint: all that `masks_of_request` and the painter need, and nothing measured on the result."""

    index: int
    id: str
    seed: int  # of the painter's noise; derived from the base seed and the index
    background: str  # case id
    mask_case: str  # case id
    component: int  # of the mask case, 0 = the largest
    placement: Placement
    transform: MaskTransform
    top: int  # px of the background's frame, of the transformed mask's bounding box
    left: int
    prompt: str
    size_bin: str  # small, medium or large: the new mask's share of the background's frame
    findings: tuple[str, ...] = ()  # that the prompt is made of
    unsaid: tuple[str, ...] = ()  # left out of the prompt, since the model does not know it
    cup_ratio: float | None = None  # vertical cup-to-disc ratio of the new cup in the background's own disc
    fill: bool = False  # lesion-free tissue is painted where the mask lies, and labelled background

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, the transform's among them; findings, a cup's ratio and `fill` where there are."""
        values = asdict(self)
        transform, findings, unsaid, fill = (values.pop(name) for name in ("transform", "findings", "unsaid", "fill"))
        asked = {"findings": list(findings), "unsaid": list(unsaid)} if findings or unsaid else {}
        if values["cup_ratio"] is None:
            del values["cup_ratio"]
        return {**values, **transform, **asked, **({"fill": True} if fill else {})}


@dataclass(frozen=True)
class RequestMasks:
    """Masks of a request, each of shape (H, W) of the background's frame."""

    new: Mask  # to be painted; of a fill, to be painted lesion-free
    old: Mask  # to be painted away; empty for `free`
    label: Mask  # the final label: what stays of the old lesions, and the new one
    values: Label  # the same in the values of the data set's classes; 0 and 1 where it declares none

    def new_classes(self, classes: Sequence[LabelClass]) -> Mask:
        """Return what is to be painted of each class, (K, H, W)."""
        return masks_from_label(self.values * self.new, classes)


def request_from_dict(values: dict[str, Any]) -> Request:
    """Return the request that `as_dict` wrote; other keys are ignored, so that a manifest row will do."""
    texts = {name: str(values[name]) for name in ("id", "background", "mask_case", "prompt", "size_bin")}
    numbers = {name: int(values[name]) for name in ("index", "seed", "component", "top", "left")}
    fields: dict[str, Any] = {**texts, **numbers, "placement": values["placement"]}
    fields |= {name: tuple(values.get(name, ())) for name in ("findings", "unsaid")}
    fields["cup_ratio"] = None if values.get("cup_ratio") is None else float(values["cup_ratio"])
    return Request(**fields, transform=transform_from_dict(values), fill=bool(values.get("fill", False)))


def seed_of_request(seed: int, index: int) -> int:
    """Return a request's own seed, 63 bits of SHA-256 of the base seed and the index."""
    digest = hashlib.sha256(f"diffaug request {seed} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_requests(
    cases: Sequence[Case], count: int, seed: int, config: GenerateConfig, normals: Sequence[Case] = ()
) -> Iterator[Request]:
    """Yield the first `count` requests.

    Raises:
        DataError: A case is of val or test, or an annotated case has no mask.
        PlacementError: There is no usable mask, or no mask fits on any background.
    """
    drawer = RequestDrawer(cases, seed, config, normals)
    for index in range(count):
        yield drawer.draw(index)


def masks_of_request(
    request: Request, bank: MaskBank, lesion: Mask | Label, classes: Sequence[LabelClass] = ()
) -> RequestMasks:
    """Return where to paint and the final label.

    Args:
        request: What to paint.
        bank: Holds the request's mask case.
        lesion: Mask or label of the background, shape (H, W); empty for a lesion-free image. Every connected component
            that the new mask touches is painted away.
        classes: Those of the label.
    """
    before, lesion = lesion.astype(np.uint8), lesion > 0
    entry = bank.entry(request.mask_case, request.component)
    if request.cup_ratio is None:
        made = render_label(entry, request.transform, _frame(lesion))
    else:
        made = label_of_ratio(entry, request.cup_ratio, classes)
    made = paste(made, request.top, request.left, _frame(lesion))
    new = made > 0
    if request.fill:
        return RequestMasks(new, np.zeros_like(lesion), lesion, before)
    labels, _ = ndimage.label(lesion, structure=EIGHT)
    touched = np.unique(labels[new & lesion])
    old = np.isin(labels, touched[touched > 0])
    label = (lesion & ~old) | new
    return RequestMasks(new, old, label, np.where(new, made, before * label))


def label_of_ratio(entry: MaskEntry, ratio: float, classes: Sequence[LabelClass]) -> Label:
    """Return the label of a disc with its cup at another vertical cup-to-disc ratio, (h, w) of the entry's crop.

    Pixels of the disc are the first value that is of the disc and not of the cup, those of the cup its first value.
    """
    masks = masks_from_label(label_of_entry(entry), classes)
    disc, cup = (classes[place] for place in _disc_and_cup(classes))
    rim = next(value for value in disc.values if value not in cup.values)
    whole, inner = (masks[place] for place in _disc_and_cup(classes))
    made = np.where(whole | inner, np.uint8(rim), np.uint8(0))
    made[cup_of_ratio(whole | inner, inner, ratio)] = cup.values[0]
    return made


def _disc_and_cup(classes: Sequence[LabelClass]) -> tuple[int, int]:
    places = disc_and_cup([one.name for one in classes])
    if places is None:
        raise DataError(f"a cup needs the classes disc and cup: the data has {', '.join(one.name for one in classes)}")
    return places


def is_generic(config: GenerateConfig) -> bool:
    """Tell whether prompts are made of measured words alone, without findings."""
    return config.domain == GENERIC and config.findings is None


def check_place(config: GenerateConfig, classes: Sequence[LabelClass]) -> None:
    """Refuse a second disc in an eye.

    Raises:
        ConfigError: `place` is free, and the classes are disc and cup.
    """
    if config.place == "free" and disc_and_cup([one.name for one in classes]):
        raise ConfigError("an eye has one disc, which is repainted where it is: place is free; set it to replace")


class RequestDrawer:
    """Draws requests by index; keeps what it has learnt of each background.

    With the findings of another domain than the generic one, prompts are drawn from these, as far as the listener
    knows their words.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        seed: int,
        config: GenerateConfig,
        normals: Sequence[Case] = (),
        listener: Listener | None = None,
    ) -> None:
        self.seed = seed
        self.config = config
        self.library = None if is_generic(config) else library_of(config.domain, config.findings)
        self.listener = listener or Listener()
        self.cases = {case.id: case for case in sorted(cases, key=lambda case: case.id)}
        self.normals = {check_train(case).id: case for case in sorted(normals, key=lambda case: case.id)}
        self.bank = MaskBank.from_cases(cases)
        self.classes = next(iter(self.cases.values())).classes
        check_place(config, self.classes)
        self.discs = self._discs()
        self._terrains: dict[str, Terrain] = {}
        self._words: dict[str, dict[str, str]] = {}
        self._annotated = tuple(name for name, case in self.cases.items() if not case.negative)
        self._backgrounds = (*self.cases, *self.normals)

    def draw(self, index: int) -> Request:
        """Return request `index`.

        Raises:
            PlacementError: No mask fits on any of the backgrounds that were tried.
        """
        own_seed = seed_of_request(self.seed, index)
        named = {"index": index, "id": f"synth-{index:05d}", "seed": own_seed}
        fill = self._draw_fill(own_seed)
        if fill is not None:
            return replace(fill, **named)  # type: ignore[arg-type]
        rng = np.random.default_rng(own_seed)
        if self.discs:
            return replace(self._draw_cup(rng), **named)  # type: ignore[arg-type]
        placement = self._draw_placement(rng)
        for _ in range(MASKS):
            entry, transform = self.bank.draw(rng)
            found = self._place(entry, transform, placement, rng)
            if found is not None:
                return self._finish(replace(found, **named), rng)  # type: ignore[arg-type]
        raise PlacementError(
            f"a mask must fit on some background: none of {MASKS} drawn masks fitted one of "
            f"{len(self._backgrounds)} backgrounds for request {index}; add images with more tissue, "
            "or set place: mixed"
        )

    def _draw_fill(self, own_seed: int) -> Request | None:
        """Return a fill, where this request is to be one and a mask fits on lesion-free tissue."""
        rng = np.random.default_rng((own_seed, 2))
        if self.discs:  # an eye has one disc, and its surroundings hold no cup to be mistaken for
            return None
        if rng.random() >= self.config.fills / (1 + self.config.fills):
            return None
        for _ in range(MASKS):
            entry, transform = self.bank.draw(rng)
            found = self._free(entry, transform, rng)
            if found is not None:
                frame = self.terrain(found.background).frame
                area = float(np.count_nonzero(render(entry, found.transform, frame))) / (frame[0] * frame[1])
                return replace(found, prompt=NORMAL_PROMPT, size_bin=size_bin(area), fill=True)
        return None

    def lesion_of(self, background: str) -> Mask:
        """Return the mask of a background, shape (H, W); empty for a lesion-free image."""
        if background in self.cases:
            return self.cases[background].read_mask()
        return np.zeros(self.normals[background].read_image().shape[:2], dtype=bool)

    def masks(self, request: Request) -> RequestMasks:
        """Return the masks of a request of this drawer."""
        several = self.classes and request.background in self.cases
        lesion = self.cases[request.background].read_label() if several else self.lesion_of(request.background)
        return masks_of_request(request, self.bank, lesion, self.classes)

    def _discs(self) -> dict[str, float]:
        """Return the vertical cup-to-disc ratio of each case, where disc and cup are classes; else nothing."""
        places = disc_and_cup([one.name for one in self.classes])
        if places is None:
            return {}
        found = {}
        for entry in self.bank.entries:
            masks = masks_from_label(label_of_entry(entry), self.classes)
            ratio = vertical_ratio(masks[places[0]], masks[places[1]])
            if ratio is not None and entry.component == 0:  # the largest component is a disc, and not some other class
                found[entry.case] = ratio
        return found

    def _draw_cup(self, rng: np.random.Generator) -> Request:
        """Draw a request for another cup in the disc of a training case: an eye has one disc, which stays where it is.

        Size, shape and contrast are said as they are; the words of the cup are those of its new ratio.
        """
        names = list(self.discs)
        name = names[int(rng.integers(len(names)))]
        ratio = draw_ratio(tuple(self.discs.values()), rng)
        entry, words = self.bank.components(name)[0], self._words_of_case(name)
        bin_ = size_bin(entry.relative_area)
        request = _partial(entry, MaskTransform(), name, "replace", (entry.top, entry.left))
        request = replace(request, cup_ratio=ratio, size_bin=bin_)
        own = self.cases[name].prompt
        if own or self.library is None:
            return replace(request, prompt=own or describe_disc({**words, "size": bin_}, ASPECTS, ratio))
        decided = {group: "" for group in DECIDED if group in self.library.groups}
        if cup_class(ratio) in self.library.findings:
            decided["cup"] = cup_class(ratio)
        said = {aspect: word for aspect, word in words.items() if aspect in ASPECTS_OF_DISC and word} | {"size": bin_}
        draft = draw_prompt(self.library, rng, {"shape": words["shape"]}, settings=False, decided=decided)
        noun = terms()[DISC]
        draft = replace(draft, words=said, head=noun if draft.head == NOUN else draft.head)
        prompt, unsaid = heard(draft, self.listener, noun)
        return replace(request, prompt=prompt, findings=draft.findings, unsaid=unsaid)

    def _draw_placement(self, rng: np.random.Generator) -> Placement:
        free = rng.random() < self.config.free_share
        if self.config.place != "mixed":
            return self.config.place
        return "free" if free else "replace"

    def _place(
        self, entry: MaskEntry, transform: MaskTransform, placement: Placement, rng: np.random.Generator
    ) -> Request | None:
        """Seek a place for a mask: as asked, then smaller, then, in a mix, the other way."""
        if placement == "replace":
            found = self._replace(entry, transform, rng)
            return found or (self._free(entry, transform, rng) if self.config.place == "mixed" else None)
        smaller = replace(transform, scale=round(transform.scale * SHRINK, 4))
        found = self._free(entry, transform, rng) or self._free(entry, smaller, rng)
        return found or (self._replace(entry, transform, rng) if self.config.place == "mixed" else None)

    def _free(self, entry: MaskEntry, transform: MaskTransform, rng: np.random.Generator) -> Request | None:
        shape_in = cache(partial(render, entry, transform))
        for choice in rng.permutation(len(self._backgrounds))[:TRIES]:
            background = self._backgrounds[int(choice)]
            terrain = self.terrain(background)
            if entry.relative_area * transform.scale**2 > terrain.room:
                continue
            shape = shape_in(terrain.frame)
            place = place_free(terrain, shape, rng, self._margin(shape))
            if place is not None:
                return _partial(entry, transform, background, "free", place)
        return None

    def _replace(self, entry: MaskEntry, transform: MaskTransform, rng: np.random.Generator) -> Request | None:
        area = entry.relative_area * transform.scale**2
        shape_in = cache(partial(render, entry, transform))
        similar = [old for old in self.bank.entries if SIMILAR[0] <= area / old.relative_area <= SIMILAR[1]]
        for choice in rng.permutation(len(similar))[:TRIES]:
            old = similar[int(choice)]
            shape = shape_in(old.frame)
            margin = REPLACE_MARGIN * self._margin(shape)
            place = place_replace(self.terrain(old.case), old.in_frame(), shape, margin)
            if place is not None:
                return _partial(entry, transform, old.case, "replace", place)
        return None

    def _finish(self, request: Request, rng: np.random.Generator) -> Request:
        """Add the words: size and shape of the new mask itself, the others of a random training case."""
        frame = self.terrain(request.background).frame
        shape = render(self.bank.entry(request.mask_case, request.component), request.transform, frame)
        area = float(np.count_nonzero(shape))
        words = dict(self._words_of_case(self._annotated[int(rng.integers(len(self._annotated)))]))
        words |= {"size": size_bin(area / (frame[0] * frame[1])), "shape": shape_word(*shape_of(shape))}
        request = replace(request, size_bin=words["size"])
        own = self.cases[request.mask_case].prompt
        if own or self.library is None:
            return replace(request, prompt=own or describe_words(words))
        draft = draw_prompt(self.library, rng, {"size": words["size"], "shape": words["shape"]}, settings=False)
        prompt, unsaid = heard(draft, self.listener)
        return replace(request, prompt=prompt, findings=draft.findings, unsaid=unsaid)

    def _margin(self, shape: Mask) -> float:
        """Return px of tissue for the blending band."""
        return max(2.0, self.config.band * float(max(shape.shape)))

    def terrain(self, background: str) -> Terrain:
        """Return what placement knows of a background; found once."""
        if background not in self._terrains:
            case = self.cases.get(background) or self.normals[background]
            image = case.read_image()
            lesion = case.read_mask() if background in self.cases else np.zeros(image.shape[:2], dtype=bool)
            self._terrains[background] = terrain_of(image, lesion)
        return self._terrains[background]

    def _words_of_case(self, name: str) -> dict[str, str]:
        if name not in self._words:
            case = self.cases[name]
            self._words[name] = words_of(measure_attributes(case.read_image(), case.read_mask()))
        return self._words[name]


def _partial(
    entry: MaskEntry, transform: MaskTransform, background: str, placement: Placement, place: tuple[int, int]
) -> Request:
    """Return a request that has a place, but no number, seed and words yet."""
    return Request(0, "", 0, background, entry.case, entry.component, placement, transform, *place, "", "")


def _frame(mask: Mask) -> tuple[int, int]:
    return int(mask.shape[0]), int(mask.shape[1])
