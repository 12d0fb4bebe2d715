"""Paint the lesions of a frame away: each with a margin around it, as lesion-free tissue with an empty mask.

The result is a pure function of (model, case, seed). Used by `diffaug remove`, and by the placement `removed`, which
paints a new lesion on what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffaug.artifacts import digest_of_value
from diffaug.conditioning.attributes import band_width, longer_side
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.patches import MARGIN, regions_of
from diffaug.conditioning.placement import field_of_view
from diffaug.conditioning.prompts import NORMAL_PROMPT
from diffaug.conditioning.request import seed_of_request
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.conditioning.writing import unwritten
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels
from diffaug.data.request import RemovedRegion
from diffaug.diffusion.sampler import sample
from diffaug.models.base import LatentInpainter, scale_of
from diffaug.painting.compose import compose, reach_of, without_border
from diffaug.painting.example import mirrored_tissue
from diffaug.painting.layout import finest
from diffaug.painting.tissue import filled
from diffaug.painting.window import Window, image_of, resized, window_around, window_image, window_mask
from diffaug.validator.calibration import Calibration
from diffaug.validator.latent_segmenter import UPSCALE, segment

STRENGTH = 0.15  # share of the timesteps that repaint the tissue that a patch of the frame brings into a region
MIRRORED_STRENGTH = 0.5  # the same where no patch covers it and tissue is mirrored at its border
CONTEXT = 1.7  # window side over the region's longer side; the painter learnt to fill a quarter to four fifths of it


@dataclass(frozen=True)
class Remover:
    """A loaded model that paints lesions away.

    Attributes:
        model: Paints lesion-free tissue.
        calibration: Its sampler's steps, and the validator that has not seen each case.
        validators: One network per fold; they say what is left of a lesion.
        seed: Base seed of all regions.
        rules: What in the frames is no tissue.
    """

    model: LatentInpainter
    calibration: Calibration
    validators: Sequence[Any]
    seed: int
    rules: FrameRules = ENDOSCOPIC

    def remove(self, case: Case) -> tuple[Pixels, tuple[RemovedRegion, ...]]:
        """Return the frame without its lesions, and a record of every region that was painted.

        Every pixel outside the regions is the original's, byte for byte.
        """
        frame, mask = case.read_image(), case.read_mask()
        field, regions = field_of_view(frame, self.rules), list[RemovedRegion]()
        sources = unwritten(frame, field, self.rules) & ~mask
        for number, (lesion, region) in enumerate(regions_of(mask, field)):
            window = window_around(region, CONTEXT, least=max(32, longer_side(region) + 4))
            seed = seed_of_request(self.seed, int(digest_of_value([case.id, number])[:8], 16))
            before = self.found(case.id, frame, lesion, window)
            band = band_width(lesion, MARGIN)
            reach = reach_of(region, field, band)
            start, patched = self.start(frame, region, reach, field, sources, window)
            strength = STRENGTH if patched else MIRRORED_STRENGTH
            painted, passed = self.repaint(
                start, reach, window, seed, domain_of(case.class_names, self.rules).normal_prompt, strength
            )
            frame = compose(frame, painted, window, region, band, seed, field, (start, passed))
            after = self.found(case.id, frame, lesion, window)
            place = window.top, window.left, window.side
            regions.append(RemovedRegion(place, seed, before, after, patched))
        return frame, tuple(regions)

    def start(
        self, frame: Pixels, region: Mask, reach: Mask, field: Mask, sources: Mask, window: Window
    ) -> tuple[Pixels, bool]:
        """Return what is to be repainted, (s, s, 3), and whether a patch covers it.

        A patch of the frame's own tissue fills the region; where none covers it, tissue is mirrored at its border.
        """
        known = sources & ~reach
        found = filled(frame, region, known)
        tissue = mirrored_tissue(frame, known) if found is None else without_border(found, field, region)
        pixels = np.asarray(window.crop(tissue), dtype=np.uint8)
        return resized(pixels, finest(window, self.model.window)), found is not None

    @torch.no_grad()
    def repaint(
        self, start: Pixels, region: Mask, window: Window, seed: int, prompt: str = NORMAL_PROMPT,
        strength: float = STRENGTH,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Repaint what a window shows in a region as lesion-free tissue.

        Args:
            start: The window, (s, s, 3).
            region: What is repainted, (H, W) of the frame.
            window: Where it lies.
            seed: Of the noise.
            prompt: What lesion-free tissue is called.
            strength: Share of the timesteps that repaint it.

        Returns:
            What was painted, and what the codec keeps of the start, each (1, 3, side, side) in [-1, 1].
        """
        model = self.model
        where = (window_mask(region, window, model.window) > 0.25).float()
        image = image_of(start, model.window)
        scale = torch.tensor([scale_of(window.side, region.shape, model.latent_side)])
        empty = torch.zeros(1, max(1, model.classes), model.window, model.window)
        conditioning = model.condition(image, where, empty, scale, model.embed([prompt]))
        steps, schedule, latents = self.calibration.steps, model.schedule, model.encode(image)
        noised = schedule.started(latents, model.noise([seed]), steps, strength)
        *_, last = sample(model, noised, conditioning, schedule, steps, "ddim", strength)
        return model.decode(last.x_next), model.decode(latents)

    @torch.no_grad()
    def found(self, case: str, frame: Pixels, lesion: Mask, window: Window) -> float:
        """Return the share of a lesion's area that the validator finds; one that has not seen the case, where known."""
        model, fold = self.model, self.calibration.folds.get(case)
        networks = self.validators if fold is None else [self.validators[fold]]
        latents = model.encode(window_image(frame, window, model.window))
        maps = torch.stack([segment(network, latents, torch.zeros(1, dtype=torch.long)) for network in networks])
        inside = window_mask(lesion, window, model.latent_side * UPSCALE)
        probability = maps.mean(0).amax(1, keepdim=True)
        return round(float((probability * inside).sum() / inside.sum().clamp_min(1e-6)), 4)
