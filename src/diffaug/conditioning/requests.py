"""Requests: what to paint, on which background, where, and from which seed.

Request i is a pure function of the cases, the seed, the config and i: neither the number of requests nor the order in
which they are drawn matters. Masks come from annotated training cases, and backgrounds too; other images, lesion-free
or with lesions that a baseline found, give backgrounds only.

Size follows the data: the mask is drawn first, then a place for it is sought. So does the number of lesions: in the mix
as many requests add a lesion to a frame as frames hold more than one; the others replace a lesion of about their own
size, or lie anywhere in a frame whose lesions are painted away first.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from diffaug.conditioning.attributes import (
    Attributes,
    Setting,
    equivalent_diameter,
    measure_attributes,
    setting_of,
    shape_of,
    texture_of,
)
from diffaug.conditioning.budget import LOW, Budget, check_aim, stratum
from diffaug.conditioning.cups import (
    ASPECTS_OF_DISC,
    DECIDED,
    DISC,
    cup_class,
    cup_of_ratio,
    describe_disc,
    draw_ratio,
    terms,
)
from diffaug.conditioning.findings import GENERIC, Library, library_of
from diffaug.conditioning.grammar import NOUN, Listener, draw_prompt, heard
from diffaug.conditioning.masks import (
    MaskBank,
    MaskEntry,
    check_train,
    draw_transform,
    entries_of,
    label_of_entry,
    paste,
    render,
    render_label,
)
from diffaug.conditioning.placement import (
    BAND,
    SAMPLE,
    Terrain,
    lost_from_view,
    place_free,
    place_replace,
    printed_on,
    terrain_of,
)
from diffaug.conditioning.prompts import (
    ASPECTS,
    NORMAL_PROMPT,
    SMOOTH,
    TEXTURED,
    describe_words,
    shape_word,
    words_of,
)
from diffaug.config import GenerateConfig
from diffaug.data.case import Case, Label, LabelClass, Mask, Pixels, masks_from_label
from diffaug.data.fundus import disc_and_cup, vertical_ratio
from diffaug.data.lesions import LARGE, SMALL, connected_parts, size_class
from diffaug.data.manifest import MaskTransform, Placement, Request
from diffaug.errors import ConfigError, DataError, PlacementError

TRIES = 12  # backgrounds per mask and placement
MASKS = 40  # masks per request
SHRINK = 0.85  # a mask that is too large for `free` is tried once more at this scale
SIMILAR = (0.7, 1.4)  # area of a replacing mask over that of the old lesion: what is repainted is mostly new lesion
REMOVED_SHARE = 0.4  # of the requests of a mix that do not add a lesion; the rest of them replace one
INSIDE = 1.06  # a mask drawn for a size keeps this factor from that size's limits: pixels and corners move its area
BOUNDS = {"small": (0.0, SMALL), "medium": (SMALL, LARGE), "large": (LARGE, 1.0)}
REMOVABLE = 0.3  # share of the frame; under larger lesions too little is known of the tissue
OF_LOOK = ("contrast", "colour", "border", "surface")  # aspects that an example has, whatever mask it is moved onto
NEARLY = 0.05  # of the natural logarithm of a texture
ALIKE = 0.25  # share of the training lesions that suit a place best, of which one is the example
NEAREST = 0.12  # share of the eyes that a cup of some ratio is painted in
DELTA_E = 10.0  # CIELAB distance of the tissue that counts as much as a size that differs by e
CUT = 2.0  # of an example none of whose surroundings are tissue
NOTHING: Mapping[str, str] = {}
REPLACE_MARGIN = 0.3  # of the band: a replacing mask may come nearer to the border than a free one, as old lesions do


@dataclass(frozen=True)
class RequestMasks:
    """Masks of a request, each of shape (H, W) of the background's frame."""

    new: Mask  # to be painted; of a fill, to be painted lesion-free
    old: Mask  # to be painted over with the new one; empty for `free`, and for `removed`, where it is gone by then
    label: Mask  # the final label: what stays of the old lesions, and the new one
    values: Label  # the same in the values of the data set's classes; 0 and 1 where it declares none

    def new_classes(self, classes: Sequence[LabelClass]) -> Mask:
        """Return what is to be painted of each class, (K, H, W)."""
        return masks_from_label(self.values * self.new, classes)


