import numpy as np
import pytest

from diffaug.conditioning.attributes import shape_of
from diffaug.conditioning.findings import Outline, library_of
from diffaug.conditioning.masks import render
from diffaug.conditioning.outlines import OutlineSource
from diffaug.conditioning.prompts import shape_word
from diffaug.data.lesions import size_class
from diffaug.errors import FindingsError

COLON = library_of("colonoscopy")


@pytest.fixture(scope="module")
def source():
    return OutlineSource(COLON, (0.004, 0.03, 0.08, 0.25))


def test_every_form_of_colonoscopy_has_an_outline_and_what_is_measured_lies_in_its_ranges(source):
    assert set(source.findings()) == set(COLON.spoken("form"))
    for name, finding in source.findings().items():
        entry = source.entry(name, 3)
        eccentricity, solidity = shape_of(entry.crop)
        assert finding.outline.eccentricity[0] <= eccentricity <= finding.outline.eccentricity[1]
        assert finding.outline.solidity[0] <= solidity <= finding.outline.solidity[1]
        assert shape_word(eccentricity, solidity) in finding.attributes.get(
            "shape", (shape_word(eccentricity, solidity),)
        )
        assert not entry.is_cut


def test_a_seed_gives_one_outline_and_another_seed_another(source):
    first, again = source.entry("sessile", 7), OutlineSource(COLON, (0.1,)).entry("sessile", 7)
    np.testing.assert_array_equal(first.crop, again.crop)
    assert (
        source.entry("sessile", 8).crop.shape != first.crop.shape
        or (source.entry("sessile", 8).crop != first.crop).any()
    )


def test_sizes_follow_the_data_and_findings_the_sizes(source):
    rng, areas = np.random.default_rng(0), []
    for _ in range(24):
        entry, transform = source.draw(rng)
        areas.append(float(render(entry, transform, (200, 240)).sum()) / (200 * 240))
        sizes = COLON.findings[entry.outline].attributes.get("size", ("small", "medium", "large"))
        assert size_class(areas[-1]) in sizes or min(abs(areas[-1] - limit) for limit in (0.05, 0.15)) < 0.01
    assert min(areas) < 0.01 and max(areas) > 0.15


def test_a_domain_without_outlines_an_unknown_outline_and_an_impossible_one_are_one_line(source):
    with pytest.raises(FindingsError, match="the domain fundus has none; use --masks bank"):
        OutlineSource(library_of("fundus"), (0.1,))
    with pytest.raises(FindingsError, match=r"'sesile' is none; nearest: sessile"):
        source.entry("sesile", 0)
    odd = COLON.findings["sessile"].model_copy(
        update={"outline": Outline(area=(0.1, 0.2), eccentricity=(0.0, 0.01), solidity=(0.30, 0.31))}
    )
    library = COLON.model_copy(update={"findings": {**COLON.findings, "sessile": odd}})
    with pytest.raises(FindingsError, match="widen them"):
        OutlineSource(library, (0.1,)).entry("sessile", 0)
