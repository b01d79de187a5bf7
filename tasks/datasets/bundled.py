"""Tables that come with scikit-learn: no download, no file.

Column names have underscores for spaces, targets are named, and class labels are words.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from sklearn import datasets


def breast_cancer() -> pd.DataFrame:
    """Wisconsin diagnostic breast cancer: 569 rows, 30 features, ``diagnosis``."""
    return _named(datasets.load_breast_cancer(), "diagnosis")


def diabetes() -> pd.DataFrame:
    """Diabetes progression after one year: 442 rows, 10 features in raw units, ``progression``."""
    bunch = datasets.load_diabetes(scaled=False)
    frame = pd.DataFrame(bunch.data, columns=list(bunch.feature_names))
    return frame.assign(progression=bunch.target)


def digits() -> pd.DataFrame:
    """Handwritten digits of 8 by 8 pixels: 1,797 rows, ``pixel_0`` to ``pixel_63``, ``digit``."""
    bunch = datasets.load_digits()
    frame = pd.DataFrame(bunch.data, columns=[f"pixel_{i}" for i in range(64)])
    return frame.assign(digit=bunch.target)


def iris() -> pd.DataFrame:
    """Iris flowers: 150 rows, 4 features, ``species``."""
    return _named(datasets.load_iris(), "species")


def wine() -> pd.DataFrame:
    """Wines of three cultivars: 178 rows, 13 features, ``cultivar``."""
    return _named(datasets.load_wine(), "cultivar")


def _named(bunch: Any, target: str) -> pd.DataFrame:
    names = [str(n).replace(" (cm)", "").replace(" ", "_") for n in bunch.feature_names]
    names = [n.replace("/", "_per_") for n in names]
    frame = pd.DataFrame(bunch.data, columns=names)
    frame[target] = [str(bunch.target_names[code]) for code in bunch.target]
    return frame