REQUEST_TEXTS = ("id", "background", "mask_case", "prompt", "size_bin", "aim", "example")


def request_as_dict(request: Request) -> dict[str, Any]:
    """Return a request as the columns of a row of schema 1."""
    values = asdict(request)
    values |= values.pop("transform") | {"fill": values.pop("negative"), "unsaid": values.pop("unknown_words")}
    unset: dict[str, Any] = {"fill": False, "unsaid": (), "findings": (), "aim": "", "example": "", "cup_ratio": None}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name not in unset or value != unset[name]
    }


def request_from_dict(values: dict[str, Any]) -> Request:
    """Return the request that `request_as_dict` wrote; other keys are ignored, so that a manifest row will do."""
    texts = {name: str(values.get(name, "")) for name in REQUEST_TEXTS}
    numbers = {name: int(values[name]) for name in ("index", "seed", "component", "top", "left")}
    findings, unknown = tuple(values.get("findings", ())), tuple(values.get("unsaid", ()))
    ratio = None if values.get("cup_ratio") is None else float(values["cup_ratio"])
    scale, angle, elastic = (float(values[name]) for name in ("scale", "angle", "elastic"))
    known: dict[str, Any] = {**numbers, **texts}
    return Request(
        **known,
        transform=MaskTransform(scale, angle, bool(values["flip"]), elastic, int(values["warp"])),
        placement=values["placement"],
        findings=findings,
        unknown_words=unknown,
        cup_ratio=ratio,
        negative=bool(values.get("fill", False)),
    )


def seed_of_request(seed: int, index: int) -> int:
    """Return a request's own seed, 63 bits of SHA-256 of the base seed and the index."""
    digest = hashlib.sha256(f"diffaug request {seed} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_requests(
    cases: Sequence[Case], count: int, seed: int, config: GenerateConfig, others: Sequence[Case] = ()
) -> Iterator[Request]:
    """Yield the first `count` requests.

    Raises:
        DataError: A case is of val or test, or an annotated case has no mask.
        PlacementError: There is no usable mask, or no mask fits on any background.
    """
    drawer = RequestDrawer(cases, seed, config, others)
    for index in range(count):
        yield drawer.draw(index)


def masks_of_request(
    request: Request,
    bank: MaskBank,
    lesion: Mask | Label,
    classes: Sequence[LabelClass] = (),
) -> RequestMasks:
    """Return where to paint and the final label.

    Args:
        request: What to paint.
        bank: Holds the request's mask case.
        lesion: Mask or label of the background, shape (H, W); empty for a lesion-free image. Every connected component
            that the new mask touches is painted away; with `removed`, all of them were before.
        classes: Those of the label.
    """
    lesion = np.zeros_like(lesion) if request.placement == "removed" else lesion
    before, lesion = lesion.astype(np.uint8), lesion > 0
    entry = bank.entry(request.mask_case, request.component)
    if request.cup_ratio is None:
        made = render_label(entry, request.transform, _frame(lesion))
    else:
        made = label_of_ratio(entry, request.cup_ratio, classes)
    made = paste(made, request.top, request.left, _frame(lesion))
    new = made > 0
    if request.negative:
        return RequestMasks(new, np.zeros_like(lesion), lesion, before)
    labels, _ = connected_parts(lesion)
    touched = np.unique(labels[new & lesion])
    old = np.isin(labels, touched[touched > 0])
    label = (lesion & ~old) | new
    return RequestMasks(new, old, label, np.where(new, made, before * label))


