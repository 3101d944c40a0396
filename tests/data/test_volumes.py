import gzip
import importlib.util
import itertools
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.data import Case, CaseList, Preprocessing
from lit_continual.data.volumes import load_case, load_evaluation_volume, load_label, load_training_volume
from lit_continual.images.reading import read_volume
from lit_continual.modules import Segmenter
from lit_continual.windows.sliding_window import slide

OBLIQUE = np.array([[0.94, -0.3, 0.1, -20], [0.32, 1.8, -0.4, 15], [-0.02, 0.5, 2.9, 40], [0, 0, 0, 1.0]])
LPS = np.diag([-1.0, -2.0, 3.0, 1.0])
PERMUTED = np.array([[0, 0, 3.0, 5], [-1.0, 0, 0, 6], [0, 2.0, 0, -7], [0, 0, 0, 1]])
AFFINES = {"RAS": np.diag([1.0, 2.0, 3.0, 1.0]), "LPS": LPS, "permuted": PERMUTED, "oblique": OBLIQUE}
AS_STORED = Preprocessing(orientation=None, normalise=())


def save(path, array, affine=None, header=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine, header), path)
    return path


@pytest.fixture
def case(tmp_path):
    def make(image, label=None, affine=None, label_affine=None, suffix=".nii.gz"):
        save(tmp_path / f"image{suffix}", image, affine)
        if label is not None:
            save(tmp_path / f"label{suffix}", label, affine if label_affine is None else label_affine)
        return Case((tmp_path / f"image{suffix}",), None if label is None else tmp_path / f"label{suffix}", "p")

    return make


def listed(tmp_path, **labels):
    return CaseList(tmp_path / "dataset.json", (), labels)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_every_number_type_is_read_as_float32(case, dtype, suffix):
    image = np.arange(24).reshape(2, 3, 4).astype(dtype)
    loaded = load_case(case(image, suffix=suffix), AS_STORED)["image"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded[0], torch.from_numpy(image.astype("float32")))


def test_a_scaled_header_is_applied(case):
    made = case(np.arange(24, dtype="int16").reshape(2, 3, 4))
    header = nib.load(made.images[0]).header
    header.set_slope_inter(0.5, -1024)
    image = nib.Nifti1Image(np.zeros((2, 3, 4)), np.eye(4), header)
    image.header.set_data_dtype("int16")
    raw = bytearray(image.to_bytes())
    stored = np.arange(24, dtype="<i2").reshape(2, 3, 4)
    raw[352:] = stored.tobytes(order="F")
    raw[112:120] = np.array([0.5, -1024], "<f4").tobytes()
    made.images[0].write_bytes(gzip.compress(bytes(raw)))
    assert torch.equal(load_case(made, AS_STORED)["image"][0], torch.from_numpy(stored * 0.5 - 1024).float())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 5), (1, 6, 5, 1)),
        ((6, 5, 1), (1, 6, 5, 1)),
        ((6, 5, 3), (1, 6, 5, 3)),
        ((6, 5, 4, 3), (3, 6, 5, 4)),
        ((6, 5, 4, 1), (1, 6, 5, 4)),
        ((6, 5, 4, 1, 2), (2, 6, 5, 4)),
    ],
    ids=str,
)
def test_planes_and_channels(case, shape, expected):
    values = np.random.default_rng(0).random(shape, dtype="float32")
    loaded = load_case(case(values), Preprocessing())
    assert loaded["image"].shape == expected
    assert loaded["source_shape"] == expected[1:]
    stored = load_case(case(values), AS_STORED)["image"]
    channels = values.reshape(*expected[1:], expected[0])
    assert torch.equal(stored, torch.from_numpy(np.moveaxis(channels, -1, 0)))


def test_a_film_is_no_image(case):
    with pytest.raises(ValueError, match=r"image.nii.gz has shape .*two or three dimensions"):
        load_case(case(np.zeros((6, 5, 4, 2, 2), "float32")), Preprocessing())


