from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp import strategy as flower
from quadratic_task import minima, random_sites

from fl_common.errors import ConfigError
from fl_server.config.compatibility import check_run
from fl_server.config.compose import compose_overrides
from fl_server.config.instantiation import make_sampler
from strategies.sampling import BySize, Candidate, PowerOfChoice, Stratified, Uniform

STRATEGIES_MD = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
SITES = [Candidate(f"s{k}", 10 * (k + 1), float(k % 4)) for k in range(10)]
RULES = [
    Uniform(0.5),
    BySize(0.5),
    Stratified(0.5),
    Stratified(0.5, {"north": ["s0", "s1"]}),
    PowerOfChoice(0.5),
    PowerOfChoice(0.3, 6),
]


def choose(rule, seed=0, sites=SITES):
    return rule.choose(sites, np.random.default_rng(seed))


@pytest.mark.parametrize("rule", RULES)
def test_same_seed_gives_the_same_sites_and_seeds_differ(rule):
    names = {site.name for site in SITES}
    for seed in range(5):
        chosen = choose(rule, seed)
        assert chosen == choose(rule, seed)
        assert len(chosen) == len(set(chosen)) == int(rule.fraction * 10)
        assert set(chosen) <= names
    if not isinstance(rule, PowerOfChoice) or rule.num_candidates:
        assert len({tuple(choose(rule, seed)) for seed in range(20)}) > 1


@pytest.mark.parametrize("rule", [Uniform(), BySize(1.0), Stratified(1.0), PowerOfChoice(1.0)])
def test_whole_fraction_is_every_site(rule):
    assert choose(rule) == sorted(site.name for site in SITES)


@pytest.mark.parametrize(
    "rule", [Uniform(0.01), BySize(0.01), Stratified(0.01), PowerOfChoice(0.1)]
)
def test_at_least_one_site(rule):
    assert len(choose(rule)) == 1
    assert choose(rule, sites=SITES[:1]) == ["s0"]


def test_uniform_counts_are_uniform_and_by_size_follows_the_rows():
    rows = np.array([site.num_train for site in SITES])
    uniform, sized = np.zeros(10), np.zeros(10)
    rng = np.random.default_rng(0)
    for _ in range(4000):
        uniform[int(Uniform(0.1).choose(SITES, rng)[0][1:])] += 1
        sized[int(BySize(0.1).choose(SITES, rng)[0][1:])] += 1
    np.testing.assert_allclose(uniform / 4000, np.full(10, 0.1), atol=0.02)
    np.testing.assert_allclose(sized / 4000, rows / rows.sum(), atol=0.02)


def test_stratified_gives_each_group_its_share():
    groups = {"north": ["s0", "s1"], "south": ["s2", "s3", "s4", "s5"]}  # s6..s9: no group
    chosen = choose(Stratified(0.5, groups))
    assert len({"s0", "s1"} & set(chosen)) == 1
    assert len(set(groups["south"]) & set(chosen)) == 2
    # Fewer places than a group's share: every group has one while there are enough.
    chosen = choose(Stratified(0.3, {"tiny": ["s0"], "rest": [f"s{k}" for k in range(1, 10)]}))
    assert "s0" in chosen
    assert len(chosen) == 3


def test_size_strata_mix_small_and_large_sites():
    for seed in range(20):
        chosen = choose(Stratified(0.3, num_strata=3), seed)
        indices = sorted(int(name[1:]) for name in chosen)
        assert indices[0] < 4 <= indices[1] < 7 <= indices[2]


def test_power_of_choice_takes_the_largest_losses_and_the_unknown_first():
    losses = [0.1, 0.9, None, 0.5, 0.2]
    sites = [Candidate(f"s{k}", 10, loss) for k, loss in enumerate(losses)]
    assert choose(PowerOfChoice(0.6), sites=sites) == ["s1", "s2", "s3"]
    # d = 2 candidates: the worse of the two drawn.
    for seed in range(10):
        (name,) = choose(PowerOfChoice(0.2, 2), seed, sites)
        assert name != "s0"


