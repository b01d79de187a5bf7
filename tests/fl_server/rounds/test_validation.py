"""The validation rows choose, from the first round to result.json and the leaderboard."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_common.errors import ConfigError
from fl_server.leaderboard.store import Store
from fl_server.results.result import MODEL, RESULT
from fl_server.results.saved_model import load_run_model
from fl_server.rounds.loop import RoundLoop
from fl_server.runtimes.execution import execute
from fl_server.runtimes.launch import launch
from fl_server.runtimes.simulation import InProcessGrid
from strategies.wire.messages import CONFIG, EVALUATE, SPLIT
from tasks.contract import DataSource, LocalObjective, child_seed
from tasks.registry import load_task
from tasks.stats import Stats

THIRD = "data.validation_fraction=0.25"
ROUGH = ("train.lr=0.3", "train.batch_size=8", "train.local_epochs=2")


def run(config, grid=None):
    return execute(grid or InProcessGrid(config.site_data), config)


def result(config):
    return json.loads((config.folder / RESULT).read_text())


def read_sites(config):
    task = load_task(config.usecase.task, config.schema)
    sources = [DataSource(name=s["name"], **s["data"]) for s in config.site_data]
    return task, [task.read(source, config.split_seed) for source in sources]


def score_on(config, split):
    """Score the saved model on one split of every site, without any federation."""
    _, sites = read_sites(config)
    task, model = load_run_model(config.folder)
    stats = Stats.total(task.evaluate(model, site, split) for site in sites)
    fitted = json.loads((config.folder / "model.json").read_text())["preprocessing"]
    return task.finalise(stats, fitted).overall.values[config.usecase.score.name]


def test_result_leaderboard_and_model_are_of_the_validation_best_round(compose, tmp_path):
    """Where the best round on the holdout is another one, its better score is not the run's."""
    url = f"sqlite:///{tmp_path}/board.sqlite"
    config = compose(THIRD, *ROUGH, "rounds=8", f"board.url={url}", "data.split_seed=4", "seed=4")
    outcome = run(config)
    chosen_by = [record.validation_score for record in outcome.rounds]
    scores = [record.score for record in outcome.rounds]
    chosen = chosen_by.index(max(chosen_by))
    assert scores.index(max(scores)) != chosen, "the case does not tell the two apart"
    assert max(scores) > scores[chosen]
    assert chosen < 8, "nor from the last round"

    found = result(config)
    assert not found["stopped_early"]
    assert found["final_round"] == chosen
    assert found["score"]["final"] == scores[chosen]
    assert [r["validation_score"] for r in found["rounds"]] == chosen_by
    with Store(url) as store:
        (entry,) = store.leaderboard(config.usecase.slug).results
    assert entry.final_score == scores[chosen]
    assert score_on(config, "holdout") == pytest.approx(scores[chosen], abs=1e-12)
    assert score_on(config, "validation") == pytest.approx(chosen_by[chosen], abs=1e-12)


def test_one_site_equals_a_hand_written_loop_that_stops_on_the_same_rows(compose, csv_sites):
    site = f"data.sites=[{csv_sites[0]}]"
    config = compose(THIRD, *ROUGH, "rounds=20", "early_stopping.patience=3", site)
    outcome = run(config)

    task, (data,) = read_sites(config)
    fitted = task.prepare(task.fit(data, 5))
    model = task.build(config.model, fitted, config.seed)
    name = config.usecase.score.name

    def judge(split):
        stats = task.evaluate(model, data, split)
        return task.finalise(stats, fitted).overall.values[name]

    best, since, chosen_by = model.arrays(), 0, [judge("validation")]
    held_out = {0: judge("holdout")}
    for number in range(1, 21):
        seed = child_seed(config.seed, "train", "a", number)
        task.train(model, data, config.train, LocalObjective(), seed)
        score = judge("validation")
        held_out[number] = judge("holdout")
        best, since = (model.arrays(), 0) if score > max(chosen_by) else (best, since + 1)
        chosen_by.append(score)
        if since == 3:
            break
    assert [record.validation_score for record in outcome.rounds] == chosen_by
    assert [record.score for record in outcome.rounds] == list(held_out.values())
    assert outcome.stopped_early is (since == 3)
    assert outcome.stopped_early, "the case does not stop early"
    for key, value in load_file(config.folder / MODEL).items():
        np.testing.assert_array_equal(value, best[key], err_msg=key)