def test_channels_from_several_files(tmp_path):
    paths = tuple(save(tmp_path / f"{k}.nii.gz", np.full((4, 3, 2), k, "int16"), LPS) for k in range(3))
    image = load_case(Case(paths, None, "p"), Preprocessing(normalise=()))["image"]
    assert [float(c.unique()) for c in image] == [0, 1, 2]


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("spacing", [None, (1.3, 1.1, 2.0), (2.0, -1.0, -1.0)], ids=str)
def test_a_voxel_keeps_its_place_in_the_world(case, affine, spacing):
    shape, where = (20, 16, 12), np.array([12, 6, 5])
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    blob = 100 * np.exp(-(((grid - where) @ affine[:3, :3].T) ** 2).sum(-1) / 2 / 4**2)  # 4 mm wide
    loaded = load_case(case(blob.astype("float32"), affine=affine), Preprocessing("RAS", spacing, ()))
    image, turned = loaded["image"][0].double(), np.array(loaded["affine"])
    assert nib.aff2axcodes(turned) == ("R", "A", "S")
    if spacing and min(spacing) > 0:
        np.testing.assert_allclose(np.linalg.norm(turned[:3, :3], axis=0), spacing, rtol=1e-6)
    peak = np.array(np.unravel_index(int(image.argmax()), image.shape))
    found, truth = turned[:3, :3] @ peak + turned[:3, 3], affine[:3, :3] @ where + affine[:3, 3]
    assert np.linalg.norm(found - truth) <= np.linalg.norm(np.linalg.norm(turned[:3, :3], axis=0)) / 2 + 1e-6
    np.testing.assert_allclose(loaded["source_affine"], affine, atol=1e-5)
    np.testing.assert_allclose(loaded["spacing"], np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("spacing", [None, (0.8, 0.9, 1.4)], ids=str)
def test_a_mask_goes_to_the_network_and_comes_back(case, affine, spacing):
    label = np.zeros((20, 18, 14), np.uint8)
    label[4:13, 5:14, 3:10] = 1
    made = case(label.astype("float32"), label, affine)
    preprocessing = Preprocessing("RAS", spacing, ())
    volume = load_evaluation_volume(made, {"bone": 1}, CaseList(made.images[0], (), {}), preprocessing)
    assert torch.equal(volume["label"][0], torch.from_numpy(label))
    batch = {k: [volume[k]] for k in ("affine", "source_affine", "source_shape")}
    back = Segmenter.to_source_grid(volume["image"][None], batch)[0, 0] > 0.5
    truth = torch.from_numpy(label) == 1
    assert back.shape == truth.shape
    if spacing is None:
        assert torch.equal(back, truth)
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.93
    centres = [torch.nonzero(m).double().mean(0).numpy() @ affine[:3, :3].T for m in (back, truth)]
    assert np.linalg.norm(centres[0] - centres[1]) < 0.2  # mm


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("spacing", [None, (1.7, 1.2, 2.3)], ids=str)
def test_image_and_label_stay_on_each_other(case, tmp_path, affine, spacing):
    label = np.zeros((17, 15, 11), np.uint8)
    label[3:12, 4:12, 2:9] = 2
    made = case(label.astype("int16"), label, affine)
    volume = load_training_volume(made, {"b": 2}, listed(tmp_path), Preprocessing("RAS", spacing, ()), (4, 4))
    assert volume["image"].shape == volume["label"].shape
    assert volume["label"].dtype == torch.uint8
    clear = ((volume["image"] - 1).abs() > 0.8) if spacing else torch.ones_like(volume["image"], dtype=torch.bool)
    assert clear.float().mean() > 0.7  # the rest is between voxels, where nearest and linear may differ
    assert torch.equal((volume["image"] > 1)[clear], (volume["label"] == 1)[clear])
    assert (volume["patient"], volume["classes"]) == ("p", ("b",))


def test_an_orientation_that_is_not_set(tmp_path):
    path = save(tmp_path / "image.nii.gz", np.arange(60, dtype="int16").reshape(5, 4, 3))
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[252:256] = bytes(4)  # qform_code and sform_code
    raw[80:92] = np.array([1.5, 2, 3], "<f4").tobytes()  # voxel size
    path.write_bytes(gzip.compress(bytes(raw)))
    loaded = load_case(Case((path,), None, "p"), Preprocessing())
    assert loaded["image"].shape == (1, 5, 4, 3)
    assert loaded["spacing"] == (1.5, 2, 3)


def test_normalisation(case):
    rng = np.random.default_rng(0)
    image = rng.normal([5, 1e6], [2, 3e5], (9, 8, 7, 2)).astype("float32")
    loaded = load_case(case(image), Preprocessing())["image"]
    np.testing.assert_allclose(loaded.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(loaded.std((1, 2, 3), correction=0), 1, atol=1e-5)
    window = {"_target_": "ScaleIntensityRange", "a_min": 0, "a_max": 10, "b_min": -1, "b_max": 1, "clip": True}
    loaded = load_case(case(image), Preprocessing(normalise=(window,)))["image"]
    np.testing.assert_allclose(loaded[0], np.clip(image[..., 0] / 5 - 1, -1, 1), atol=1e-6)
    with pytest.raises(ValueError, match=r"There is no `Nope` in monai.transforms"):
        load_case(case(image), Preprocessing(normalise=({"_target_": "Nope"},)))


def test_an_image_of_one_value(case):
    assert torch.equal(
        load_case(case(np.full((4, 4, 4), 7, "uint8")), Preprocessing())["image"], torch.zeros(1, 4, 4, 4)
    )


def test_only_the_revealed_classes_are_seen(case, tmp_path):
    values = np.array([0, 1, 2, 5, 250], np.uint8).reshape(5, 1, 1)
    made = case(values, values)
    image = load_case(made, AS_STORED)
    declared = listed(tmp_path, background=0, a=1, b=2, c=5, d=250)
    seen = load_label(made, {"d": 250, "a": 1}, declared, image)
    assert seen.flatten().tolist() == [0, 2, 0, 0, 1]
    assert load_label(made, {"c": 5}, listed(tmp_path), image).flatten().tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_label_types(case, tmp_path, dtype):
    values = np.array([0, 1, 2], dtype).reshape(3, 1, 1) * (1 - 1e-7 if dtype == "float64" else 1)
    made = case(values, values.astype(dtype))
    seen = load_label(made, {"b": 2}, listed(tmp_path, a=1, b=2), load_case(made, AS_STORED))
    assert seen.flatten().tolist() == [0, 0, 1]


@pytest.mark.parametrize(("patch", "expected"), [((8, 4), (8, 5, 3)), ((8, 4, 6), (8, 5, 6)), ((2, 2, 2), (6, 5, 3))])
def test_small_volumes_are_padded_to_the_patch(case, tmp_path, patch, expected):
    image = np.ones((6, 5, 3), "uint8")
    volume = load_training_volume(case(image, image), {"a": 1}, listed(tmp_path), AS_STORED, patch)
    assert volume["image"].shape[1:] == volume["label"].shape[1:] == expected
    assert volume["image"].sum() == volume["label"].sum() == image.sum()


def test_no_foreground_is_ordinary(case, tmp_path):
    made = case(np.ones((6, 5, 3), "uint8"), np.zeros((6, 5, 3), "uint8"))
    assert load_training_volume(made, {"a": 1}, listed(tmp_path), AS_STORED, (4, 4))["label"].sum() == 0


IMAGE, LABEL = np.ones((6, 5, 4), "float32"), np.ones((6, 5, 4), "uint8")
SHIFTED = np.eye(4) + np.outer([0.6, 0, 0, 0], [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("image", "label", "label_affine", "message"),
    [
        (
            np.where(IMAGE.cumsum().reshape(IMAGE.shape) == 9, np.nan, 1),
            LABEL,
            None,
            "image.* has 1 voxels that are nan",
        ),
        (IMAGE * np.inf, LABEL, None, "image.nii.gz has 120 voxels that are nan or infinite. Repair or remove"),
        (IMAGE, LABEL[:5], None, r"label.nii.gz has shape \(5, 5, 4\) and .*image.nii.gz \(6, 5, 4\).*Resample"),
        (IMAGE, LABEL, SHIFTED, "label.nii.gz and .*image.nii.gz have different affines: they lie up to 0.6 mm apart"),
        (IMAGE, LABEL, np.diag([1, 1, 1.1, 1]), "different affines"),
        (IMAGE, LABEL, LPS, "different affines"),
        (
            IMAGE,
            LABEL * 7,
            None,
            r"label.nii.gz has the label value 7, which is not declared \(\[0, 1, 2\]\). Declare it",
        ),
        (IMAGE, LABEL * 0.5, None, "has the label value 0.5, which is not declared"),
        (IMAGE, LABEL * np.nan, None, "has the label value nan, which is not declared"),
        (IMAGE, np.stack([LABEL, LABEL], -1), None, "label.nii.gz has 2 channels. Give one label map"),
        (IMAGE, None, None, "image.nii.gz has no label in .*dataset.json. Add one"),
    ],
)
def test_bad_volumes(case, tmp_path, image, label, label_affine, message):
    made = case(image, label, label_affine=label_affine)
    with pytest.raises(ValueError, match=message):
        load_training_volume(made, {"a": 1}, listed(tmp_path, background=0, a=1, b=2), Preprocessing(), (4, 4))


def test_label_values_of_a_list_that_declares_none(case, tmp_path):
    made = case(IMAGE, LABEL * 0.5)
    with pytest.raises(ValueError, match=r"has the label value 0.5, which is not declared"):
        load_training_volume(made, {"a": 1}, listed(tmp_path), Preprocessing(), (4, 4))


def test_a_mask_of_255_where_nothing_is_declared_is_no_empty_one(case, tmp_path):
    made = case(IMAGE, LABEL * 255)
    with pytest.raises(ValueError, match=r"label.nii.gz has the values 0 and 255, as some tools write a mask, and"):
        load_training_volume(made, {"a": 1}, listed(tmp_path), AS_STORED, (4, 4))
    assert load_training_volume(made, {"a": 255}, listed(tmp_path), AS_STORED, (4, 4))["label"].all()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_promises_more_than_memory_holds_is_not_believed(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", IMAGE)
    content = bytearray(gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())
    content[42:48] = np.array([32767] * 3, "<i2").tobytes()
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(ValueError, match=f"a{suffix} has {32767**3} voxels by its header, and an image at most"):
        load_case(Case((path,), None, "p"), Preprocessing())


def test_colours_are_no_intensities(case):
    colours = np.zeros((6, 5, 4), [(name, "u1") for name in "RGB"])
    with pytest.raises(ValueError, match=r"image.nii.gz has voxels of several numbers, as of RGB"):
        load_case(case(colours), Preprocessing())


def test_windows_without_end_are_refused():
    volume = torch.zeros(1, 1, 512, 512, 300)
    for window, overlap in (([1, 1], 0.25), ([64, 64], 0.9999), ([2, 2, 1], 0.0)):
        with pytest.raises(ValueError, match=r"Windows of .* voxels with an `overlap` of .* are [\d,]+ on a volume of"):
            slide(lambda x: x, volume, window, overlap)


@pytest.mark.parametrize("size", [(0.02, 0.02, 0.02), (0.001, 1.0, 1.0)])
def test_voxels_without_number_are_refused(case, size):
    made = case(np.ones((600, 600, 8), "uint8"), affine=np.eye(4))
    with pytest.raises(ValueError, match=r"image.nii.gz has voxels of 1 x 1 x 1 mm, and `spacing` asks for"):
        load_case(made, Preprocessing(orientation=None, spacing=size))


@pytest.mark.parametrize("spacing", [(np.nan, 1.0, 1.0), (np.inf,), (), (1.0,) * 4])
def test_a_spacing_that_is_none_is_named(spacing):
    with pytest.raises(ValueError, match="`spacing` must be up to three voxel sizes in mm, got"):
        Preprocessing(spacing=spacing)


def test_normalise_changes_no_grid(case):
    pad = {"class_path": "SpatialPad", "init_args": {"spatial_size": [9, 9, 9]}}
    with pytest.raises(ValueError, match=r"`normalise` makes \(9, 9, 9\) of the \(6, 5, 4\) voxels of .*image.nii.gz"):
        load_case(case(IMAGE), Preprocessing(orientation=None, normalise=(pad,)))


def test_rounded_headers_are_one_grid(case, tmp_path):
    rng = np.random.default_rng(0)
    nearly = OBLIQUE + np.vstack([rng.uniform(-1, 1, (3, 4)) * 1e-4, np.zeros(4)])
    made = case(IMAGE, LABEL, OBLIQUE, nearly)
    volume = load_training_volume(made, {"a": 1}, listed(tmp_path), Preprocessing(spacing=(0.7, 0.7, 0.7)), (4, 4))
    assert volume["image"].shape == volume["label"].shape


def test_channels_on_two_grids(tmp_path):
    paths = (save(tmp_path / "a.nii", IMAGE), save(tmp_path / "b.nii", IMAGE, SHIFTED))
    with pytest.raises(ValueError, match=r"b.nii and .*a.nii have different affines"):
        load_case(Case(paths, None, "p"), Preprocessing())
    save(tmp_path / "b.nii", np.full(IMAGE.shape, np.nan))
    with pytest.raises(ValueError, match=r"b.nii has 120 voxels that are nan"):
        load_case(Case(paths, None, "p"), Preprocessing())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, -40])
def test_unreadable_files(case, keep, suffix):
    made = case(np.random.default_rng(0).random((30, 30, 30)), suffix=suffix)
    whole = made.images[0].read_bytes()
    made.images[0].write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    message = rf"image{suffix} cannot be read as an image \(\S.*\). Replace it or take it off the list"
    with pytest.raises(ValueError, match=message) as caught:
        load_case(made, Preprocessing())
    assert "\n" not in str(caught.value)


def test_something_else_under_the_name_of_an_image(case):
    made = case(IMAGE)
    made.images[0].write_text(json.dumps({"not": "an image"}))
    with pytest.raises(ValueError, match=r"cannot be read as an image"):
        load_case(made, Preprocessing())


@pytest.mark.skipif(importlib.util.find_spec("itk") is not None, reason="ITK reads it")
def test_formats_that_need_another_package(tmp_path):
    (tmp_path / "a.mha").write_bytes(b"ObjectType = Image")
    with pytest.raises(ValueError, match=r"a.mha cannot be read without ITK. Run `pip install itk`"):
        load_case(Case((tmp_path / "a.mha",), None, "p"), Preprocessing())


def test_corners_tell_grids_apart_as_brute_force_does(case, tmp_path):
    """Two grids are one where no voxel's centre moves by a tenth of the smallest spacing."""
    rng = np.random.default_rng(1)
    voxels = np.array([*itertools.product(*map(range, IMAGE.shape))])
    verdicts = set()
    for size in (0.003, 0.02, 0.03, 0.3):
        moved = OBLIQUE + np.vstack([rng.uniform(-1, 1, (3, 4)) * size, np.zeros(4)])
        apart = np.linalg.norm(nib.affines.apply_affine(moved - OBLIQUE, voxels), axis=1).max()
        bad = apart >= 0.1 * np.linalg.norm(OBLIQUE[:3, :3], axis=0).min()
        made = case(IMAGE, LABEL, OBLIQUE, moved)
        try:
            load_evaluation_volume(made, {"a": 1}, listed(tmp_path), AS_STORED)
            refused = False
        except ValueError:
            refused = True
        assert refused == bad
        verdicts.add(bad)
    assert verdicts == {True, False}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".NII.GZ", ".NII"])
