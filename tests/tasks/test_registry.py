import subprocess
import sys

import pytest

from fl_common.errors import ConfigError
from tasks.registry import load_task, task_names


def test_task_names_are_sorted():
    assert task_names() == sorted(task_names())
    assert {"tabular_classification", "tabular_regression"} <= set(task_names())


def test_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tabular_regression'"):
        load_task("tabular_regresion", {})
    with pytest.raises(ConfigError, match=r"choose from .*tabular_classification"):
        load_task("poetry", {})


def test_registry_imports_no_adapter_until_asked():
    code = "import sys, tasks.registry; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
