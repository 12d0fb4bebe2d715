import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import ellipse

from diffaug.conditioning.attributes import shape_of, texture_of
from diffaug.conditioning.budget import make_budget
from diffaug.conditioning.drawer import RequestDrawer, draw_requests
from diffaug.conditioning.findings import library_of
from diffaug.conditioning.grammar import KnownWords, words_in
from diffaug.conditioning.masks import MaskBank
from diffaug.conditioning.placement import field_of_view
from diffaug.conditioning.prompts import WORDS, all_prompts, shape_word
from diffaug.conditioning.request import masks_of_request, request_as_dict, request_from_dict, seed_of_request
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.images import write_png
from diffaug.data.lesions import connected_parts, size_class
from diffaug.errors import DataError, FindingsError, PlacementError

CONFIG = GenerateConfig(negatives=0.0)


@pytest.fixture(scope="module")
def drawer(cases):
    return RequestDrawer(cases, 0, CONFIG)


@pytest.fixture(scope="module")
def requests(cases):
    return list(draw_requests(cases, 60, 0, CONFIG))


def test_a_request_depends_on_its_index_alone(cases, requests):
    fresh = RequestDrawer(cases[::-1], 0, CONFIG)
    assert [fresh.draw(index) for index in (59, 7, 30, 7)] == [requests[index] for index in (59, 7, 30, 7)]


def test_more_requests_leave_the_first_ones_as_they_were(cases, requests):
    assert list(draw_requests(cases, 10, 0, CONFIG)) == requests[:10]


def test_another_seed_draws_other_requests(cases, requests):
    other = list(draw_requests(cases, 10, 1, CONFIG))
    assert not {request.seed for request in other} & {request.seed for request in requests}
    assert [request.transform for request in other] != [request.transform for request in requests[:10]]


def test_ids_and_seeds_are_unique(requests):
    assert len({request.id for request in requests}) == len({request.seed for request in requests}) == 60
    assert requests[12].id == "synth-00012"
    assert requests[12].seed == seed_of_request(0, 12) < 2**63


def test_a_speck_is_no_example(cases, tmp_path):
    mask = np.zeros(cases[0].read_mask().shape, np.uint8)
    mask[60:62, 60:64] = 255
    write_png(tmp_path / "speck.png", mask)
    some = [replace(cases[0], mask=tmp_path / "speck.png"), *cases[1:]]
    drawn = [RequestDrawer(some, 0, CONFIG).draw(index) for index in range(12)]
    assert cases[0].id not in {request.example for request in drawn}


def test_a_request_survives_json(requests, with_findings):
    for request in (*requests, *with_findings):
        row = json.loads(json.dumps(request_as_dict(request)))
        assert request_from_dict({**row, "decision": "accept"}) == request


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


def test_the_words_of_a_prompt_are_those_of_its_example(drawer, requests):
    words = drawer.words_of_cases()
    for request in requests:
        own = words[request.example]
        assert {own[aspect] for aspect in ("colour", "contrast", "border")} - {""} <= set(request.prompt.split())
        assert request.example in request.sources
    assert len({request.example for request in requests}) > len(words) / 2
    assert any(request.example != request.mask_case for request in requests)


def test_an_example_is_of_the_fold_of_its_mask(cases):
    folds = {case.id: number % 3 for number, case in enumerate(cases)}
    drawer = RequestDrawer(cases, 0, CONFIG, folds=folds)
    drawn = [drawer.draw(index) for index in range(30)]
    assert all(folds[request.example] == folds[request.mask_case] for request in drawn)
    assert any(request.example != request.mask_case for request in drawn)


def test_masks_follow_from_the_row_and_the_bank(cases, drawer, requests):
    bank = MaskBank.from_cases(cases)
    for request in requests[:5]:
        again = masks_of_request(
            request_from_dict(request_as_dict(request)), bank, drawer.backgrounds.lesion(request.background)
        )
        np.testing.assert_array_equal(again.label, drawer.masks(request).label)


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


def test_a_removed_lesion_leaves_its_place_to_a_smaller_or_another_one(cases):
    drawer, over, beside = RequestDrawer(cases, 0, GenerateConfig(negatives=0.0, place="removed")), 0, 0
    for index in range(40):
        request = drawer.draw(index)
        masks, lesion = drawer.masks(request), drawer.backgrounds.lesion(request.background)
        np.testing.assert_array_equal(masks.label, masks.new)
        assert not masks.old.any()
        over, beside = over + (masks.new & lesion).any(), beside + (masks.new & ~lesion).any()
    assert over > 5 and beside > 5


def test_sizes_follow_the_bank(drawer, cases):
    real = np.mean([np.sqrt(entry.relative_area) for entry in drawer.bank.entries])
    drawn = [np.sqrt(drawer.masks(drawer.draw(index)).new.mean()) for index in range(60)]
    assert np.mean(drawn) == pytest.approx(real, rel=0.15)


