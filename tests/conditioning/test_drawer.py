import re
from dataclasses import replace

import numpy as np
import pytest
from layouts import ellipse

from diffaug.conditioning.attributes import shape_of
from diffaug.conditioning.budget import make_budget
from diffaug.conditioning.drawer import RequestDrawer, draw_requests
from diffaug.conditioning.findings import library_of
from diffaug.conditioning.grammar import KnownWords, words_in
from diffaug.conditioning.placement import field_of_view
from diffaug.conditioning.prompts import WORDS, all_prompts, shape_word
from diffaug.config import GenerateConfig
from diffaug.data.images import write_png
from diffaug.data.lesions import connected_parts, size_class
from diffaug.errors import FindingsError, PlacementError

CONFIG = GenerateConfig(negatives=0.0)
COLONOSCOPY = GenerateConfig(negatives=0.0, domain="colonoscopy")


def test_a_request_depends_on_its_index_alone(cases, requests):
    fresh = RequestDrawer(cases[::-1], 0, CONFIG)
    assert [fresh.draw(index) for index in (59, 7, 30, 7)] == [requests[index] for index in (59, 7, 30, 7)]


def test_more_requests_leave_the_first_ones_as_they_were(cases, requests):
    assert list(draw_requests(cases, 10, 0, CONFIG)) == requests[:10]


def test_another_seed_draws_other_requests(cases, requests):
    other = list(draw_requests(cases, 10, 1, CONFIG))
    assert not {request.seed for request in other} & {request.seed for request in requests}
    assert [request.transform for request in other] != [request.transform for request in requests[:10]]


def test_masks_stay_on_tissue_and_labels_are_consistent(drawer, requests):
    for request in requests:
        masks, lesion = drawer.masks(request), drawer.backgrounds.lesion(request.background)
        view = field_of_view(drawer.cases[request.background].read_image())
        assert view[masks.new].all()
        lesion = lesion & (request.placement != "removed")
        np.testing.assert_array_equal(masks.label, (lesion & ~masks.old) | masks.new)
        assert not (masks.old & ~lesion).any()
        if request.placement != "replace":
            assert not (masks.new & lesion).any() and not masks.old.any()
        else:
            share = np.count_nonzero(masks.new) / np.count_nonzero(masks.old)
            assert 0.6 < share < 1.6
            assert not (masks.label & ~masks.new & masks.old).any()


def test_a_prompt_is_true_of_the_mask(drawer, requests):
    for request in requests:
        new = drawer.masks(request).new
        said = set(request.prompt.split())
        assert said & set(WORDS["size"]) == {request.size_bin} == {size_class(new.mean())}
        assert said & set(WORDS["shape"]) == {shape_word(*shape_of(new))}


def test_all_placements_occur_in_the_mix_and_one_when_asked(cases, requests):
    assert {request.placement for request in requests} == {"free", "replace", "removed"}
    for place in ("free", "replace", "removed"):
        drawn = draw_requests(cases, 15, 0, GenerateConfig(negatives=0.0, place=place))
        assert {request.placement for request in drawn} == {place}


def test_lesions_per_frame_and_the_area_they_cover_follow_the_data(cases):
    single = RequestDrawer(cases[::2], 0, CONFIG)  # every other frame holds one lesion
    for index in range(30):
        assert connected_parts(single.masks(single.draw(index)).label)[1] == 1
    drawer = RequestDrawer(cases, 0, CONFIG)
    counts = [len(drawer.bank.components(case.id)) for case in cases]
    made = [connected_parts(drawer.masks(drawer.draw(index)).label)[1] for index in range(80)]
    assert np.mean(made) == pytest.approx(np.mean(counts), abs=0.3)


def test_sizes_follow_the_bank(drawer, cases):
    real = np.mean([np.sqrt(entry.relative_area) for entry in drawer.bank.entries])
    drawn = [np.sqrt(drawer.masks(drawer.draw(index)).new.mean()) for index in range(60)]
    assert np.mean(drawn) == pytest.approx(real, rel=0.15)


def test_a_large_mask_that_seldom_fits_does_not_make_way_for_a_small_one(cases, tmp_path):
    long, short = ((100, 170), (6, 62), (22, 84)), ((25, 170), (5, 7), (12, 84))  # height, width; radii; centre
    made = []
    frames = {"long": long, "long-2": long, "short": short, "short-2": short}  # none is shown in its own frame
    for name, ((height, width), radii, centre) in frames.items():
        mask = ellipse((height, width), centre, radii, 0.0)
        write_png(tmp_path / f"{name}.png", np.where(mask[..., None], (205, 90, 80), (190, 100, 85)).astype(np.uint8))
        write_png(tmp_path / f"{name}-mask.png", mask.astype(np.uint8) * 255)
        case = replace(cases[0], id=name, image=tmp_path / f"{name}.png", mask=tmp_path / f"{name}-mask.png")
        made.append(replace(case, group=name))
    drawer = RequestDrawer(made, 0, GenerateConfig(negatives=0.0, place="replace"))
    drawn = [drawer.draw(index) for index in range(60)]  # a long one fits where it is about as upright as it was
    assert sum(request.mask_case.startswith("long") for request in drawn) >= 20


