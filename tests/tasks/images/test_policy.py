"""What a bad picture does: the site's own word is the last, in every image task."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fl_client.data_check import check_site
from fl_client.policy.site import site_from_mapping
from fl_common.errors import DataError
from fl_server.commands.usecases import job_of
from fl_server.config.compose import compose_overrides
from tasks.contract import DataSource
from tasks.images.issues import on_invalid
from tests.tasks.image_classification import conftest as classes
from tests.tasks.object_detection.shapes import write_shapes
from tests.tasks.semantic_segmentation import conftest as masks

TASKS = {
    "image_classification": ["usecase.classes=[disc,ring,cross]"],
    "semantic_segmentation": ["usecase.classes=[ground,square,disc]"],
    "object_detection": ["usecase.classes=[square,disc]"],
}


def damaged(task, root):
    """Return a site's data of which one picture is no picture."""
    if task == "image_classification":
        path = classes.Site(root).folder()
    elif task == "semantic_segmentation":
        path = masks.Site(root).write()
    else:
        path = write_shapes(root, 12)
    next(p for p in sorted(root.rglob("*.png")) if "mask" not in str(p)).write_bytes(b"junk")
    return str(path)


@pytest.mark.parametrize(
    ("site", "usecase", "expected"),
    [
        (None, "refuse", "refuse"),
        (None, "drop", "drop"),
        ("drop", "refuse", "drop"),
        ("refuse", "drop", "refuse"),
    ],
)
def test_the_sites_word_is_the_last(site, usecase, expected):
    source = DataSource("a", "x", on_invalid=site)
    assert on_invalid(source, SimpleNamespace(on_invalid=usecase)) == expected


@pytest.mark.parametrize("task", TASKS)
def test_a_site_may_drop_what_the_use_case_refuses_and_the_other_way_round(task, tmp_path):
    data = {"train": damaged(task, tmp_path / "site")}

    def checked(site_says, usecase_says):
        job = job_of(task, [*TASKS[task], f"usecase.on_invalid={usecase_says}"]).to_json()
        raw = {"name": "ward", "data": {**data, "on_invalid": site_says}, "policy": {"min_rows": 1}}
        return check_site(site_from_mapping(raw, "site.yaml", tmp_path), job)

    for says in (("refuse", "drop"), (None, "refuse")):
        with pytest.raises(DataError, match=r"cannot be read.*on_invalid: drop, below data"):
            checked(*says)
    for says in (("drop", "refuse"), (None, "drop")):
        assert any(note.startswith("left out: 1 images cannot") for note in checked(*says).notes)


def test_a_simulations_sites_share_a_word_and_may_have_their_own():
    sites = "data.sites=[a/,{name: b, train: b/},{name: c, train: c/, on_invalid: refuse}]"
    overrides = ["usecase=image_classification", "usecase.classes=[x,y]", sites]
    config = compose_overrides([*overrides, "data.on_invalid=drop"])
    assert [s["data"].get("on_invalid") for s in config.site_data] == ["drop", "drop", "refuse"]
    assert "on_invalid" not in compose_overrides(overrides).site_data[0]["data"]
    config = compose_overrides(["usecase=digits", "data.on_invalid=drop"])
    assert {s["data"]["on_invalid"] for s in config.site_data} == {"drop"}
