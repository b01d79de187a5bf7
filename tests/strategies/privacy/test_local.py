from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fl_client.policy.policy import Policy
from fl_client.policy.site import read_site
from fl_client.state.privacy_budget import PrivacyBudget
from fl_common.errors import ConfigError, PolicyError
from fl_server.runtimes.simulation import InProcessGrid
from strategies.privacy.accounting import epsilon_of
from strategies.wire.refusal import Refusal
from tasks.contract import DataSource, DpSgd, LocalObjective, ModelSpec, TrainConfig
from tasks.networks import dp_sgd
from tasks.registry import load_task
from tests.unchecked import unchecked

pytest.importorskip("opacus")
NOISELESS = DpSgd(noise_multiplier=0.0, max_grad_norm=1e9, delta=1e-5)
SCHEMA = {"target": "y", "classes": ["n", "p"], "categorical": ["sex"]}


@pytest.fixture
def site(csv_sites):
    """A task, its data of 48 training rows, and a model."""
    task = load_task("tabular_classification", SCHEMA)
    data = task.read(DataSource("a", str(csv_sites[0])), 0)
    fitted = task.prepare(task.fit(data, 1))
    spec = ModelSpec("mlp", {"hidden": [8], "layer_norm": True, "dropout": 0.0})
    return task, data, task.build(spec, fitted, 0)


def train(site, config, objective=None, seed=1):
    task, data, model = site
    fresh = task.build(ModelSpec("mlp", {"hidden": [8], "layer_norm": True}), fitted_of(site), 0)
    model.load(fresh.arrays())
    return task.train(model, data, config, objective or LocalObjective(), seed)


def fitted_of(site):
    task, data, _ = site
    return task.prepare(task.fit(data, 1))


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(batch_size=1000, local_epochs=5, lr=0.1),
        TrainConfig(batch_size=1000, local_steps=4, lr=0.1, momentum=0.9, weight_decay=0.01),
        TrainConfig(batch_size=1000, local_epochs=3, lr=0.01, optimizer="adam"),
    ],
)
def test_without_noise_and_clipping_it_is_plain_training(site, config):
    """On whole batches: Poisson sampling at rate 1 takes every row, as an epoch does."""
    plain = train(site, config)
    private = train(site, replace(config, dp=NOISELESS))
    assert private.num_steps == plain.num_steps
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(private.arrays[name], array, rtol=2e-5, atol=1e-6)


def test_strategys_terms_are_added_after_the_noise(site):
    config = TrainConfig(batch_size=1000, local_epochs=4, lr=0.1)
    anchor = site[2].arrays()
    linear = {name: np.full_like(array, 0.1) for name, array in anchor.items()}
    objective = LocalObjective(proximal_mu=0.5, anchor=anchor, linear=linear)
    plain = train(site, config, objective)
    private = train(site, replace(config, dp=NOISELESS), objective)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(private.arrays[name], array, rtol=2e-5, atol=1e-6)


def gradients(site, noise, index, expected_batch=10.0, targets=None):
    """One clipped and noised gradient as one vector."""
    _, data, model = site
    inputs, truth = data.tensors(model.encoder, "train")
    truth = truth if targets is None else targets

    def batch_loss(rows):
        return torch.nn.functional.cross_entropy(model.module(inputs[rows]), truth[rows])

    generator = torch.Generator().manual_seed(0)
    config = TrainConfig(dp=noise)
    with dp_sgd.per_example_gradients(model, config, expected_batch, generator) as noised:
        return torch.cat([g.flatten() for g in noised(batch_loss, index)])


def test_one_row_moves_the_gradient_at_most_the_bound(site):
    noise = DpSgd(noise_multiplier=0.0, max_grad_norm=0.05, delta=1e-5)
    rows = torch.arange(20)
    with_row, without = gradients(site, noise, rows), gradients(site, noise, rows[:-1])
    shift = float((with_row - without).norm())
    assert shift <= 0.05 / 10 * (1 + 1e-5)
    unclipped = gradients(site, NOISELESS, rows) - gradients(site, NOISELESS, rows[:-1])
    assert float(unclipped.norm()) > 0.05 / 10


@pytest.mark.parametrize("num_rows", [20, 0])
def test_noise_has_the_stated_deviation_even_on_an_empty_batch(site, num_rows):
    rows = torch.arange(num_rows)
    noise = DpSgd(noise_multiplier=3.0, max_grad_norm=0.5, delta=1e-5)
    exact = replace(noise, noise_multiplier=0.0)
    drawn = gradients(site, noise, rows) - gradients(site, exact, rows)
    assert float(drawn.std()) == pytest.approx(3.0 * 0.5 / 10, rel=0.15)


