from collections import Counter
from dataclasses import replace

from diffaug.conditioning.attributes import equivalent_diameter
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.examples import FAR
from diffaug.conditioning.seeking import UNLIKE
from diffaug.config import GenerateConfig

CONFIG = GenerateConfig(negatives=0.0)


def is_whole(drawer, request):
    lesion = drawer.bank.entry(request.mask_case, request.component)
    return drawer.examples.is_whole(lesion) or (request.transform.at_edge and drawer.examples.lies_at_edge(lesion))


def test_lesions_take_turns(drawer, requests):
    rounds = len(requests) // len(drawer.examples.names)
    shown = Counter(request.mask_case for request in requests)
    whole = {case for case in drawer.examples.names if any(map(drawer.examples.is_whole, drawer.bank.components(case)))}
    assert set(shown) >= whole and max(shown.values()) <= 2 * rounds


def test_a_lesion_without_a_flaw_is_shown_on_its_own_mask_and_on_another_frame(drawer, requests):
    whole = [request for request in requests if is_whole(drawer, request)]
    assert len(whole) > 0.9 * len(requests)
    own = [request for request in whole if request.example == request.mask_case]
    assert len(own) > 0.9 * len(whole)
    assert all(request.background != request.mask_case for request in own)


def test_what_is_drawn_suits_its_place(drawer, requests):
    unlike = []
    for request in requests:
        entry, new = drawer.bank.entry(request.mask_case, request.component), drawer.masks(request).new
        place = drawer.backgrounds.surroundings(request.background, new)
        unlike.append(
            drawer.examples.unlike(entry, place, equivalent_diameter(float(new.sum())), request.transform.flip)
        )
    assert sorted(unlike)[len(unlike) // 2] <= FAR and sorted(unlike)[int(0.9 * len(unlike))] <= UNLIKE


def test_no_lesion_is_painted_onto_its_own_group_as_long_as_there_are_others(cases):
    groups = {case.id: f"patient-{number % 3}" for number, case in enumerate(cases)}
    grouped = [replace(case, group=groups[case.id]) for case in cases]
    drawer = RequestDrawer(grouped, 0, CONFIG)
    for request in drawer.draw_some(30):
        assert groups[request.example] != groups[request.background]
    alone = RequestDrawer([replace(case, group="one") for case in cases], 0, CONFIG)
    drawn = list(alone.draw_some(30))
    assert [request.example == request.background for request in drawn].count(True) < 3
