"""DICOM series: where voxels lie and what they mean, and everything that is no stack of slices."""

import importlib.util
import os
import time
import tracemalloc

import numpy as np
import pydicom
import pytest

from lit_continual.images.dicom import holds_dicom, read_series
from tests.fixtures.dicom import OBLIQUE, STRAIGHT, write_series

SHAPE = (7, 5, 6)
MIRRORED = OBLIQUE @ np.diag([1, 1, -1, 1])  # slices that are counted against the normal


def stored(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(-50, 50, shape).astype(np.int16)


def at(affine, *index):
    return (affine @ [*index, 1])[:3]


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE, MIRRORED], ids=["straight", "oblique", "mirrored"])
@pytest.mark.parametrize("reverse", [False, True])
def test_every_voxel_lies_where_the_affine_says_and_means_what_the_slope_says(tmp_path, modality, affine, reverse):
    slopes = np.linspace(0.5, 2, SHAPE[2])  # PET has one a slice
    array = stored()
    write_series(tmp_path / "s", array, affine, modality, slopes, -3.0, reverse=reverse)
    (series,) = read_series(tmp_path / "s")
    voxels = series.voxels()
    assert (series.name, series.kind) == ("s", {"PT": "PET"}.get(modality, modality))
    assert voxels.dtype == np.float32
    meant = array * slopes - 3.0
    for i, j, k in np.ndindex(SHAPE):
        place = at(affine, i, j, k)
        found = np.linalg.solve(series.affine, [*place, 1])[:3]
        index = tuple(np.round(found).astype(int))
        np.testing.assert_allclose(found, index, atol=1e-4)
        assert voxels[index] == pytest.approx(meant[i, j, k], abs=1e-4)
    if affine is not MIRRORED:
        np.testing.assert_allclose(series.affine, affine, atol=1e-6)


def test_one_slice_is_as_thick_as_it_says(tmp_path):
    write_series(tmp_path, stored(shape=(4, 3, 1)))
    (series,) = read_series(tmp_path)
    np.testing.assert_allclose(series.affine, STRAIGHT, atol=1e-6)
    assert series.voxels().shape == (4, 3, 1)


def test_series_are_named_by_their_folders_or_else_by_their_identifiers(tmp_path):
    write_series(tmp_path / "a/one", stored())
    write_series(tmp_path / "a/both", stored(), uid="1.2.3")
    folder = write_series(tmp_path / "a/other", stored(), uid="1.2.4")
    for path in list(folder.iterdir()):
        path.rename(tmp_path / "a/both" / f"other_{path.name}")
    spread = write_series(tmp_path / "b", stored(), uid="1.2.5")
    (spread / "more").mkdir()
    for path in sorted(spread.glob("*.dcm"))[:3]:
        path.rename(spread / "more" / path.name)
    assert sorted(series.name for series in read_series(tmp_path)) == ["1.2.3", "1.2.4", "1.2.5", "a_one"]


def test_other_objects_are_left_out_and_said(tmp_path, capsys):
    write_series(tmp_path / "ct", stored(), uid="1.2.3")
    write_series(
        tmp_path / "scout", stored(shape=(4, 4, 1)), change=lambda p, k: setattr(p, "ImageType", ["LOCALIZER"])
    )

    def structures(part, k):
        part.SOPClassUID, part.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"
        part.file_meta.MediaStorageSOPClassUID = part.SOPClassUID

    write_series(tmp_path / "rt", stored(shape=(4, 4, 2)), change=structures)
    (tmp_path / "ct/.hidden").write_bytes(next((tmp_path / "ct").glob("*.dcm")).read_bytes())
    (tmp_path / "ct/notes.txt").write_text("no DICOM")
    assert [series.name for series in read_series(tmp_path)] == ["ct"]
    assert "Left out, no slices of CT, MR or PET: 1 of CT, 2 of RTSTRUCT" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"rt has no series of CT, MR or PET. Give a folder that has"):
        read_series(tmp_path / "rt")


