"""From data sets to a config that runs as it stands."""

import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from lit_continual.cli import main
from lit_continual.files.whole_files import read_json
from lit_continual.tools.init import write_config
from tests.fixtures.data import scan, write

QUICK = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
QUICK += ["--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1", "--trainer.limit_test_batches=1"]
SHAPE = (20, 18, 6)
ESCAPES = "\x1b[31m\nstream: {mode: joint}\r\u202e # [/b]"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))


def init(*arguments):
    main(["init", *map(str, arguments)])
    return yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))


def plain(folder, first=0, count=8, value=1, **kwargs):
    """A folder of images and labels, with one class."""
    for n in range(first, first + count):
        image, label = scan(n, SHAPE, values=(value,), **kwargs)
        write(Path(folder) / f"images/p{n:02}.nii.gz", image)
        write(Path(folder) / f"labels/p{n:02}.nii.gz", label)
    return folder


def table(folder, first):
    plain(folder, first)
    rows = [f"images/p{n:02}.nii.gz,labels/p{n:02}.nii.gz,P{n}" for n in range(first, first + 8)]
    (Path(folder) / "cases.csv").write_text("\n".join(["image,label,patient", *rows]) + "\n")
    return f"{folder}/cases.csv"


def raw(folder, labels):
    for n in range(8):
        image, label = scan(n, SHAPE)
        write(Path(folder) / f"imagesTr/case_{n}_0000.nii.gz", image)
        write(Path(folder) / f"labelsTr/case_{n}.nii.gz", label)
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 8, "file_ending": ".nii.gz"}
    (Path(folder) / "dataset.json").write_text(json.dumps(content))
    return folder


def fitted():
    main(["fit", "--config", "config.yaml", *QUICK])
    run = read_json("runs/config/run.json")
    assert run["status"] == "finished"
    return {e["name"]: e["classes"] for e in run["experiences"]}


@pytest.mark.filterwarnings("ignore:The variance of predictions")
@pytest.mark.slow
def test_one_data_set_of_two_classes_is_learnt_class_by_class(decathlon, reports):
    config = init(decathlon(10, shape=SHAPE))
    parts = [e["data"]["split"]["part"] for e in config["stream"]["experiences"]]
    assert parts == [[0, 2], [1, 2]]
    assert config["data"]["init_args"]["patch_size"] == [32, 32]  # 6 slices
    assert config["trainer"]["callbacks"][0]["class_path"] == "Distillation"
    assert fitted() == {"first": ["first"], "second": ["second"]}


@pytest.mark.slow
def test_a_folder_and_a_table_are_two_experiences_with_a_memory(reports):
    config = init(plain("liver"), table("spleen", 8), "--exemplars", 3)
    assert config["stream"]["experiences"][1] == {
        "name": "spleen",
        "classes": {"spleen": 1},
        "data": {"dataset": "spleen/cases.csv"},
    }
    assert config["stream"]["memory"]["budget"] == {"samples": 3, "per_class": True}
    assert fitted() == {"liver": ["liver"], "spleen": ["spleen"]}
    assert len(read_json("runs/config/memory/manifest.json")["exemplars"]) > 0


@pytest.mark.slow
def test_regions_of_nnunet_are_learnt_by_a_region_segmenter(reports):
    config = init(raw("Dataset001_Toy", {"background": 0, "whole": [1, 2], "core": [2]}))
    assert config["model"]["class_path"] == "RegionSegmenter"
    assert config["model"]["init_args"]["regions"] == {"whole": ["label_1", "core"], "core": ["core"]}
    assert config["stream"]["experiences"][0]["classes"] == {"label_1": 1, "core": 2}
    assert config["data"]["init_args"]["preprocessing"]["normalise"][0]["class_path"] == "ScaleIntensityRange"
    assert list(fitted()) == ["Dataset001_Toy"]


@pytest.mark.slow
def test_volumes_are_learnt_in_3d(decathlon, reports):
    config = init(decathlon(6, shape=(20, 20, 20)), "--by", "datasets")
    assert config["model"]["init_args"]["network"]["init_args"]["spatial_dims"] == 3
    assert len(config["data"]["init_args"]["patch_size"]) == 3
    assert fitted() == {"set": ["first", "second"]}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Task04_Hippocampus", "Task_STS_CT"])
def test_real_data_get_a_config_that_is_understood(real_data, task, capsys):
    config = init(real_data / task)
    assert config["model"]["init_args"]["network"]["init_args"]["spatial_dims"] == 3
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "config.yaml", "--print_config"])
    assert stopped.value.code == 0


# What is wrong with data is said at once


