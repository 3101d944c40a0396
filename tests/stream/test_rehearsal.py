"""What is wrong with numbers, devices and images is said in one sentence, before anything is made or trained."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from lit_continual.cli import main
from lit_continual.cli.dispatch import _explained
from lit_continual.data import ExemplarMemory, SegmentationDataModule
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.stream.rehearsal import _length, rehearse_fit
from lit_continual.stream.stream_loop import StreamLoop
from tests.conftest import NETWORK
from tests.marks import slow_but

DICE = "model.loss={{class_path: monai.losses.DiceLoss, init_args: {{softmax: true, to_onehot_y: true, {}}}}}"
DEEP = (
    "model.network={class_path: DynUNet, init_args: {spatial_dims: 2, in_channels: 1, kernel_size: [3, 3, 3, 3],"
    " strides: [1, 2, 2, 2], upsample_kernel_size: [2, 2, 2], filters: [4, 4, 4, 4], deep_supervision: true}}"
)
WRONG = {
    "data.batch_size=0": "`batch_size` must be 1 or more, got 0",
    "data.batch_size=-2": "`batch_size` must be 1 or more, got -2",
    "data.num_workers=-1": "`num_workers` must be 0 or more, got -1",
    "data.samples_per_epoch=0": "`samples_per_epoch` must be 1 or more",
    "data.patches_per_volume=0": "`patches_per_volume` must be 1 or more",
    "data.seed=-1": "`seed` must be 0 or more",
    "data.preprocessing.orientation=RAX": "`orientation` must be a letter of each of LR, PA and IS.*'RAX'",
    "data.preprocessing.orientation=RR": "`orientation` must be .*'RR'",
    "data.preprocessing.spacing=[]": "`spacing` must be up to three voxel sizes in mm",
    "data.patch_size=[4096,4096]": r"A patch of 4096 x 4096 .*case_\d+.nii of 16 x 16",
    "data.patch_size=[7,7]": r"The network fails on 1 channels of 7 x 7 voxels \(it returns 8 x 8\)",
    "data.patch_size=[8,8,4]": "`patch_size` .* is not for a network of 2 dimensions",
    "model.roi_size=[0,16]": "`roi_size` .* is not for a network",
    "model.roi_size=[8,8,8]": "`roi_size` .* is not for a network of 2 dimensions",
    "model.network.in_channels=3": r"case_\d+.nii has 1 channels, and the network takes 3",
    "model.optimizer.lr=-1": r"The optimizer cannot be made \(Invalid learning rate: -1",
    "model.loss=monai.losses.DiceCELoss": r"`loss` DiceCELoss fails on 2 x 2 x 16 x 16 .*`softmax: true` and",
    "model.loss=torch.nn.CrossEntropyLoss": r"`loss` CrossEntropyLoss fails on .*got targets of dimension: 4",
    "model.loss=torch.nn.BCEWithLogitsLoss": r"`loss` BCEWithLogitsLoss fails on .*same as input size",
    DICE.format("reduction: none"): r"`loss` DiceLoss fails on .*it returns 2 x 2 x 1 x 1 values",
    DICE.format("weight: [1, 1, 1]"): r"`loss` DiceLoss fails on .*`weight` sequence should be the same as the number",
    "model.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau": "does not say what it looks at. Give `lightning.pyt",
    "seed_everything=-1": "`seed_everything` must be from 0 to 4294967295, got -1",
    "seed_everything=4294967296": "`seed_everything` must be from 0",
    "trainer.accelerator=gup": "`trainer` is wrong: You selected an invalid accelerator name",
    "trainer.accelerator=tpu": "`trainer` is wrong: ",
    "trainer.devices=0": r"`trainer` is wrong: .*devices='0'",
    "trainer.strategy=dpp": "`trainer` is wrong: You selected an invalid strategy",
    "trainer.max_epochs=-1": "A fit of `max_epochs: -1` has no end",
    "trainer.max_epochs=-3": "`trainer` is wrong: .*-3",
    "trainer.check_val_every_n_epoch=0": "`check_val_every_n_epoch` must be 1 or more",
    "trainer.callbacks=LearningRateFinder": "`LearningRateFinder` sets the attribute `lr` of a module, and Segmenter",
    "data.augmentation=null": "The section `data` is wrong: `augmentation` is null. Leave it out",
    "data.split=null": "The section `data` is wrong: `split` is null. Leave it out",
    "data.preprocessing=null": "The section `data` is wrong: `preprocessing` is null. Leave it out",
    "trainer.strategy=ddp_spawn": "spawned or forked processes end with each. Use `strategy: ddp`",
    "model.network={class_path: SegResNetVAE, init_args: {input_image_size: [16, 16], spatial_dims: 2}}": (
        "The network fails .*it returns a tuple, and one tensor is needed"
    ),
    DEEP: "The network fails .*it returns 5 dimensions, and 4 are needed, as without deep",
    "trainer.limit_test_batches=0": "evaluated after each experience, and `limit_test_batches` is 0",
    "trainer.callbacks=BackboneFinetuning": "`BackboneFinetuning` freezes the attribute `backbone` .*`TrainOnly`",
    "ckpt_path=some.ckpt": "--ckpt_path is for an ordinary fit",
    "model.optimizer=torch.optim.SparseAdam": r"The optimizer cannot step \(SparseAdam does not support dense",
    "trainer={logger: false, callbacks: [LearningRateMonitor]}": "writes to a logger, and `trainer.logger` is false",
    "trainer.callbacks={class_path: EarlyStopping, init_args: {monitor: val/dice}}": (
        "`EarlyStopping` looks for the min of `val/dice`, and of dice the max is the best. Give it `mode: max`"
    ),
    "trainer.callbacks={class_path: ModelCheckpoint, init_args: {monitor: val/assd/box, mode: max}}": (
        "`ModelCheckpoint` looks for the max of `val/assd/box`, and of assd the min is the best"
    ),
}


def refused(*arguments):
    with pytest.raises((ValueError, MisconfigurationException)) as caught:
        main([*arguments])
    said = _explained(caught.value)
    assert said, f"{caught.value!r} is shown as a traceback"
    assert "\n" not in said
    return said


@pytest.mark.parametrize(("option", "said"), WRONG.items())
def test_a_stream_is_refused_before_there_is_a_folder(stream, tmp_path, option, said):
    assert re.search(said, refused("fit", "--config", stream(), f"--{option}"))
    assert not (tmp_path / "run").exists()


MAML = {"class_path": "MAML", "init_args": {"inner_lr": 0.1}}
CALLBACKS = [
    ("L2SP", {"parameters": "nothere"}, r"ball: `parameters=\['nothere'\]` matches no parameter of Segmenter"),
    ("L2SP", {"parameters": "body", "anchor": "nothere.ckpt"}, "ball: .*nothere.ckpt"),
    ("EWC", {"parameters": "nothere"}, r"ball: `parameters=\['nothere'\]` matches no parameter of Segmenter"),
    ("TrainOnly", {"parts": ["nothere"], "after": 1}, "box: `Segmenter` has nothing to train called `nothere`"),
    ("TrainOnly", {"network": "bodi", "after": 1}, "ball: `network` of TrainOnly is 'bodi'.* at any depth are body"),
    ("LoRA", {"layers": ["bodi"], "after": 1}, "box: `Segmenter` has no linear layer .* in `bodi`"),
    ("LoRA", {"parts": ["bodi"], "after": 1}, "box: `Segmenter` has nothing to train called `bodi`"),
    ("MetaTune", {"strategy": MAML, "after": 1}, "ball: `Distillation` adds to the loss of one batch"),
]


@pytest.mark.parametrize(("name", "arguments", "said"), CALLBACKS)
def test_a_callback_is_refused_before_there_is_a_folder(stream, tmp_path, name, arguments, said):
    if name == "LoRA":
        pytest.importorskip("peft")
    beside = [{"class_path": "Distillation"}] if name == "MetaTune" else []
    config = stream({"class_path": name, "init_args": arguments}, *beside)
    assert re.search(f"Experience {said}", refused("fit", "--config", config))
    assert not (tmp_path / "run").exists()


def test_shares_by_classes_are_refused_before_there_is_a_folder_where_no_class_is_new(stream, tmp_path):
    fusion = {"class_path": "WeightFusion", "init_args": {"share": "class_count"}}
    main(["fit", "--config", stream(fusion), "--trainer.max_epochs=1"])
    shutil.rmtree(tmp_path / "run")
    config = stream(fusion, experiences=[{"name": name, "classes": {"ball": 1}} for name in ("first", "again")])
    said = "Experience again: `share='class_count'` has no value in a fit without a new class: .* had 1 and has 1"
    assert re.search(said, refused("fit", "--config", config))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["continual", "joint", "single"])
def test_a_callback_may_name_what_has_grown_by_then(stream, monkeypatch, mode):
    monkeypatch.setattr("lit_continual.stream.stream_loop.StreamLoop.run", lambda loop: loop.folder.finish())
    named = [{"class_path": "L2SP", "init_args": {"parameters": ["heads.layers.1" if mode == "joint" else "heads"]}}]
    if mode == "continual":
        named.append({"class_path": "TrainOnly", "init_args": {"parts": ["heads.layers.1"], "after": 1}})
    main(["fit", "--config", stream(*named, mode=mode)])


def test_a_rehearsal_leaves_the_module_and_the_seed_as_they_are(shapes):
    module = Segmenter(NETWORK, features=4)
    data = SegmentationDataModule(shapes, patch_size=[16, 16], classes={"ball": 1}, batch_size=4)
    before = torch.get_rng_state()
    rehearse_fit(module, data, Trainer(accelerator="cpu", logger=False), 1)
    assert module.classes == []
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("option", ["trainer.accelerator=gup", "trainer.devices=0", "seed_everything=-1"])
def test_an_ordinary_fit_says_the_same(stream, option):
    said = refused("fit", "--config", stream(experiences=[]), "--data.classes={ball: 1}", f"--{option}")
    assert re.search(WRONG[option], said)


@pytest.mark.parametrize(
    "own",
    [
        "{augmentation: null}",
        "{class_path: lit_continual.SegmentationDataModule, init_args: {dataset: a, patch_size: [8, 8], split: null}}",
    ],
)
def test_null_for_a_group_of_an_experience_is_named(stream, own):
    experience = f"--stream.experiences=[{{name: ball, classes: {{ball: 1}}, data: {own}}}]"
    assert re.search(
        "The data of experience ball are wrong: `.*` is null", refused("fit", "--config", stream(), experience)
    )


@pytest.mark.parametrize("command", ["test", "validate"])
def test_scores_of_a_network_that_has_learnt_nothing_need_a_checkpoint(stream, command):
    said = refused(command, "--config", stream(experiences=[]), "--data.classes={ball: 1}")
    assert said == f"`{command}` needs --ckpt_path: without a checkpoint Segmenter has no class."


def test_a_plain_fit_without_classes_says_where_they_are_named(stream):
    said = refused("fit", "--config", stream(experiences=[]))
    assert said == "The data reveal no class. Name what is learnt under `classes`, such as `{liver: 1}`."


@pytest.mark.parametrize("content", [{"layer.weight": torch.zeros(1)}, {"state_dict": {}}, {}])
def test_weights_alone_are_no_checkpoint_to_go_on_from(stream, tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    fit = ["fit", "--config", stream(experiences=[]), "--data.classes={ball: 1}", "--trainer.max_epochs=1"]
    assert "weights.pt holds weights alone" in refused(*fit, f"--ckpt_path={tmp_path / 'weights.pt'}")
    assert "There is no checkpoint at" in refused(*fit, f"--ckpt_path={tmp_path / 'nowhere.ckpt'}")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", "half", [1]])
def test_a_damaged_checkpoint_of_an_ordinary_fit_is_named(stream, tmp_path, content):
    path = tmp_path / "some.ckpt"
    torch.save(content if isinstance(content, list) else {"state_dict": {"a": torch.zeros(900)}}, path)
    if not isinstance(content, list):
        path.write_bytes(path.read_bytes()[:2000] if content == "half" else content)
    for command in ("fit", "test"):
        arguments = [command, "--config", stream(experiences=[]), "--data.classes={ball: 1}", f"--ckpt_path={path}"]
        assert re.search("some.ckpt (cannot be read as a checkpoint|holds a list, not)", refused(*arguments))


@pytest.mark.parametrize("experiences", [{}, {"experiences": []}], ids=["stream", "ordinary"])
@pytest.mark.parametrize(("command", "limit"), [("test", "limit_test_batches"), ("validate", "limit_val_batches")])
def test_scores_of_nothing_are_refused(stream, experiences, command, limit):
    options = [f"--trainer.{limit}=0", "--ckpt_path=some.ckpt"]
    said = refused(command, "--config", stream(**experiences), *options)
    assert said == f"`{command}` has nothing to score, as `{limit}` is 0. Give 1 or more, or leave it out."


def test_a_fit_without_a_number_of_epochs_needs_what_ends_it(trainer):
    assert _length(trainer(max_epochs=-1, callbacks=Timer("00:00:01:00"))) is None
    with pytest.raises(ValueError, match="has no end"):
        _length(trainer(max_epochs=-1))


def test_experiences_have_no_negative_epochs(stream):
    experiences = [{"name": "ball", "classes": {"ball": 1}, "max_epochs": -4}]
    assert "`max_epochs` of ball must be 0 or more, got -4" in refused(
        "fit", "--config", stream(experiences=experiences)
    )


@pytest.fixture
def odd(shapes, tmp_path):
    """The tiny data set with one image changed, of whichever split."""

    def make(number, change):
        for file in shapes.rglob("*.*"):
            (tmp_path / "odd" / file.relative_to(shapes)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "odd" / file.relative_to(shapes)).write_bytes(file.read_bytes())
        path = tmp_path / f"odd/images/case_0{number}.nii"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.array(image.dataobj)), image.affine), path)
        return f"--data.dataset={tmp_path / 'odd'}"

    return make


@pytest.mark.parametrize("number", slow_but([0, 3, 6], 3))
def test_one_image_of_other_channels_is_named(stream, odd, tmp_path, number):
    option = odd(number, lambda array: np.stack([array] * 3, -1))
    said = refused("fit", "--config", stream(), option)
    assert re.search(rf"case_0{number}.nii has 3 channels, and \d of \d images have 1", said)
    assert not (tmp_path / "run").exists()


def test_a_series_of_volumes_is_named(stream, odd):
    said = refused("fit", "--config", stream(), odd(0, lambda array: np.stack([array] * 5, -1)))
    assert "case_00.nii has 5 channels" in said
    said = refused("fit", "--config", stream(), odd(0, lambda array: np.zeros((*array.shape, 2, 3), np.float32)))
    assert "case_00.nii has shape (16, 16, 4, 2, 3)" in said


@pytest.mark.parametrize("number", slow_but([0, 3, 6], 6))
def test_one_label_map_of_another_size_is_named_of_whichever_split(stream, odd, tmp_path, number):
    option = odd(number, lambda array: array[:-1].copy())
    assert re.search(rf"case_0{number}.nii has shape \(16, 16, 4\) and", refused("fit", "--config", stream(), option))
    assert not (tmp_path / "run").exists()


def nine(path):
    image = nib.load(path)
    array = np.array(image.dataobj)
    array[0, 0, 0] = 9
    nib.save(nib.Nifti1Image(array, image.affine), path)


def moved(path):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.array(image.dataobj), image.affine + np.eye(4, k=3) * 5), path)


def doubled(path):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.stack([np.array(image.dataobj)] * 2, -1), image.affine), path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nine, "{label} has the label value 9, which is not declared"),
        (moved, "{label} and .* have different affines: they lie up to 5 mm apart"),
        (cut, "{label} cannot be read as an image"),
        (doubled, "{label} has 2 channels. Give one label map"),
    ],
)
@pytest.mark.parametrize("number", slow_but(range(8), 7))
def test_a_bad_label_map_is_named_of_whichever_split_and_experience(stream, odd, tmp_path, number, change, said):
    option = odd(0, lambda array: array)
    label = tmp_path / f"odd/labels/case_0{number}.nii"
    change(label)
    assert re.search(said.format(label=re.escape(str(label))), refused("fit", "--config", stream(), option))
    assert not (tmp_path / "run").exists()


def imaginary(path):
    image = nib.load(path)
    array, affine = np.array(image.dataobj), image.affine
    nib.save(nib.Nifti1Image(array.astype(np.complex64), affine), path)


def flat(path):
    raw = bytearray(path.read_bytes())
    raw[312:328] = bytes(16)  # srow_z of the header
    path.write_bytes(raw)


@pytest.mark.parametrize(("change", "said"), [(imaginary, "has complex voxels"), (flat, "which is singular")])
@pytest.mark.parametrize("folder", ["images", "labels"])
def test_a_header_of_no_image_is_named_of_a_test_patient_too(stream, odd, tmp_path, monkeypatch, change, said, folder):
    option = odd(0, lambda array: array)
    path = tmp_path / f"odd/{folder}/case_07.nii"
    change(path)
    monkeypatch.delattr(SegmentationDataModule, "rehearse")  # so that headers alone must say it
    monkeypatch.setattr(StreamLoop, "run", lambda loop: None)
    assert re.search(rf"{path}.*{said}", refused("fit", "--config", stream(), option))
    assert not (tmp_path / "run").exists()


def test_a_class_that_nobody_trains_is_named_before_another_is_learnt(stream, odd, tmp_path):
    option = odd(0, lambda array: array)
    for path in (tmp_path / "odd/labels").iterdir():
        image = nib.load(path)
        array = np.array(image.dataobj)
        nib.save(nib.Nifti1Image(np.where(array == 1, 0, array).astype(array.dtype), image.affine), path)
    said = refused("fit", "--config", stream(), option)
    assert re.search(r"Experience ball: The class ball occurs in none of the \d training cases", said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spacing", [[0.0015, 0.0015, 0.004], [1500.0, 1500.0, 4000.0]])
def test_spacing_that_is_not_in_mm(stream, spacing):
    said = refused("fit", "--config", stream(), f"--data.preprocessing.spacing={spacing}")
    assert re.search(r"case_\d+.nii has voxels of 1.5 x 1.5 x 4 mm, and `spacing` asks for", said)


def test_the_one_fit_of_joint_training_is_as_long_as_the_trainer_says(stream, tmp_path):
    experiences = [{"name": "ball", "classes": {"ball": 1}}, {"name": "box", "classes": {"box": 2}, "max_epochs": 5}]
    main(["fit", "--config", stream(experiences=experiences), "--stream.mode=joint", "--trainer.max_epochs=1"])
    assert json.loads((tmp_path / "run/run.json").read_text())["experiences"][1]["epochs"] == 1


def test_joint_training_of_other_data_is_refused_before_there_is_a_folder(stream, shapes, tmp_path):
    task = {"class_path": "SegmentationDataModule"}
    task["init_args"] = {"dataset": str(shapes), "patch_size": [16, 16], "classes": {"ball": 1}}
    data = {"class_path": "lit_continual.data.MultiTaskDataModule", "init_args": {"tasks": {"ball": task}}}
    options = ["--config", stream(experiences=[{"name": "ball", "data": data}]), "--stream.mode=joint"]
    assert "Joint training needs SegmentationDataModules, got MultiTaskDataModule" in refused("fit", *options)
    assert not (tmp_path / "run").exists()


def test_distillation_of_a_hydra_net_is_refused_before_there_is_a_folder(stream, shapes, tmp_path):
    task = {"class_path": "SegmentationDataModule"}
    task["init_args"] = {"dataset": str(shapes), "patch_size": [32, 32], "classes": {"ball": 1}}
    path = stream({"class_path": "Distillation"}, experiences=[{"name": "ball"}])
    config = json.loads((tmp_path / "config.yaml").read_text())
    network = {"class_path": "DenseNet121UNet", "init_args": {"decoder_channels": [4] * 5}}
    config["model"] = {"class_path": "HydraNet", "init_args": {"network": network, "features": 4}}
    config["data"] = {"class_path": "MultiTaskDataModule", "init_args": {"tasks": {"ball": task}}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert "a batch of `HydraNet` has one of every task" in refused("fit", "--config", path)
    assert not (tmp_path / "run").exists()


def test_patients_of_a_memory_that_is_taken_over_are_nobodys_test(stream, shapes, tmp_path):
    keep = {"policy": "Random", "budget": {"samples": 4}}
    first = [{"name": "ball", "classes": {"ball": 1}}]
    main(["fit", "--config", stream(experiences=first, memory=keep), "--trainer.max_epochs=1"])
    patients = {exemplar.patient for exemplar in ExemplarMemory(tmp_path / "run/memory").exemplars}
    again = [{"name": "box", "classes": {"box": 2}, "data": {"split": {"seed": 3}}}]
    memory = {**keep, "start": str(tmp_path / "run/memory")}
    options = ["--config", stream(experiences=again, memory=memory), f"--trainer.default_root_dir={tmp_path / 'new'}"]
    said = refused("fit", *options)
    found = re.search(r"Patient (\w+) is in the (?:val|test) split of box and the train split of the memory", said)
    assert found, said
    assert found[1] in patients
    assert not (tmp_path / "new").exists()


def test_data_without_cases_are_said_not_to_be_checked(stream, monkeypatch, capsys):
    monkeypatch.setattr(StreamLoop, "run", lambda loop: loop.folder.finish())
    main(["fit", "--config", stream()])
    assert "Nobody checks" not in capsys.readouterr().out
    monkeypatch.delattr(SegmentationDataModule, "cases")
    monkeypatch.delattr(SegmentationDataModule, "rehearse")  # which looks at their label maps
    main(["fit", "--config", stream(), "--overwrite"])
    assert "Nobody checks that no patient is in two splits of ball, box" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["batch_size=1"], r"The network fails on the batches of one sample \(Expected more than 1 "),
        (["batch_size=4", "samples_per_epoch=5"], r"fails on the last batch, of one sample of 5 .*Change `batch_size`"),
        (["batch_size=4", "samples_per_epoch=6"], ""),
        (["batch_size=1", "patch_size=[16,16]"], ""),  # whose lowest level has more than one voxel
    ],
)
@pytest.mark.parametrize("norm", slow_but(["BATCH", "INSTANCE"], "BATCH"))
def test_a_batch_that_a_normalisation_cannot_take_is_refused_before_there_is_a_folder(
    stream, tmp_path, options, said, norm
):
    network = {"spatial_dims": 2, "in_channels": 1, "channels": [4, 4, 4], "strides": [2, 2], "norm": norm}
    network = json.dumps({"class_path": "UNet", "init_args": network})
    given = [f"--model.network={network}", "--data.patch_size=[4,4]", *(f"--data.{option}" for option in options)]
    if norm == "INSTANCE" and options != ["batch_size=1", "patch_size=[16,16]"]:
        assert "The network fails on 1 channels of 4 x 4 voxels" in refused("fit", "--config", stream(), *given)
    elif said:
        assert re.search(said, refused("fit", "--config", stream(), *given))
        assert not (tmp_path / "run").exists()
    else:
        one = [{"name": "ball", "classes": {"ball": 1}}]
        main(["fit", "--config", stream(experiences=one), "--trainer.max_epochs=1", *given])