def test_killed_run_resumes_to_the_same_chosen_round(compose, monkeypatch):
    seeds = ("seed=4", "data.split_seed=4")
    options = (THIRD, *ROUGH, "rounds=20", "early_stopping.patience=4", *seeds)
    whole = compose(*options, folder="whole")
    straight = run(whole)
    assert straight.stopped_early
    chosen = result(whole)["final_round"]
    real = RoundLoop._round

    def dies(self, number, arrays):
        if number == chosen + 2:  # the best model is not the last one any more
            raise KeyboardInterrupt
        return real(self, number, arrays)

    monkeypatch.setattr(RoundLoop, "_round", dies)
    with pytest.raises(KeyboardInterrupt):
        run(compose(*options, folder="killed"))
    monkeypatch.undo()
    resumed = compose(*options, "resume=true", folder="killed")
    outcome = run(resumed)
    assert outcome.stopped_early
    assert len(outcome.rounds) == len(straight.rounds)
    assert result(resumed)["final_round"] == chosen
    assert result(resumed)["metrics"] == result(whole)["metrics"]
    left, right = (load_file(config.folder / MODEL) for config in (whole, resumed))
    for key, value in left.items():
        np.testing.assert_array_equal(value, right[key], err_msg=key)
    again = compose(*options, "resume=true", folder="killed")
    assert len(run(again).rounds) == len(straight.rounds)  # it stays stopped


def test_patience_without_validation_rows_is_refused_before_training(compose):
    config = compose("early_stopping.patience=2", "board.url=null")
    with pytest.raises(ConfigError, match=r"early_stopping\.patience is judged on validation rows"):
        launch(config)
    assert not config.folder.exists()
    with pytest.raises(ConfigError, match=r"early_stopping\.patience is judged on validation rows"):
        run(config)  # as after admission, where the sites are not the server's
    assert [path.name for path in config.folder.iterdir()] == ["config.yaml"]


def test_without_validation_rows_the_last_good_round_counts(compose):
    config = compose(*ROUGH, "rounds=4")
    outcome = run(config)
    assert all(record.validation_score is None for record in outcome.rounds)
    assert result(config)["final_round"] == 4
    assert {site.phase for record in outcome.rounds for site in record.sites} == {
        "train",
        "evaluate",
    }


def some(csv_sites, *with_rows):
    entries = [
        {"name": path.stem, "train": str(path)}
        | ({"validation_fraction": 0.25} if path.stem in with_rows else {})
        for path in csv_sites
    ]
    return f"data.sites={json.dumps(entries)}".replace('"', "")


def test_sites_without_validation_rows_take_part_in_all_but_the_choice(compose, csv_sites, capsys):
    config = compose(some(csv_sites, "a", "c"), "rounds=2", "early_stopping.patience=2")
    outcome = run(config)
    for record in outcome.rounds:
        asked = {phase: [] for phase in ("train", "validate", "evaluate")}
        for site in record.sites:
            assert site.status == "ok"
            asked[site.phase].append(site.site)
        assert asked["validate"] == ["a", "c"]
        assert asked["evaluate"] == ["a", "b", "c"]
        assert asked["train"] == (["a", "b", "c"] if record.round else [])
    said = " ".join(capsys.readouterr().out.split())
    assert "22 validation rows choose the round" in said
    assert "take no part in that: b" in said
    assert f"validation {outcome.rounds[1].validation_score:.4f}" in said


def test_masked_sums_give_the_same_validation_scores(compose):
    options = (THIRD, *ROUGH, "rounds=3", "early_stopping.patience=3")
    plain, masked = compose(*options, folder="plain"), compose(*options, "privacy=secagg")
    open_rounds, masked_rounds = run(plain).rounds, run(masked).rounds
    for left, right in zip(open_rounds, masked_rounds, strict=True):
        assert right.validation_score == pytest.approx(left.validation_score, abs=1e-6)
        assert {site.phase for site in right.sites} >= {"validate", "evaluate"}


def test_fedbuff_is_validated_too(compose):
    outcome = run(compose(THIRD, "strategy=fedbuff", "rounds=3"))
    assert all(record.validation_score is not None for record in outcome.rounds)


class OldSite(InProcessGrid):
    """A site that does not know the split it is asked about, and answers of its holdout."""

    def _deliver(self, message):
        if message.metadata.message_type == EVALUATE and message.metadata.dst_node_id == 2:
            message.content[CONFIG].pop(SPLIT, None)
        return super()._deliver(message)


def test_an_answer_about_other_rows_is_refused_and_named(compose, csv_sites):
    """All sites share one request: the site's own message is changed on its way."""
    entries = some(csv_sites, "a")
    config = compose(entries, "rounds=1", "data.holdout_fraction=0.3")
    with pytest.raises(Exception, match=r"a: reply covers 18 rows, the site declared 10"):
        run(config, OldSite(config.site_data))


@pytest.mark.parametrize("extra", [(), (THIRD,)])
def test_holdout_rows_are_the_same_with_and_without_validation(compose, extra):
    config = compose("rounds=0", *extra)
    outcome = run(config)
    assert [s.num_examples for s in outcome.rounds[0].sites if s.phase == "evaluate"] == [12, 8, 10]
    _, sites = read_sites(config)
    plain = read_sites(compose("rounds=0", folder="plain"))[1]
    for left, right in zip(sites, plain, strict=True):
        np.testing.assert_array_equal(left.holdout.numeric, right.holdout.numeric)
        np.testing.assert_array_equal(left.holdout.target, right.holdout.target)