@pytest.mark.parametrize("make", [Uniform, BySize, Stratified, PowerOfChoice])
@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_fraction_is_checked(make, fraction):
    with pytest.raises(ConfigError, match=r"sampling\.fraction"):
        make(fraction)


def test_site_in_two_groups_is_refused():
    with pytest.raises(ConfigError, match="two groups"):
        Stratified(groups={"a": ["s0"], "b": ["s0"]})


@pytest.mark.parametrize("groups", ["north", {"north": "s0"}, {"north": [1]}, ["s0"], {"a": None}])
def test_groups_that_are_none_are_refused(groups):
    with pytest.raises(
        ConfigError, match=r"sampling\.groups must be null or group to sites' names"
    ):
        Stratified(groups=groups)


GROUPS = "sampling.groups={north:[site_0,site_1],south:[site_2]}"


def test_groups_are_given_as_documented(tmp_path):
    """Hydra refuses keys below an empty mapping, so the YAML says null."""
    assert GROUPS.replace("site_0,site_1", "a,b").replace("site_2", "c") in STRATEGIES_MD
    config = compose_overrides(["sampling=stratified", GROUPS], tmp_path)
    check_run(config)
    sampler = make_sampler(config.sampling)
    assert sampler == Stratified(0.5, {"north": ["site_0", "site_1"], "south": ["site_2"]})
    config = compose_overrides(["sampling=stratified"], tmp_path)
    check_run(config)
    sampler = make_sampler(config.sampling)
    assert sampler == Stratified(0.5)
    assert len(choose(sampler)) == 5


def test_misspelt_site_in_a_group_stops_the_launch(tmp_path):
    def check(site, *options):
        groups = f"sampling.groups={{north:[{site}]}}"
        check_run(compose_overrides(["sampling=stratified", groups, *options], tmp_path))

    with pytest.raises(ConfigError, match="no site 'site_00'; did you mean 'site_0'"):
        check("site_00")
    with pytest.raises(
        ConfigError, match="no site 'x'; choose from 'site_0', 'site_1', 'site_2', 'site_3'"
    ):
        check("x")
    check("site_00", "runtime=deployment")  # whose names are known once they join


def _asked(history):
    return [[s.site for s in record.sites if s.phase == "train"] for record in history.records[1:]]


def test_stock_flower_strategy_asks_only_the_chosen_sites(federation):
    sites = random_sites(6)
    first = federation(flower.FedAvg(**minima()), sites, rounds=4, sampler=Uniform(0.5))
    again = federation(flower.FedAvg(**minima()), sites, rounds=4, sampler=Uniform(0.5))
    assert _asked(first) == _asked(again)
    assert all(len(names) == 3 for names in _asked(first))
    assert len({tuple(names) for names in _asked(first)}) > 1


def test_power_of_choice_follows_the_last_losses_of_the_run(federation):
    sites = random_sites(4, rows=10, spread=3.0)
    history = federation(flower.FedAvg(**minima()), sites, rounds=5, sampler=PowerOfChoice(0.5))
    asked = _asked(history)
    assert sorted(asked[0] + asked[1]) == [f"site_{k:02d}" for k in range(4)]  # unknown first
    losses = {}
    for record, names in zip(history.records[1:], asked, strict=True):
        if len(losses) == 4:
            worst = sorted(losses, key=lambda name: -losses[name])[:2]
            assert sorted(worst) == names
        losses |= {s.site: s.loss for s in record.sites if s.phase == "train"}


def test_losses_survive_a_resume(federation, tmp_path):
    from fl_server.results.checkpoint import read_checkpoint

    sites, options = random_sites(4, spread=3.0), {"sampler": PowerOfChoice(0.5)}
    whole = federation(flower.FedAvg(**minima()), sites, rounds=6, **options)
    folder = tmp_path / "run"
    federation(flower.FedAvg(**minima()), sites, rounds=3, folder=folder, **options)
    saved = read_checkpoint(folder)
    resumed = federation(
        flower.FedAvg(**minima()), sites, rounds=6, folder=folder, resumed=saved, **options
    )
    assert _asked(resumed) == _asked(whole)