def label_of_ratio(entry: MaskEntry, ratio: float, classes: Sequence[LabelClass]) -> Label:
    """Return the label of a disc with its cup at another vertical cup-to-disc ratio, (h, w) of the entry's crop.

    Pixels of the disc are the first value that is of the disc and not of the cup, those of the cup its first value.
    """
    places = disc_and_cup([one.name for one in classes])
    disc, cup = (classes[place].values for place in places) if places else ((), ())
    rim = [value for value in disc if value not in cup]
    if places is None or not rim:
        told = ", ".join(f"{one.name} {list(one.values)}" for one in classes)
        raise DataError(f"a cup needs a class disc with a value that is not of the class cup: the data has {told}")
    whole, inner = masks_from_label(label_of_entry(entry), classes)[list(places)]
    made = np.where(whole | inner, np.uint8(rim[0]), np.uint8(0))
    made[cup_of_ratio(whole | inner, inner, ratio)] = cup[0]
    return made


def is_generic(config: GenerateConfig) -> bool:
    """Tell whether prompts are made of measured words alone, without findings."""
    return config.domain == GENERIC and config.findings is None


def check_config(config: GenerateConfig) -> Library:
    """Refuse what cannot be asked for, before anything is read or made; return the findings.

    Raises:
        ConfigError: An unknown aim, or a baseline that does not belong to it.
        FindingsError: The domain is unknown, or its file breaks a rule.
    """
    check_aim(config.aim, config.baseline)
    return library_of(config.domain, config.findings)


def check_place(config: GenerateConfig, classes: Sequence[LabelClass]) -> None:
    """Refuse a second disc in an eye.

    Raises:
        ConfigError: `place` is free, and the classes are disc and cup.
    """
    names = [one.name for one in classes]
    if config.place == "free" and disc_and_cup(names):
        raise ConfigError("an eye has one disc, which is repainted where it is: place is free; set it to replace")