def test_the_prompt_of_the_mask_case_wins(cases):
    own = [replace(case, prompt=f"polyp of {case.id}") for case in cases]
    for request in draw_requests(own, 8, 0, CONFIG):
        assert request.prompt == f"polyp of {request.mask_case}"


def test_findings_change_the_prompt_and_its_example_alone(requests, with_findings):
    assert [replace(one, prompt="", findings=(), unknown_words=(), example="") for one in with_findings] == [
        replace(one, prompt="", example="") for one in requests
    ]
    assert all(one.findings for one in with_findings) and not any(one.findings for one in requests)


def test_a_prompt_of_findings_is_true_of_the_mask_and_silent_of_the_place(drawer, with_findings):
    library = library_of("colonoscopy")
    for request in with_findings:
        true = {request.size_bin, shape_word(*shape_of(drawer.masks(request).new))}
        said = set(re.findall(r"[\w-]+", request.prompt.split(" with ")[0]))
        assert said & set(WORDS["shape"]) <= true
        assert all(library.groups[library.findings[name].group] != "setting" for name in request.findings)


def test_a_model_is_asked_in_the_words_it_knows_and_the_rest_is_told(cases):
    known = frozenset().union(*(words_in(text) for text in all_prompts()))
    drawer = RequestDrawer(cases, 0, COLONOSCOPY, known_words=KnownWords(known))
    requests = [drawer.draw(index) for index in range(30)]
    assert {request.prompt for request in requests} <= set(all_prompts())
    assert any("polyp" in part for request in requests for part in request.unknown_words)


def test_the_prompt_of_the_mask_case_wins_over_findings(cases):
    own = [replace(case, prompt=f"polyp of {case.id}") for case in cases]
    for request in draw_requests(own, 4, 0, COLONOSCOPY):
        assert request.prompt == f"polyp of {request.mask_case}" and not request.findings


def test_an_unknown_domain_is_told_before_anything_is_drawn(cases):
    with pytest.raises(FindingsError, match="nearest: fundus"):
        RequestDrawer(cases, 0, GenerateConfig(negatives=0.0, domain="fundos"))


def test_a_mask_that_fits_nowhere_is_one_line(cases, tmp_path):
    write_png(tmp_path / "black.png", np.zeros((160, 160, 3), np.uint8))
    dark = [replace(case, image=tmp_path / "black.png") for case in cases[:2]]
    with pytest.raises(PlacementError, match="none of 2 does, such as train-0") as error:
        list(draw_requests(dark, 1, 0, CONFIG))
    assert "\n" not in str(error.value)


# Strata that are aimed at


def test_each_shard_is_drawn_for_one_stratum_in_turn(cases):
    config = GenerateConfig(negatives=0.0, shard_size=3, aim="missed")
    words = RequestDrawer(cases, 0, config).words_of_cases()
    leading = sorted(words)[:3]
    needs = {name: float(name in leading) for name in words}
    words = {name: {**said, "contrast": "low-contrast" if name == leading[0] else ""} for name, said in words.items()}
    budget = make_budget("missed", words, 12, needs)
    drawer = RequestDrawer(cases, 0, config, budget=budget)
    drawer.examples.words.update(words)  # the strata as this test sets them
    for index in range(3 * len(budget.strata)):
        request = drawer.draw(index)
        assert request.aim == budget.stratum_of(index // 3)
        assert request.size_bin == request.aim.split()[0] and request.mask_case in leading
        assert ("low-contrast" in request.prompt) == ("low-contrast" in request.aim)
        assert request.mask_case == leading[0] or "low-contrast" not in request.aim


def test_of_a_case_with_fewer_requests_than_others_none_is_drawn_twice(cases):
    config = GenerateConfig(negatives=0.0, lesions_per_case=16)
    drawn = list(RequestDrawer(cases, 0, config).draw_some(20))  # no frame has room for 16
    numbers = [request.index for request in drawn]
    assert len(numbers) < 20 and numbers == sorted(set(numbers))
    assert list(draw_requests(cases, 20, 0, config)) == drawn
