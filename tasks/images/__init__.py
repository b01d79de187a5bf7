"""What every image task shares: reading pictures safely, and reporting what is wrong with them."""

from tasks.images.image_refs import FileImage, GeneratedImage, ImageRef
from tasks.images.issues import ImageIssues
from tasks.images.read import BadImageError, ImageFacts, inspect_image, read_image

__all__ = [
    "BadImageError",
    "FileImage",
    "GeneratedImage",
    "ImageFacts",
    "ImageIssues",
    "ImageRef",
    "inspect_image",
    "read_image",
]