def of(k, **values):
    """Change the tags of one slice, or of all where ``k`` is None."""

    def change(part, number):
        if k in (None, number):
            for name, value in values.items():
                setattr(part, name, value) if value is not None else delattr(part, name)

    return change


def moved(k, *by):
    def change(part, number):
        if number >= k:
            part.ImagePositionPatient = [a + b for a, b in zip(part.ImagePositionPatient, by, strict=True)]

    return change


def sheared(part, number):
    x, y, z = part.ImagePositionPatient
    part.ImagePositionPatient = [x, y + 0.5 * number, z]


ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
BAD = {
    "missing slice": (moved(3, 0, 0, 2.5), r"0003.dcm and 0004.dcm are 5 mm apart, others 2.5 mm. Complete the series"),
    "two at one place": (moved(3, 0, 0, -2.5), r"0003.dcm and 0004.dcm at one place, -95 mm .* Put each phase"),
    "tilt": (sheared, r"is sheared by 11.3 degrees, as under a tilted gantry. Straighten it"),
    "size": (of(2, Rows=4), r"mixes slices of another size: 0001.dcm has 5 and 0003.dcm 4. Put each stack"),
    "spacing": (of(2, PixelSpacing=[1, 1]), r"mixes slices of another pixel spacing: 0001.dcm has \[0.7, 0.8\] and"),
    "orientation": (of(1, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "mixes slices of another orientation"),
    "frame": (of(4, FrameOfReferenceUID="1.9"), "mixes slices of another frame of reference"),
    "patient": (of(4, PatientID="Other"), "mixes slices of another patient"),
    "study": (of(4, StudyInstanceUID="1.9"), "mixes slices of another study"),
    "no place": (of(2, ImagePositionPatient=None), r"has no ImagePositionPatient of 3 numbers in 0003.dcm, and so no"),
    "no orientation": (of(None, ImageOrientationPatient=None), "has no ImageOrientationPatient of 6 numbers"),
    "no spacing": (of(None, PixelSpacing=None), "has no PixelSpacing of 2 numbers"),
    "spacing zero": (of(None, PixelSpacing=[0, 1]), r"has pixels of 0 x 1 mm. Correct its headers"),
    "skew": (of(None, ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), "rows and columns that are not at right angles"),
    "no size": (of(None, Rows=None), "has no Rows. Restore its headers"),
    "colour": (of(None, SamplesPerPixel=3), "is in colour, and images of CT, MR and PET are grey"),
    "huge": (of(None, Rows=65535, Columns=65535), rf"has {65535**2 * 6} voxels by its headers, and an image at most"),
    "enhanced": (of(None, SOPClassUID=ENHANCED), r"holds a whole stack of CT \(enhanced, multi-frame\), and series of"),
    "path in a tag": (of(None, SeriesInstanceUID="../../x"), r"has the series '\.\./\.\./x', which is no identifier"),
    "dots for a series": (of(None, SeriesInstanceUID=".."), r"has the series '\.\.', which is no identifier"),
    "escape in a tag": (of(2, PatientID="\x1b[31m/../x"), r"mixes slices of another patient: .* \\x1b\[31m/../x"),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # of pydicom, which writes what is asked for
@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_what_is_no_stack_of_slices_is_refused_in_a_sentence(tmp_path, change, message):
    write_series(tmp_path / "s", stored(), change=change)
    begin = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        read_series(tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert time.process_time() - begin < 20


def test_a_series_that_is_bad_does_not_hide_another(tmp_path, capsys):
    write_series(tmp_path / "a", stored(), change=sheared)
    write_series(tmp_path / "b", stored(), change=moved(3, 0, 0, 2.5))
    write_series(tmp_path / "c", stored())
    with pytest.raises(ValueError, match=r"/b lacks slices"):
        read_series(tmp_path)
    assert "is sheared" in capsys.readouterr().out


def test_damaged_files_are_named(tmp_path):
    write_series(tmp_path / "s", stored())
    path = tmp_path / "s/0002.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    (series,) = read_series(tmp_path)
    with pytest.raises(ValueError, match=r"The pixels of .*0002.dcm cannot be read \(.*\). Install a decoder"):
        series.voxels()
    path.write_bytes(bytes(128) + b"DICM" + b"\xff" * 64)
    with pytest.raises(ValueError, match=r"0002.dcm cannot be read as DICOM|has the series ''|no series|lacks slices"):
        read_series(tmp_path)


def test_a_deflated_file_is_not_unpacked(tmp_path):
    write_series(tmp_path / "s", stored())
    part = pydicom.dcmread(tmp_path / "s/0002.dcm")
    part.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    part.add_new((0x0009, 0x0010), "LO", "Filler")
    part.add_new((0x0009, 0x1001), "OB", bytes(200_000_000))
    part.save_as(tmp_path / "s/0002.dcm")
    del part
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"0002.dcm cannot be read as DICOM \(it is deflated, and might unpack"):
        read_series(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_no_series_is_lost_by_a_name_that_is_hidden(tmp_path):
    write_series(tmp_path / ".study", stored())
    assert [series.name for series in read_series(tmp_path / ".study")] == ["study"]
    write_series(tmp_path / ".study/.trash", stored())
    assert [series.name for series in read_series(tmp_path / ".study")] == ["study"]


@pytest.mark.parametrize("length", [0, 100])
def test_a_file_of_which_nothing_is_left_is_no_slice_less(tmp_path, length):
    write_series(tmp_path / "s", stored())
    path = tmp_path / "s/0006.dcm"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"0006.dcm does not begin as files of DICOM do. Replace or remove it"):
        read_series(tmp_path)


def test_links_are_not_followed_in_circles_and_pipes_are_not_waited_for(tmp_path):
    write_series(tmp_path / "s", stored())
    (tmp_path / "s/again").symlink_to(tmp_path)
    (tmp_path / "s/gone.dcm").symlink_to(tmp_path / "nowhere")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "s/pipe")
    assert holds_dicom(tmp_path)
    assert [series.name for series in read_series(tmp_path)] == ["s"]


def test_a_folder_of_other_images_is_none_of_dicom(tmp_path):
    write_series(tmp_path / "s", stored())
    assert holds_dicom(tmp_path / "s")
    assert not holds_dicom(tmp_path / "s/0001.dcm")
    assert not holds_dicom(tmp_path / "nowhere")
    (tmp_path / "a.nii.gz").touch()
    assert not holds_dicom(tmp_path)


@pytest.mark.parametrize("lacking", ["pydicom", "highdicom"])
def test_without_the_extra_its_name_is_said(tmp_path, monkeypatch, lacking):
    write_series(tmp_path, stored())
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else known(name))
    with pytest.raises(ValueError, match=r"need pydicom and highdicom. Run `pip install 'lit-continual\[dicom\]'`, or"):
        read_series(tmp_path)


