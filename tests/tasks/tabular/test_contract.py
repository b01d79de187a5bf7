import numpy as np
import pandas as pd
import pytest

from tasks.contract import DataSource, ModelSpec, Partition
from tasks.registry import load_task
from tasks.testing import TaskContract


def _table(rows=90):
    rng = np.random.default_rng(0)
    age, dose = rng.normal(50, 10, rows), rng.exponential(2.0, rows)
    smoker = rng.choice(["yes", "no"], rows)
    risk = (age - 50) / 10 + dose - 2 + (smoker == "yes") + rng.normal(0, 0.3, rows)
    frame = pd.DataFrame({"age": age, "dose": dose, "smoker": smoker, "risk": risk})
    frame["ill"] = np.where(risk > 0, "yes", "no")
    frame.loc[rng.random(rows) < 0.1, "dose"] = np.nan
    return frame


@pytest.fixture
def sources(tmp_path):
    path = tmp_path / "table.csv"
    _table().to_csv(path, index=False)
    return [DataSource(f"site{i}", str(path), partition=Partition("iid", 3, i)) for i in range(3)]


COMMON = {
    "categorical": ["smoker"],
    "subgroups": {"old": {"column": "age", "min": 55}},
    "feature_blocks": {"clinical": ["age", "smoker"]},
}


class TestClassification(TaskContract):
    @pytest.fixture
    def task(self):
        schema = {"target": "ill", "classes": ["no", "yes"], "exclude": ["risk"], **COMMON}
        return load_task("tabular_classification", schema)

    @pytest.fixture(params=["linear", "mlp"])
    def spec(self, request):
        return ModelSpec(request.param)


class TestRegression(TaskContract):
    @pytest.fixture
    def task(self):
        return load_task("tabular_regression", {"target": "risk", "exclude": ["ill"], **COMMON})

    @pytest.fixture(params=["linear", "mlp"])
    def spec(self, request):
        return ModelSpec(request.param, {} if request.param == "linear" else {"dropout": 0.1})
