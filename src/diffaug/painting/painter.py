"""The painter: a fitted model that paints layouts in memory, and looks at what it paints.

Nothing is written: a `Painter` hands out samples, pictures, labels and decisions. `synthesis` writes them; a notebook
shows them.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffaug.artifacts import PathLike, digest_of_folder
from diffaug.compute.devices import device_of, one_thread
from diffaug.conditioning.prompts import EMPTY_PROMPT
from diffaug.conditioning.request import RequestMasks
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules, read_rules
from diffaug.config import SamplerConfig
from diffaug.data.images import Mask, Pixels, png_info
from diffaug.data.manifest import Decision
from diffaug.data.origin import MARK
from diffaug.data.request import Check
from diffaug.diffusion.contract import Denoiser
from diffaug.diffusion.guidance import Guided
from diffaug.errors import ConfigError, ModelError
from diffaug.models.base import LatentInpainter, scale_of
from diffaug.models.checkpoints import BASE_FILE, verify
from diffaug.models.loading import load_model
from diffaug.models.sampling import read_sampler
from diffaug.painting.checks import checked_masks
from diffaug.painting.compose import compose
from diffaug.painting.engine import Painted, Prepared, paint
from diffaug.painting.judging import NEGATIVE_BIN, verdict_on
from diffaug.painting.layout import Layout, layout_of, tissue_of
from diffaug.painting.window import image_of, window_mask, window_masks, windows_at_once
from diffaug.realism.critic import Critic, load_critic
from diffaug.validator.calibration import Calibration
from diffaug.validator.gate import Gate, Target
from diffaug.validator.latent_segmenter import UPSCALE, load_segmenter

GUIDED_SHARE = 0.7  # of the timesteps, from noise on, that are guided; each costs a second evaluation
GUIDED_BY_MASK = 0.7  # share of the timesteps below those where guidance is of text and mask
SLOTS = 8  # samples denoised together
HELD = 3 * 2**20  # pixels of frames that are held in memory together with their masks
STEPS_FROM_NOISE = 8  # of ab2; from noise alone, so many are near the limit of many
Texts = dict[str, Tensor]  # embedded prompts


@dataclass(frozen=True)
class Painting:
    """A painted picture; Jupyter shows it.

    Attributes:
        image: Frame, (H, W, 3); every pixel outside the blending band is the original's, byte for byte.
        label: What is painted where: a mask as it was given, True where the frame shows the painted lesion.
        decision: kept, or rejected where the validators do not find the lesion at its mask.
        checks: The look at the result, with its score and the least accepted one.
        reason: The decision in words.
        seed: What it was painted from.
    """

    image: Pixels = field(repr=False)
    label: Mask = field(repr=False)
    decision: Decision
    checks: tuple[Check, ...]
    reason: str
    seed: int

    def _repr_png_(self) -> bytes:
        """Return the image as PNG, for Jupyter."""
        data = io.BytesIO()
        Image.fromarray(self.image).save(data, format="PNG", pnginfo=png_info(MARK))
        return data.getvalue()


class Painter:
    """A fitted model: it paints layouts, decodes and blends what it painted, and its validators look at it.

    Example:
        >>> painter = diffaug.Painter.load("models/mine")  # doctest: +SKIP
        >>> painter.paint(image, mask, prompt="a small pale lesion", seed=1)  # doctest: +SKIP

    Args:
        model: The diffusion model.
        sampler: How it is sampled.
        calibration: Thresholds of its validators, calibrated with that sampler.
        validators: One network per fold.
        slots: Samples that are denoised together.
        critic: Tells painted lesions from real ones, if there is one.
        rules: What in the frames is no tissue.
    """

    def __init__(
        self,
        model: LatentInpainter,
        sampler: SamplerConfig,
        calibration: Calibration,
        validators: Sequence[Any],
        slots: int = SLOTS,
        critic: Critic | None = None,
        rules: FrameRules = ENDOSCOPIC,
    ) -> None:
        self.model, self.sampler, self.slots, self.critic = model, sampler, slots, critic
        self.calibration, self.validators, self.rules = calibration, validators, rules
        self.denoiser = guided(model, sampler)

    @staticmethod
    def load(folder: PathLike, device: str = "cpu", *, slots: int = SLOTS, sealed: bool = True) -> "Painter":
        """Load a model folder that `diffaug fit` made.

        Args:
            folder: The model folder.
            device: Where to compute: cpu, cuda, cuda:N, mps or auto.
            slots: Samples that are denoised together.
            sealed: Whether the folder must be finished and unaltered.

        Raises:
            ModelError: The model is unfinished or altered, or its parts do not belong together.
            ConfigError: The device is unknown, or not there.
        """
        folder, place = Path(folder), device_of(device)
        if sealed:
            verify(folder)
        calibration = Calibration.load(folder / "calibration.json")
        model = load_model(folder, place)
        validators = load_validators(folder, calibration, model)
        rules = read_rules(folder).rules
        return Painter(model, read_sampler(folder), calibration, validators, slots, load_critic(folder), rules)

    # Layouts => samples

    @torch.no_grad()
    def embed(self, prompts: Iterable[str]) -> Texts:
        """Embed every prompt once, (1, L, D) each; one by one, so that none depends on the others."""
        return {prompt: self.model.embed([prompt]) for prompt in dict.fromkeys(prompts)}

    @torch.no_grad()
    def prepare(self, layouts: Sequence[Layout], texts: Texts) -> list[Prepared]:
        """Encode what painter and gate need to know of some layouts, in one batch: pixels => latents."""
        if not layouts:
            return []
        side, model = self.model.window, self.model
        images = torch.cat([image_of(layout.shown, side) for layout in layouts])
        filled = torch.cat([window_mask(layout.reach, layout.window, side) > 0.25 for layout in layouts])
        masks = torch.cat([window_masks(layout.classes, layout.window, side) for layout in layouts])
        scale = torch.tensor([scale_of(one.window.side, one.region.shape, model.latent_side) for one in layouts])
        text = torch.cat([texts[layout.prompt] for layout in layouts])
        conditioning = model.condition(images, filled.float(), masks, scale, text)
        fine_masks, noises = F.avg_pool2d(masks, model.cell // UPSCALE), _starts(self, layouts)
        return [
            Prepared(
                layout.index,
                noises[row],
                conditioning.rows(slice(row, row + 1)),
                _target(self, layout, fine_masks[row]),
            )
            for row, layout in enumerate(layouts)
        ]

    def encoded_starts(self, layouts: Sequence[Layout]) -> Tensor:
        """Return the latents of what sampling starts from, (B, Z, h, w)."""
        shown = [image_of(layout.start, self.model.window) for layout in layouts if layout.start is not None]
        return self.model.encode(torch.cat(shown))

    def fine_region(self, layout: Layout) -> Tensor:
        """Return where a layout is painted, at the validator's side, (1, s, s)."""
        filled = layout.reach & layout.field
        region = (window_mask(filled, layout.window, self.model.window) > 0.25).float()
        return F.max_pool2d(region, self.model.cell // UPSCALE)[0]

    @property
    def batch(self) -> int:
        """How many layouts are encoded together."""
        return min(self.slots, windows_at_once(self.model.window))

    def at_once(self, pixels: int) -> int:
        """Return how many requests are held in memory together on frames of so many pixels, `slots` at most."""
        return max(1, min(self.slots, HELD // pixels))

    def paint_layouts(
        self,
        batches: Iterable[Sequence[Layout]],
        prompts: Iterable[str],
        gate: Gate | None,
        at_once: int | None = None,
    ) -> Iterator[tuple[Layout, Painted]]:
        """Paint layouts in slots, and yield each as it leaves; which comes first depends on the inputs alone.

        Args:
            batches: Layouts that are encoded together, `batch` at most; each has an index of its own, and is taken
                only as slots become free.
            prompts: Those of the layouts; each is embedded once.
            gate: Looks at samples on the way; None keeps everything.
            at_once: How many slots hold a layout; None is all of them.
        """
        texts, waiting = self.embed(prompts), dict[int, Layout]()

        def prepared() -> Iterator[Prepared]:
            for some in batches:
                waiting.update((layout.index, layout) for layout in some)
                yield from self.prepare(some, texts)

        samples = paint(
            self.denoiser, self.model.schedule, prepared(), steps=self.sampler.steps, slots=self.slots, gate=gate,
            solver=self.sampler.solver, strength=self.sampler.strength, at_once=at_once,
        )  # fmt: skip
        for sample in samples:
            yield waiting.pop(sample.index), sample

    # Samples => pictures

    @torch.no_grad()
    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Decode samples, (1, Z, h, w) each, in batches of one shape: latents => windows, (1, 3, side, side) each."""
        rows = torch.cat(list(latents))
        padding = rows[:1].expand(max(0, self.slots - len(rows)), -1, -1, -1)  # so that none depends on the others
        parts = torch.split(torch.cat([rows, padding]), windows_at_once(self.model.window))
        decoded = torch.cat([self.model.decode(part) for part in parts])
        return list(torch.split(decoded, 1)[: len(rows)])

    @torch.no_grad()
    def blend(self, layouts: Sequence[Layout], windows: Sequence[Tensor]) -> list[Pixels]:
        """Blend decoded windows, (1, 3, side, side) each, into their backgrounds, with the detail of their starts."""
        kept: Sequence[Tensor | None] = [None] * len(layouts)
        if layouts and layouts[0].start is not None:
            kept = self.decode([self.encoded_starts([layout]) for layout in layouts])
        return [blended(*parts) for parts in zip(layouts, windows, kept, strict=True)]

    def pictures(self, layouts: Sequence[Layout], samples: Sequence[Painted]) -> list[Pixels]:
        """Decode samples and blend them into their backgrounds: latents => frames, (H, W, 3) each."""
        if not layouts:
            return []
        return self.blend(layouts, self.decode([sample.latents for sample in samples]))

    # For people

    def paint(
        self,
        image: Pixels,
        mask: Mask,
        *,
        prompt: str = "",
        seed: int = 0,
        start: Literal["noise", "image"] = "noise",
    ) -> Painting:
        """Paint a lesion where a mask says.

        Args:
            image: Frame, (H, W, 3) uint8.
            mask: The lesion, (H, W) bool; of a model of K classes one mask for each, (K, H, W).
            prompt: What the lesion looks like; empty leaves that to the model.
            seed: The same seed paints the same bytes.
            start: `noise` paints a new lesion over whatever is there. `image` repaints what lies under the mask, as
                far as the strength that the model was fitted with, such as a lesion that is there already.

        Returns:
            The picture, with the validators' decision: the mean over all of them, since none is known that has not
            seen the image.

        Raises:
            ShapeError: Image or mask have another shape or type.
            DataError: The mask is empty, or lies where the image shows no tissue.
            ConfigError: `start` is neither noise nor image.
        """
        if start not in ("noise", "image"):
            raise ConfigError(f"start is noise or image: it is {start!r}; choose one of them")
        classes, view = checked_masks(image, mask, max(1, self.model.classes), self.rules)
        new = np.asarray(classes.any(axis=0))
        masks = RequestMasks(new, np.zeros_like(new), new, new.astype(np.uint8))
        layout = layout_of(image, masks, classes, view, prompt=prompt or EMPTY_PROMPT, seed=seed)
        painter = _for_one(self, from_noise=start == "noise")
        if start == "image":
            layout = replace(layout, start=tissue_of(layout, self.model.window))
        with one_thread():  # sums have one order then, so that the bytes are the same wherever it is called
            (_, sample), *_ = painter.paint_layouts([[layout]], [layout.prompt], None)
            (picture,) = painter.pictures([layout], [sample])
            sample = replace(sample, checks=(_final_check(self, layout, sample.latents),))
        verdict = verdict_on(layout, sample, self.calibration, "conformal", True)
        return Painting(picture, mask.copy(), verdict.decision, verdict.checks, verdict.reason, seed)


def _starts(painter: Painter, layouts: Sequence[Layout]) -> list[Tensor]:
    """Return where sampling starts, (1, Z, h, w) each: noise alone, or what is shown noised to the first step."""
    noises = [painter.model.noise([layout.seed]) for layout in layouts]
    if layouts[0].start is None:  # all layouts of a batch start in one way
        return noises
    starts = painter.encoded_starts(layouts)
    return [noised(painter, starts[row : row + 1], noise) for row, noise in enumerate(noises)]


def noised(painter: Painter, start: Tensor, noise: Tensor) -> Tensor:
    """Return latents (1, Z, h, w) noised to where a painter's sampling starts."""
    return painter.model.schedule.started(start, noise, painter.sampler.steps, painter.sampler.strength)


def _target(painter: Painter, layout: Layout, mask: Tensor) -> Target:
    """Return what the gate holds a layout's samples against; `mask` at the validator's side, (K, s, s)."""
    size = NEGATIVE_BIN if layout.negative else layout.size_bin
    return Target(mask, painter.fine_region(layout), size, layout.fold)


def _for_one(painter: Painter, *, from_noise: bool) -> Painter:
    """Return a painter of one slot. From noise alone it takes more steps, of the second order, if it does not yet."""
    sampler = painter.sampler
    if from_noise and sampler.strength < 1.0:
        change = {"strength": 1.0, "solver": "ab2", "steps": max(sampler.steps, STEPS_FROM_NOISE)}
        sampler = sampler.model_copy(update=change)
    return Painter(painter.model, sampler, painter.calibration, painter.validators, 1, rules=painter.rules)


def _final_check(painter: Painter, layout: Layout, latents: Tensor) -> Check:
    """Look at a finished sample, (1, Z, h, w)."""
    model, step = painter.model, torch.tensor([painter.calibration.steps])
    masks = window_masks(layout.classes, layout.window, model.window)
    target = _target(painter, layout, F.avg_pool2d(masks, model.cell // UPSCALE)[0])
    gate = Gate(painter.validators, painter.calibration)
    return gate.check(latents, torch.zeros(1, dtype=torch.long), step, [target])[0]


def blended(layout: Layout, window: Tensor, kept: Tensor | None = None) -> Pixels:
    """Blend a decoded window, (1, 3, side, side), into its background, with the detail that was lost of its start.

    Args:
        layout: Where it belongs.
        window: What was painted.
        kept: What the codec keeps of the layout's start; None brings no detail back.
    """
    where = layout.window, layout.region, layout.band, layout.seed, layout.field
    start = None if layout.start is None or kept is None else (layout.start, kept)
    return compose(layout.background, window, *where, start=start)


@torch.no_grad()
def guided(model: LatentInpainter, sampler: SamplerConfig) -> Denoiser:
    """Return a model under guidance: of text and mask while there is much noise, of the text afterwards."""
    if sampler.guidance == (1.0, 1.0):
        return model
    total = len(model.schedule.alpha_bar)
    switch, until = round(GUIDED_BY_MASK * total), round((1 - GUIDED_SHARE) * total)
    return Guided(model, model.embed([EMPTY_PROMPT]), *sampler.guidance, switch, until)


def painter_digest(folder: Path) -> str:
    """Return the digest of what a validator depends on: codec and denoiser, or a base and what was added to it."""
    return digest_of_folder(folder, ("unet/*.safetensors", "vae/*.safetensors", "*.safetensors", BASE_FILE))


def load_validators(folder: Path, calibration: Calibration, model: LatentInpainter) -> list[Any]:
    """Load the segmentation network of every fold of a model.

    Raises:
        ModelError: They, or the calibration, were made for another painter or other classes.
    """
    made = {"painter": painter_digest(folder), "validators": digest_of_folder(folder / "validator")}
    stated = {"painter": calibration.painter, "validators": calibration.validator}
    for part, digest in made.items():
        if digest != stated[part]:
            raise ModelError(
                f"a calibration belongs to one model: that of {folder} was made for {part} {stated[part] or '(none)'}, "
                f"here lies {digest}; fit it again"
            )
    classes = max(1, model.classes)
    if calibration.classes != classes:
        raise ModelError(
            f"a calibration speaks of its model's classes: that of {folder} holds {calibration.classes}, "
            f"the painter {classes}; fit it again"
        )
    folds = range(max(calibration.folds.values()) + 1)
    return [load_segmenter(folder / "validator" / str(fold), model.device) for fold in folds]
