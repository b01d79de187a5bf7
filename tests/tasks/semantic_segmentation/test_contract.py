import pytest

from tasks.contract import DataSource, ModelSpec, Partition
from tasks.registry import load_task
from tasks.testing import TaskContract


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


NETS = """
from torch import nn


def mine(inputs, outputs, width=4):
    return nn.Sequential(nn.Conv2d(inputs.shape[0], width, 3, padding=1), nn.GroupNorm(2, width),
                         nn.ReLU(), nn.Conv2d(width, outputs.shape[0], 1))
"""


class TestCustom(TestSegmentation):
    """A network of the user's own, by a plugin's name or as module:function."""

    @pytest.fixture(params=["mine", "my_nets:mine"])
    def spec(self, request, install_plugin):
        install_plugin("my-nets", {"models": {"mine": "my_nets:mine"}}, my_nets=NETS)
        return ModelSpec(request.param, {"width": 6})
