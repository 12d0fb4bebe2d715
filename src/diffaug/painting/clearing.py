"""Paint the lesions of a frame away: each with a margin around it, as "normal mucosa" with an empty mask.

The result is a pure function of (model, case, seed). Used by `diffaug remove`, and by the placement `removed`, which
paints a new lesion on what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from diffaug.artifacts import digest_of_value
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.placement import field_of_view
from diffaug.conditioning.prompts import NORMAL_PROMPT
from diffaug.conditioning.request import seed_of_request
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels
from diffaug.data.lesions import connected_parts
from diffaug.data.manifest import RemovedRegion
from diffaug.diffusion.sampler import sample
from diffaug.models.base import LatentInpainter, scale_of
from diffaug.painting.compose import band_width, compose, reach_of
from diffaug.painting.example import mirrored_tissue
from diffaug.painting.window import Window, longer_side, window_around, window_image, window_mask
from diffaug.validator.calibration import Calibration
from diffaug.validator.latent_segmenter import UPSCALE, segment

MARGIN = 0.12  # of a lesion's longer side: its rim and its shadow are repainted too
STRENGTH = 0.5  # share of the timesteps that repaint the tissue mirrored into a region; 1 starts from noise alone
CONTEXT = 1.7  # window side over the region's longer side; the painter learnt to fill a quarter to four fifths of it


@dataclass(frozen=True)
class Remover:
    """A loaded model that paints lesions away.

    Attributes:
        model: Paints lesion-free tissue.
        calibration: Its sampler's steps, and the validator that has not seen each case.
        validators: One network per fold; they say what is left of a lesion.
        seed: Base seed of all regions.
        strength: Share of the timesteps that repaint the tissue mirrored into a region.
    """

    model: LatentInpainter
    calibration: Calibration
    validators: Sequence[Any]
    seed: int
    strength: float = STRENGTH

    def remove(self, case: Case) -> tuple[Pixels, tuple[RemovedRegion, ...]]:
        """Return the frame without its lesions, and a record of every region that was painted.

        Every pixel outside the regions is the original's, byte for byte.
        """
        frame, mask = case.read_image(), case.read_mask()
        field, regions = field_of_view(frame), list[RemovedRegion]()
        for number, (lesion, region) in enumerate(regions_of(mask, field)):
            window = window_around(region, CONTEXT, least=max(32, longer_side(region) + 4))
            seed = seed_of_request(self.seed, int(digest_of_value([case.id, number])[:8], 16))
            before = self.found(case.id, frame, lesion, window)
            band = band_width(lesion, MARGIN)
            reach = reach_of(region, field, band)
            tissue = mirrored_tissue(frame, field & ~reach & ~mask)
            painted = self.repaint(tissue, reach, window, seed, domain_of(case.class_names).normal_prompt)
            frame = compose(frame, painted, window, region, band, seed, field)
            after = self.found(case.id, frame, lesion, window)
            regions.append(RemovedRegion((window.top, window.left, window.side), seed, before, after))
        return frame, tuple(regions)

    @torch.no_grad()
    def repaint(
        self, frame: Pixels, region: Mask, window: Window, seed: int, prompt: str = NORMAL_PROMPT
    ) -> torch.Tensor:
        """Paint lesion-free tissue over what a frame shows in a region: pixels => (1, 3, side, side) in [-1, 1]."""
        model = self.model
        where = (window_mask(region, window, model.window) > 0.25).float()
        image = window_image(frame, window, model.window)
        scale = torch.tensor([scale_of(window.side, region.shape, model.latent_side)])
        empty = torch.zeros(1, max(1, model.classes), model.window, model.window)
        conditioning = model.condition(image, where, empty, scale, model.embed([prompt]))
        steps, schedule = self.calibration.steps, model.schedule
        start = schedule.started(model.encode(image), model.noise([seed]), steps, self.strength)
        *_, last = sample(model, start, conditioning, schedule, steps, "ddim", self.strength)
        return model.decode(last.x_next)

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


def regions_of(mask: Mask, field: Mask) -> list[tuple[Mask, Mask]]:
    """Return lesions and the regions to repaint, largest first; lesions whose margins touch share a region.

    A piece of margin that the border cuts off from its lesion is left alone.

    Args:
        mask: Lesions of a frame, (H, W).
        field: Where the frame shows tissue; a lesion outside it is not seen, and nothing is painted there.
    """
    mask = mask & field
    labels, count = connected_parts(mask)  # of specks too: a cleared frame shows nothing of what was annotated
    covered = mask.copy()
    for index in range(1, count + 1):
        lesion = labels == index
        covered |= (ndimage.distance_transform_edt(~lesion) <= max(3.0, MARGIN * longer_side(lesion))) & field
    joined, _ = connected_parts(covered)
    pairs = [(mask & (joined == index), joined == index) for index in np.unique(joined[mask])]
    return sorted(pairs, key=lambda pair: -int(pair[1].sum()))
