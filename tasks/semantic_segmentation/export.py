"""Write a site's pictures and masks as folders."""

from __future__ import annotations

from pathlib import Path

from tasks.images.export import given_splits, picture_stem, write_picture
from tasks.semantic_segmentation.data import SegmentationData
from tasks.semantic_segmentation.masks import palette_image
from tasks.semantic_segmentation.schema import SegmentationSchema


def export_site(data: SegmentationData, schema: SegmentationSchema, folder: Path) -> dict[str, str]:
    """Write ``{train,validation,holdout}/{images,masks}``; order is kept by the names.

    Masks are PNG with the use case's values, or else its colours.

    Returns
    -------
    dict
        The folders of ``site.yaml``.

    Raises
    ------
    ConfigError
        If a pixel has no label and the use case no value for that.
    """
    splits = given_splits(data)
    for name, split in splits.items():
        masks = folder / name / "masks"
        masks.mkdir(parents=True)
        for number, scene in enumerate(split.scenes):
            write_picture(scene.image_ref, folder / name / "images", number)
            mask = palette_image(scene.mask.load(), schema)
            mask.save(masks / f"{picture_stem(number)}.png", "PNG")
    return {name: name for name in splits}
