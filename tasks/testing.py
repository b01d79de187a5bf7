"""What every task adapter must do, whatever it learns: a test suite to subclass; needs pytest.

A test module of one task subclasses ``TaskContract``, names it ``Test...`` and gives three
fixtures: ``task``, ``sources`` (at least two sites) and ``spec`` (a model with few weights).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_common.errors import ConfigError, DataError, DivergedError, ReplyError
from tasks.contract import LocalObjective, ModelSpec, TrainConfig
from tasks.metrics.extra import require_sums
from tasks.scores import ScoreCard
from tasks.stats import Stats

CONFIG = TrainConfig(optimizer="sgd", lr=0.05, batch_size=8, local_epochs=2)
NONE = LocalObjective()


def assert_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """Require the same names in the same order, and equal arrays."""
    assert list(left) == list(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def assert_close(left: Any, right: Any) -> None:
    """Compare JSON values; numbers to 1e-12 relative, since sums depend on their order."""
    if isinstance(left, dict):
        assert list(left) == list(right)
        left, right = list(left.values()), list(right.values())
    if isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_close(one, other)
    else:
        assert left == (right if isinstance(right, str) else pytest.approx(right, rel=1e-12))


def check_metric(make: Callable[[], Any], predictions: Any, targets: Any) -> float:
    """Require that a metric's sums over two sites give the metric of all rows; return it.

    Parameters
    ----------
    make : callable
        Returns a fresh ``torchmetrics.Metric``.
    predictions, targets : tensors of as many rows, at least two
    """
    whole, summed = make(), make()
    require_sums(type(whole).__name__, whole)
    whole.update(predictions, targets)
    half = len(targets) // 2
    for rows in (slice(0, half), slice(half, None)):
        site = make()
        site.update(predictions[rows], targets[rows])
        for state in site._defaults:
            setattr(summed, state, getattr(summed, state) + getattr(site, state))
    summed._update_count = 1  # otherwise compute() warns that nothing was added
    assert float(summed.compute()) == pytest.approx(float(whole.compute()))
    return float(whole.compute())


class TaskContract:
    """The suite; see the module."""

    @pytest.fixture
    def sites(self, task: Any, sources: Any) -> Any:
        """Read every site."""
        return [task.read(source, 7) for source in sources]

    @pytest.fixture
    def fitted(self, task: Any, sites: Any) -> Any:
        """Pool the preprocessing."""
        return task.prepare(Stats.total(task.fit(site, 1) for site in sites))

    @pytest.fixture
    def model(self, task: Any, spec: Any, fitted: Any) -> Any:
        """Build a fresh model."""
        return task.build(spec, fitted, 3)

    def test_read_is_deterministic(self, task: Any, sources: Any, sites: Any) -> None:
        """Read is deterministic."""
        for source, site in zip(sources, sites, strict=True):
            again = task.read(source, 7)
            assert (again.num_train, again.num_holdout) == (site.num_train, site.num_holdout)
            assert site.num_train > 0
            assert site.num_holdout > 0
            assert all(isinstance(note, str) for note in site.notes)
            for name, array in task.fit(site, 1).items():
                np.testing.assert_array_equal(array, task.fit(again, 1)[name])

    def test_validation_rows_are_taken_from_training_and_never_from_the_holdout(
        self, task: Any, sources: Any, spec: Any
    ) -> None:
        """They train nothing, fit nothing and score nothing: they choose."""
        source = sources[0]
        plain = task.read(source, 7)
        data, other = (task.read(replace(source, validation_fraction=0.3), 7) for _ in range(2))
        assert data.num_holdout == plain.num_holdout
        assert data.num_train + data.num_validation == plain.num_train
        assert data.num_validation == pytest.approx(0.3 * plain.num_train, abs=1)
        model = task.build(spec, task.prepare(task.fit(plain, 1)), 3)
        assert_same(task.evaluate(model, data), task.evaluate(model, plain))
        assert_same(task.evaluate(model, data, "holdout"), task.evaluate(model, plain))
        chosen = task.evaluate(model, data, "validation")
        other.holdout, other.validation = other.validation, None
        assert_same(task.evaluate(model, other), chosen)

    def test_no_other_rows_stand_in_for_missing_validation_rows(
        self, task: Any, model: Any, sites: Any
    ) -> None:
        """No other rows stand in for missing validation rows."""
        assert sites[0].num_validation == 0
        with pytest.raises(DataError, match="has no validation rows"):
            task.evaluate(model, sites[0], "validation")

    def test_fitted_is_plain_json_and_independent_of_the_order_of_sites(
        self, task: Any, sites: Any, fitted: Any
    ) -> None:
        """Fitted is plain json and independent of the order of sites."""
        assert json.loads(json.dumps(fitted, allow_nan=False)) == fitted
        reverse = task.prepare(Stats.total(task.fit(site, 1) for site in reversed(sites)))
        assert_close(reverse, fitted)

    def test_fitted_survives_the_wire(
        self, task: Any, spec: Any, fitted: Any, model: Any, sites: Any
    ) -> None:
        """Fitted survives the wire."""
        again = task.build(spec, json.loads(json.dumps(fitted)), 3)
        assert_same(again.arrays(), model.arrays())
        assert_same(task.evaluate(again, sites[0]), task.evaluate(model, sites[0]))

    def test_build_depends_on_the_seed_only(
        self, task: Any, spec: Any, fitted: Any, model: Any
    ) -> None:
        """Build depends on the seed only."""
        assert_same(task.build(spec, fitted, 3).arrays(), model.arrays())
        other = task.build(spec, fitted, 4).arrays()
        assert any((other[name] != array).any() for name, array in model.arrays().items())

    def test_unknown_model_and_parameter_are_config_errors(
        self, task: Any, spec: Any, fitted: Any
    ) -> None:
        """Unknown model and parameter are config errors."""
        with pytest.raises(ConfigError, match="does not exist"):
            task.build(ModelSpec("no_such_model"), fitted, 0)
        with pytest.raises(ConfigError, match="no_such_parameter"):
            task.build(ModelSpec(spec.name, {"no_such_parameter": 1}), fitted, 0)

    def test_arrays_are_copies_and_load_restores_them(self, model: Any) -> None:
        """Arrays are copies and load restores them."""
        before = model.arrays()
        changed = model.arrays()
        for array in changed.values():
            array += 1
        assert_same(model.arrays(), before)
        model.load(changed)
        assert_same(model.arrays(), changed)
        for array in changed.values():
            array.setflags(write=False)  # as decoded from a message
        model.load(changed)

    def test_load_refuses_other_names_shapes_and_dtypes(self, model: Any) -> None:
        """Load refuses other names shapes and dtypes."""
        arrays = model.arrays()
        name = next(iter(arrays))
        wrong = [
            {k: v for k, v in arrays.items() if k != name},
            {**arrays, "surplus": arrays[name]},
            {**arrays, name: arrays[name][..., None]},
            {**arrays, name: arrays[name].astype(np.float64)},
        ]
        for candidate in wrong:
            with pytest.raises(ReplyError):
                model.load(candidate)
            assert_same(model.arrays(), arrays)

    def test_training_is_deterministic_and_starts_from_loaded_weights(
        self, task: Any, model: Any, sites: Any
    ) -> None:
        """Training is deterministic and starts from loaded weights."""
        start = model.arrays()
        first = task.train(model, sites[0], CONFIG, NONE, 11)
        assert_same(model.arrays(), first.arrays)
        task.train(model, sites[1], CONFIG, NONE, 12)
        model.load(start)
        second = task.train(model, sites[0], CONFIG, NONE, 11)
        assert_same(first.arrays, second.arrays)
        assert first.loss == second.loss
        assert {n: (a.shape, a.dtype) for n, a in start.items()} == {
            n: (a.shape, a.dtype) for n, a in first.arrays.items()
        }

    def test_outcome_counts_rows_and_steps(self, task: Any, model: Any, sites: Any) -> None:
        """Outcome counts rows and steps."""
        outcome = task.train(model, sites[0], CONFIG, NONE, 1)
        assert outcome.num_examples == sites[0].num_train
        assert outcome.num_steps == 2 * -(-sites[0].num_train // CONFIG.batch_size)
        limited = task.train(model, sites[0], TrainConfig(batch_size=4, local_steps=3), NONE, 1)
        assert limited.num_steps == 3
        assert np.isfinite(limited.loss)

    def test_training_lowers_the_loss(self, task: Any, model: Any, sites: Any) -> None:
        """Training lowers the loss."""
        one = TrainConfig(lr=0.05, batch_size=16)
        losses = [task.train(model, sites[0], one, NONE, seed).loss for seed in range(6)]
        assert losses[-1] < losses[0]

    def test_divergence_is_an_error(self, task: Any, model: Any, sites: Any) -> None:
        """Divergence is an error."""
        model.load({name: np.full_like(array, 1e38) for name, array in model.arrays().items()})
        with pytest.raises(DivergedError):
            task.train(model, sites[0], CONFIG, NONE, 1)

    def test_a_strong_proximal_term_keeps_weights_near_the_anchor(
        self, task: Any, model: Any, sites: Any
    ) -> None:
        """A strong proximal term keeps weights near the anchor."""
        start = model.arrays()
        config = TrainConfig(lr=0.01, local_epochs=5)
        free = task.train(model, sites[0], config, NONE, 1).arrays
        model.load(start)
        objective = LocalObjective(proximal_mu=50.0, anchor=start)
        near = task.train(model, sites[0], config, objective, 1).arrays

        def distance(arrays: Any) -> float:
            return sum(float(((arrays[n] - start[n]) ** 2).sum()) for n in start)

        assert distance(near) < 0.5 * distance(free)

    def test_evaluation_sends_summands_only_and_changes_nothing(
        self, task: Any, model: Any, sites: Any
    ) -> None:
        """Evaluation sends summands only and changes nothing."""
        before = model.arrays()
        stats = task.evaluate(model, sites[0])
        assert_same(model.arrays(), before)
        assert_same(task.evaluate(model, sites[0]), stats)
        assert all(name.split("/")[0] in SCOPES for name in stats)
        for array in stats.values():
            assert array.dtype in (np.int64, np.float64)
            assert np.isfinite(array).all()

    def test_pooled_scores_are_plain_and_each_metric_is_present_or_absent(
        self, task: Any, model: Any, sites: Any, fitted: Any
    ) -> None:
        """Pooled scores are plain and each metric is present or absent."""
        pooled = Stats.total(task.evaluate(model, site) for site in sites)
        card = task.finalise(pooled, fitted)
        assert isinstance(card, ScoreCard)
        for scores in (card.overall, *card.subgroups.values(), *card.blocks.values()):
            assert scores.values or scores.absent
            assert not scores.values.keys() & scores.absent.keys()
            assert all(isinstance(v, float) and np.isfinite(v) for v in scores.values.values())
            json.dumps([scores.values, scores.absent, scores.bounds, scores.arrays])
        json.dumps(card.attributions)

    def test_finalise_of_nothing_has_absent_metrics_only(self, task: Any, fitted: Any) -> None:
        """Finalise of nothing has absent metrics only."""
        card = task.finalise(Stats(), fitted)
        assert not card.overall.values
        assert card.overall.absent


SCOPES = {"overall", "subgroups", "blocks", "attributions"}