def test_a_folder_of_everything_is_not_searched_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_continual.images.dicom.SEARCHED", 20)
    for k in range(30):
        (tmp_path / f"{k}.txt").touch()
    write_series(tmp_path / "z", stored())
    assert not holds_dicom(tmp_path)
    assert holds_dicom(tmp_path / "z")


def test_the_accent_of_a_folder_is_one_character_as_in_names_of_images(tmp_path):
    write_series(tmp_path / "cafe\u0301", stored())
    assert [series.name for series in read_series(tmp_path)] == ["caf\u00e9"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RescaleSlope": 0}, r"has the RescaleSlope 0(\.0)? in 000\d.dcm, which makes no values of what is stored"),
        ({"RescaleIntercept": "nan"}, r"has the RescaleIntercept nan in 000\d.dcm, which makes no values"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "is in colour, and images of CT, MR and PET are grey"),
        ({"PixelSpacing": ["nan", "nan"]}, "has no PixelSpacing of 2 numbers in 0001.dcm, and so no place"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, when they are written
def test_headers_that_make_no_image_of_what_is_stored(tmp_path, change, message):
    write_series(tmp_path / "s", stored(), change=lambda part, k: [setattr(part, *one) for one in change.items()])
    with pytest.raises(ValueError, match=message):
        read_series(tmp_path)
