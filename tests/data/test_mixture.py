"""The OpenMoji mixture: blocks of one kind, in fixed shares, without repeated samples."""

from collections import Counter

from adem_vl_hf.data import OpenMojiMixture
from adem_vl_hf.data.openmoji.mixture import BLOCK, FINAL_SHARES, LAST_SHARES, LATER_SHARES, SEEN_STYLES, SHARES
from adem_vl_hf.data.openmoji.styles import STYLES
from adem_vl_hf.data.openmoji.things import EVERY_THING

TURN = BLOCK * sum(SHARES.values())


def test_a_batch_in_order_is_of_one_kind():
    data = OpenMojiMixture("train", size=2 * TURN)
    for block in range(0, TURN, BLOCK):
        assert len({data[block + place]["kind"] for place in (0, 1, BLOCK // 2, BLOCK - 1)}) == 1


def test_a_turn_holds_the_shares_and_no_kind_waits_for_its_end():
    data = OpenMojiMixture("train", size=TURN)
    order = [data.turn[block][0] for block in range(TURN // BLOCK)]
    assert Counter(order) == SHARES
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        for part, share in SHARES.items():
            assert abs(half.count(part) - share / 2) <= 1


def test_no_sample_comes_twice():
    data = OpenMojiMixture("train", size=2 * TURN)
    captions = [block * BLOCK for block in range(2 * TURN // BLOCK)]
    samples = [data[index] for index in captions]
    assert len({sample["id"] for sample in samples}) == len(samples)
    assert len({sample["image"].tobytes() for sample in samples}) == len(samples)


def test_every_name_is_captioned_before_any_comes_again():
    data = OpenMojiMixture("train", size=10**6)
    part = data.parts["names", "caption"]
    named, block = [], 0
    while len(named) < len(part.things):
        (dataset, kind), _ = data.turn[block % len(data.turn)]
        if (dataset, kind) == ("names", "caption"):
            named += [data[block * BLOCK + place]["answer"] for place in range(BLOCK)]
        block += 1
    assert len(set(named[: len(part.things)])) == len(part.things)


def test_splits_and_seeds_draw_other_pictures():
    drawn = (("train", 0), ("train", 0), ("train", 1), ("test", 0))
    one, again, other, test = (OpenMojiMixture(split, size=9, seed=seed) for split, seed in drawn)
    assert one[8]["image"].tobytes() == again[8]["image"].tobytes()
    assert len({data[8]["image"].tobytes() for data in (one, other, test)}) == 3


def test_a_mixture_takes_shares_of_its_own():
    mixture = OpenMojiMixture("train", 5 * BLOCK, shares={("scenes", "caption"): 2, ("scenes", "choice"): 3})
    kinds = [mixture[block * BLOCK]["kind"] for block in range(5)]
    assert Counter(kinds) == {"caption": 2, "choice": 3}


def test_what_follows_asks_about_other_scenes_in_all_styles_but_the_one_for_tests():
    first, later = OpenMojiMixture("train", 9), OpenMojiMixture("train", 9, seed=1, shares=LATER_SHARES)
    shared = set(first.parts) & set(later.parts)
    assert set(first.parts) - shared == {("names", "choice")}  # asked in three styles later
    assert not {first.parts[part].seed for part in shared} & {later.parts[part].seed for part in shared}
    styled = later.parts["names in three styles", "choice"]
    assert set(styled.styles) == set(STYLES) - {"noto"}


def test_what_comes_last_shows_more_things_on_drawings_of_its_own():
    mixtures = [
        OpenMojiMixture("train", 9, seed=seed, shares=shares)
        for seed, shares in ((0, SHARES), (1, LATER_SHARES), (2, LAST_SHARES), (5, FINAL_SHARES))
    ]
    seeds = [part.seed for mixture in mixtures for part in mixture.parts.values()]
    assert len(set(seeds)) == len(seeds)
    more = [part for (name, _), part in mixtures[2].parts.items() if "more things" in name]
    assert {part.things for part in more} == {len(EVERY_THING)}
    assert {part.styles for part in more} == {SEEN_STYLES}