def test_a_large_mask_that_seldom_fits_does_not_make_way_for_a_small_one(cases, tmp_path):
    long, short = ((60, 170), (9, 72), (22, 84)), ((25, 170), (5, 7), (12, 84))  # height, width; radii; centre
    made = []
    for name, ((height, width), radii, centre) in {"long": long, "short": short}.items():
        mask = ellipse((height, width), centre, radii, 0.0)
        write_png(tmp_path / f"{name}.png", np.where(mask[..., None], (205, 90, 80), (190, 100, 85)).astype(np.uint8))
        write_png(tmp_path / f"{name}-mask.png", mask.astype(np.uint8) * 255)
        case = replace(cases[0], id=name, image=tmp_path / f"{name}.png", mask=tmp_path / f"{name}-mask.png")
        made.append(replace(case, group=name))
    drawer = RequestDrawer(made, 0, GenerateConfig(negatives=0.0, place="replace"))
    drawn = [drawer.draw(index) for index in range(60)]  # a long one fits where it is about as upright as it was
    assert sum(request.mask_case == "long" for request in drawn) >= 20


def test_nothing_comes_from_outside_the_cases(cases, requests):
    names = {case.id for case in cases}
    assert {request.background for request in requests} | {request.mask_case for request in requests} <= names


@pytest.mark.parametrize("split", ["val", "test"])
def test_cases_of_val_and_test_are_refused(cases, split):
    outside = replace(cases[0], split=split)
    with pytest.raises(DataError, match="training cases only"):
        RequestDrawer([*cases[1:], outside], 0, CONFIG)
    with pytest.raises(DataError, match="training cases only"):
        RequestDrawer(cases, 0, CONFIG, others=[outside])


def test_lesion_free_images_are_backgrounds_but_give_no_masks(cases, tmp_path):
    write_png(tmp_path / "normal.png", np.full((120, 160, 3), (180, 100, 90), np.uint8))
    normal = replace(cases[0], id="normal-1", image=tmp_path / "normal.png", mask=None, split="unannotated")
    drawer = RequestDrawer(cases[:2], 0, GenerateConfig(negatives=0.0, place="free"), others=[normal])
    drawn = [drawer.draw(index) for index in range(30)]
    used = [request for request in drawn if request.background == "normal-1"]
    assert used and all(request.mask_case != "normal-1" for request in drawn)
    masks = drawer.masks(used[0])
    assert masks.new.shape == (120, 160)
    np.testing.assert_array_equal(masks.label, masks.new)


def test_the_prompt_of_the_mask_case_wins(cases):
    own = [replace(case, prompt=f"polyp of {case.id}") for case in cases]
    for request in draw_requests(own, 8, 0, CONFIG):
        assert request.prompt == f"polyp of {request.mask_case}"


# Findings

COLONOSCOPY = GenerateConfig(negatives=0.0, domain="colonoscopy")


@pytest.fixture(scope="module")
def with_findings(cases):
    return list(draw_requests(cases, 60, 0, COLONOSCOPY))


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
    with pytest.raises(PlacementError, match="request 0") as error:
        list(draw_requests(dark, 1, 0, CONFIG))
    assert "\n" not in str(error.value)


@pytest.mark.skipif("DIFFAUG_DATA" not in os.environ, reason="needs real images: set DIFFAUG_DATA to their folder")
def test_on_real_frames_no_new_mask_touches_black_or_an_overlay_or_a_lesion_that_stays():
    folder = Path(os.environ["DIFFAUG_DATA"]) / "kvasir-seg" / "train"
    images = sorted((folder / "images").iterdir())[:30]
    masks = {path.stem: path for path in (folder / "masks").iterdir()}
    real = [Case(f"train-{path.stem}", path, masks[path.stem], path.stem, "train") for path in images]
    drawer = RequestDrawer(real, 0, CONFIG)
    for index in range(40):
        request = drawer.draw(index)
        found, image = drawer.masks(request), drawer.cases[request.background].read_image().astype(int)
        lesion = drawer.backgrounds.lesion(request.background) & (request.placement != "removed")
        black, green = image.max(axis=2) < 12, image[..., 1] > image[..., 0] + 40
        for forbidden in (black, green, lesion & ~found.old):
            assert np.count_nonzero(found.new & forbidden) <= 0.01 * np.count_nonzero(found.new)


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
        assert request_from_dict(json.loads(json.dumps(request_as_dict(request)))) == request
        assert request.mask_case == leading[0] or "low-contrast" not in request.aim


def test_an_example_looks_as_asked_where_one_does_and_is_the_nearest_surface_where_none_does(drawer, requests):
    for request in requests[:12]:
        place = drawer.backgrounds.surroundings(request.background, drawer.masks(request).new)
        for word, sign in (("smooth", 1), ("textured", -1)):
            found = drawer.reworded(request, {"surface": word})
            ratio = {n: texture_of(drawer.examples._surroundings[n][0].inside, place.around) for n in drawer.cases}
            reached = [n for n in ratio if drawer.examples.words_at(n, place)["surface"] == word]
            assert found.prompt.endswith(f"a {word} surface") and found.transform == request.transform
            if reached:
                assert found.example in reached
            else:
                nearest = min(sign * value for value in ratio.values())
                assert sign * ratio[found.example] <= nearest + 0.1 * abs(nearest)
