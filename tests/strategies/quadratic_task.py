"""f_k(w) = (w - b_k)' A_k (w - b_k) / 2 as a task, and a harness that runs it.

Sites, messages, guard, checks, round loop and checkpoints are the real ones; only the task is
small enough to follow by hand. Weights are float64, so that iterates can be compared to 1e-6 and
far below.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from fl_server.config.run_config import BoardConfig, EarlyStopping, RunConfig, SitesConfig
from fl_server.config.usecase import ScoreRule, UseCaseInfo
from fl_server.results.checkpoint import read_checkpoint
from fl_server.rounds.admission import Admission
from fl_server.rounds.exchange import Exchange
from fl_server.rounds.federation import Federation as RoundFederation
from fl_server.rounds.loop import RoundLoop
from fl_server.rounds.run_memory import RunMemory
from fl_server.rounds.run_state import RunState
from fl_server.rounds.selection import make_exchange
from fl_server.runtimes.simulation import InProcessGrid
from strategies.privacy.modes import NoPrivacy
from strategies.registry import client_update_name
from tasks.contract import DataSource, LocalOutcome, ModelSpec, TrainConfig
from tasks.scores import ScoreCard, Scores
from tasks.stats import Stats


@dataclass(frozen=True)
class Quadratic:
    """One site.

    ``attack`` multiplies the update that it sends (-10: sign-flipped and scaled); ``steps``
    overrides the number of local steps; ``validation`` rows choose between rounds.
    """

    matrix: np.ndarray
    optimum: np.ndarray
    rows: int = 10
    attack: float = 1.0
    steps: int | None = None
    validation: int = 0

    def gradient(self, weights):
        return self.matrix @ (weights - self.optimum)

    def loss(self, weights):
        return float((weights - self.optimum) @ self.gradient(weights)) / 2

    @property
    def num_train(self):
        return self.rows

    @property
    def num_validation(self):
        return self.validation

    @property
    def num_holdout(self):
        return self.rows

    @property
    def notes(self):
        return []

    def to_source(self):
        raw = {
            "matrix": self.matrix.tolist(),
            "optimum": self.optimum.tolist(),
            "rows": self.rows,
            "attack": self.attack,
            "steps": self.steps,
            "validation": self.validation,
        }
        return f"dataset:{json.dumps(raw)}"


class QuadraticModel:
    def __init__(self, parts):
        self.parts = parts
        self.vector = np.zeros(sum(parts.values()))

    def arrays(self):
        return split(self.vector, self.parts)

    def load(self, arrays):
        self.vector = join(arrays, self.parts).copy()

    def layer_kinds(self):
        return {name: name if name in ("norm", "head") else "body" for name in self.parts}


def split(vector, parts):
    edges = np.cumsum([0, *parts.values()])
    return {name: vector[a:b].copy() for name, a, b in zip(parts, edges, edges[1:], strict=False)}


def join(arrays, parts):
    return np.concatenate([np.asarray(arrays[name], dtype=np.float64) for name in parts])


class QuadraticTask:
    def __init__(self, schema):
        self.schema = schema

    def read(self, source, split_seed):
        raw = json.loads(source.train.removeprefix("dataset:"))
        arrays = {key: np.array(raw.pop(key)) for key in ("matrix", "optimum")}
        return Quadratic(**arrays, **raw)

    def fit(self, data, min_group_size):
        return Stats({"rows": np.array(data.rows)})

    def prepare(self, stats):
        return {}

    def build(self, spec, fitted, seed):
        return QuadraticModel(dict(spec.params["parts"]))

    def train(self, model, data, config, objective, seed):
        """Gradient descent, or with ``optimizer="exact"`` the exact minimum."""
        start = model.vector.copy()
        zero = np.zeros_like(start)
        linear = zero if objective.linear is None else join(objective.linear, model.parts)
        mu = objective.proximal_mu
        anchor = join(objective.anchor, model.parts) if objective.anchor is not None else start
        if config.optimizer == "exact":
            left = data.matrix + mu * np.eye(len(start))
            weights = np.linalg.solve(left, data.matrix @ data.optimum - linear + mu * anchor)
            steps, loss = 1, data.loss(weights)
        else:
            weights, velocity, loss = start.copy(), zero, 0.0
            steps = config.local_steps or config.local_epochs
            if config.lr:
                steps = data.steps or steps
            for _ in range(steps):
                loss = data.loss(weights)
                gradient = data.gradient(weights) + linear + mu * (weights - anchor)
                velocity = config.momentum * velocity + gradient
                weights = weights - config.lr * velocity
        model.vector = start + data.attack * (weights - start)
        return LocalOutcome(model.arrays(), data.rows, steps, loss)

    def evaluate(self, model, data, split="holdout"):
        rows = data.validation if split == "validation" else data.rows
        total = rows * data.loss(model.vector)
        return Stats({"overall/rows": np.array(rows), "overall/loss": np.array(total)})

    def empty_stats(self, model):
        return Stats({"overall/rows": np.array(0), "overall/loss": np.array(0.0)})

    def finalise(self, stats, fitted):
        mean = float(stats["overall/loss"]) / int(stats["overall/rows"])
        return ScoreCard(overall=Scores(values={"loss": mean}))

    def predict(self, model, rows):
        raise NotImplementedError


def random_sites(num_sites=5, size=4, seed=0, spread=1.0, rows=None):
    """Positive definite sites with different curvatures, optima and sizes."""
    rng = np.random.default_rng(seed)
    sites = []
    for index in range(num_sites):
        basis = rng.normal(size=(size, size))
        matrix = basis @ basis.T / size + 0.5 * np.eye(size)
        number = rows or int(rng.integers(5, 30))
        sites.append(Quadratic(matrix, spread * rng.normal(size=size) + index, rows=number))
    return sites


def pooled_optimum(sites, weights=None):
    weights = weights if weights is not None else [site.rows for site in sites]
    left = sum(w * s.matrix for w, s in zip(weights, sites, strict=True))
    return np.linalg.solve(
        left, sum(w * s.matrix @ s.optimum for w, s in zip(weights, sites, strict=True))
    )


GRADIENT_DESCENT = TrainConfig(optimizer="sgd", lr=0.05, local_steps=5)


@dataclass(frozen=True)
class History:
    """What a run leaves: the model vector after every round (0: the start) and the records."""

    models: list
    records: tuple

    @property
    def scores(self):
        return [record.score for record in self.records]


@dataclass(frozen=True)
class Setting:
    """A run on quadratic sites, up to its first round."""

    federation: RoundFederation
    memory: RunMemory
    exchange: Exchange


class Federation:
    """Run a strategy on quadratic sites through the real round loop."""

    def __init__(self, folder):
        self._folder = folder
        self._runs = count()

    def __call__(self, strategy, sites, *, rounds=5, grid=None, **options):
        loop, config, parts = self.loop(strategy, sites, rounds=rounds, grid=grid, **options)
        models = []
        recorder = _Recorder(config.folder, models, parts)
        start = split(np.asarray(options.get("start", np.zeros(sum(parts.values())))), parts)
        outcome = loop.run(start, [recorder], "mark", options.get("resumed"))
        failed = [r.reason for r in outcome.rounds if r.status != "ok"]
        assert options.get("may_fail") or not failed, failed
        return History(models, outcome.rounds)

    def loop(self, strategy, sites, *, rounds=5, grid=None, **options):
        parts = options.get("parts") or {"body": len(sites[0].optimum)}
        config = self._config(sites, rounds, parts, options)
        task, setting = self._setting(strategy, config, grid, options.get("sampler"))
        exchange, memory, state = setting.exchange, setting.memory, setting.federation.state
        return RoundLoop(config, task, state, memory, exchange), config, parts

    def exchange(self, strategy, sites, *, rounds=5, grid=None, **options):
        """Return what stands between the loop and the sites, and a model of zeros."""
        parts = options.get("parts") or {"body": len(sites[0].optimum)}
        config = self._config(sites, rounds, parts, options)
        grid = grid(config.site_data) if grid is not None else None
        task, setting = self._setting(strategy, config, grid, options.get("sampler"))
        model = QuadraticModel(parts)
        setting.federation.state.set_model(model, task.empty_stats(model))
        return setting

    def _setting(self, strategy, config, grid, sampler):
        grid = grid or InProcessGrid(config.site_data)
        task = QuadraticTask({})
        state = RunState(config, client_update_name(strategy))
        admission = Admission(grid, config.sites, state)
        state.set_fitted(task.prepare(admission.start(len(config.site_data))))
        federation = RoundFederation(grid, config, admission, state)
        memory = RunMemory(federation, strategy, sampler)
        return task, Setting(federation, memory, make_exchange(federation, memory, task))

    def _config(self, sites, rounds, parts, options):
        names = [f"site_{index:02d}" for index in range(len(sites))]
        return RunConfig(
            usecase=UseCaseInfo("quadratic", "", "", "quadratic", ScoreRule("loss", "min")),
            schema={},
            model=ModelSpec("quadratic", {"parts": parts}),
            train=options.get("train", GRADIENT_DESCENT),
            strategy={},
            strategy_name="test",
            sites=options.get("waits", SitesConfig(rejoin_seconds=0.0)),
            early_stopping=EarlyStopping(),
            board=BoardConfig(),
            sources=tuple(
                DataSource(name, site.to_source()) for name, site in zip(names, sites, strict=True)
            ),
            rounds=rounds,
            seed=options.get("seed", 0),
            privacy=options.get("privacy", NoPrivacy()),
            folder=options.get("folder") or self._folder / f"run_{next(self._runs)}",
        )


class _Recorder:
    def __init__(self, folder, models, parts):
        self._folder = folder
        self._models = models
        self._parts = parts

    def admitted(self, sites):
        pass

    def round_finished(self, record):
        self._models.append(join(read_checkpoint(self._folder).model, self._parts))


def descend(site, start, config=GRADIENT_DESCENT, *, linear=0.0, steps=None):
    """Follow local SGD in plain numpy; returns the weights after it."""
    weights, velocity = np.array(start), 0.0
    for _ in range(steps or config.local_steps):
        velocity = config.momentum * velocity + site.gradient(weights) + linear
        weights = weights - config.lr * velocity
    return weights


def assert_iterates(history, reference, tolerance=1e-9):
    assert len(history.models) == len(reference)
    for number, (ours, theirs) in enumerate(zip(history.models, reference, strict=True)):
        np.testing.assert_allclose(
            ours, theirs, rtol=tolerance, atol=tolerance, err_msg=f"round {number}"
        )


def attacked(sites, share=0.2, factor=-10.0):
    """Return the sites with the last ``share`` of them sending sign-flipped, scaled updates."""
    honest = len(sites) - round(share * len(sites))
    return [
        site if index < honest else replace(site, attack=factor) for index, site in enumerate(sites)
    ]


def minima():
    """Flower's own minima that the round loop sets."""
    return {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
