"""`fedleague check`: what a run would stop at, told to the site's operator."""

from __future__ import annotations

import pytest
import yaml

from fl_client.data_check import check_simulated, check_site_file
from fl_common.errors import DataError, PolicyError, SchemaError
from fl_server.runtimes.simulated_sites import simulated_site


def test_good_site_is_described(site):
    report = check_site_file(site.path, site.job_text())
    assert (report.name, report.num_train, report.num_holdout) == ("clinic", 48, 12)
    assert report.notes == ()


def test_nothing_is_sent_or_logged(site):
    check_site_file(site.path, site.job_text())
    assert not (site.path.parent / "a.jsonl").exists()


def test_notes_reach_the_operator(site, csv_sites):
    lines = csv_sites[0].read_text().splitlines()
    one_class = [lines[0], *(line[: line.rindex(",")] + ",n" for line in lines[1:])]
    csv_sites[0].write_text("\n".join(one_class))
    notes = check_site_file(site.path, site.job_text()).notes
    assert any("one class only: 'n'" in note for note in notes)


@pytest.mark.parametrize(
    ("edit", "error", "says"),
    [
        (lambda text: "", DataError, "is empty"),
        (lambda text: text.replace("y\n", "z\n", 1), SchemaError, "target column 'y' is missing"),
        (lambda text: text + "1.0,2.0,f,q\n", SchemaError, "row 62, column 'y': class 'q'"),
        (lambda text: text + "abc,2.0,f,n\n", DataError, "row 62, column 'x1': 'abc'"),
        (lambda text: text + "1.0,2.0,f\n", DataError, "row 62 has 3 values"),
        (lambda text: "\n".join(text.splitlines()[:2]), DataError, "one row"),
    ],
)
def test_trouble_names_site_file_row_and_column(site, csv_sites, edit, error, says):
    csv_sites[0].write_text(edit(csv_sites[0].read_text()))
    with pytest.raises(error, match="site 'clinic': ") as caught:
        check_site_file(site.path, site.job_text())
    assert says in str(caught.value)
    assert str(csv_sites[0]) in str(caught.value)


def test_policy_is_checked_too(make_site):
    site = make_site(models=["mlp"])
    with pytest.raises(PolicyError, match=r"site 'clinic': policy\.models"):
        check_site_file(site.path, site.job_text())


def test_every_simulated_site_is_read(csv_sites, site):
    sites = [simulated_site({"name": p.stem, "data": {"train": str(p)}}) for p in csv_sites]
    reports = check_simulated(sites, site.job_text())
    assert [(r.name, r.num_train + r.num_holdout) for r in reports] == [
        ("a", 60),
        ("b", 40),
        ("c", 50),
    ]


def test_missing_file_is_named(site):
    raw = yaml.safe_load(site.path.read_text())
    raw["data"]["train"] = "nowhere.csv"
    site.path.write_text(yaml.safe_dump(raw))
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist; correct the path"):
        check_site_file(site.path, site.job_text())