def test_model_is_left_as_any_other_training_leaves_it(site):
    _, _, model = site
    train(site, TrainConfig(batch_size=8, dp=DpSgd(1.0, 1.0, 1e-5)))
    assert not model.module.training
    for parameter in model.module.parameters():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")
    assert not any(m._forward_hooks for m in model.module.modules())


def test_batches_are_poisson(site, monkeypatch):
    sizes = []
    real = dp_sgd.per_example_gradients

    def spy(*args):
        manager = real(*args)

        class Spy:
            def __enter__(self):
                noised = manager.__enter__()

                def count(loss, index):
                    sizes.append(len(index))
                    return noised(loss, index)

                return count

            def __exit__(self, *error):
                return manager.__exit__(*error)

        return Spy()

    monkeypatch.setattr(dp_sgd, "per_example_gradients", spy)
    train(site, TrainConfig(batch_size=8, local_steps=300, dp=DpSgd(1.0, 1.0, 1e-5)))
    assert np.mean(sizes) == pytest.approx(8, abs=0.7)
    assert np.var(sizes) == pytest.approx(8 * (1 - 8 / 48), rel=0.4)


def test_neither_noise_nor_batches_come_from_the_runs_seed(site):
    config = TrainConfig(batch_size=8, dp=DpSgd(1.0, 1.0, 1e-5))
    first, second = train(site, config, seed=1), train(site, config, seed=1)
    assert all((first.arrays[n] != second.arrays[n]).any() for n in first.arrays)
    assert first.loss == 0.0


def test_schedule_is_what_the_accountant_counts():
    assert TrainConfig(batch_size=32, local_epochs=2).private_steps(100) == (0.32, 8)
    assert TrainConfig(batch_size=32, local_steps=3).private_steps(20) == (1.0, 3)


class Memory(dict):
    def put(self, name, arrays):
        self[name] = arrays


CONFIG = TrainConfig(batch_size=10, local_epochs=1, dp=DpSgd(1.0, 1.0, 1e-5))


@pytest.mark.parametrize("kept", ["file", "memory"])
def test_budget_refuses_what_exceeds_the_budget(tmp_path, kept):
    path = tmp_path / "epsilon.json" if kept == "file" else None
    memory = Memory()
    budget = epsilon_of([(1.0, 0.1, 30)], 1e-5) + 1e-6
    for round_number in range(3):  # a new process each time
        PrivacyBudget(Policy(epsilon_budget=budget), path, memory).spend(CONFIG, 100)
        spent = PrivacyBudget(Policy(), path, memory).spent(1e-5)
        assert spent == pytest.approx(epsilon_of([(1.0, 0.1, 10 * round_number + 10)], 1e-5))
    with pytest.raises(PolicyError, match="epsilon_budget"):
        PrivacyBudget(Policy(epsilon_budget=budget), path, memory).spend(CONFIG, 100)
    assert PrivacyBudget(Policy(), path, memory).spent(1e-5) == spent  # a refusal costs nothing


def test_server_cannot_widen_the_budget_by_delta_or_noise():
    policy = Policy(epsilon_budget=3.0)
    for dp in (DpSgd(1.0, 1.0, 0.99), DpSgd(0.1, 1.0, 1e-5), DpSgd(0.0, 1.0, 1e-5), None):
        with pytest.raises(PolicyError, match="epsilon_budget"):
            PrivacyBudget(policy, None, Memory()).spend(
                replace(CONFIG, dp=dp, local_steps=2000), 100
            )


@pytest.mark.parametrize(
    "odd",
    [
        {"batch_size": -5},
        {"batch_size": 0},
        {"local_steps": -3},
        {"batch_size": 2.5},
        {"dp": unchecked(DpSgd(1.0, 1.0, 1e-5), noise_multiplier=math.nan)},
        {"dp": unchecked(DpSgd(1.0, 1.0, 1e-5), noise_multiplier=-1.0)},
        {"dp": unchecked(DpSgd(1.0, 1.0, 1e-5), noise_multiplier="1")},
    ],
)
def test_budget_refuses_numbers_that_would_falsify_it(odd):
    memory = Memory()
    with pytest.raises(PolicyError):
        PrivacyBudget(Policy(epsilon_budget=1e9), None, memory).spend(unchecked(CONFIG, **odd), 100)
    assert not memory


