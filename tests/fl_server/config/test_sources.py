"""Which sites a simulation has: files, or one table that is cut; nothing without effect."""

from __future__ import annotations

import pytest

from fl_common.errors import ConfigError
from fl_server.config.sources import DataConfig, PartitionConfig, simulated_sources, site_entry


def sources(given=(), partition=None, **data):
    if "sites" in data:
        data["sites"] = list(data["sites"])
    return simulated_sources(DataConfig(**data), partition or PartitionConfig(), given)


def test_one_file_is_one_site():
    (site,) = sources(sites=["white.csv"])
    assert site_entry(site) == {
        "name": "white",
        "data": {"train": "white.csv", "holdout_fraction": 0.2},
    }


def test_one_file_is_cut_where_a_number_of_sites_is_given():
    cut = PartitionConfig(kind="dirichlet", alpha=0.1)
    found = sources(["partition", "data.num_sites"], cut, sites=["white.csv"], num_sites=5)
    assert [site.name for site in found] == [f"site_{i}" for i in range(5)]
    assert {site.train for site in found} == {"white.csv"}
    assert [site.partition.index for site in found] == list(range(5))
    assert {(s.partition.kind, s.partition.alpha) for s in found} == {("dirichlet", 0.1)}


def test_a_use_cases_own_number_of_sites_does_not_cut_files_given_in_its_place():
    (site,) = sources(["data.sites"], sites=["a.csv"], dataset="breast_cancer", num_sites=4)
    assert site.partition is None
    files = ["a.csv", "b.csv"]
    assert len(sources(["data.sites"], sites=files, dataset="breast_cancer", num_sites=4)) == 2


def test_names_are_given_to_files_and_parts():
    named = sources(sites=["a.csv", "b.csv"], names=["north", 2024])
    assert [site.name for site in named] == ["north", "2024"]
    cut = sources(dataset="iris", names=["x", "y", "z"])
    assert [site.name for site in cut] == ["x", "y", "z"]


def test_a_named_table_is_cut_into_four():
    assert [site.partition.num_sites for site in sources(dataset="iris")] == [4] * 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "no data: give data.sites"),
        ({"sites": ["a.csv", "b.csv"], "num_sites": 5}, "leave out data.num_sites"),
        ({"sites": ["a.csv", "b.csv"], "given": ["partition"]}, "leave out partition"),
        ({"sites": ["a.csv"], "given": ["partition"]}, "say how many: data.num_sites=5"),
        ({"sites": ["a.csv", "b.csv"], "names": ["x"]}, "data.names has 1 names for 2 files"),
        ({"dataset": "iris", "num_sites": 3, "names": ["x"]}, "1 names for data.num_sites=3"),
        ({"dataset": "iris", "names": ["x", "x"]}, "two sites are called 'x'"),
        ({"sites": ["d/a.csv", "e/a.csv"]}, "two sites are called 'a'"),
        (
            {"sites": ["a.csv"], "dataset": "iris", "given": ["data.sites", "data.dataset"]},
            "both given",
        ),
        ({"sites": [{"train": "a.csv", "holdout": "./a.csv"}]}, "train and holdout are the same"),
        (
            {"sites": [{"train": "a.csv", "holdout": "b.csv", "validation": "b.csv"}]},
            "holdout and validation are the same file",
        ),
        ({"sites": [5]}, "neither a file nor"),
        ({"sites": [{"train": "a.csv", "holdut": "b.csv"}]}, "did you mean 'data.sites"),
        ({"sites": "a.csv"}, "data.sites must be a list"),
    ],
)
def test_what_has_no_effect_or_no_sense_is_refused(options, says):
    given = options.pop("given", ())
    with pytest.raises(ConfigError, match=says):
        simulated_sources(DataConfig(**options), PartitionConfig(), given)