def edit(path, change):
    old = nib.load(path)
    array, affine = change(np.asarray(old.dataobj), old.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def moved(array, affine):
    affine[0, 3] += 3
    return array, affine


FAULTS = {
    "imagesTr/case_0.nii.gz": (
        lambda a, m: (np.where(a > 60, np.nan, a), m),
        r"case_0.nii.gz has \d+ voxels that are nan",
    ),
    "labelsTr/case_1.nii.gz": (lambda a, m: (a[:-1], m), r"case_1.nii.gz has shape .* Resample one onto the other"),
    "labelsTr/case_2.nii.gz": (moved, r"case_2.nii.gz .* have different affines: they lie up to 3 mm apart"),
    "labelsTr/case_3.nii.gz": (
        lambda a, m: (a * 3, m),
        r"case_3.nii.gz has the label values 3, 6, and .* declares \[0, 1, 2\]. Declare them",
    ),
    "imagesTr/case_4.nii.gz": (
        lambda a, m: (np.stack([a, a], -1), m),
        r"case_4.nii.gz has 2 channels, and 2 of 3 images have 1. Give every image the same ones",
    ),
    "labelsTr/case_5.nii.gz": (
        lambda a, m: (a.astype(np.float32) * 0.7, m),
        r"case_5.nii.gz has 3 different values, such as 0.7, and a label map a whole number",
    ),
    "labelsTr/case_6.nii.gz": (lambda a, m: (np.stack([a, a], -1), m), r"case_6.nii.gz has 2 channels. Give one label"),
}


def test_every_fault_of_every_case_is_listed(decathlon, capsys):
    folder = decathlon(12, shape=SHAPE)
    for name, (change, _) in FAULTS.items():
        edit(folder / name, change)
    (folder / "imagesTr/case_7.nii.gz").write_bytes((folder / "imagesTr/case_7.nii.gz").read_bytes()[:100])
    content = json.loads((folder / "dataset.json").read_text())
    del content["training"][8]["label"]
    content["training"][9]["label"] = "labelsTr/gone.nii.gz"
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"^No config was written, since the data have faults, which stand above \(10\). Mend them"
    ):
        init(folder)
    said = capsys.readouterr().out
    more = [r"case_7.nii.gz cannot be read", r"case_8.nii.gz has no label", r"gone.nii.gz is listed in .* not there"]
    for message in [message for _, message in FAULTS.values()] + more:
        assert len([line for line in said.splitlines() if re.search(message, line)]) == 1, (message, said)
    assert not Path("config.yaml").exists()


def test_faults_of_all_data_sets_are_listed(capsys):
    plain("liver")
    Path("liver/labels/p03.nii.gz").unlink()
    raw("organs", {"background": 0, "first": 1, "second": 2, "ignore": 3})
    with pytest.raises(ValueError, match=r"faults, which stand above \(3\)"):
        init("liver", "organs", "nowhere")
    said = capsys.readouterr().out
    for message in ("has no label for p03", "declares the label `ignore`", "There is no data set at nowhere"):
        assert message in said


def test_a_list_that_is_shorter_than_it_says_is_named(decathlon, capsys):
    folder = decathlon(4, shape=SHAPE)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": 5}))
    with pytest.raises(ValueError, match=r"faults, which stand above \(1\)"):
        init(folder)
    assert "dataset.json has a `numTraining` of 5, and lists 4 cases. Restore those" in capsys.readouterr().out
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": "many"}))
    init(folder)


def test_255_of_one_tool_among_1_of_another_is_no_second_class(capsys):
    plain("liver")
    plain("liver", first=8, count=3, value=255)
    with pytest.raises(ValueError, match=r"faults, which stand above \(3\)"):
        init("liver")
    assert "p08.nii.gz has 255 alone, and liver/labels/p00.nii.gz has 1. Write one value" in capsys.readouterr().out


def test_a_header_of_more_voxels_than_an_image_has_is_not_read(decathlon, capsys):
    folder = decathlon(3, shape=SHAPE, suffix=".nii")
    path = folder / "imagesTr/case_1.nii"
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32767] * 3, "<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"faults, which stand above \(1\)"):
        init(folder)
    assert f"case_1.nii has {32767**3} voxels by its header" in capsys.readouterr().out


def test_a_label_map_has_no_negative_values(capsys):
    edit(f"{plain('liver')}/labels/p01.nii.gz", lambda a, m: (-a.astype(np.int16), m))
    with pytest.raises(ValueError, match=r"faults, which stand above \(1\)"):
        init("liver")
    assert (
        "p01.nii.gz has 2 different values, such as -1, and a label map a whole number from 0"
        in capsys.readouterr().out
    )


def test_an_image_as_a_label_map_is_no_thousand_classes(capsys):
    plain("liver")
    image = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    write(Path("liver/labels/p01.nii.gz"), image)
    with pytest.raises(ValueError, match=r"faults, which stand above \(1\)"):
        init("liver")
    assert "has 2160 different values" in capsys.readouterr().out


