import pytest

from tasks.contract import DataSource, ModelSpec, Partition
from tasks.registry import load_task
from tests.contracts.task_contract import TaskContract


@pytest.fixture
def sources(site):
    path = str(site.write())
    return [DataSource(f"site{i}", path, partition=Partition("iid", 2, i)) for i in range(2)]


class TestSegmentation(TaskContract):
    @pytest.fixture
    def task(self, schema_values):
        augment = [{"name": "RandomHorizontalFlip"}, {"name": "RandomRotation", "degrees": 5}]
        return load_task("semantic_segmentation", schema_values | {"augment": augment})

    @pytest.fixture(params=["group", "frozen"])
    def spec(self, request):
        return ModelSpec("unet", {"channels": [4, 8], "norm": request.param})
