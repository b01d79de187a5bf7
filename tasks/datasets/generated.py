"""Generated tables with the shape of real competitions, and no patient behind any row.

Each function draws from its own fixed seed, so every machine makes the same table. The recipe is
the code; each docstring says it in words.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Rates = tuple[float, float]

DISEASES = ("CF", "DMD", "SMA")
DISEASE_COUNTS = (165, 89, 66)

NUM_CFTR, NUM_SMN1, NUM_VISITS = 120, 22, 9
CFTR_CARRIER_RATES = (0.20, 0.08)
"""Carrier rate of the 30 informative CFTR variants in CF, and of every other variant and row."""
SMN1_CARRIER_RATES = (0.30, 0.06)
"""Carrier rate of the SMN1 variants in SMA, and elsewhere."""
MISSED_VISIT_SHARE = 0.04
"""Share of missing clinical values at the last visit; rises linearly from none at the first."""

# measure: mean of CF, DMD, SMA; spread between patients; decimals
CLINICAL: dict[str, tuple[tuple[float, float, float], float, int]] = {
    "six_minute_walk_m": ((470.0, 370.0, 400.0), 130.0, 0),
    "fev1_percent": ((72.0, 88.0, 85.0), 20.0, 1),
    "motor_score": ((58.0, 42.0, 39.0), 17.0, 1),
    "sweat_chloride_mmol_l": ((72.0, 41.0, 41.0), 26.0, 1),
    "ejection_fraction_percent": ((62.0, 54.0, 61.0), 8.0, 1),
    "creatine_kinase_log10": ((2.1, 3.0, 2.3), 0.75, 2),
    "grip_strength_kg": ((20.0, 16.0, 14.0), 7.0, 1),
    "bmi_kg_m2": ((17.8, 19.6, 18.2), 3.2, 1),
    "heart_rate_bpm": ((88.0, 95.0, 90.0), 12.0, 0),
    "oxygen_saturation_percent": ((95.5, 96.6, 96.2), 1.8, 1),
    "c_reactive_protein_mg_l": ((7.0, 5.5, 5.5), 3.5, 1),
    "sleep_quality": ((6.1, 6.0, 6.0), 1.8, 1),
}

# column: probability of each value in CF, DMD, SMA
CATEGORIES: dict[str, dict[str, tuple[float, float, float]]] = {
    "sex": {"female": (0.48, 0.08, 0.50), "male": (0.52, 0.92, 0.50)},
    "age_group": {
        "infant": (0.20, 0.08, 0.35),
        "child": (0.45, 0.52, 0.40),
        "adolescent": (0.35, 0.40, 0.25),
    },
    "steroid_use": {
        "none": (0.70, 0.25, 0.75),
        "intermittent": (0.22, 0.25, 0.18),
        "daily": (0.08, 0.50, 0.07),
    },
    "ambulation": {
        "independent": (0.85, 0.40, 0.35),
        "assisted": (0.12, 0.35, 0.35),
        "wheelchair": (0.03, 0.25, 0.30),
    },
}

NUM_SAMPLES, NUM_PROTEINS, NUM_MARKERS, NUM_CLINICAL = 1200, 100, 20, 33
DISEASE_STATE_SHARE = 0.35

MILEAGE_COUNTS = {
    **{8: 2, 9: 2, 11: 2, 12: 3, 13: 3, 14: 4, 15: 3, 16: 4, 17: 4, 18: 4, 21: 3, 22: 2, 23: 1},
    **{24: 5, 25: 2, 26: 2, 27: 1, 29: 1, 30: 2, 31: 3, 32: 2, 33: 2, 34: 1, 35: 1, 37: 1},
}
"""How often each target value of ``small_regression`` occurs; 60 in all."""
FEATURE_SLOPES = (-0.8, -0.7, 0.6, 0.5, -0.4, 0.0)


def rare_disease() -> pd.DataFrame:
    """Return 320 patients with one of three rare diseases: 254 features and ``disease``.

    165 CF (cystic fibrosis), 89 DMD (Duchenne), 66 SMA (spinal muscular atrophy), shuffled.
    Features, conditionally independent given the disease unless said otherwise:

    - ``CFTR_c_1..120`` and ``SMN1_c_1..22``: 0/1 variants at the carrier rates above.
    - twelve clinical measures at nine visits (``fev1_percent_v1``...): disease mean, plus a
      patient effect (80 % of the variance) and a visit effect (20 %). Later visits are missing
      more often, up to 4 % at the ninth.
    - ``sex``, ``age_group``, ``steroid_use``, ``ambulation``: by the tables above.

    Returns
    -------
    pandas.DataFrame, shape (320, 255)
    """
    rng = np.random.default_rng(20260301)
    disease = rng.permutation(np.repeat(np.arange(3), DISEASE_COUNTS))
    columns: dict[str, NDArray[np.generic]] = {
        **_variants(rng, "CFTR_c", np.arange(NUM_CFTR) < 30, disease == 0, CFTR_CARRIER_RATES),
        **_variants(rng, "SMN1_c", np.arange(NUM_SMN1) >= 0, disease == 2, SMN1_CARRIER_RATES),
        **_visits(rng, disease),
    }
    for name, table in CATEGORIES.items():
        cumulative = np.cumsum(np.array(list(table.values())), axis=0)[:, disease]  # (values, n)
        code = (rng.random(len(disease)) > cumulative[:-1]).sum(axis=0)
        columns[name] = np.array(list(table))[code]
    columns["disease"] = np.array(DISEASES)[disease]
    return pd.DataFrame(columns)


def _variants(
    rng: np.random.Generator, prefix: str, informative: Flags, carriers: Flags, rates: Rates
) -> dict[str, NDArray[np.generic]]:
    """Draw 0/1 variants: ``informative`` ones have the first rate in ``carriers``."""
    raised = carriers[:, None] & informative[None, :]  # (patients, variants)
    carried = (rng.random(raised.shape) < np.where(raised, *rates)).astype(np.int64)
    return {f"{prefix}_{i + 1}": carried[:, i] for i in range(raised.shape[1])}


def _visits(rng: np.random.Generator, disease: Ints) -> dict[str, NDArray[np.generic]]:
    columns: dict[str, NDArray[np.generic]] = {}
    for name, (means, spread, decimals) in CLINICAL.items():
        patient = np.array(means)[disease] + rng.normal(0, spread * 0.8**0.5, len(disease))
        for visit in range(NUM_VISITS):
            value = patient + rng.normal(0, spread * 0.2**0.5, len(disease))
            value = np.maximum(value, 0).round(decimals)
            missed = rng.random(len(disease)) < MISSED_VISIT_SHARE * visit / (NUM_VISITS - 1)
            columns[f"{name}_v{visit + 1}"] = np.where(missed, np.nan, value)
    return columns


def liquid_biopsy() -> pd.DataFrame:
    """Return 1,200 blood samples: 153 features and the numeric target ``disease_activity``.

    A hidden severity s in (0, 1) is Beta(5, 2) in the 35 % of samples in disease state and
    Beta(2, 8) in the others. ``disease_activity`` is 2 s plus normal noise of 0.3.

    - ``marker_1..20``: exp(normal) with a heavy right tail, raised by s above its baseline range
      (0.35) only, so near baseline in most samples; the first twelve carry signal.
    - ``protein_1..100``: normal, in ten correlated groups of ten; two groups follow s weakly.
    - ``clinical_1..33``: normal; the first eight follow s weakly.

    Nothing is missing and nothing is exactly zero.

    Returns
    -------
    pandas.DataFrame, shape (1200, 154)
    """
    rng = np.random.default_rng(20260302)
    diseased = rng.random(NUM_SAMPLES) < DISEASE_STATE_SHARE
    severity = np.where(diseased, rng.beta(5, 2, NUM_SAMPLES), rng.beta(2, 8, NUM_SAMPLES))
    raised = np.maximum(severity - 0.35, 0)
    loads = np.where(np.arange(NUM_MARKERS) < 12, rng.uniform(1.5, 3.5, NUM_MARKERS), 0)
    markers = np.exp(
        rng.normal(0.5, 0.8, NUM_MARKERS)
        + rng.normal(0, 0.7, (NUM_SAMPLES, NUM_MARKERS))
        + raised[:, None] * loads
    )
    groups = rng.normal(size=(NUM_SAMPLES, 10))
    groups[:, :2] += 1.6 * (severity - severity.mean())[:, None]
    proteins = np.repeat(groups, NUM_PROTEINS // 10, axis=1)
    proteins = 10 + 0.8 * proteins + rng.normal(0, 0.6, (NUM_SAMPLES, NUM_PROTEINS))
    slopes = np.where(np.arange(NUM_CLINICAL) < 8, 1.2, 0)
    clinical = 50 + 8 * (rng.normal(size=(NUM_SAMPLES, NUM_CLINICAL)) + severity[:, None] * slopes)
    return pd.DataFrame(
        {
            **_numbered("marker", markers, 4),
            **_numbered("protein", proteins, 3),
            **_numbered("clinical", clinical, 2),
            "disease_activity": (2 * severity + rng.normal(0, 0.3, NUM_SAMPLES)).round(4),
        }
    )


def _numbered(prefix: str, values: Floats, decimals: int) -> dict[str, Floats]:
    return {f"{prefix}_{i + 1}": values[:, i].round(decimals) for i in range(values.shape[1])}


def small_regression() -> pd.DataFrame:
    """Return 60 rows with six features and an integer target ``value`` from 8 to 37.

    The target's frequencies are those of the table above; feature j is its slope times the
    standardised target plus normal noise that brings its variance to one. ``feature_6`` is noise.

    Returns
    -------
    pandas.DataFrame, shape (60, 7)
    """
    rng = np.random.default_rng(20260303)
    value = rng.permutation(np.repeat(list(MILEAGE_COUNTS), list(MILEAGE_COUNTS.values())))
    standard = (value - value.mean()) / value.std()
    slopes = np.array(FEATURE_SLOPES)
    noise = rng.normal(size=(len(value), len(slopes))) * np.sqrt(1 - slopes**2)
    features = standard[:, None] * slopes + noise
    return pd.DataFrame({**_numbered("feature", features, 3), "value": value})
