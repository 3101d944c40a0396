import json
import os
from pathlib import Path

import numpy as np
import pytest

from lit_continual.data import read_cases
from lit_continual.data.case_lists.splits import Split, split_cases
from lit_continual.images.file_names import stem


@pytest.fixture
def touch(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def listing(folder, training, labels=None):
    path = folder / "dataset.json"
    path.write_text(json.dumps({"labels": labels or {"0": "background", "1": "bone"}, "training": training}))
    return path


def test_decathlon_list(touch):
    folder = touch("i/a.nii.gz", "l/a.nii.gz", "i/b.nii.gz", "l/b.nii.gz")
    listing(
        folder,
        [
            {"image": "./i/a.nii.gz", "label": "./l/a.nii.gz", "site": "DU", "fold": 3, "age": None},
            {"image": "./i/b.nii.gz", "label": "./l/b.nii.gz", "patient": 0},
        ],
    )
    found = read_cases(folder)
    assert read_cases(folder / "dataset.json") == found
    assert found.source == folder / "dataset.json"
    assert found.labels == {"background": 0, "bone": 1}
    first, second = found.cases
    assert (first.images, first.label) == ((folder / "i/a.nii.gz",), folder / "l/a.nii.gz")
    assert (first.patient, second.patient) == ("a", "0")
    assert first.keys == {"site": "DU", "fold": "3"}


def test_labels_either_way_around(touch):
    folder = touch("a.nii")
    listing(folder, [{"image": "a.nii"}], {"background": 0, "bone": 1})
    assert read_cases(folder).labels == {"background": 0, "bone": 1}
    assert read_cases(folder).cases[0].label is None


def test_channels_as_a_list_of_files(touch):
    folder = touch("t1/a.nii", "t2/a.nii")
    listing(folder, [{"image": ["t1/a.nii", "t2/a.nii"]}])
    assert read_cases(folder).cases[0].images == (folder / "t1/a.nii", folder / "t2/a.nii")


def test_table(touch, monkeypatch):
    folder = touch("a.nii", "sub/b.nii", "home/c.nii", "a,x.nii")
    monkeypatch.setenv("HERE", str(folder))
    (folder / "t.csv").write_text(
        "\ufeffimage,label,patient,site\n"
        'a.nii,"a,x.nii",P1,DU\n'
        f"{folder / 'sub/b.nii'},a.nii, P2 ,HT\n"
        "home/c.nii,,P3,\n",
        encoding="utf-8",
    )
    first, second, third = read_cases("$HERE/t.csv").cases
    assert (first.images, first.label) == ((folder / "a.nii",), folder / "a,x.nii")
    assert (second.images, second.label) == ((folder / "sub/b.nii",), folder / "a.nii")
    assert (third.images, third.label) == ((folder / "home/c.nii",), None)
    assert [c.patient for c in (first, second, third)] == ["P1", "P2", "P3"]
    assert [c.keys for c in (first, second, third)] == [{"site": "DU"}, {"site": "HT"}, {"site": ""}]


def test_channels_of_a_table_go_by_number(touch):
    names = [f"{i}.nii" for i in range(11)]
    folder = touch(*names)
    order = [10, *range(10)]
    header = ",".join(["image_quality", *(f"image_{i}" for i in order)])
    (folder / "t.csv").write_text(f"{header}\ngood,{','.join(names[i] for i in order)}\n")
    case = read_cases(folder / "t.csv").cases[0]
    assert [p.name for p in case.images] == names
    assert case.keys == {"image_quality": "good"}


def test_folder_with_labels(touch):
    folder = touch("images/b.nii.gz", "images/a.nii", "labels/a.nii.gz", "labels/b.nii.gz", "labels/.DS_Store")
    found = read_cases(folder)
    assert [(c.images[0].name, c.label.name, c.patient) for c in found.cases] == [
        ("a.nii", "a.nii.gz", "a"),
        ("b.nii.gz", "b.nii.gz", "b"),
    ]
    assert found.labels == {}


def test_folder_of_images_alone(touch):
    cases = read_cases(touch("a.nii.gz", "b_2.nii.gz", "notes.txt")).cases
    assert [(c.patient, c.label) for c in cases] == [("a", None), ("b_2", None)]


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_numbered_channels(touch, images, labels):
    names = [f"{images}/{case}_000{k}.nii.gz" for case in ("kid_1234", "x") for k in range(2)]
    folder = touch(*names, f"{labels}/kid_1234.nii.gz", f"{labels}/x.nii.gz")
    if images == "imagesTr":  # nnU-Net's own list names no files
        content = {"labels": {"background": 0, "bone": 1}, "file_ending": ".nii.gz", "numTraining": 2}
        (folder / "dataset.json").write_text(json.dumps(content))
        assert read_cases(folder).labels == {"background": 0, "bone": 1}
    first, second = read_cases(folder).cases
    assert [p.name for p in first.images] == ["kid_1234_0000.nii.gz", "kid_1234_0001.nii.gz"]
    assert (first.patient, first.label.name, second.patient) == ("kid_1234", "kid_1234.nii.gz", "x")


def test_a_number_at_the_end_is_no_channel_by_itself(touch):
    assert [c.patient for c in read_cases(touch("scan_2019.nii", "scan_2020.nii")).cases] == ["scan_2019", "scan_2020"]


def test_stem():
    assert [stem(f"x/a.b{s}") for s in (".nii.gz", ".nii", ".mha", ".png")] == ["a.b"] * 4
    assert stem(Path("a.nii.gz")) == "a"


def test_one_image_with_two_raters(touch):
    folder = touch("a.nii", "l1.nii", "l2.nii")
    listing(folder, [{"image": "a.nii", "label": "l1.nii"}, {"image": "a.nii", "label": "l2.nii"}])
    assert [c.patient for c in read_cases(folder).cases] == ["a", "a"]


A, B = {"image": "a.nii", "label": "l.nii"}, {"image": "b.nii", "label": "l.nii"}


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["link", "hard link"])
def test_one_image_under_several_patients_is_refused(touch, link):
    folder = touch("p0.nii", "l.nii")
    for i in range(1, 8):
        link(folder / "p0.nii", folder / f"p{i}.nii")
    training = [{"image": f"p{i}.nii", "label": "l.nii"} for i in range(8)]
    (folder / "dataset.json").write_text(json.dumps({"training": training}))
    with pytest.raises(ValueError, match=r"lists .*p1.nii twice"):
        read_cases(folder / "dataset.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"training": [', r"dataset.json is not a Decathlon list \(.*It needs `training`"),
        ([1], "is not a Decathlon list"),
        ({"labels": {}}, r"KeyError\('training'\).*It needs `training`"),
        ({"labels": {"1": "a", "x": "y"}, "training": [A]}, "is not a Decathlon list"),
        ({"labels": {"1": "a", "2": "a"}, "training": [A]}, "one name for two label values"),
        ({"training": []}, "dataset.json lists no case"),
        ({"training": [{"label": "l.nii"}]}, "entry without an image.*Name its file under `image`"),
        ({"training": ["a.nii"]}, "entry without an image: 'a.nii'"),
        ({"training": [{"image": [""]}]}, "not all named"),
        ({"training": [{"image": 3}]}, "not all named"),
        ({"training": [{"image": "gone.nii"}]}, "gone.nii is listed in .*dataset.json but is not there"),
        ({"training": [{**A, "label": "gone.nii"}]}, "gone.nii is listed in"),
        ({"training": [A, A]}, "lists .*a.nii twice"),
        ({"training": [A, {**A, "image": "./sub/../a.nii", "patient": "other"}]}, r"lists .*sub/../a.nii twice"),
        ({"training": [A, {"image": ["b.nii", "c.nii"]}]}, r"1 channels for .*a.nii and 2 for .*b.nii"),
        ({"training": [A, {"image": "sub/a.nii"}]}, "have one name, and so would count as one patient"),
    ],
)
def test_bad_list(touch, content, message):
    folder = touch("a.nii", "b.nii", "c.nii", "l.nii", "sub/a.nii")
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_cases(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,label\na.nii,\n", "none is `image`"),
        ("image,label\na.nii\n", "Row 2 of .* more or fewer fields"),
        ("image,label\na.nii,l.nii\na,b.nii,l.nii\n", "Row 3 of .*Quote commas"),
        ('image,label\n"a.nii', "is not a CSV table"),
        (b"image\n\xff\xfe\n", "is not a CSV table in UTF-8"),
        ("image,label\n,l.nii\n", "entry without an image"),
        ("image_0,image_1\na.nii,\n", "not all named"),
        ("image\n", "lists no case"),
        ("", "lists no case"),
    ],
)
def test_bad_table(touch, text, message):
    folder = touch("a.nii", "l.nii")
    (folder / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=message):
        read_cases(folder / "t.csv")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["images/a.nii", "images/b.nii", "labels/b.nii"], "labels has no label for a. Add it or remove the image"),
        (["images/a.nii", "labels/readme.txt"], "has no label for a"),
        (["images/a.nii", "images/a.nii.gz"], "images has two images named a"),
        (["images/a_0000.nii", "images/a_0001.nii", "images/b_0000.nii"], "2 channels for .* and 1 for"),
        (["notes.txt"], "lists no case"),
    ],
)
def test_bad_folder(touch, files, message):
    with pytest.raises(ValueError, match=message):
        read_cases(touch(*files))


