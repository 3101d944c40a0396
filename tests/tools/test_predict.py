import gzip
import io
import json
import logging
import subprocess
import sys

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from lit_continual.cli import main
from lit_continual.data import SegmentationDataModule
from lit_continual.data.case_lists.splits import Split
from lit_continual.data.preprocessing import Preprocessing
from lit_continual.images.dicom import read_series
from lit_continual.modules import Segmenter
from lit_continual.segmentation import inference
from lit_continual.tools.segmentation_writer import SegmentationWriter
from lit_continual.windows import stitching
from tests.fixtures.dicom import OBLIQUE as TURNED
from tests.fixtures.dicom import STRAIGHT, injected, write_series

OBLIQUE = np.array([[-1.2, 0.4, 0.0, 5.0], [0.5, 1.0, 0.0, -3.0], [0.0, 0.0, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def thresholding(channels, post=()):
    """Two heads over the image itself: bright where channel 0 is above 0.5, dark where it is below 0.2."""
    module = Segmenter({"_target_": "torch.nn.Identity"}, features=channels, heads=[["bright"], ["dark"]], post=post)
    with torch.no_grad():
        for layer, (slope, at) in zip(module.heads.layers, ((10.0, 0.5), (-10.0, 0.2)), strict=True):
            layer.weight.zero_()
            layer.weight[1, 0] = slope
            layer.bias.copy_(torch.tensor([0.0, -slope * at]))
    return module


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images"


def write(folder, channels=1, affine=OBLIQUE, dtype=np.float32, name="case"):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for channel in range(channels):
        coarse = rng.uniform(0, 1, (4, 4, 3))
        array = np.kron(coarse, np.ones((4, 3, 2))).astype(np.float32)
        image = nib.Nifti1Image(array, affine)
        image.set_data_dtype(dtype)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        suffix = f"_{channel:04d}" if channels > 1 else ""
        nib.save(image, folder / f"{name}{suffix}.nii.gz")


@pytest.fixture
def checkpoint(tmp_path, folder):
    def save(channels=1, post=(), **preprocessing):
        write(folder, channels)
        data = SegmentationDataModule(
            str(folder),
            [16, 12],
            {"bright": 1},
            split=Split(fractions=(1.0, 0.0, 0.0)),
            preprocessing=Preprocessing(**{"orientation": None, "normalise": (), **preprocessing}),
        )
        module = thresholding(channels, post)
        content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        torch.save({**content, "datamodule_hyper_parameters": dict(data.hparams)}, tmp_path / "model.ckpt")
        return str(tmp_path / "model.ckpt")

    return save


def predict(checkpoint, folder, tmp_path, *options):
    output = tmp_path / "out"
    main(["predict", checkpoint, str(folder), f"--output={output}", "--accelerator=cpu", *options])
    return output


def expected(array):
    return np.where(array > 0.5, 1, np.where(array < 0.2, 2, 0))


@pytest.mark.parametrize("orientation", [None, "RAS", "LPI"])
def test_label_maps_lie_on_the_image_they_are_of(checkpoint, folder, tmp_path, orientation):
    output = predict(checkpoint(orientation=orientation), folder, tmp_path)
    source, found = nib.load(folder / "case.nii.gz"), nib.load(output / "case.nii.gz")
    assert found.shape == source.shape
    np.testing.assert_allclose(found.affine, source.affine, atol=1e-5)
    np.testing.assert_allclose(found.get_qform(), source.get_qform(), atol=1e-5)
    assert found.header.get_zooms() == pytest.approx(source.header.get_zooms())
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (1, 1)
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected(source.get_fdata()))
    assert json.loads((output / "labels.json").read_text()) == {"background": 0, "bright": 1, "dark": 2}
    assert sorted(path.name for path in output.iterdir()) == ["case.nii.gz", "labels.json"]


@pytest.mark.parametrize(
    "step",
    [
        {"_target_": "RemoveOutside", "label": 2, "organ": [1], "margin": 0},  # dark never lies in bright
        {"_target_": "LabelFilter", "applied_labels": [1]},  # of MONAI, whose tensors are of a class of its own
    ],
    ids=lambda step: step["_target_"],
)
def test_a_checkpoint_brings_its_post_processing(checkpoint, folder, tmp_path, step):
    output = predict(checkpoint(post=[step]), folder, tmp_path)
    whole = expected(nib.load(folder / "case.nii.gz").get_fdata())
    assert (whole == 2).any()
    np.testing.assert_array_equal(np.asarray(nib.load(output / "case.nii.gz").dataobj), np.where(whole == 2, 0, whole))


def test_lightning_does_not_say_what_there_is_not(checkpoint, folder, tmp_path):
    logger, handler = logging.getLogger("lightning.pytorch"), logging.StreamHandler(said := io.StringIO())
    logger.addHandler(handler)
    try:
        predict(checkpoint(), folder, tmp_path)
    finally:
        logger.removeHandler(handler)
    assert said.getvalue() == ""


def test_probabilities_are_those_of_the_heads(checkpoint, folder, tmp_path):
    output = predict(checkpoint(), folder, tmp_path, "--probabilities=true")
    array = nib.load(folder / "case.nii.gz").get_fdata()
    found = nib.load(output / "case_probabilities.nii.gz")
    assert found.get_data_dtype() == np.float32
    bright, dark = (1 / (1 + np.exp(-slope * (array - at))) for slope, at in ((10, 0.5), (-10, 0.2)))
    np.testing.assert_allclose(found.get_fdata(), np.stack([bright, dark], -1), atol=1e-5)


def test_scaled_integers_and_files_without_compression_are_read_as_what_they_mean(checkpoint, folder, tmp_path):
    path, other = checkpoint(), tmp_path / "others"
    write(other, dtype=np.int16)
    image = nib.load(other / "case.nii.gz")
    nib.save(image, other / "plain.nii")
    output = predict(path, other, tmp_path)
    for name in ("case", "plain"):
        found = np.asarray(nib.load(output / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(found, expected(image.get_fdata()))


def test_several_modalities_are_channels(checkpoint, folder, tmp_path):
    output = predict(checkpoint(channels=2), folder, tmp_path)
    (found,) = output.glob("*.nii.gz")
    assert found.name == "case.nii.gz"  # as nnU-Net names it
    np.testing.assert_array_equal(
        np.asarray(nib.load(found).dataobj), expected(nib.load(folder / "case_0000.nii.gz").get_fdata())
    )


def test_a_resampled_network_answers_on_the_source_grid(checkpoint, folder, tmp_path):
    output = predict(checkpoint(spacing=(0.9, 0.9, 2.0), orientation="RAS"), folder, tmp_path)
    source, found = nib.load(folder / "case.nii.gz"), nib.load(output / "case.nii.gz")
    np.testing.assert_allclose(found.affine, source.affine, atol=1e-5)
    agreement = (np.asarray(found.dataobj) == expected(source.get_fdata())).mean()
    assert found.shape == source.shape
    assert agreement > 0.75  # blocks of 4 x 3 x 2 voxels: only their rims are interpolated


def test_a_checkpoint_of_something_else_is_refused(checkpoint, folder, tmp_path):
    write(folder)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.ckpt cannot be read as a checkpoint"):
        predict(str(tmp_path / "text.ckpt"), folder, tmp_path)
    torch.save({"state_dict": {}, "hyper_parameters": {"layers": 3}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is no checkpoint of a Segmenter"):
        predict(str(tmp_path / "other.ckpt"), folder, tmp_path)
    assert not (tmp_path / "out").exists()


def test_images_of_one_name_are_told_apart_by_their_folders(checkpoint, folder, tmp_path):
    path = checkpoint()
    for place in ("A/first", "A/second", "B/first"):
        (folder / place).mkdir(parents=True)
        write(folder / place, name="t1")
    (folder / "list.csv").write_text("image,patient\nA/first/t1.nii.gz,A\nA/second/t1.nii.gz,B\n")
    output = predict(path, folder / "list.csv", tmp_path / "one")
    assert sorted(p.name for p in output.glob("*.gz")) == ["first_t1.nii.gz", "second_t1.nii.gz"]
    with (folder / "list.csv").open("a") as file:
        file.write("B/first/t1.nii.gz,C\n")
    output = predict(path, folder / "list.csv", tmp_path, "--probabilities=true")
    names = ["A_first_t1", "A_second_t1", "B_first_t1"]
    expected_files = sorted(f"{name}{end}.nii.gz" for name in names for end in ("", "_probabilities"))
    assert sorted(p.name for p in output.glob("*.gz")) == expected_files


def test_two_images_of_one_name_are_refused(checkpoint, folder, tmp_path):
    path = checkpoint()
    nib.save(nib.load(folder / "case.nii.gz"), folder / "case.nii")
    (folder / "list.csv").write_text("image,patient\ncase.nii.gz,A\ncase.nii,B\n")
    with pytest.raises(
        ValueError, match=r"predictions of .*case.nii.gz and .*case.nii would have one name. Rename one"
    ):
        predict(path, folder / "list.csv", tmp_path)


@pytest.mark.parametrize("bad", [["b"], ["a", "c"], ["a", "b", "c", "d"]])
def test_images_that_cannot_be_predicted_are_named_and_the_others_are_predicted(
    checkpoint, folder, tmp_path, capsys, bad
):
    path, right = checkpoint(), (folder / "case.nii.gz").read_bytes()
    (folder / "case.nii.gz").unlink()
    for name in "abcd":
        (folder / f"{name}.nii.gz").write_bytes(b"no image" if name in bad else right)
    with pytest.raises(
        ValueError, match=rf"{len(bad)} of 4 images have no prediction: {', '.join(bad)}\. .*{bad[0]}.nii"
    ):
        predict(path, folder, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}.nii.gz cannot be read as an image" in said for name in bad)
    output = tmp_path / "out"
    written = {p.name[0]: p.stat().st_mtime_ns for p in output.glob("[abcd].nii.gz")}
    assert sorted(written) == sorted(set("abcd") - set(bad))
    for name in bad:
        (folder / f"{name}.nii.gz").write_bytes(right)
    predict(path, folder, tmp_path)  # goes on with those that were mended
    assert sorted(p.name for p in output.iterdir()) == [*(f"{name}.nii.gz" for name in "abcd"), "labels.json"]
    assert written == {name: (output / f"{name}.nii.gz").stat().st_mtime_ns for name in written}
    assert len({p.read_bytes() for p in output.glob("*.gz")}) == 1


def test_an_image_that_the_network_fails_on_is_one_among_others_too(checkpoint, folder, tmp_path):
    path = checkpoint()
    huge = nib.Nifti1Image(np.full((16, 12, 6), 3e38, np.float32), OBLIQUE)  # of which the network makes infinity
    nib.save(huge, folder / "huge.nii.gz")
    with pytest.raises(ValueError, match=r"1 of 2 images have no prediction: huge\. .*huge.nii.gz is nan or infinite"):
        predict(path, folder, tmp_path)
    assert (tmp_path / "out/case.nii.gz").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("names", "bad"), [("a", ""), ("abc", ""), ("abc", "c")])
def test_two_processes_predict_what_one_does(checkpoint, folder, tmp_path, names, bad):
    path, right = checkpoint(), (folder / "case.nii.gz").read_bytes()
    (folder / "case.nii.gz").unlink()
    for name in names:  # of one image, a process has none
        (folder / f"{name}.nii.gz").write_bytes(b"no image" if name in bad else right)
    command = [sys.executable, "-m", "lit_continual", "predict", path, str(folder), f"--output={tmp_path / 'out'}"]
    done = subprocess.run([*command, "--accelerator=cpu", "--devices=2"], capture_output=True, text=True, timeout=300)
    said = f"{len(bad)} of {len(names)} images have no prediction: {bad}. "
    assert (done.returncode, "Traceback" in done.stderr) == (1 if bad else 0, False), done.stderr
    assert not bad or said in " ".join(done.stderr.split())
    assert sorted(p.name[0] for p in (tmp_path / "out").glob("[abc].nii.gz")) == sorted(set(names) - set(bad))


def test_a_long_list_of_what_failed_is_cut(checkpoint, folder, tmp_path, capsys):
    path = checkpoint()
    for k in range(14):
        (folder / f"bad_{k:02d}_.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"14 of 15 images .*bad_00_, .*bad_09_ and 4 more\. "):
        predict(path, folder, tmp_path)
    assert capsys.readouterr().out.count("cannot be read") == 10


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ({"bright": 6, "dark": 3}, np.uint8),
        ({"bright": 1, "dark": 1}, np.uint8),
        ({"bright": 300, "dark": 0}, np.uint16),
    ],
    ids=["kept", "merged", "left out"],
)
def test_classes_have_the_values_that_are_asked_for(checkpoint, folder, tmp_path, values, dtype):
    output = predict(checkpoint(), folder, tmp_path, f"--label_values={json.dumps(values)}", "--probabilities=true")
    found = nib.load(output / "case.nii.gz")
    plain = expected(nib.load(folder / "case.nii.gz").get_fdata())
    assert found.get_data_dtype() == dtype
    np.testing.assert_array_equal(
        np.asarray(found.dataobj), np.select([plain == 1, plain == 2], [values["bright"], values["dark"]])
    )
    known = {name: value for name, value in values.items() if value}
    assert json.loads((output / "labels.json").read_text()) == {"background": 0, **known}
    assert nib.load(output / "case_probabilities.nii.gz").shape[-1] == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bright": 1}, "must name the classes bright, dark, and differs in dark"),
        ({"bright": 1, "dark": 2, "liver": 3}, "must name the classes bright, dark, and differs in liver"),
        ({"bright": 1, "dark": 65536}, "gives dark the value 65536, and must be from 0 to 65535"),
        ({"bright": -1, "dark": 2}, "gives bright the value -1"),
    ],
)
def test_values_that_cannot_be_are_refused(checkpoint, folder, tmp_path, values, said):
    with pytest.raises(ValueError, match=said):
        predict(checkpoint(), folder, tmp_path, f"--label_values={json.dumps(values)}")
    assert not (tmp_path / "out").exists()


def scans(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["itself", "link", "images of a folder"])
def test_predictions_never_fall_on_images(checkpoint, folder, tmp_path, name):
    path, images, output = checkpoint(), folder, folder
    if name == "link":
        output = tmp_path / "linked"
        output.symlink_to(folder)
    elif name == "images of a folder":
        images = tmp_path / "set"
        images.mkdir()
        folder.rename(images / "images")
        output = images / "images"
    before = scans(images)
    for more in ([], ["--overwrite"]):
        with pytest.raises(ValueError, match=r"would be overwritten. Choose another --output"):
            main(["predict", path, str(images), f"--output={output}", "--accelerator=cpu", *more])
    assert scans(images) == before


def test_predictions_of_another_call_are_replaced_only_when_asked_for(checkpoint, folder, tmp_path):
    path = checkpoint()
    output = predict(path, folder, tmp_path, "--probabilities=true")
    before = scans(output)
    with pytest.raises(ValueError, match=r"case.nii.gz and 1 more files are there already. Add --overwrite"):
        predict(path, folder, tmp_path)
    assert scans(output) == before
    predict(path, folder, tmp_path, "--overwrite")
    assert sorted(file.name for file in output.iterdir()) == ["case.nii.gz", "labels.json"]  # no stale probabilities
    write(tmp_path / "more", name="other")
    predict(path, tmp_path / "more", tmp_path)  # of the same network, beside them
    (output / "labels.json").write_text('{"background": 0, "liver": 1}')
    write(tmp_path / "third", name="third")
    with pytest.raises(ValueError, match=r"labels.json is there already"):
        predict(path, tmp_path / "third", tmp_path)


def test_an_interrupted_call_goes_on_by_the_same_command(checkpoint, folder, tmp_path, monkeypatch):
    path = checkpoint()
    for name in ("first", "second"):
        write(folder, name=name)
    whole = predict(path, folder, tmp_path / "whole", "--probabilities=true")
    written, write_one = [], SegmentationWriter._write

    def interrupt(self, name, *rest):
        if len(written) == 3:
            raise EOFError
        written.append(name)
        write_one(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationWriter, "_write", interrupt)
        with pytest.raises(EOFError):
            predict(path, folder, tmp_path, "--probabilities=true")
    output = tmp_path / "out"
    kept = output / f"{written[0]}.nii.gz"
    before = kept.stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"more files are there already. Add --overwrite"):
        predict(path, folder, tmp_path)  # with other options it is another call
    other = output / f"{({'case', 'first', 'second'} - set(written)).pop()}.nii.gz"
    other.write_bytes(b"of somebody else")
    with pytest.raises(ValueError, match=f"{other.name} is there already"):
        predict(path, folder, tmp_path, "--probabilities=true")
    other.unlink()
    predict(path, folder, tmp_path, "--probabilities=true")
    assert {p.name: text for p, text in scans(output).items()} == {p.name: text for p, text in scans(whole).items()}
    assert kept.stat().st_mtime_ns == before  # not made again
    assert not list(output.glob(".*"))
    with pytest.raises(ValueError, match=r"Add --overwrite"):  # it is finished
        predict(path, folder, tmp_path, "--probabilities=true")


def test_what_an_interrupted_call_was_to_replace_is_not_taken_for_its_own(checkpoint, folder, tmp_path, monkeypatch):
    path = checkpoint()
    old = scans(predict(path, folder, tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationWriter, "_write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(path, folder, tmp_path, "--overwrite")
    assert {p: text for p, text in scans(tmp_path / "out").items() if not p.name.startswith(".")} == old
    with pytest.raises(ValueError, match=r"Add --overwrite"):
        predict(path, folder, tmp_path)


@pytest.mark.parametrize("record", ["", "[]", '{"made_of": 1}', "\x00", "[" * 100_000])
def test_a_record_of_something_else_is_none(checkpoint, folder, tmp_path, record):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.unfinished-00000.json").write_text(record)
    assert (predict(checkpoint(), folder, tmp_path) / "case.nii.gz").exists()


def test_one_image_and_images_that_a_list_names_for_training(checkpoint, folder, tmp_path, capsys):
    path = checkpoint()
    write(folder, name="other")
    assert [p.name for p in predict(path, folder / "other.nii.gz", tmp_path).glob("*.nii.gz")] == ["other.nii.gz"]
    assert "lists" not in capsys.readouterr().out
    (folder / "dataset.json").write_text(json.dumps({"training": [{"image": "case.nii.gz"}]}))
    predict(path, folder, tmp_path / "list")
    said = " ".join(capsys.readouterr().out.split())
    assert f"1 images that {folder / 'dataset.json'} lists; for others, give the folder" in said


def test_a_file_is_no_place_for_predictions(checkpoint, folder, tmp_path):
    path = checkpoint()
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match=r"out is a file, and --output needs a folder"):
        predict(path, folder, tmp_path)


@pytest.fixture
def network(tmp_path, folder):
    """A checkpoint of a network that takes one channel, and images of which one has three."""
    body = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}
    module = Segmenter(body, features=4, heads=[["bone"]], roi_size=[16, 16])
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    plain = {"preprocessing": {"orientation": None, "normalise": []}}
    torch.save({**content, "datamodule_hyper_parameters": plain}, tmp_path / "model.ckpt")
    write(folder, name="a")
    write(folder, channels=3, name="IMG")
    return ["predict", str(tmp_path / "model.ckpt"), str(folder), f"--output={tmp_path / 'out'}", "--accelerator=cpu"]


def test_an_image_of_other_channels_is_named(network, folder):
    with pytest.raises(ValueError, match=r"has 3 channels for .*IMG_0000.nii.gz and 1 for"):
        main(network)
    for path in folder.glob("IMG*"):
        path.unlink()
    array = np.zeros((16, 16, 4, 3), np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "rgb.nii.gz")
    with pytest.raises(ValueError, match=r"rgb.nii.gz has 3 channels, and the network takes 1. Give `in_channels: 3`"):
        main(network)


@pytest.mark.parametrize("option", ["--accelerator=gup", "--devices=0"])
def test_devices_that_there_are_not(network, folder, option):
    for path in folder.glob("IMG*"):
        path.unlink()
    with pytest.raises(Exception, match=r"The prediction cannot run: .*\.$"):
        main([*network, option])


def test_windows_and_sums_are_as_asked(checkpoint, folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(inference, "blocks", lambda *a, **k: seen.append(k) or stitching.blocks(*a, **k))
    options = ["--overlap=0.5", "--sw_batch_size=3", "--stitch_device=cpu", "--stitch_dtype=float16"]
    output = predict(checkpoint(), folder, tmp_path, *options)
    (asked,) = seen
    assert (asked["overlap"], asked["sw_batch_size"], asked["device"]) == (0.5, 3, "cpu")
    assert asked["dtype"] == torch.float16
    found = np.asarray(nib.load(output / "case.nii.gz").dataobj)
    np.testing.assert_array_equal(found, expected(nib.load(folder / "case.nii.gz").get_fdata()))


def test_the_network_computes_in_half_precision_where_it_is_asked_to(checkpoint, folder, tmp_path, monkeypatch):
    seen, forward = [], Segmenter.forward
    monkeypatch.setattr(Segmenter, "forward", lambda *a: seen.append(forward(*a)) or seen[-1])
    model = checkpoint()
    whole = np.asarray(nib.load(predict(model, folder, tmp_path / "whole") / "case.nii.gz").dataobj)
    assert {logits.dtype for logits in seen} == {torch.float32}
    seen.clear()
    output = predict(model, folder, tmp_path / "half", "--precision=bf16-mixed")
    assert {logits.dtype for logits in seen} == {torch.bfloat16}
    assert (np.asarray(nib.load(output / "case.nii.gz").dataobj) == whole).mean() > 0.95
    with pytest.raises(ValueError, match="other"):
        predict(model, folder, tmp_path / "half")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--overlap=1.5", r"`overlap` must be in \[0, 1\), got 1.5."),
        ("--sw_batch_size=0", "`sw_batch_size` must be 1 or"),
    ],
)
def test_options_out_of_range_are_refused(checkpoint, folder, tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        predict(checkpoint(), folder, tmp_path, option)
    assert not (tmp_path / "out").exists()


def test_an_image_is_not_called_as_the_probabilities_of_another(checkpoint, folder, tmp_path):
    path = checkpoint()
    write(folder, name="case_probabilities")
    with pytest.raises(ValueError, match=r"The predictions of .* and .*case.nii.gz would have one name. Rename one"):
        predict(path, folder, tmp_path, "--probabilities=true")
    assert not (tmp_path / "out").exists()
    assert len(list(predict(path, folder, tmp_path).glob("*.nii.gz"))) == 2


def test_files_have_the_same_bytes_each_time(checkpoint, folder, tmp_path):
    output = predict(checkpoint(), folder, tmp_path)
    before = (output / "case.nii.gz").read_bytes()
    predict(checkpoint(), folder, tmp_path, "--overwrite")
    assert (output / "case.nii.gz").read_bytes() == before
    assert before[4:8] == bytes(4)  # no time
    assert before[8] == 4  # by the fastest algorithm


# DICOM


@pytest.fixture
def series(tmp_path):
    """A folder of series whose stored values, times a thousandth, are bright above 0.5 and dark below 0.2."""

    def write_one(name="CT", affine=STRAIGHT, seed=0, **options):
        coarse = np.random.default_rng(seed).integers(0, 1000, (4, 4, 3))
        array = np.kron(coarse, np.ones((4, 3, 2), int))
        write_series(tmp_path / "study" / name, array, affine, **{"slope": 0.001, **options})
        return array / 1000

    write_one.folder = tmp_path / "study"
    return write_one


def test_pet_in_becquerel_is_given_as_suv_or_as_stored_but_not_unasked(checkpoint, series, tmp_path):
    meant = series("pet", modality="PT", change=injected)  # so little that its SUV is dark throughout
    with pytest.raises(ValueError, match=r"series pet is PET in BQML, .* Give --pet suv"):
        predict(checkpoint(), series.folder, tmp_path)
    assert not (tmp_path / "out").exists()
    found = nib.load(predict(checkpoint(), series.folder, tmp_path, "--pet=suv") / "pet.nii.gz")
    assert (np.asarray(found.dataobj) == 2).all()
    found = nib.load(predict(checkpoint(), series.folder, tmp_path, "--pet=stored", "--overwrite") / "pet.nii.gz")
    np.testing.assert_array_equal(np.unique(np.asarray(found.dataobj)), np.unique(expected(meant)))


@pytest.mark.parametrize("kind", ["CT", "NIfTI"])
def test_what_pet_becomes_is_not_said_in_vain(checkpoint, folder, series, tmp_path, kind):
    path = checkpoint()
    series("ct")
    with pytest.raises(ValueError, match=r"--pet is for DICOM series of PET, of which .* holds none. Leave it out"):
        predict(path, series.folder if kind == "CT" else folder, tmp_path, "--pet=suv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("affine", [STRAIGHT, TURNED], ids=["straight", "oblique"])
def test_a_series_gets_a_label_map_and_the_same_as_dicom(checkpoint, series, tmp_path, modality, affine):
    meant = series("body", affine, modality=modality)
    output = predict(checkpoint(orientation="RAS"), series.folder, tmp_path)
    assert sorted(path.name for path in output.iterdir()) == ["body.dcm", "body.nii.gz", "labels.json"]
    found = nib.load(output / "body.nii.gz")
    (image,) = read_series(series.folder)
    labels = np.asarray(found.dataobj)
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)
    np.testing.assert_array_equal(labels, expected(image.voxels()))
    for index in np.ndindex(meant.shape):  # which voxel that is follows from its place alone
        place = np.linalg.solve(found.affine, affine @ [*index, 1])[:3].round().astype(int)
        assert labels[tuple(place)] == expected(meant[index])
    segmentation = highdicom.seg.segread(output / "body.dcm")
    planes = segmentation.get_pixels_by_source_instance(
        [part.SOPInstanceUID for part in image.slices], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(planes.transpose(2, 1, 0), labels)
    assert [part.SegmentLabel for part in segmentation.SegmentSequence] == ["bright", "dark"]


def test_a_segmentation_is_of_the_patient_the_study_and_the_frame_of_the_series(checkpoint, series, tmp_path):
    series("a", uid="1.2.3.9", study="1.2.77")
    output = predict(checkpoint(), series.folder, tmp_path)
    found, source = pydicom.dcmread(output / "a.dcm"), pydicom.dcmread(series.folder / "a/0001.dcm")
    for name in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "StudyDate",
    ):
        assert getattr(found, name) == getattr(source, name), name
    assert (found.Modality, found.StudyInstanceUID) == ("SEG", "1.2.77")
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    (referenced,) = found.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == "1.2.3.9"
    header = (output / "a.nii.gz").read_bytes()
    assert b"Somebody" not in gzip.decompress(header)


def test_several_series_are_several_predictions(checkpoint, series, tmp_path):
    for seed, name in enumerate(("a", "b")):
        series(name, seed=seed, affine=TURNED if seed else STRAIGHT, modality="MR" if seed else "CT")
    output = predict(checkpoint(), series.folder, tmp_path)
    assert sorted(path.name for path in output.glob("*.dcm")) == ["a.dcm", "b.dcm"]
    assert nib.load(output / "a.nii.gz").affine[0, 1] != nib.load(output / "b.nii.gz").affine[0, 1]


def test_an_empty_segmentation_is_one_too(checkpoint, series, tmp_path):
    write_series(series.folder / "grey", np.full((4, 3, 2), 350), slope=0.001)
    output = predict(checkpoint(), series.folder, tmp_path)
    assert not np.asarray(nib.load(output / "grey.nii.gz").dataobj).any()
    assert not highdicom.seg.segread(output / "grey.dcm").pixel_array.any()


def test_segmentations_never_fall_on_slices_nor_unasked_on_another(checkpoint, series, tmp_path):
    series("a")
    path, before = checkpoint(), scans(series.folder)
    for output in (series.folder, series.folder / "a"):
        with pytest.raises(ValueError, match=r"would be overwritten. Choose another --output"):
            main(["predict", path, str(series.folder), f"--output={output}", "--accelerator=cpu", "--overwrite"])
    assert scans(series.folder) == before
    output = predict(path, series.folder, tmp_path)
    (output / "a.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"a.dcm is there already. Add --overwrite"):
        predict(path, series.folder, tmp_path)


def test_what_is_wrong_with_a_series_is_said_of_its_folder(network, series, tmp_path, capsys):
    bad = series.folder / "mixed"
    series("mixed", change=lambda part, k: setattr(part, "PatientID", str(k)))
    with pytest.raises(ValueError, match=r"mixed mixes slices of another patient: .* Put each stack into a series"):
        main([*network[:2], str(series.folder), *network[3:]])
    for path in bad.iterdir():
        path.unlink()
    series("nan", slope=1e39)
    with pytest.raises(ValueError, match=rf"{series.folder}/nan.nii.gz has \d+ voxels that are nan or infinite"):
        main([*network[:2], str(series.folder), *network[3:]])
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.dcm"))


def test_headers_that_give_no_segmentation_are_said(checkpoint, series, tmp_path):
    series("a", change=lambda part, k: delattr(part, "StudyInstanceUID"))
    with pytest.raises(ValueError, match=r"study/a gives no DICOM segmentation \(.*\). Restore the headers"):
        predict(checkpoint(), series.folder, tmp_path)


def test_two_calls_do_not_mix_in_one_folder(checkpoint, folder, tmp_path, monkeypatch):
    path, write_one, said = checkpoint(), SegmentationWriter._write, []

    def meanwhile(self, *given):
        with pytest.raises(ValueError, match=r"out is being written by process \d+ on .*Wait for it") as caught:
            predict(path, folder, tmp_path)
        said.append(caught)
        write_one(self, *given)

    monkeypatch.setattr(SegmentationWriter, "_write", meanwhile)
    assert sorted(p.name for p in predict(path, folder, tmp_path).iterdir()) == ["case.nii.gz", "labels.json"]
    assert said


def test_a_call_that_is_refused_makes_no_folder(checkpoint, folder, tmp_path):
    path = checkpoint()
    write(folder, name="case_probabilities")
    with pytest.raises(ValueError, match="would have one name"):
        predict(path, folder, tmp_path, "--probabilities=true")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_call_was_writing_is_removed_and_nothing_else(checkpoint, folder, tmp_path):
    path, output = checkpoint(), tmp_path / "out"
    output.mkdir()
    for name in (".case.nii.gz.123.part", ".other.nii.gz.123.part", ".case.nii.gz.part"):
        (output / name).touch()
    predict(path, folder, tmp_path)
    assert sorted(p.name for p in output.glob(".*")) == [".case.nii.gz.part", ".other.nii.gz.123.part"]
