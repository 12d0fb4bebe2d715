from collections import Counter

from diffaug.conditioning.turns import in_turn, in_turn_with_substitutes

NAMES = [f"case-{number}" for number in range(7)]


def test_in_a_round_every_name_has_every_place_once():
    orders = [in_turn(NAMES, 3, number) for number in range(14, 21)]
    assert all(sorted(order) == NAMES for order in orders)
    assert all(sorted(names) == NAMES for names in zip(*orders, strict=True))


def test_rounds_and_seeds_have_orders_of_their_own():
    assert in_turn(NAMES, 3, 0) != in_turn(NAMES, 3, 7)
    assert in_turn(NAMES, 3, 0) != in_turn(NAMES, 4, 0)
    assert in_turn(NAMES, 3, 5) == in_turn(NAMES, 3, 5)


def test_who_chooses_among_the_first_two_takes_no_name_more_than_twice_a_round():
    taken = Counter(min(in_turn(NAMES, 0, number)[:2]) for number in range(7))
    assert max(taken.values()) <= 2


def test_of_no_names_none_is_first():
    assert in_turn([], 0, 3) == []


def test_substitutes_of_a_name_differ_from_round_to_round():
    orders = [in_turn_with_substitutes(NAMES, 3, number) for number in range(70)]
    assert all(sorted(order) == NAMES for order in orders)
    assert [order[0] for order in orders] == [in_turn(NAMES, 3, number)[0] for number in range(70)]
    assert len({order[1] for order in orders if order[0] == NAMES[2]}) >= 4
    assert in_turn_with_substitutes([], 0, 3) == []