def test_no_data_set(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    with pytest.raises(ValueError, match=r"There is no data set at .*nowhere. Give a dataset.json, a CSV table, a"):
        read_cases(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"names an environment variable that is not set. Export it"):
        read_cases("$NO_SUCH_FOLDER/Task04")
    np.save(tmp_path / "x.npy", np.zeros(1))
    with pytest.raises(ValueError, match=r"x.npy is no data set"):
        read_cases(tmp_path / "x.npy")


def test_what_macos_keeps_beside_each_file_is_no_image(touch):
    folder = touch("images/a.nii.gz", "images/._a.nii.gz", "images/.DS_Store", "labels/a.nii.gz", "labels/._a.nii.gz")
    assert [case.patient for case in read_cases(folder).cases] == ["a"]
    with pytest.raises(ValueError, match="lists no case"):
        read_cases(touch("other/._b.nii.gz").joinpath("other"))


@pytest.mark.parametrize("suffix", [".NII.GZ", ".NII", ".nii", ".nii.gz", ".MHA", ".NRRD"])
def test_suffixes_in_capitals_are_suffixes(touch, suffix):
    folder = touch(*(f"images/{name}_000{channel}{suffix}" for name in "ab" for channel in range(2)))
    assert [(case.patient, len(case.images)) for case in read_cases(folder).cases] == [("a", 2), ("b", 2)]
    assert stem(f"a{suffix}") == "a"


@pytest.mark.parametrize("suffix", [".Nii.gz", ".nii.GZ", ".Nii"])
def test_suffixes_that_nibabel_does_not_find_are_named(touch, suffix):
    with pytest.raises(ValueError, match=rf"a{suffix} has capitals in a part of its suffix.*Rename it"):
        read_cases(touch(f"images/a{suffix}", "images/b.nii.gz"))


def test_numbered_names_with_labels_of_their_own_are_no_channels(touch):
    names = [f"IMG_{n:04}" for n in range(3)]
    folder = touch(*(f"{kind}/{name}.nii.gz" for kind in ("images", "labels") for name in names))
    assert [(case.patient, len(case.images)) for case in read_cases(folder).cases] == [(name, 1) for name in names]
    other = touch(*(f"other/imagesTr/{name}.nii.gz" for name in names), "other/labelsTr/IMG.nii.gz") / "other"
    assert [(case.patient, len(case.images)) for case in read_cases(other).cases] == [("IMG", 3)]


OTHERS = [{"validation": ["b"], "testing": ["c"]}, {"validation": ["b", "c"]}, {"test": ["c"]}]


@pytest.mark.parametrize("others", OTHERS)
def test_other_lists_of_a_file_are_its_own_splits_or_said_to_be_left_out(touch, others):
    folder = touch(*(f"{name}{end}" for name in "abc" for end in (".nii", "_l.nii")))
    lists = {"training": ["a"], **others}
    content = {k: [{"image": f"{n}.nii", "label": f"{n}_l.nii"} for n in names] for k, names in lists.items()}
    (folder / "dataset.json").write_text(json.dumps(content))
    cases = read_cases(folder).cases
    splits = split_cases(cases, Split(key="list"), "list")
    assert [[case.patient for case in splits[side]] for side in ("train", "val", "test")] == [
        lists.get("training"),
        lists.get("validation", []),
        lists.get("testing", lists.get("test", [])),
    ]
    with pytest.warns(UserWarning, match=f"{len(cases) - 1} cases that list lists for validation"):
        splits = split_cases(cases, Split(fractions=(1.0, 0.0, 0.0)), "list")
    assert [case.patient for case in splits["train"]] == ["a"]


def test_the_decathlons_own_list_of_test_images_has_no_labels_and_is_no_split(touch):
    folder = touch("a.nii", "l.nii", "t.nii")
    content = {"training": [{"image": "a.nii", "label": "l.nii"}], "test": ["./t.nii"], "validation": []}
    (folder / "dataset.json").write_text(json.dumps(content))
    (case,) = read_cases(folder).cases
    assert case.keys == {}


def test_an_accent_is_one_character_however_a_system_writes_it(touch):
    composed, taken_apart = "caf\u00e9", "cafe\u0301"
    (case,) = read_cases(touch(f"images/{taken_apart}.nii", f"labels/{composed}.nii")).cases
    assert case.label.name == f"{composed}.nii"
    assert case.patient == composed


def test_a_segmentation_of_slicer_is_the_label_of_its_image(touch):
    (case,) = read_cases(touch("images/a.nrrd", "labels/a.seg.nrrd")).cases
    assert case.label.name == "a.seg.nrrd"


def test_one_image_is_a_data_set_of_one(touch):
    folder = touch("sub/a.nii.gz", "sub/b.nii.gz")
    (case,) = read_cases(folder / "sub/a.nii.gz").cases
    assert case.images == (folder / "sub/a.nii.gz",)
    assert (case.patient, case.label) == ("a", None)
