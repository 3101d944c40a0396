"""Raw data of nnU-Net: its folders, labels, regions and folds."""

import json

import numpy as np
import pytest

from lit_continual.data import Preprocessing, SegmentationDataModule, Split, read_cases, split_cases
from lit_continual.data.case_lists.fold_file import NAME
from lit_continual.data.case_lists.revealed_classes import values_of
from lit_continual.data.volumes import load_case, load_label
from tests.fixtures.data import scan, write

LABELS = {"background": 0, "first": 1, "second": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


@pytest.fixture
def raw(tmp_path):
    """Make ``nnUNet_raw/Dataset001_Toy`` of two channels; keyword arguments go into its ``dataset.json``."""

    def make(count=5, ending=".nii.gz", **more):
        folder = tmp_path / "nnUNet_raw/Dataset001_Toy"
        for i in range(count):
            image, label = scan(i)
            for channel in range(2):
                write(folder / f"imagesTr/case_{i:03}_000{channel}.nii.gz", (1 - 2 * channel) * image)
            write(folder / f"labelsTr/case_{i:03}.nii.gz", label)
        content = {"channel_names": {"0": "CT", "1": "PET"}, "labels": LABELS, "numTraining": count}
        (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ending, **more}))
        return folder

    return make


def test_channels_and_labels_are_those_of_dataset_json(raw):
    found = read_cases(raw())
    assert (found.labels, found.channels, found.regions) == (LABELS, ("CT", "PET"), {})
    assert [case.patient for case in found.cases] == [f"case_{i:03}" for i in range(5)]
    image = load_case(found.cases[2], Preprocessing(normalise=()))["image"]
    np.testing.assert_array_equal(image[0], scan(2)[0])
    np.testing.assert_array_equal(image[1], -image[0])


def test_the_name_alone_is_looked_up_in_the_folder_of_raw_data(raw, tmp_path, monkeypatch):
    folder = raw()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="There is no data set at Dataset001_Toy"):
        read_cases("Dataset001_Toy")
    monkeypatch.setenv("nnUNet_raw", str(folder.parent))
    assert read_cases("Dataset001_Toy") == read_cases(folder)
    with pytest.raises(ValueError, match="There is no data set at Dataset002_Other"):
        read_cases("Dataset002_Other")
    (tmp_path / "Dataset001_Toy").mkdir()  # what is here comes first
    with pytest.raises(ValueError, match="lists no case"):
        read_cases("Dataset001_Toy")


def test_channels_go_by_number_and_decathlon_calls_them_modality(raw, decathlon):
    names = {str(k): f"echo {k}" for k in reversed(range(12))}
    assert read_cases(raw(channel_names=names)).channels == tuple(f"echo {k}" for k in range(12))
    folder = decathlon(1)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "modality": {"0": "MRI"}}))
    assert read_cases(folder).channels == ("MRI",)


def test_only_files_of_the_ending_are_cases(raw):
    folder = raw()
    write(folder / "imagesTr/left_over_0000.nii", scan(7)[0])
    assert len(read_cases(folder).cases) == 5
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii"}))
    write(folder / "labelsTr/left_over.nii", scan(7)[1])
    assert [case.patient for case in read_cases(folder).cases] == ["left_over"]


@pytest.mark.parametrize("ending", [".png", "", ".nii.bz2", 7, ["x"], "/../.nii.gz", "\x1b[31m"])
def test_other_endings_are_refused(raw, ending):
    with pytest.raises(
        ValueError, match=r"has the `file_ending` .*\.mha, \.mhd are read. Convert the images"
    ) as caught:
        read_cases(raw(ending=ending))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["imagesTr", "labelsTr"])
def test_a_folder_without_files_of_the_ending_is_named(raw, kind):
    folder = raw()
    for path in (folder / kind).iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", ".nrrd")))
    with pytest.raises(ValueError, match=rf"{kind} has no image that ends with .nii.gz, as .*dataset.json says"):
        read_cases(folder)


def test_a_list_of_files_that_lie_elsewhere(raw, tmp_path):
    folder = raw()
    (folder / "imagesTr").rename(tmp_path / "scans")
    images = ["../../scans/case_003_0000.nii.gz", str(tmp_path / "scans/case_003_0001.nii.gz")]
    content = json.loads((folder / "dataset.json").read_text())
    content["dataset"] = {"one": {"images": images, "label": "labelsTr/case_003.nii.gz"}}
    (folder / "dataset.json").write_text(json.dumps(content))
    (case,) = read_cases(folder).cases
    assert (case.patient, [path.name for path in case.images]) == (
        "one",
        ["case_003_0000.nii.gz", "case_003_0001.nii.gz"],
    )
    content["dataset"]["one"]["label"] = "labelsTr/gone.nii.gz"
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"gone.nii.gz is listed in .* but is not there"):
        read_cases(folder)


def test_regions_are_made_of_labels_that_exclude_each_other(raw):
    found = read_cases(raw(labels=REGIONS, regions_class_order=[1, 2]))
    assert found.labels == {"background": 0, "label_1": 1, "core": 2}
    assert found.regions == {"whole": ("label_1", "core"), "core": ("core",)}
    classes = values_of({"label_1": 1, "core": 2}, found)
    image = load_case(found.cases[0], Preprocessing(normalise=()))
    assert set(load_label(found.cases[0], classes, found, image).unique().tolist()) == {0, 1, 2}


