"""UCI heart disease: four hospitals, a natural federation.

Zeros that no living patient can have (``chol``, and one ``trestbps`` at the V.A.) are missing
values written as 0: all 123 rows of Switzerland and 49 of the V.A. have ``chol`` 0.

References
----------
Janosi, Steinbrunn, Pfisterer, Detrano, "Heart Disease", UCI Machine Learning Repository, 1989
(CC BY 4.0).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fl_common.errors import DataError
from tasks.datasets.folder import data_root

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
)
ZERO_IS_MISSING = ("trestbps", "chol")
_WORDS: dict[str, dict[int, str]] = {
    "sex": {0: "female", 1: "male"},
    "cp": {1: "typical", 2: "atypical", 3: "non_anginal", 4: "asymptomatic"},
    "fbs": {0: "normal", 1: "high"},
    "restecg": {0: "normal", 1: "st_t_abnormal", 2: "hypertrophy"},
    "exang": {0: "no", 1: "yes"},
    "slope": {1: "up", 2: "flat", 3: "down"},
    "thal": {3: "normal", 6: "fixed", 7: "reversible"},
}


def heart_disease() -> pd.DataFrame:
    """Return the 920 rows of the four hospitals with ``site`` and ``disease``.

    Returns
    -------
    pandas.DataFrame, shape (920, 15)
        13 features (categories as words, missing as NaN), ``disease`` (``absent`` where the
        narrowing grade ``num`` is 0, else ``present``) and ``site`` (the hospital).

    Raises
    ------
    DataError
        If a file is absent or does not have 14 columns.
    """
    frame = heart_disease_raw()
    for column in ZERO_IS_MISSING:
        frame[column] = frame[column].mask(frame[column] == 0)
    for column, words in _WORDS.items():
        frame[column] = frame[column].map(words)
    return frame


def heart_disease_raw() -> pd.DataFrame:
    """Return the same rows with the files' own numbers, zeros included, as FLamby reads them.

    Returns
    -------
    pandas.DataFrame, shape (920, 15)
        13 numeric features (missing as NaN), ``disease`` and ``site``.

    Raises
    ------
    DataError
        If a file is absent or does not have 14 columns.
    """
    folder = data_root() / "heart_disease"
    frame = pd.concat([_read_hospital(folder, site) for site in HOSPITALS], ignore_index=True)
    frame["disease"] = np.where(frame.pop("num") > 0, "present", "absent")
    return frame[[*(c for c in frame.columns if c != "site"), "site"]]


def _read_hospital(folder: Path, site: str) -> pd.DataFrame:
    path = folder / f"processed.{site}.data"
    if not path.is_file():
        raise DataError(
            f"{path} is absent; put the UCI heart disease files there, or set FEDLEAGUE_DATA to "
            "the folder that holds heart_disease/"
        )
    frame = pd.read_csv(path, header=None, na_values="?")
    if frame.shape[1] != len(COLUMNS):
        raise DataError(f"{path} has {frame.shape[1]} columns, expected {len(COLUMNS)}")
    frame.columns = pd.Index(COLUMNS)
    return frame.assign(site=site)
