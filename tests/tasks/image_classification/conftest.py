from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

CLASSES = ("disc", "ring", "cross")
SIZE = 16


def drawn(label, number, size=SIZE):
    """A noisy picture of one of three shapes, (size, size, 3) uint8."""
    rng = np.random.default_rng([label, number])
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2 + rng.uniform(-1, 1, (2, 1, 1))
    reach = np.hypot(rows, columns) / size
    near_axis = np.minimum(abs(rows), abs(columns)) < size / 10
    shape = (reach < 0.3, abs(reach - 0.3) < 0.08, near_axis & (reach < 0.45))[label]
    values = 60 + 140 * shape[..., None] * np.array([1.0, 0.8, 0.6])
    return np.clip(values + rng.normal(0, 15, values.shape), 0, 255).astype(np.uint8)


class Site:
    """Writes the same pictures in each format: ``counts`` of each class."""

    def __init__(self, root, counts=(14, 12, 10)):
        self.root = root
        self.rows = [(label, n) for label, count in enumerate(counts) for n in range(count)]

    def arrays(self):
        pixels = np.stack([drawn(*row) for row in self.rows])
        return pixels, np.array([label for label, _ in self.rows])

    def folder(self, sub=""):
        for label, number in self.rows:
            path = self.root / "folder" / sub / CLASSES[label] / f"p{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn(label, number)).save(path)
        return self.root / "folder"

    def manifest(self, ending=".png"):
        (self.root / "images").mkdir(parents=True, exist_ok=True)
        lines = ["data_id,label,scanner"]
        for index, (label, number) in enumerate(self.rows):
            Image.fromarray(drawn(label, number)).save(self.root / "images" / f"p{index}.png")
            lines.append(f"p{index}{ending},{CLASSES[label]},{'AB'[index % 2]}")
        (self.root / "labels.csv").write_text("\n".join(lines) + "\n")
        return self.root / "labels.csv"

    def npz(self, **keys):
        pixels, labels = self.arrays()
        self.root.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(self.root / "set.npz", **(keys or {"images": pixels, "labels": labels}))
        return self.root / "set.npz"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


@pytest.fixture
def schema_values():
    return {"classes": list(CLASSES), "image_size": SIZE, "channels": 3}