# What does not go together is refused in a sentence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "0"], r"--memory must be above 0 GB .* got 0 and 0"),
        (["--memory", "-1"], r"--memory must be above 0 GB"),
        (["--memory", "0.1"], r"The smallest window, \[32, 32\] voxels in batches of 2, takes 0\.\d+ GB, more than"),
        (["--exemplars", "-3"], r"--exemplars 0 or more, got 8 and -3"),
        (["liver"], r"liver is given twice"),
        (["images/../liver"], r"images/../liver is given twice"),
        (["--output", ""], "`output` is empty. Give a value"),
        (["--output", "."], r"\. is a folder, and --output names the config in it. Give --output config.yaml"),
        (["--output", "liver"], r"liver is a folder, and --output names the config in it"),
        (["--output", "liver/images/p00.nii.gz", "--overwrite"], r"The input .*p00.nii.gz would be overwritten"),
        (["--output", "there.yaml"], r"there.yaml is there already. Add --overwrite"),
        (["--output", "link.yaml"], r"link.yaml is there already. Add --overwrite"),
    ],
)
def test_bad_arguments(arguments, message):
    plain("liver")
    Path("there.yaml").write_text("mine")
    Path("link.yaml").symlink_to("there.yaml")
    with pytest.raises(ValueError, match=message) as caught:
        init("liver", *arguments)
    assert str(caught.value).isprintable()
    assert Path("there.yaml").read_text() == "mine"
    assert not Path("config.yaml").exists()


def test_a_config_is_replaced_when_asked_for_and_never_through_a_link():
    plain("liver")
    Path("mine.txt").write_text("mine")
    Path("config.yaml").symlink_to("mine.txt")
    init("liver", "--overwrite")
    assert Path("mine.txt").read_text() == "mine"


def test_data_sets_of_other_channels_are_refused(decathlon):
    plain("liver")
    with pytest.raises(ValueError, match="has images of 3 channels, and liver of 1: no network takes both"):
        init("liver", decathlon(4, shape=SHAPE, channels=3))


def test_data_sets_of_other_regions_are_refused():
    one = raw("one", {"background": 0, "whole": [1, 2], "core": [2]})
    with pytest.raises(ValueError, match="have different regions"):
        init(one, plain("liver", 20))
    with pytest.raises(ValueError, match=r"has regions, which are learnt together. Give --by datasets"):
        init(one, "--by", "classes")


def test_one_patient_in_two_data_sets_is_on_one_side():
    init(plain("bone"), plain("muscle"))
    plain("other", first=4)
    with pytest.raises(ValueError, match=r"No split of bone, other has every class among .*a CSV table with the key"):
        init("bone", "other", "--output", "none.yaml")


def test_names_from_files_steer_neither_yaml_nor_the_terminal(decathlon, capsys):
    labels = {"background": 0, ESCAPES: 1, "yes/no: ${HOME} #": 2}
    folder = decathlon(8, name="a b; {x}", shape=SHAPE, labels=labels, entries=[{"site": ESCAPES}, {"site": "b"}] * 4)
    config = init(folder)
    assert config["stream"].keys() == {"experiences"}
    assert [e["classes"] for e in config["stream"]["experiences"]][1] == {"yes_no_ _HOME": "yes/no: ${HOME} #"}
    text = Path("config.yaml").read_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x1b" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "config.yaml", "--print_config"])
    assert stopped.value.code == 0


def test_everything_that_is_chosen_has_a_reason(decathlon):
    init(decathlon(10, shape=SHAPE, entries=[{"site": "A"}, {"site": "B"}] * 5))
    comments = [line for line in Path("config.yaml").read_text().splitlines() if line.strip().startswith("#")]
    for word in ("10 images of 10 patients", "One experience a class", "where: {site: A}", "2D:", "--memory", "LwfSeg"):
        assert any(word in line for line in comments), word


def test_a_config_that_came_while_the_data_were_read_is_kept(monkeypatch):
    def comes(datasets):
        Path("config.yaml").write_text("mine")
        return read(datasets)

    read = write_config._read
    monkeypatch.setattr(write_config, "_read", comes)
    with pytest.raises(ValueError, match=r"config.yaml is there already. Add --overwrite"):
        init(plain("organs", count=3))
    assert Path("config.yaml").read_text() == "mine"


def test_the_command_that_is_printed_can_be_copied(capsys):
    main(["init", plain("liver"), "--output", "my data's config.yaml"])
    head = Path("my data's config.yaml").read_text(encoding="utf-8").partition("Written by lit-continual init. ")[2]
    for told in (capsys.readouterr().out.partition("Next: ")[2], head.partition("\n")[0]):
        assert shlex.split(told) == ["lit-continual", "fit", "--config", "my data's config.yaml"]
