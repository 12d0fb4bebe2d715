"""Why a lesion is not shown at other places, in words and numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

import diffaug.conditioning.flaws
from diffaug.conditioning.flaws import line_of_examples
from diffaug.conditioning.rules import ENDOSCOPIC
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels, write_png

SHAPE = (264, 352)


@pytest.fixture
def case_of(tmp_path: Path, ellipse_in):
    """Return what writes a case of tissue with a lesion at a centre, after something is drawn on both."""

    def make(name: str, centre: tuple[int, int] = (130, 180), draw=lambda image, lesion: image, grey=False) -> Case:
        rng, lesion = np.random.default_rng(len(name)), ellipse_in(SHAPE, centre, (34, 30))
        image = np.where(lesion[..., None], (165, 75, 60), (150, 85, 75)) + rng.normal(0, 4, (*SHAPE, 3))
        if grey:
            speckle = ndimage.gaussian_filter(rng.normal(0, 14, SHAPE), 1.0)
            image = np.repeat((np.where(lesion, 40, 110) + speckle)[..., None], 3, axis=2)
        write_png(tmp_path / f"{name}.png", draw(np.clip(image, 0, 255).astype(np.uint8), lesion))
        write_png(tmp_path / f"{name}-mask.png", lesion.astype(np.uint8) * 255)
        return Case(name, tmp_path / f"{name}.png", tmp_path / f"{name}-mask.png", name, "train")

    return make


def written_on(image: Pixels, lesion: Mask) -> Pixels:
    picture = Image.fromarray(image)
    for row in (112, 126, 140):
        ImageDraw.Draw(picture).text((150, row), "08032013 CVP", fill=(255, 255, 255))
    return np.asarray(picture)


def overexposed(image: Pixels, lesion: Mask) -> Pixels:
    return np.where((lesion & (np.arange(SHAPE[0])[:, None] < 125))[..., None], 252, image).astype(np.uint8)


def measured(image: Pixels, lesion: Mask) -> Pixels:
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).line((152, 130, 208, 130), fill=(210, 210, 210), width=2)
    return np.asarray(picture)


def test_each_lesion_counts_once_as_an_example_or_under_its_flaw(case_of):
    cases = [
        case_of("clean"), case_of("other"), case_of("edge", centre=(10, 180)), case_of("corner", centre=(255, 345)),
        case_of("text", draw=written_on), case_of("light", draw=overexposed),
    ]  # fmt: skip
    assert line_of_examples(cases, ENDOSCOPIC) == (
        "lesions that may be shown at other places: 4 of 6, 2 of them at an edge that cuts them as their own does; not "
        "the others: 1 written on, 1 overexposed"
    )
    assert line_of_examples(cases[:2], ENDOSCOPIC) == "lesions that may be shown at other places: 2 of 2"


def test_of_very_many_cases_some_are_looked_at(case_of, monkeypatch):
    monkeypatch.setattr(diffaug.conditioning.flaws, "LOOKED_AT", 3)
    cases = [case_of(f"case-{number}") for number in range(7)]  # every third: 0, 3 and 6
    assert line_of_examples(cases, ENDOSCOPIC) == "lesions that may be shown at other places: 3 of 3"


def test_a_line_across_a_grey_lesion_is_a_measurement(case_of):
    cases = [case_of("scan", grey=True), case_of("measured", draw=measured, grey=True)]
    told = line_of_examples(cases, ENDOSCOPIC.at("glare", None))
    assert told.endswith(": 1 of 2; not the others: 1 marked by calipers or other measurements")