def test_a_region_is_no_class_of_a_label_map(raw):
    found = read_cases(raw(labels=REGIONS))
    for classes in ({"whole": 1}, {"mine": "whole"}):
        with pytest.raises(ValueError, match=r"a region that .* makes of label_1, core. Reveal these, and name the"):
            values_of(classes, found)


def test_voxels_that_nobody_annotated_are_not_background(raw):
    data = SegmentationDataModule(str(raw(labels={**LABELS, "ignore": 3})), [8, 8], {"first": 1})
    with pytest.raises(
        ValueError, match=r"declares the label `ignore` for voxels that nobody annotated.*Annotate them"
    ):
        _ = data.values


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "a": [1, [2]]},
        {"background": 0, "a": ["x"]},
        {"background": 0, "a": []},
        {"background": 0, "a": [1, 2], "label_1": 3},
        {"background": 0, "a": {"b": 1}},
        {"background": 0, "a": 1e400},
        [1, 2],
    ],
    ids=str,
)
def test_labels_that_name_no_values(raw, labels):
    with pytest.raises(ValueError, match=r"is not a Decathlon list|labels that name no value, or one name twice"):
        read_cases(raw(labels=labels))


FOLDS = [
    {"train": ["case_000", "case_001", "case_002"], "val": ["case_003"]},
    {"train": ["case_003", "case_004"], "val": ["case_000", "case_001", "case_002"]},
]


def people(splits):
    return {side: sorted(case.patient for case in cases) for side, cases in splits.items()}


@pytest.fixture
def folded(raw, tmp_path, monkeypatch):
    """Put folds where nnU-Net does, and split by them."""
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    found = read_cases(raw())

    def split(folds=FOLDS, place=f"nnUNet_preprocessed/Dataset001_Toy/{NAME}", **options):
        if place:
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_text(json.dumps(folds))
        return split_cases(found.cases, Split(**options), found.source)

    split.root = tmp_path
    return split


@pytest.mark.parametrize("place", [f"nnUNet_preprocessed/Dataset001_Toy/{NAME}", f"nnUNet_raw/Dataset001_Toy/{NAME}"])
def test_what_a_fold_holds_out_is_the_test_split(folded, place):
    splits = people(folded(place=place, fold=0, fractions=(1, 0, 0)))
    assert splits == {"train": FOLDS[0]["train"], "val": [], "test": ["case_003"]}  # and case_004 is in neither
    splits = people(folded(place=place, fold=1, fractions=(0.5, 0.5, 0)))
    assert (len(splits["train"]), len(splits["val"])) == (1, 1)
    assert sorted(splits["train"] + splits["val"]) == FOLDS[1]["train"]
    assert splits["test"] == FOLDS[1]["val"]


def test_folds_may_lie_in_the_folder_of_the_environment_variable_or_anywhere(folded, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(folded.root / "pre"))
    whole = {"fold": 0, "fractions": (1, 0, 0)}
    assert people(folded(place=f"pre/Dataset001_Toy/{NAME}", **whole))["test"] == ["case_003"]
    monkeypatch.setenv("FOLDS", str(folded.root))
    assert people(folded(FOLDS[::-1], "mine.json", file="$FOLDS/mine.json", **whole))["train"] == FOLDS[1]["train"]


def test_parts_of_a_fold_share_nobody(folded):
    parts = [people(folded(fold=0, fractions=(1, 0, 0), part=(i, 2)))["train"] for i in range(2)]
    assert sorted(parts[0] + parts[1]) == FOLDS[0]["train"]


@pytest.mark.parametrize(
    ("folds", "options", "message"),
    [
        (FOLDS, {"fold": 2}, r"has 2 folds, counted from 0, and no fold 2. Correct `split.fold`"),
        (FOLDS, {"fold": 0, "file": "nowhere.json"}, r"There is no nowhere.json, seen from .* Give its path as"),
        ({}, {"fold": 0}, "is no list of folds"),
        ([["case_000"]], {"fold": 0}, "is no list of folds"),
        ([{"train": ["case_000", 3], "val": []}], {"fold": 0}, "is no list of folds"),
        ([{"train": ["case_000"]}], {"fold": 0}, "is no list of folds"),
        ([{"train": ["case_000"], "val": ["case_000"]}], {"fold": 0}, "has case_000 under `train` and `val`"),
        ([{"train": ["case_000"], "val": ["\x1b[31m", "x"]}], {"fold": 0}, r"names the case \\x1b\[31m, one of 2 that"),
        ([{"train": [], "val": ["case_000"]}], {"fold": 0}, "training split of .* is empty"),
    ],
)
def test_bad_folds(folded, folds, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        folded(folds, **options)
    assert str(caught.value).isprintable()


def test_folds_that_are_nowhere(folded):
    with pytest.raises(
        ValueError, match=rf"There is no {NAME}, seen from .*dataset.json, in which to look up the fold 0"
    ):
        folded(place=None, fold=0)


@pytest.mark.parametrize("options", [{"fold": -1}, {"fold": 0, "key": "split"}, {"fold": 0, "fractions": (0, 0, 1)}])
def test_bad_options_of_folds(options):
    with pytest.raises(ValueError, match="`fold` must be 0 or more"):
        Split(**options)
    with pytest.raises(ValueError, match=r"`file` x\.json needs a `fold`"):
        Split(file="x.json")
