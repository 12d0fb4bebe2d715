from dataclasses import replace

import numpy as np

from diffaug.conditioning.attributes import measure_attributes, texture_of
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.examples import Examples
from diffaug.conditioning.masks import MaskBank
from diffaug.config import GenerateConfig
from diffaug.data.images import write_png

CONFIG = GenerateConfig(negatives=0.0)


def test_a_speck_is_no_example(cases, tmp_path):
    mask = np.zeros(cases[0].read_mask().shape, np.uint8)
    mask[60:62, 60:64] = 255
    write_png(tmp_path / "speck.png", mask)
    some = [replace(cases[0], mask=tmp_path / "speck.png"), *cases[1:]]
    drawn = [RequestDrawer(some, 0, CONFIG).draw(index) for index in range(12)]
    assert cases[0].id not in {request.example for request in drawn}


def test_a_lesion_that_convinces_least_is_no_example_at_another_place(cases):
    plain = [RequestDrawer(cases, 0, CONFIG).draw(index).example for index in range(24)]
    least = frozenset(sorted(set(plain))[:3])
    drawer = RequestDrawer(cases, 0, CONFIG, unconvincing=least)
    assert not least & {drawer.draw(index).example for index in range(24)}
    assert RequestDrawer(cases, 0, CONFIG, unconvincing=frozenset(case.id for case in cases)).draw(0).example


def test_the_words_of_a_prompt_are_those_of_its_example(drawer, requests):
    words = drawer.words_of_cases()
    for request in requests:
        own = words[request.example]
        assert {own[aspect] for aspect in ("colour", "contrast", "border")} - {""} <= set(request.prompt.split())
        assert request.example in request.sources
    assert len({request.example for request in requests}) > len(words) / 2
    own = [request.example == request.mask_case for request in requests if request.mask_case != request.background]
    assert len(own) > 20 and np.mean(own) > 0.9
    assert np.mean([request.example == request.background for request in requests]) < 0.1


def test_an_example_is_of_the_fold_of_its_mask(cases):
    folds = {case.id: number % 3 for number, case in enumerate(cases)}
    drawer = RequestDrawer(cases, 0, CONFIG, folds=folds)
    drawn = [drawer.draw(index) for index in range(30)]
    assert all(folds[request.example] == folds[request.mask_case] for request in drawn)
    asked = [drawer.reworded(request, {"surface": word}) for request in drawn for word in ("smooth", "textured")]
    assert all(folds[request.example] == folds[request.mask_case] for request in asked)
    assert any(request.example != request.mask_case for request in asked)


def test_an_example_looks_as_asked_where_one_does_and_is_the_nearest_surface_where_none_does(drawer, requests):
    for request in [request for request in requests if not request.transform.at_edge][:12]:
        place = drawer.backgrounds.surroundings(request.background, drawer.masks(request).new)
        for word, sign in (("smooth", 1), ("textured", -1)):
            found = drawer.reworded(request, {"surface": word})
            others = [name for name in drawer.cases if name != request.background]
            ratio = {n: texture_of(drawer.examples._surroundings[n, 0].inside, place.around) for n in others}
            reached = [n for n in ratio if drawer.examples.words_at(n, place)["surface"] == word]
            assert found.prompt.endswith(f"a {word} surface") and found.transform == request.transform
            if reached:
                assert found.example in reached
            else:
                nearest = min(sign * value for value in ratio.values())
                assert sign * ratio[found.example] <= nearest + 0.1 * abs(nearest)


def test_a_case_is_measured_once_and_only_when_it_is_asked_for(cases, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "diffaug.conditioning.examples.measure_attributes",
        lambda *given: asked.append(1) or measure_attributes(*given),
    )
    examples = Examples({case.id: case for case in cases}, MaskBank.from_cases(cases))
    assert not asked
    assert examples.words["train-1"] == examples.words["train-1"] and len(asked) == 1
