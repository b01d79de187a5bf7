"""Federated results against independent references: plain PyTorch, and a hand-written loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from sklearn import metrics as sk

from fl_server.results.saved_model import load_run_model
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from tasks.contract import DataSource, LocalObjective, child_seed
from tasks.registry import load_task


def _setup(config):
    """Rebuild, with the task's own reading but without any federation, what a site holds."""
    task = load_task(config.usecase.task, config.schema)
    sites = [
        task.read(DataSource(name=s["name"], **s["data"]), config.split_seed)
        for s in config.site_data
    ]
    fitted = load_run_model(config.folder)[1].encoder
    return task, sites, fitted


def _plain_epoch(network, inputs, targets, lr, batch_size, seed, epochs):
    """Textbook PyTorch: optim.SGD, cross_entropy, shuffled mini-batches."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(targets), generator=generator)
        for index in order.split(batch_size):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(inputs[index]), targets[index])
            loss.backward()
            optimizer.step()


SGD = ("train.optimizer=sgd", "train.lr=0.1", "train.batch_size=16", "train.local_epochs=1")


def test_one_site_fedavg_equals_plain_pytorch_bit_for_bit(compose, csv_sites):
    config = compose(*SGD, "rounds=3", f"data.sites=[{csv_sites[0]}]")
    start = compose(*SGD, "rounds=0", f"data.sites=[{csv_sites[0]}]", folder="start")
    execute(InProcessGrid(start.site_data), start)
    execute(InProcessGrid(config.site_data), config)

    _, (site,), encoder = _setup(config)
    inputs, targets = site.tensors(encoder, "train")
    weights = load_file(start.folder / "model.safetensors")
    network = torch.nn.Sequential(
        torch.nn.Linear(inputs.shape[1], 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    )
    network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    for number in (1, 2, 3):
        seed = child_seed(config.seed, "train", "a", number)
        _plain_epoch(network, inputs, targets, 0.1, 16, seed, 1)
    federated = load_file(config.folder / "model.safetensors")
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(federated[name], value.numpy(), err_msg=name)


def test_k_sites_equal_a_hand_written_fedavg_loop(compose):
    config = compose(*SGD, "rounds=4")
    start = compose(*SGD, "rounds=0", folder="start")
    execute(InProcessGrid(start.site_data), start)
    execute(InProcessGrid(config.site_data), config)

    _, sites, encoder = _setup(config)
    weights = load_file(start.folder / "model.safetensors")
    for number in range(1, 5):
        total = sum(site.num_train for site in sites)
        mean = {name: np.zeros_like(a, dtype=np.float64) for name, a in weights.items()}
        for site, name in zip(sites, "abc", strict=True):
            inputs, targets = site.tensors(encoder, "train")
            network = torch.nn.Sequential(
                torch.nn.Linear(inputs.shape[1], 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
            )
            network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
            _plain_epoch(network, inputs, targets, 0.1, 16, child_seed(0, "train", name, number), 1)
            for key, value in network.state_dict().items():
                mean[key] += site.num_train / total * value.numpy().astype(np.float64)
        weights = {name: value.astype(np.float32) for name, value in mean.items()}
    federated = load_file(config.folder / "model.safetensors")
    for name, value in weights.items():
        np.testing.assert_allclose(federated[name], value, rtol=0, atol=1e-7, err_msg=name)


def test_fedavg_equals_stock_flower(compose):
    ours, stock = compose(folder="ours"), compose("strategy=flwr_fedavg", folder="stock")
    for config in (ours, stock):
        execute(InProcessGrid(config.site_data), config)
    left, right = (load_file(c.folder / "model.safetensors") for c in (ours, stock))
    for name, value in left.items():
        np.testing.assert_allclose(value, right[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("num_sites", [2, 4, 7])
def test_run_metrics_equal_scikit_learn_on_the_concatenated_holdouts(compose, tmp_path, num_sites):
    from tests.conftest import classification_frame

    holdouts, entries = [], []
    for index in range(num_sites):
        frame = classification_frame(30 + 11 * index, 100 + index)
        train, holdout = frame.iloc[8:], frame.iloc[: 8 + index]
        train.to_csv(tmp_path / f"tr{index}.csv", index=False)
        holdout.to_csv(tmp_path / f"te{index}.csv", index=False)
        holdouts.append(holdout)
        entries.append(
            f"{{name: s{index}, train: {tmp_path}/tr{index}.csv,"
            f" holdout: {tmp_path}/te{index}.csv}}"
        )
    config = compose(f"data.sites=[{','.join(entries)}]")
    outcome = execute(InProcessGrid(config.site_data), config)
    scores = outcome.rounds[-1].card.overall

    pooled = pd.concat(holdouts)
    pooled.to_csv(tmp_path / "pooled.csv", index=False)
    task, model = load_run_model(config.folder)
    predicted = task.predict(model, tmp_path / "pooled.csv")
    truth, guess = pooled["y"].to_numpy(), predicted["prediction"].to_numpy()
    proba = predicted["proba_p"].to_numpy()
    expected = {
        "accuracy": sk.accuracy_score(truth, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
        "f1_macro": sk.f1_score(truth, guess, average="macro"),
        "f1_p": sk.f1_score(truth, guess, pos_label="p"),
        "recall_n": sk.recall_score(truth, guess, pos_label="n"),
        "mcc": sk.matthews_corrcoef(truth, guess),
        "cohen_kappa": sk.cohen_kappa_score(truth, guess),
        "log_loss": sk.log_loss(truth == "p", proba),
        "brier": sk.brier_score_loss(truth == "p", proba),
    }
    for name, value in expected.items():
        assert scores.values[name] == pytest.approx(value, abs=1e-6), name
    for name, value in {
        "auc_roc": sk.roc_auc_score(truth == "p", proba),
        "auc_pr": sk.average_precision_score(truth == "p", proba),
    }.items():
        assert abs(scores.values[name] - value) <= scores.bounds[name] + 1e-6, name


def test_predict_equals_the_federated_model_by_hand(compose, csv_sites, tmp_path):
    config = compose()
    execute(InProcessGrid(config.site_data), config)
    task, model = load_run_model(config.folder)
    rows = pd.read_csv(csv_sites[0]).drop(columns="y")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    table = task.predict(model, tmp_path / "rows.csv")
    assert list(table.columns) == ["prediction", "proba_n", "proba_p"]

    train = pd.concat(
        pd.read_csv(path).iloc[_train_rows(config, index)] for index, path in enumerate(csv_sites)
    )
    numbers = train[["x1", "x2"]].to_numpy()
    scaled = (rows[["x1", "x2"]].to_numpy() - numbers.mean(0)) / numbers.std(0)
    features = {"x1": scaled[:, 0], "x2": scaled[:, 1]}
    weights = load_file(config.folder / "model.safetensors")
    columns = [
        features[name] if name in features else (rows["sex"] == name.rpartition("=")[2]) * 1.0
        for name in model.encoder.feature_names
    ]
    x = np.stack(columns, axis=1)
    hidden = np.maximum(x @ weights["0.weight"].T + weights["0.bias"], 0)
    logits = hidden @ weights["2.weight"].T + weights["2.bias"]
    proba = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
    np.testing.assert_allclose(table["proba_p"], proba, atol=1e-5)


def _train_rows(config, index):
    from tasks.sites.splits import split_rows

    frame = pd.read_csv(config.site_data[index]["data"]["train"])
    labels = (frame["y"] == "p").to_numpy().astype(np.int64)
    return split_rows(len(frame), labels, 0.2, config.split_seed)[0]


def test_local_objective_proximal_term_reaches_the_sites(compose):
    weak, strong = (
        compose("strategy=flwr_fedprox", f"strategy.proximal_mu={mu}", "rounds=1", folder=f"mu{mu}")
        for mu in (0.001, 100)
    )
    start = compose("rounds=0", folder="start")
    moved = []
    for config in (start, weak, strong):
        execute(InProcessGrid(config.site_data), config)
        moved.append(load_file(config.folder / "model.safetensors"))
    distance = [sum(np.linalg.norm(m[k] - moved[0][k]) ** 2 for k in m) ** 0.5 for m in moved[1:]]
    assert distance[1] < 0.7 * distance[0]
    assert LocalObjective().proximal_mu == 0