def test_damaged_budget_file_stops_the_spending(tmp_path):
    path = tmp_path / "epsilon.json"
    path.write_text('{"releases": [[1.0')
    with pytest.raises(PolicyError, match="cannot be read"):
        PrivacyBudget(Policy(epsilon_budget=3.0), path, Memory()).spend(CONFIG, 100)


def test_real_site_with_a_budget_has_a_budget_file(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("name: a\ndata: {train: a.csv}\npolicy: {epsilon_budget: 2}\n")
    assert read_site(path).privacy_budget == tmp_path.resolve() / "epsilon.json"
    path.write_text("name: a\ndata: {train: a.csv}\n")
    assert read_site(path).privacy_budget is None


def with_policy(config, **policy):
    """Return the sites of a configuration; the first has this policy."""
    first, *others = config.site_data
    return [{**first, "policy": {"min_rows": 1, **policy}}, *others]


def test_run_reports_each_sites_epsilon_and_no_loss(compose, run):
    config = compose("privacy=local_dpsgd", "privacy.noise_multiplier=2", "train.batch_size=8")
    outcome, result = run(config)
    rows = {"a": 48, "b": 32, "c": 40}
    for record in outcome.rounds[1:]:
        assert record.status == "ok"
        assert record.train_loss is None
        trained = {s.site: s for s in record.sites if s.phase == "train"}
        for name, num_rows in rows.items():
            rate, steps = config.train.private_steps(num_rows)
            expected = epsilon_of([(2.0, rate, steps * record.round)], 1e-5)
            assert trained[name].epsilon == pytest.approx(expected)
            assert trained[name].loss is None
        assert record.epsilon == max(site.epsilon for site in trained.values())
    assert result["rounds"][-1]["epsilon"] == outcome.rounds[-1].epsilon
    assert result["rounds"][-1]["sites"][0]["epsilon"] > 0


def test_site_refuses_when_its_budget_is_exhausted(compose, run):
    config = compose("privacy=local_dpsgd", "privacy.noise_multiplier=2", "train.batch_size=8")
    rate, steps = config.train.private_steps(48)
    budget = epsilon_of([(2.0, rate, steps * 2)], 1e-5) + 1e-6
    outcome, _ = run(config, InProcessGrid(with_policy(config, epsilon_budget=budget)))
    first = [
        next(s for s in r.sites if s.site == "a" and s.phase == "train") for r in outcome.rounds[1:]
    ]
    assert [site.status for site in first] == ["ok", "ok", "failed"]
    assert first[-1].reason == Refusal.POLICY.text
    assert outcome.rounds[-1].status == "ok"


def test_site_with_a_budget_never_trains_without_noise(compose, run):
    config = compose("rounds=1")
    outcome, _ = run(config, InProcessGrid(with_policy(config, epsilon_budget=100.0)))
    trained = {s.site: s for s in outcome.rounds[1].sites if s.phase == "train"}
    assert trained["a"].reason == Refusal.POLICY.text
    assert trained["b"].status == "ok"


def test_spent_epsilon_survives_a_resumption(compose, run):
    options = ["privacy=local_dpsgd", "train.batch_size=8"]
    run(compose(*options, "rounds=1"))
    outcome, _ = run(compose(*options, "rounds=2", "resume=true"))
    epsilons = [record.epsilon for record in outcome.rounds]
    assert epsilons[0] is None
    assert epsilons[2] > epsilons[1] > 0


def test_epsilon_without_noise_is_not_a_number_on_the_wire(compose, run):
    config = compose("privacy=local_dpsgd", "privacy.noise_multiplier=0", "rounds=1")
    outcome, result = run(config)
    assert outcome.rounds[1].status == "ok"
    assert outcome.rounds[1].epsilon is None
    json.dumps(result, allow_nan=False)
    assert math.isfinite(outcome.rounds[1].score)


@pytest.mark.parametrize(
    ("strategy", "why"),
    [("fedlc", "class counts"), ("qfedavg", "exact loss"), ("xgb_bagging", "trees|xgboost")],
)
def test_refuses_strategies_whose_training_cannot_be_bounded(compose, run, strategy, why):
    with pytest.raises(ConfigError, match=why):
        run(compose("privacy=local_dpsgd", f"strategy={strategy}"))


def test_strategies_with_memory_at_the_site_train_privately_too(compose, run):
    for strategy in ("scaffold", "feddyn", "fedprox", "ditto"):
        options = ("privacy=local_dpsgd", f"strategy={strategy}", "train.optimizer=sgd")
        outcome, _ = run(compose(*options, "rounds=2", folder=strategy))
        assert outcome.rounds[2].status == "ok"
        assert outcome.rounds[2].epsilon > 0
