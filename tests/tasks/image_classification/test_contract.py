import pytest

from tasks.contract import DataSource, ModelSpec, Partition
from tasks.registry import load_task
from tasks.testing import TaskContract


@pytest.fixture
def sources(site):
    path = str(site.npz())
    return [DataSource(f"site{i}", path, partition=Partition("iid", 2, i)) for i in range(2)]


class TestImageClassification(TaskContract):
    @pytest.fixture
    def task(self, schema_values):
        subgroups = {"discs": {"class": "disc"}}
        augment = [{"name": "RandomHorizontalFlip"}, {"name": "RandomAffine", "degrees": 5}]
        return load_task(
            "image_classification", schema_values | {"subgroups": subgroups, "augment": augment}
        )

    @pytest.fixture(params=["group", "frozen"])
    def spec(self, request):
        params = {"channels": [4, 8], "hidden": 8, "dropout": 0.1, "norm": request.param}
        return ModelSpec("simple_cnn", params)


class TestBatchNormalisation(TestImageClassification):
    # running statistics, which no objective reaches, move as they like
    test_a_strong_proximal_term_keeps_weights_near_the_anchor = None

    @pytest.fixture
    def spec(self):
        return ModelSpec("simple_cnn", {"channels": [4, 8], "hidden": 8, "norm": "batch"})


NETS = """
from torch import nn


def mine(inputs, outputs, width=4):
    return nn.Sequential(nn.Conv2d(inputs.shape[0], width, 3), nn.GroupNorm(2, width), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(4 * width, outputs.shape[0]))
"""


class TestCustom(TestImageClassification):
    """A network of the user's own, by a plugin's name or as module:function."""

    @pytest.fixture(params=["mine", "my_nets:mine"])
    def spec(self, request, install_plugin):
        install_plugin("my-nets", {"models": {"mine": "my_nets:mine"}}, my_nets=NETS)
        return ModelSpec(request.param, {"width": 6})