def test_complex_voxels_are_refused(case, suffix):
    image = case(np.full((2, 3, 4), 1 + 2j, np.complex64), suffix=suffix)
    with pytest.raises(ValueError, match=rf"image{suffix} has complex voxels, of which the imaginary part would be"):
        load_case(image, AS_STORED)


NOWHERE = {
    "flat": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]],
    "dependent": [[1, 2, 0, 0], [2, 4, 0, 0], [0, 0, 1, 0]],
    "nan": [[np.nan, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
    "infinite": [[1, 0, 0, 0], [0, 1, 0, np.inf], [0, 0, 1, 0]],
}


@pytest.mark.parametrize("rows", NOWHERE)
def test_an_affine_that_gives_voxels_no_place_is_refused(case, rows):
    made = case(np.ones((2, 3, 4), np.float32), suffix=".nii")
    raw = bytearray(made.images[0].read_bytes())
    raw[280:328] = np.array(NOWHERE[rows], "<f4").tobytes()  # srow_x, srow_y and srow_z of the header
    made.images[0].write_bytes(raw)
    with pytest.raises(ValueError, match=r"image.nii has the affine .* singular or not finite.*Correct its header"):
        load_case(made, AS_STORED)


def test_small_voxels_are_no_singular_ones(case):
    affine = np.diag([5e-5, 5e-5, 1e-4, 1.0])
    loaded = load_case(case(np.ones((2, 3, 4), np.float32), affine=affine), AS_STORED)
    assert loaded["spacing"] == pytest.approx((5e-5, 5e-5, 1e-4))


@pytest.mark.parametrize("suffix", [".NII.GZ", ".NII"])
def test_suffixes_in_capitals_are_read(case, suffix, tmp_path):
    made = case(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    path = tmp_path / f"copy{suffix}"
    content = made.images[0].read_bytes()
    path.write_bytes(content if "GZ" in suffix else gzip.decompress(content))
    again = load_case(Case((path,), None, "p"), AS_STORED)
    assert torch.equal(again["image"], load_case(made, AS_STORED)["image"])


HOLES = {"above": {"threshold": -5.0, "above": True, "cval": -5.0}}


@pytest.mark.parametrize("hole", [np.nan, -np.inf])
def test_voxels_that_normalise_mends_are_no_error(case, hole):
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    image[0, 0, 0] = hole
    mend = {"class_path": "ThresholdIntensity", "init_args": HOLES["above"]}
    found = load_case(case(image), Preprocessing(orientation=None, normalise=(mend,)))["image"]
    assert found[0, 0, 0, 0] == -5
    assert found[0, 1, 1, 1] == image[1, 1, 1]
    scale = {"class_path": "NormalizeIntensity", "init_args": {}}
    with pytest.raises(ValueError, match=r"image.nii.gz has 1 voxels that are nan or infinite. Repair or remove"):
        load_case(case(image), Preprocessing(orientation=None, normalise=(scale,)))


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_normalise_makes_is_said_of_normalise(case):
    scale = {"class_path": "NormalizeIntensity", "init_args": {"subtrahend": 0.0, "divisor": float("nan")}}
    with pytest.raises(ValueError, match=r"`normalise` makes 24 voxels of .*image.nii.gz nan or infinite"):
        load_case(case(np.ones((2, 3, 4), np.float32)), Preprocessing(orientation=None, normalise=(scale,)))


def test_the_checksum_of_a_compressed_file_is_looked_at(tmp_path):
    path = save(tmp_path / "image.nii.gz", np.random.default_rng(0).integers(0, 99, (64, 64, 32)).astype(np.int16))
    content, whole = path.read_bytes(), read_volume(path)
    path.write_bytes(content + b"of another program")
    assert torch.equal(read_volume(path), whole)
    for part in (content[:-8] + bytes(4) + content[-4:], content[:-4] + bytes(4), content[:-5]):  # voxels are there
        path.write_bytes(part)
        with pytest.raises(ValueError, match=r"image.nii.gz cannot be read as an image \(.+\). Replace it"):
            read_volume(path)
