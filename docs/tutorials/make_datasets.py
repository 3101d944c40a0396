"""Write three small data sets of the same abdomen, each with one organ annotated, in place of your own data."""

from pathlib import Path

import nibabel as nib
import numpy as np

ORGANS = {"liver": (14, 16, 9, 100), "spleen": (33, 14, 6, 60), "kidney": (30, 34, 5, 80)}  # x, y, radius, brightness


def patient(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One image, and the mask of each organ in it."""
    rng = np.random.default_rng(seed)
    x, y, z = np.indices((48, 48, 8))
    image, masks = rng.normal(0, 10, x.shape), {}
    for organ, (cx, cy, radius, brightness) in ORGANS.items():
        dx, dy = rng.uniform(-3, 3, 2)
        masks[organ] = (x - cx - dx) ** 2 + (y - cy - dy) ** 2 + 4 * (z - 4) ** 2 < radius**2
        image += brightness * masks[organ]
    return image.astype(np.int16), masks


def write(path: str, array: np.ndarray) -> None:
    """Write voxels of 2 x 2 x 5 mm."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 5.0, 1.0])), path)


def dataset(organ: str, first: int) -> None:
    """Ten patients of whom one organ is annotated, in a folder of images and one of labels."""
    for number in range(first, first + 10):
        image, masks = patient(number)
        write(f"{organ}/images/p{number:02}.nii.gz", image)
        write(f"{organ}/labels/p{number:02}.nii.gz", masks[organ].astype(np.uint8))


if __name__ == "__main__":
    for number, organ in enumerate(ORGANS):
        dataset(organ, 10 * number)
    rows = [f"images/p{n}.nii.gz,labels/p{n}.nii.gz,patient {n}" for n in range(10, 20)]
    Path("spleen/cases.csv").write_text("\n".join(["image,label,patient", *rows]) + "\n", encoding="utf-8")
    for number in (30, 31):
        write(f"new/scan_{number}.nii.gz", patient(number)[0])