class RequestDrawer:
    """Draws requests by index; keeps what it has learnt of each background.

    With the findings of another domain than the generic one, prompts are drawn from these, as far as the listener
    knows their words. With a budget, each request is drawn for the stratum of its shard. With folds, the example of a
    request is of the fold of its mask, so that one validator has seen neither. Other images give backgrounds alone,
    lesion-free where they have no mask.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        seed: int,
        config: GenerateConfig,
        others: Sequence[Case] = (),
        listener: Listener | None = None,
        budget: Budget | None = None,
        folds: Mapping[str, int] | None = None,
    ) -> None:
        self.seed = seed
        self.folds = folds or {}
        self.config = config
        self.library = None if is_generic(config) else library_of(config.domain, config.findings)
        self.listener = listener or Listener()
        self.cases = {case.id: case for case in sorted(cases, key=lambda case: case.id)}
        self.others = {check_train(case).id: case for case in sorted(others, key=lambda case: case.id)}
        self.bank = MaskBank.from_cases(cases)
        found = [case for case in self.others.values() if case.mask]
        self._found = MaskBank(tuple(entry for case in found for entry in entries_of(case, case.read_mask())))
        self.budget = budget
        self.classes = next(iter(self.cases.values())).classes
        check_place(config, self.classes)
        self.discs = self._discs()
        self._terrains: dict[str, Terrain] = {}
        self._hidden: dict[str, bool] = {}
        self._printed: dict[tuple[int, int], Mask | None] = {}
        self._words: dict[str, dict[str, str]] = {}
        self._settings: dict[str, tuple[Setting, float]] = {}
        self._attributes: dict[str, Attributes] = {}
        self._annotated = tuple(name for name in self.cases if self.bank.components(name))  # specks are no lesions
        self._lesions = (*self.bank.entries, *self._found.entries)
        self._removable = tuple(
            name
            for name in (*self._annotated, *(case.id for case in found))
            if sum(entry.relative_area for entry in self._components(name)) <= REMOVABLE
        )
        several = [len(self.bank.components(case)) > 1 for case in self.cases]
        self.free_share = float(np.mean(several))
        self._backgrounds = (*self.cases, *self.others)

    def draw(self, index: int) -> Request:
        """Return request `index`.

        Raises:
            PlacementError: No mask fits on any of the backgrounds that were tried.
        """
        own_seed = seed_of_request(self.seed, index)
        named: dict[str, Any] = {"index": index, "id": f"synth-{index:05d}", "seed": own_seed}
        fill = self._draw_fill(own_seed)
        if fill is not None:
            return replace(fill, **named)
        rng = np.random.default_rng(own_seed)
        if self.discs:
            return replace(self._draw_cup(rng), **named)
        placement = self._draw_placement(rng)
        aim = self.budget.stratum_of(index // self.config.shard_size) if self.budget else ""
        wanted = aim.split(maxsplit=1)[0] if aim else self._drawn_size(rng)
        for size in (wanted,) if aim else (wanted, ""):
            found = self._draw_placed(named, aim, size, placement, rng)
            if found is not None:
                return found
        raise PlacementError(
            f"a mask must fit on some background: none of {MASKS} drawn masks fitted one of "
            f"{len(self._backgrounds)} backgrounds for request {index}; add images with more tissue, "
            "or set place: mixed"
        )

    def _draw_placed(
        self, named: dict[str, Any], aim: str, size: str, placement: Placement, rng: np.random.Generator
    ) -> Request | None:
        """Draw masks of a size, or of any where it is empty, until one fits on a background."""
        for _ in range(MASKS):
            entry, transform = self._draw_mask(aim, rng)
            if size and not aim and size_class(entry.relative_area * transform.scale**2) != size:
                continue
            found = self._place(entry, transform, placement, rng)
            if found is not None:
                finished = self._finish(replace(found, **named, aim=aim), rng)
                if finished.size_bin == size or not size:
                    return finished
        return None

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
                return replace(found, prompt=NORMAL_PROMPT, size_bin=size_class(area), negative=True)
        return None

    def reworded(self, request: Request, words: dict[str, str]) -> Request:
        """Return a request for the same mask and place with other words, and an example that looks like them.

        Args:
            request: One of this drawer.
            words: The word of each aspect; a missing aspect says nothing.
        """
        new, rng = self.masks(request).new, np.random.default_rng((request.seed, 3))
        example = self._draw_example(request, self._place_of(request, new), new, rng, words)
        return replace(request, prompt=describe_words(words), example=example)

    def lesion_of(self, background: str) -> Mask:
        """Return the mask of a background, shape (H, W); empty for a lesion-free image."""
        case = self.case(background)
        return case.read_mask() if case.mask else np.zeros(case.read_image().shape[:2], dtype=bool)

    def masks(self, request: Request) -> RequestMasks:
        """Return the masks of a request of this drawer."""
        case = self.case(request.background)
        lesion = case.read_label() if self.classes and case.mask else self.lesion_of(case.id)
        return masks_of_request(request, self.bank, lesion, self.classes)

    def words_of_cases(self) -> dict[str, dict[str, str]]:
        """Return the measured words of every annotated case; it takes a while."""
        return {name: self._words_of_case(name) for name in self._annotated}

    def _draw_mask(self, aim: str, rng: np.random.Generator) -> tuple[MaskEntry, MaskTransform]:
        """Draw a training mask, of the size that is aimed at."""
        if not aim:
            return self.bank.draw(rng)
        parts = self.bank.components(self._leading_case(aim, rng))
        entry, transform = parts[int(rng.integers(len(parts)))], draw_transform(rng)
        low, high = BOUNDS[aim.split(maxsplit=1)[0]]
        area = float(np.clip(entry.relative_area * transform.scale**2, low * INSIDE, high / INSIDE))
        return entry, replace(transform, scale=round(float(np.sqrt(area / entry.relative_area)), 4))

    def _drawn_size(self, rng: np.random.Generator) -> str:
        """Draw a size as the masks have it: a mask that fits nowhere makes way for one as large, not for any."""
        entry, transform = self._draw_mask("", rng)
        return size_class(entry.relative_area * transform.scale**2)

    def _leading_case(self, aim: str, rng: np.random.Generator) -> str:
        """Draw a training case of a stratum, by its weight in the budget."""
        weights = {} if self.budget is None else dict(self.budget.weights)
        names = self._leading_cases(aim)
        sums = np.cumsum([weights[name] for name in names])
        return names[int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))]

    def _leading_cases(self, aim: str) -> list[str]:
        """Return the training cases of a stratum that the budget gives weight to."""
        weights = {} if self.budget is None else dict(self.budget.weights)
        return [name for name in weights if stratum(self._words_of_case(name)) == aim]

    def _draw_example(
        self, request: Request, place: Setting, new: Mask, rng: np.random.Generator, asked: Mapping[str, str] = NOTHING
    ) -> str:
        """Draw a training case of the mask's fold, and of the stratum if there is one, that looks most as asked.

        Of these, one of those that suit the place best.
        """
        diameter = equivalent_diameter(float(np.count_nonzero(new)))
        fold = self.folds.get(request.mask_case)
        names = [name for name in self._annotated if self.folds.get(name) == fold] or list(self._annotated)
        if request.aim:
            leading = self._leading_cases(request.aim)
            names = [name for name in names if name in leading] or [self._leading_case(request.aim, rng)]
        said = {aspect: word for aspect, word in asked.items() if word and aspect in OF_LOOK}
        amiss = [self._amiss(name, said, place) for name in names]
        names = [name for name, count in zip(names, amiss, strict=True) if count <= min(amiss) + NEARLY]
        names.sort(key=lambda name: self._mismatch(name, place, diameter))
        return names[int(rng.integers(math.ceil(ALIKE * len(names))))]

    def _amiss(self, name: str, said: Mapping[str, str], place: Setting) -> float:
        """Return how many aspects of a lesion are not as said in a place; for a surface, also how far off it is."""
        words = self._words_at(name, place)
        wrong = [aspect for aspect, word in said.items() if words[aspect] != word]
        if "surface" not in wrong:
            return len(wrong)
        limit = SMOOTH if said["surface"] == "smooth" else TEXTURED
        texture = texture_of(self._setting(name)[0].inside, place.around)
        return len(wrong) + min(0.9, abs(math.log(max(texture, 1e-3) / limit)))

    def _place_of(self, request: Request, new: Mask) -> Setting:
        """Return what lies around a new lesion: tissue, and nothing of lesions that it replaces or that stay there."""
        image, lesion = self._image(request.background), self.lesion_of(request.background) & ~new
        place = setting_of(np.where(lesion[..., None], np.uint8(0), image), new)  # black is no tissue
        return place if place.lit else setting_of(image, new)

    def _words_at(self, name: str, place: Setting) -> dict[str, str]:
        """Return the words of a case's lesion, were it in a place: rougher or smoother than the tissue there."""
        own, measured = self._setting(name)[0], self._attributes_of(name)
        there = words_of(replace(measured, texture=texture_of(own.inside, place.around)))
        return {**self._words_of_case(name), "surface": there["surface"]}

    def _mismatch(self, name: str, place: Setting, diameter: float) -> float:
        """Return how ill the lesion of a case suits a place: by the tissue around it, its size, and where it is cut."""
        own, size = self._setting(name)
        distance = float(np.linalg.norm(own.colour - place.colour)) / DELTA_E
        return distance + abs(math.log(size / diameter)) + CUT * (1 - own.lit)

    def _setting(self, name: str) -> tuple[Setting, float]:
        """Return what is around the largest lesion of a case, and its diameter, px."""
        if name not in self._settings:
            lesion = self.bank.components(name)[0].in_frame()
            around = setting_of(self.cases[name].read_image(), lesion)
            self._settings[name] = around, equivalent_diameter(float(lesion.sum()))
        return self._settings[name]

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

        The eye is one of the eighth whose own ratio is nearest: a cup that is stretched far looks like what it was.
        Size, shape and contrast are said as they are; the words of the cup are those of its new ratio.
        """
        ratio = draw_ratio(tuple(self.discs.values()), rng)
        names = sorted(self.discs, key=lambda name: abs(self.discs[name] - ratio))
        name = names[int(rng.integers(math.ceil(NEAREST * len(names))))]
        entry, words = self.bank.components(name)[0], self._words_of_case(name)
        bin_ = size_class(entry.relative_area)
        request = _partial(entry, MaskTransform(), name, "replace", (entry.top, entry.left))
        request = replace(request, cup_ratio=ratio, size_bin=bin_, example=name)
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
        return replace(request, prompt=prompt, findings=draft.findings, unknown_words=unsaid)

    def _draw_placement(self, rng: np.random.Generator) -> Placement:
        free, removed = rng.random() < self.free_share, rng.random() < REMOVED_SHARE
        if self.config.place != "mixed":
            return self.config.place
        return "free" if free else "removed" if removed else "replace"

    def _place(
        self, entry: MaskEntry, transform: MaskTransform, placement: Placement, rng: np.random.Generator
    ) -> Request | None:
        """Seek a place for a mask: as asked, then, in a mix, where it keeps the number of lesions as it is."""
        ways = {"free": self._free, "replace": self._replace, "removed": self._removed}
        others = ("replace", "removed") if self.config.place == "mixed" else ()
        for way in dict.fromkeys((placement, *others)):
            found = ways[way](entry, transform, rng)
            if found is not None:
                return found
        return None

    def _free(self, entry: MaskEntry, transform: MaskTransform, rng: np.random.Generator) -> Request | None:
        """Seek lesion-free tissue for a mask, or, if there is none, for a smaller one."""
        smaller = replace(transform, scale=round(transform.scale * SHRINK, 4))
        return self._seek(entry, transform, "free", rng) or self._seek(entry, smaller, "free", rng)

    def _removed(self, entry: MaskEntry, transform: MaskTransform, rng: np.random.Generator) -> Request | None:
        """Seek any tissue of an annotated frame whose lesions can be painted away, as if they were gone."""
        return self._seek(entry, transform, "removed", rng)

    def _seek(
        self, entry: MaskEntry, transform: MaskTransform, placement: Placement, rng: np.random.Generator
    ) -> Request | None:
        removed = placement == "removed"
        backgrounds = self._removable if removed else self._backgrounds
        shape_in = cache(partial(render, entry, transform))
        for choice in rng.permutation(len(backgrounds))[:TRIES]:
            background = backgrounds[int(choice)]
            terrain = self.terrain(background, removed)
            if entry.relative_area * transform.scale**2 > terrain.room:
                continue
            if removed and self._hides_lesion(background, terrain.field):
                continue  # it would stay in the picture, and not in the label
            shape = shape_in(terrain.frame)
            place = place_free(terrain, shape, rng, self._margin(shape))
            if place is not None:
                return _partial(entry, transform, background, placement, place)
        return None

    def _hides_lesion(self, background: str, field: Mask) -> bool:
        if background not in self._hidden:
            self._hidden[background] = bool(lost_from_view(self.lesion_of(background), field).any())
        return self._hidden[background]

    def _replace(self, entry: MaskEntry, transform: MaskTransform, rng: np.random.Generator) -> Request | None:
        area = entry.relative_area * transform.scale**2
        shape_in = cache(partial(render, entry, transform))
        similar = [old for old in self._lesions if SIMILAR[0] <= area / old.relative_area <= SIMILAR[1]]
        weights = np.array([len(self._components(old.case)) for old in similar])  # a frame of ten counts once
        for choice in np.argsort(rng.exponential(size=len(similar)) * weights)[:TRIES]:
            old = similar[int(choice)]
            shape = shape_in(old.frame)
            margin = REPLACE_MARGIN * self._margin(shape)
            place = place_replace(self.terrain(old.case), old.in_frame(), shape, margin)
            if place is not None:
                return _partial(entry, transform, old.case, "replace", place)
        return None

    def _finish(self, request: Request, rng: np.random.Generator) -> Request:
        """Add the words: size and shape of the new mask itself, the others of a training case."""
        lesion = np.zeros(self.terrain(request.background).frame, dtype=bool)
        mask = masks_of_request(request, self.bank, lesion).new
        own = {"size": size_class(float(mask.mean())), "shape": shape_word(*shape_of(mask))}
        request = replace(request, size_bin=own["size"])
        if prompt := self.cases[request.mask_case].prompt:
            return replace(request, prompt=prompt, example=request.mask_case)
        place = self._place_of(request, mask)
        if self.library is None:
            example = self._draw_example(request, place, mask, rng)
            words = self._words_at(example, place)
            return replace(request, prompt=describe_words(words | own), example=example)
        given = own | {"contrast": LOW if LOW in request.aim else ""}
        draft = draw_prompt(self.library, rng, given, settings=False)
        prompt, unsaid = heard(draft, self.listener)
        example = self._draw_example(request, place, mask, rng, draft.words)
        return replace(request, prompt=prompt, findings=draft.findings, unknown_words=unsaid, example=example)

    def _margin(self, shape: Mask) -> float:
        """Return px of tissue for the blending band."""
        return max(2.0, BAND * float(max(shape.shape)))

    def _image(self, background: str) -> Pixels:
        return self.case(background).read_image()

    def case(self, background: str) -> Case:
        """Return a background, annotated or not."""
        return self.cases.get(background) or self.others[background]

    def _components(self, background: str) -> Sequence[MaskEntry]:
        return self.bank.components(background) or self._found.components(background)

    def terrain(self, background: str, removed: bool = False) -> Terrain:
        """Return what placement knows of a background, with its lesions or as if they were gone; found once."""
        if background not in self._terrains:
            image = self._image(background)
            lesion = self.lesion_of(background)
            self._terrains[background] = terrain_of(image, lesion, self._printed_on(_frame(lesion)))
        found = self._terrains[background]
        return found.without_lesion if removed else found

    def _printed_on(self, frame: tuple[int, int]) -> Mask | None:
        """Return where frames of one size carry text, from every nth of them; found once."""
        if frame not in self._printed:
            names = [entry.case for entry in self.bank.entries if entry.component == 0 and entry.frame == frame]
            sample = names[:: -(-len(names) // SAMPLE)] if names else []
            self._printed[frame] = printed_on(self.cases[name].read_image() for name in sample)
        return self._printed[frame]

    def _words_of_case(self, name: str) -> dict[str, str]:
        if name not in self._words:
            self._words[name] = words_of(self._attributes_of(name))
        return self._words[name]

    def _attributes_of(self, name: str) -> Attributes:
        if name not in self._attributes:
            case = self.cases[name]
            self._attributes[name] = measure_attributes(case.read_image(), case.read_mask())
        return self._attributes[name]


def _partial(
    entry: MaskEntry, transform: MaskTransform, background: str, placement: Placement, place: tuple[int, int]
) -> Request:
    """Return a request that has a place, but no number, seed and words yet."""
    where = (placement, transform, *place)
    return Request(0, "", 0, background, entry.case, entry.component, *where, "", "")


def _frame(mask: Mask) -> tuple[int, int]:
    return int(mask.shape[0]), int(mask.shape[1])
