from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from study_folders import make_dataset

from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.data.lesions import SIZES
from diffaug.study.strata import STRATA, Profile, contrast_cut, profile, record, strata_of

contrasts = st.one_of(st.none(), st.floats(0, 100))


@given(st.floats(0, 1, exclude_min=True), contrasts, contrasts)
def test_every_lesion_has_exactly_one_size_and_only_known_strata(area, contrast, cut):
    found = strata_of(Profile(area, contrast), cut)
    assert len(set(found) & set(SIZES)) == 1
    assert set(found) <= set(STRATA)


def test_the_size_borders_belong_to_medium():
    assert [strata_of(Profile(area, None), None) for area in (0.0499, 0.05, 0.15, 0.1501)] == [
        ("small",),
        ("medium",),
        ("medium",),
        ("large",),
    ]


def test_a_lesion_free_case_is_in_no_stratum():
    assert strata_of(Profile(0.0, None), 5.0) == ()


@given(st.lists(st.floats(0, 100), min_size=3, max_size=60, unique=True))
def test_about_a_third_of_the_training_cases_lies_under_the_cut(values):
    cut = contrast_cut([Profile(0.1, value) for value in values])
    low = sum("low-contrast" in strata_of(Profile(0.1, value), cut) for value in values)
    assert abs(low - len(values) / 3) <= 1


def test_no_contrast_gives_no_cut_and_no_low_contrast():
    assert contrast_cut([Profile(0.1, None)]) is None
    case = Case("one", Path("one.png"), None, "patient", "test")
    assert record(case, Profile(0.1, 2.0), None)["strata"] == ["medium"]


def test_a_measured_case_has_the_area_of_its_mask_and_a_lower_contrast_when_it_fades(tmp_path):
    case = read_dataset(make_dataset(tmp_path / "data"))["train-2"]
    measured = profile(case)
    assert measured.area == case.read_mask().mean()
    from PIL import Image

    image = case.read_image().astype(float)
    faded = image.mean((0, 1)) + 0.3 * (image - image.mean((0, 1)))
    Image.fromarray(faded.astype(np.uint8)).save(case.image)
    assert profile(case).contrast < measured.contrast
