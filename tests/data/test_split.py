from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.data.split import connected, folds_by_group, shuffled, split_by_group
from diffaug.errors import DataError

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
groupings = st.dictionaries(st.text("abcdef0123", min_size=1), st.sampled_from("ABCDEFGHIJ"), min_size=1, max_size=60)
seeds = st.integers(0, 2**32)


@given(groupings, seeds)
def test_no_group_crosses_a_split(groups: dict[str, str], seed: int) -> None:
    splits = split_by_group(groups, SHARES, seed)
    assert set(splits) == set(groups)
    assert all(len({splits[case] for case in groups if groups[case] == group}) == 1 for group in groups.values())


@given(groupings, seeds)
def test_the_order_of_the_cases_does_not_matter(groups: dict[str, str], seed: int) -> None:
    turned = dict(reversed(groups.items()))
    assert split_by_group(groups, SHARES, seed) == split_by_group(turned, SHARES, seed)
    if len(set(groups.values())) >= 3:
        assert folds_by_group(groups, 3, seed) == folds_by_group(turned, 3, seed)


@given(st.integers(10, 300), seeds)
def test_single_cases_are_divided_by_the_shares(count: int, seed: int) -> None:
    sizes = Counter(split_by_group({str(case): str(case) for case in range(count)}, SHARES, seed).values())
    assert all(abs(sizes[split] - share * count) <= 2 for split, share in SHARES.items())


@given(groupings, seeds)
def test_no_split_stays_empty_while_there_are_groups(groups: dict[str, str], seed: int) -> None:
    splits = set(split_by_group(groups, SHARES, seed).values())
    assert len(splits) == 3 or len(set(groups.values())) < 3


@given(groupings, seeds)
def test_a_split_exceeds_its_share_by_less_than_the_largest_group_or_holds_one_group(
    groups: dict[str, str], seed: int
) -> None:
    splits = split_by_group(groups, SHARES, seed)
    sizes = Counter(splits.values())
    largest = max(Counter(groups.values()).values())
    for split, share in SHARES.items():
        held = {groups[case] for case in groups if splits[case] == split}
        assert sizes[split] < share * len(groups) + largest or len(held) == 1


def test_another_seed_divides_otherwise() -> None:
    groups = {str(case): str(case) for case in range(50)}
    assert split_by_group(groups, SHARES, 0) != split_by_group(groups, SHARES, 1)


@given(groupings, st.integers(2, 5), seeds)
def test_folds_hold_whole_groups_and_differ_by_the_largest_at_most(
    groups: dict[str, str], folds: int, seed: int
) -> None:
    if len(set(groups.values())) < folds:
        with pytest.raises(DataError, match="use fewer"):
            folds_by_group(groups, folds, seed)
        return
    found = folds_by_group(groups, folds, seed)
    sizes = Counter(found.values())
    assert set(sizes) == set(range(folds))
    assert max(sizes.values()) - min(sizes.values()) <= max(Counter(groups.values()).values())
    assert len({(groups[case], fold) for case, fold in found.items()}) == len(set(groups.values()))


@given(groupings, st.integers(2, 5), seeds, st.data())
def test_folds_share_cases_with_a_lesion_evenly_and_each_has_some_where_there_are_enough(groups, folds, seed, data):
    if len(set(groups.values())) < folds:
        return
    lesion_free = data.draw(st.sets(st.sampled_from(sorted(groups))))
    found = folds_by_group(groups, folds, seed, lesion_free)
    lesions = Counter(group for case, group in groups.items() if case not in lesion_free)
    by_fold = Counter(found[case] for case in groups if case not in lesion_free)
    counts = [by_fold[fold] for fold in range(folds)]
    assert set(found.values()) == set(range(folds))
    assert max(counts) - min(counts) <= max(lesions.values(), default=0)
    assert min(counts) > 0 or len(lesions) < folds
    assert len({(groups[case], fold) for case, fold in found.items()}) == len(set(groups.values()))


@pytest.mark.parametrize("shares", [{"train": 0.0}, {"train": 1.0, "val": -0.5}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(DataError, match="must be positive"):
        split_by_group({"a": "a"}, shares, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_connected_names_share_the_smallest_name_and_others_do_not(links: list[tuple[int, int]]) -> None:
    names = [str(name) for name in range(10)]
    roots = connected(names, [(str(a), str(b)) for a, b in links])
    reached = {name: {name} for name in names}
    for _ in names:
        for a, b in links:
            both = reached[str(a)] | reached[str(b)]
            for name in both:
                reached[name] = reached[name] | both
    assert roots == {name: min(reached[name]) for name in names}


@given(st.lists(st.text(max_size=3)), seeds)
def test_shuffled_keeps_each_name_once_in_an_order_of_its_own(names: list[str], seed: int) -> None:
    assert sorted(shuffled(names, seed)) == sorted(set(names))
    assert shuffled(names, seed) == shuffled(reversed(names), seed)
