from collections import Counter

from diffaug.conditioning.attributes import equivalent_diameter
from diffaug.conditioning.examples import FAR
from diffaug.conditioning.seeking import UNLIKE


def is_whole(drawer, request):
    return drawer.examples.is_whole(drawer.bank.entry(request.mask_case, request.component))


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
