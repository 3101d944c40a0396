import copy
import inspect
import os
import re
import resource
import sys
import time

import monai.networks.nets
import monai.transforms
import nibabel as nib
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from monai.transforms import RandFlipd

from lit_continual.callbacks import Distillation
from lit_continual.cli import dispatch, main
from lit_continual.modules import BundleSegmenter, Denoiser, HydraNet, RegionSegmenter, Segmenter
from lit_continual.networks import FCN8s
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.classes import NETWORKS, TRANSFORMS
from lit_continual.runs.checkpoints.registry import Registry, flat
from lit_continual.runs.checkpoints.seal import seal
from lit_continual.tools.adapt.adapt import adapt
from lit_continual.tools.kse import report_kernels
from lit_continual.tools.predict import predict

LAYERS = Registry("layer", lambda: torch.nn.Module, ["torch.nn"], lambda found: found.__name__ == "Linear")


def test_a_config_names_any_class_in_either_form():
    first = LAYERS.build({"class_path": "Linear", "init_args": {"in_features": 3, "out_features": 2}})
    second = LAYERS.build({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2})
    assert type(first) is type(second) is torch.nn.Linear
    assert isinstance(LAYERS.build("ReLU"), torch.nn.ReLU)
    flip = TRANSFORMS.build({"class_path": "RandFlipd", "init_args": {"keys": ["image"], "prob": 0.3}})
    assert isinstance(flip, RandFlipd)
    assert flip.prob == 0.3


def test_overrides_come_last_and_the_description_is_left_alone():
    spec = {"class_path": "Linear", "init_args": {"in_features": 3, "out_features": 2}, "bias": False}
    before = copy.deepcopy(spec)
    layer = LAYERS.build(spec, out_features=7)
    assert (layer.out_features, layer.bias) == (7, None)
    assert spec == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"in_features": 3}, r"does not say what to build. Name a class under `class_path`"),
        ("Liner", r"There is no `Liner` in torch.nn, lit_continual. Correct the layer `Liner`"),
        ("no.such.Thing", r"There is no `Thing` in no.such"),
        ("torch.nn.Liner", r"There is no `Liner` in torch.nn"),
        ({"_target_": "Linear", "features": 3}, r"`Linear` has no argument `features`. It takes in_features, out_"),
        (
            {"_target_": "Linear", "in_features": 3},
            r"`Linear` cannot be built from {'in_features': 3} \(.*out_features",
        ),
        ({"_target_": "Linear", "in_features": "a", "out_features": 1}, r"`Linear` cannot be built from"),
        ({"_target_": 3}, r"`class_path` must be a name, got 3"),
    ],
)
def test_what_cannot_be_built(spec, message):
    with pytest.raises(ValueError, match=message):
        LAYERS.build(spec)


@pytest.mark.parametrize(
    "name", ["BasicUNet", "monai.networks.nets.BasicUNet", "monai.networks.nets.basic_unet.BasicUNet"]
)
def test_a_file_names_a_network_in_each_usual_way(name):
    known = NETWORKS.checked({"_target_": name, "spatial_dims": 2, "norm": ["GROUP", {"num_groups": 2}]})
    assert known == {"_target_": "BasicUNet", "spatial_dims": 2, "norm": ["GROUP", {"num_groups": 2}]}
    assert isinstance(NETWORKS.build(known, features=[8] * 6), monai.networks.nets.BasicUNet)


BAD = [
    (NETWORKS, "os.system"),
    (NETWORKS, "torch.hub.load"),
    (NETWORKS, "torch.load"),
    (NETWORKS, "builtins.exec"),
    (NETWORKS, "monai.bundle.run"),
    (NETWORKS, "monai.networks.nets.os.system"),
    (NETWORKS, "monai.networks.nets.basic_unet.torch.hub.load"),
    (NETWORKS, "NormalizeIntensity"),
    (NETWORKS, "elsewhere.DnCNN"),  # ours, by name alone
    (NETWORKS, "Transchex"),
    (NETWORKS, "resnet18"),  # a function, which may download
    (NETWORKS, ""),
    (NETWORKS, "."),
    (NETWORKS, "..os.system"),
    (NETWORKS, {"_target_": "EfficientNetBN", "model_name": "efficientnet-b0"}),  # downloads by default
    (NETWORKS, {"_target_": "DenseNet121", "spatial_dims": 2, "pretrained": True}),
    (NETWORKS, {"_target_": "VGG16Features", "weights": "anything.pth"}),
    (NETWORKS, "VGG16Features"),  # downloads by default
    (NETWORKS, {"class_path": "lit_continual.networks.VGG16Features"}),
    (NETWORKS, {"_target_": "HoVerNet", "pretrained_url": "http://x"}),
    (NETWORKS, {"_target_": "BasicUNet", "act": "os.system"}),
    (NETWORKS, {"_target_": "BasicUNet", "act": {"_target_": "os.system"}}),
    (NETWORKS, {"_target_": "BasicUNet", "features": [1] * 1000}),
    (NETWORKS, ["os.system"]),
    (NETWORKS, 3),
    (TRANSFORMS, "os.system"),
    (TRANSFORMS, {"_target_": "LoadImage", "reader": "os.system", "command": "x"}),
    (TRANSFORMS, {"_target_": "SaveImage", "output_dir": "x"}),
    (TRANSFORMS, "Lambda"),
    (TRANSFORMS, "monai.transforms.utility.array.Lambda"),
    (TRANSFORMS, "TorchVision"),
    (TRANSFORMS, "TorchIO"),
    (TRANSFORMS, "CuCIM"),
    (TRANSFORMS, "DataStats"),
    (TRANSFORMS, "Compose"),
    (TRANSFORMS, "BasicUNet"),
    (TRANSFORMS, "monai.transforms.Transform"),
    (TRANSFORMS, "WriteFileMapping"),
]


@pytest.mark.parametrize(("registry", "spec"), BAD)
def test_a_file_may_not_name_what_does_more_than_compute(registry, spec):
    loaded = set(sys.modules)
    with pytest.raises(ValueError, match=r"no (network|transform)|in a file may not be|does not say") as caught:
        registry.checked(spec)
    assert "\n" not in str(caught.value)
    assert {name for name in set(sys.modules) - loaded if not name.startswith(("monai", "lit_continual"))} == set()


def test_nothing_is_imported_to_find_out(tmp_path, monkeypatch):
    (tmp_path / "evil_package.py").write_text("import pathlib; pathlib.Path('ran').touch()\nclass Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"`evil_package.Net` is no network that a file may name. Give --trust evil_pac"
    ):
        NETWORKS.checked("evil_package.Net")
    with pytest.raises(ValueError, match="no network that a file may name"):
        NETWORKS.checked("evil_package.Net", trust=["other"])
    assert not (tmp_path / "ran").exists()


def test_the_caller_may_trust_a_package_and_its_own_networks_only(tmp_path, monkeypatch):
    text = "import os\nfrom os import system\nfrom torch import nn\nclass Net(nn.Identity): pass\n"
    (tmp_path / "own_package.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    known = NETWORKS.checked({"_target_": "own_package.Net"}, trust=["own_package"])
    assert known == {"_target_": "own_package.Net"}
    assert type(NETWORKS.build(known)).__name__ == "Net"
    for other in ("own_package.system", "own_package.os.system", "own_package.nn.Linear"):
        with pytest.raises((ValueError, ModuleNotFoundError)):
            NETWORKS.checked(other, trust=["own_package"])


TOUCH = f"{sys.executable} -c \"open('ran', 'w')\""
SYSTEM = {"_target_": "os.system", "command": TOUCH}
ATTACKS = [
    {"post": [SYSTEM]},
    {"post": [{"class_path": "os.system", "init_args": {"command": TOUCH}}]},
    {"post": SYSTEM},
    {"network": SYSTEM},
    {"network": {"_target_": "subprocess.getoutput", "cmd": TOUCH}},
    {"loss": SYSTEM},
    {"heads": [SYSTEM]},
    {"normalise": [SYSTEM]},
    {"normalise": [{"_target_": "LoadImage", "reader": "os.system", "command": TOUCH}]},
    {"normalise": [{"_target_": "SaveImage", "output_dir": "ran"}]},
    {"normalise": ["os.getcwd"]},
    {"spacing": SYSTEM},
]


@pytest.fixture
def attack(tmp_path, monkeypatch):
    """A checkpoint that names code, sealed so that its checksum is right, and an image to use it on."""
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).uniform(size=(8, 8, 4)).astype(np.float32)
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "images/a.nii")

    def write(changes, kind=Segmenter):
        network = {"_target_": "Identity"} if kind is Segmenter else {"_target_": "DnCNN", "features": 2, "depth": 3}
        module = Segmenter(network, features=1, heads=[["a"]], roi_size=[8, 8]) if kind is Segmenter else kind(network)
        grid = changes.keys() & {"normalise", "spacing", "orientation"}
        ours = {k: v for k, v in changes.items() if k in grid or (grid and k == "nonsense")}
        given = {k: v for k, v in changes.items() if k not in ours}
        content = {"state_dict": module.state_dict(), "hyper_parameters": {**module.hparams, **given}}
        content["datamodule_hyper_parameters"] = {"preprocessing": {"orientation": None, "normalise": [], **ours}}
        seal(content, kind)
        torch.save(content, tmp_path / "evil.ckpt")
        return str(tmp_path / "evil.ckpt")

    return write


def refused(action):
    with pytest.raises(ValueError, match=r"^[^\n]*$"):
        action()
    assert not os.path.exists("ran")


@pytest.mark.parametrize("changes", ATTACKS, ids=str)
def test_a_checkpoint_runs_no_code(attack, changes):
    path = attack(changes)
    refused(lambda: predict(path, "images", "out", accelerator="cpu"))
    if not changes.keys() & {"normalise", "spacing"}:
        refused(lambda: report_kernels(path))
        refused(lambda: Segmenter.load_from_checkpoint(path))
        teacher = Distillation(teacher=path)
        student = Segmenter("Identity", features=1, heads=[["a"]])
        refused(lambda: teacher.on_fit_start(_trainer(), student))


def test_a_denoisers_checkpoint_runs_no_code(attack):
    path = attack({"network": SYSTEM}, Denoiser)
    refused(lambda: report_kernels(path))
    refused(lambda: adapt(path, "images", "out", epochs=1, accelerator="cpu"))


def _trainer():
    from lightning.pytorch import Trainer

    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


SMALL = {"_target_": "BasicUNet", "spatial_dims": 2, "features": [4] * 6}
KINDS = {
    Segmenter: lambda: Segmenter(SMALL, features=4, heads=[["a"], ["b"]], roi_size=[32, 32]),
    HydraNet: lambda: HydraNet(
        {"_target_": "DenseNet121UNet", "decoder_channels": [8] * 5}, features=8, heads=[["a"], ["b", "c"]]
    ),
    RegionSegmenter: lambda: RegionSegmenter({**SMALL, "in_channels": 1}, features=4, regions={"all": ["a", "b"]}),
    Denoiser: lambda: Denoiser({"_target_": "DnCNN", "features": 4}),
}


def content_of(module, sealed=True):
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    if sealed:
        module.on_save_checkpoint(content)
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_the_door_knows_each_class_by_its_recorded_name(kind, tmp_path):
    module = KINDS[kind]().eval()
    torch.save(content_of(module), tmp_path / "a.ckpt")
    again = Checkpoint(tmp_path / "a.ckpt").module()
    assert type(again) is kind
    assert not again.training
    assert all(map(torch.equal, again.state_dict().values(), module.state_dict().values()))
    assert dict(again.hparams) == dict(module.hparams)
    loaded = kind.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert type(loaded) is kind
    assert all(part.training for part in loaded.modules())  # as Lightning leaves them: `fit` does not set it


@pytest.mark.parametrize("kind", [Segmenter, pytest.param(HydraNet, marks=pytest.mark.slow), Denoiser])
def test_a_checkpoint_from_before_names_were_recorded_is_read(kind, tmp_path):
    module = KINDS[kind]()
    torch.save(content_of(module, sealed=False), tmp_path / "a.ckpt")
    assert type(Checkpoint(tmp_path / "a.ckpt").module()) is kind


def test_another_class_than_the_one_that_is_needed(tmp_path):
    torch.save(content_of(KINDS[Denoiser]()), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt is no checkpoint of a Segmenter but of a Denoiser. Use an exp"):
        Checkpoint(tmp_path / "a.ckpt").module(Segmenter)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["state_dict"]["heads.layers.0.bias"].add_(1e-3),
        lambda content: content["hyper_parameters"].update(heads=[["b"], ["a"]]),
        lambda content: content["lit_continual"].update(module="HydraNet"),
        lambda content: content["state_dict"].pop("heads.layers.0.bias"),
    ],
)
def test_flipped_weights_and_swapped_names_are_seen(change, tmp_path):
    content = copy.deepcopy(content_of(KINDS[Segmenter]()))
    change(content)
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt is damaged: its weights or class names are not those"):
        Checkpoint(tmp_path / "a.ckpt")


def test_weights_that_are_nan(tmp_path):
    module = KINDS[Segmenter]()
    torch.nn.init.constant_(module.heads.layers[1].bias, float("nan"))
    torch.save(content_of(module), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"`heads.layers.1.bias` in .*a.ckpt is nan or infinite"):
        Checkpoint(tmp_path / "a.ckpt").module()


class Weighted(torch.nn.MSELoss):
    """A loss with weights of its own, as those of MONAI and torch have for classes."""

    def __init__(self, *weights):
        super().__init__()
        self.register_buffer("weight", torch.tensor(weights))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_how_to_train_and_no_part_of_what_was_learnt(kind, tmp_path):
    """With weights in its loss a run could neither predict nor be extended, and others than its own were taken over."""
    trained = KINDS[kind]()
    trained.loss = Weighted(1.0, 3.0)
    torch.save(content_of(trained), tmp_path / "a.ckpt")
    assert "loss.weight" not in Checkpoint(tmp_path / "a.ckpt").module().state_dict()
    for weights in ([], [[1.0, 1.0]], [[1.0, 2.0, 5.0]]):
        module = KINDS[kind]()
        module.loss = Weighted(*weights[0]) if weights else module.loss
        Checkpoint(tmp_path / "a.ckpt").restore(module)
        assert [module.loss.weight.tolist()] == weights if weights else "loss.weight" not in module.state_dict()
        (_, mine), (_, theirs) = next(module.named_parameters()), next(trained.named_parameters())
        assert torch.equal(mine, theirs)


def test_a_torch_that_is_too_old_reads_no_checkpoint(tmp_path, monkeypatch):
    torch.save(content_of(KINDS[Denoiser]()), tmp_path / "a.ckpt")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ValueError, match=r"torch 2.9.1\+cpu may run code that a checkpoint holds.*Install torch 2.10"):
        Checkpoint(tmp_path / "a.ckpt")


def test_what_was_fetched_is_not_fetched_again():
    assert flat({"class_path": "UNet", "init_args": {"act": "PRELU"}}) == {"_target_": "UNet", "act": "PRELU"}


class Own(LightningModule):
    """Somebody's module, whose arguments are nobody else's to read."""

    def __init__(self, network=3):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(network, 1)


def test_a_class_of_the_callers_own_reads_its_arguments_itself(tmp_path):
    module = Own(2)
    torch.save(content_of(module, sealed=False), tmp_path / "a.ckpt")
    assert Checkpoint(tmp_path / "a.ckpt").build(Own).layer.in_features == 2


def test_a_network_that_began_with_weights_of_a_file_is_read_without_the_file(tmp_path):
    features = {f"features.{name}": value for name, value in FCN8s(1, head_channels=4).features.state_dict().items()}
    features["features.0.weight"] = features["features.0.weight"].repeat(1, 3, 1, 1)  # of colour images
    torch.save(features, tmp_path / "vgg16.pth")
    network = {"class_path": "FCN8s", "init_args": {"in_channels": 1, "head_channels": 4}}
    network["init_args"]["weights"] = str(tmp_path / "vgg16.pth")
    module = Segmenter(network, features=2, heads=[["a"]]).eval()
    torch.save(content_of(module), tmp_path / "a.ckpt")
    (tmp_path / "vgg16.pth").unlink()
    again, image = Checkpoint(tmp_path / "a.ckpt").module(Segmenter), torch.randn(1, 1, 32, 32)
    assert again.body.scale4 == module.body.scale4 == 0.01
    assert torch.equal(again(image), module(image))


def test_trust_is_given_on_the_command_line(tmp_path, monkeypatch, capsys):
    text = "from torch import nn\nclass Net(nn.Conv2d):\n"
    (tmp_path / "trusted_package.py").write_text(
        text + "    def __init__(self, out_channels): super().__init__(1, out_channels, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    module = Segmenter({"class_path": "trusted_package.Net"}, features=2, heads=[["a"]], roi_size=[8, 8])
    preprocessing = {"preprocessing": {"orientation": None, "normalise": []}}
    torch.save({**content_of(module), "datamodule_hyper_parameters": preprocessing}, "a.ckpt")
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 4), np.float32), np.eye(4)), "images/a.nii")
    command = ["predict", "a.ckpt", "images", "--accelerator=cpu", "--output"]
    with pytest.raises(ValueError, match=r"Give --trust trusted_package if it is your own"):
        main([*command, "refused"])
    main([*command, "one", "--trust", "trusted_package"])
    main([*command, "several", "--trust", "[other, trusted_package]"])
    assert not (tmp_path / "refused").exists()
    assert (tmp_path / "one/a.nii.gz").exists()
    assert (tmp_path / "several/a.nii.gz").exists()


ABSURD = [
    {"network": {**SMALL, "features": [4, 4, 4, 4, 4, 200_000]}},
    {"network": {**SMALL, "features": [2**30] * 6}},
    {"network": {**SMALL, "in_channels": 2**24}},
    {"network": {"_target_": "DnCNN", "depth": 2**24}},
    {"network": {"_target_": "UNETR", "in_channels": 1, "img_size": [4096, 4096, 4096], "feature_size": 16}},
    {"network": {"_target_": "torch.nn.Linear", "in_features": 2**24, "bias": False}},
    {"features": 2**40},
    {"heads": [[f"c{i}" for i in range(20_000)]]},
    {"heads": [[f"c{i}"] for i in range(5_000)]},
]


@pytest.mark.parametrize("changes", ABSURD, ids=range(len(ABSURD)))
def test_what_is_larger_than_its_weights_is_not_built(changes, tmp_path):
    content = content_of(KINDS[Segmenter](), sealed=False)
    content["hyper_parameters"].update(changes)
    torch.save(content, tmp_path / "a.ckpt")
    opened, before, begin = Checkpoint(tmp_path / "a.ckpt"), peak(), time.process_time()
    with pytest.raises(ValueError, match=r"a\.ckpt[^\n]*$"):
        opened.build(Segmenter)
    with pytest.raises(ValueError, match=r"a\.ckpt[^\n]*$"):
        opened.restore(BundleSegmenter())
    assert time.process_time() - begin < 10
    assert peak() - before < 0.5


def peak():
    """The peak of resident memory in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


ODD = [2**70, -1, 0, True, "3", "", [], {}, float("nan"), None, [3] * 5, [[2] * 3] * 3, [2**20] * 3, [None], [-1, 2, 2]]
KEYS = ["features", "heads", "roi_size", "post", "inference", "classes", "network", "loss", "nonsense"]
GRID = ["orientation", "spacing", "normalise", "nonsense"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("key", [*KEYS, *GRID])
def test_arguments_of_any_type_are_taken_or_refused_in_a_sentence(key, attack):
    said = []
    for value in ODD:
        path = attack({key: value} if key in KEYS else {"normalise": [], key: value})
        try:
            predict(path, "images", "out", accelerator="cpu", overwrite=True)
        except ValueError as error:
            said.append(str(error))
    assert said
    assert [text for text in said if not text.isprintable() or not re.search("evil.ckpt|a.nii", text)] == []


TRANSFORM = {
    "Method": {"_target_": "SpatialPad", "spatial_size": [9, 9], "method": "a"},
    "keys": {"_target_": "CastToTyped", "keys": []},
    "range": {"_target_": "GibbsNoise", "alpha": 3},
    "lengths": {"_target_": "ShiftIntensityd", "keys": ["a"], "offset": 1, "factor_key": [1, 2]},
    "grid": {"_target_": "SpatialPad", "spatial_size": [9, 9, 9]},
}


@pytest.mark.parametrize("kind", TRANSFORM)
def test_what_a_class_of_others_says_of_its_arguments_is_one_sentence(kind, attack):
    path = attack({"normalise": [TRANSFORM[kind]]})
    with pytest.raises(ValueError, match=r"^[^\n]*(evil.ckpt|a.nii)[^\n]*$") as caught:
        predict(path, "images", "out", accelerator="cpu")
    assert dispatch._explained(caught.value)


@pytest.mark.parametrize("argument", [*TRANSFORMS.largest, *TRANSFORMS.smallest])
def test_a_file_gives_no_number_by_which_a_transform_fills_the_memory(argument):
    def checked(number):
        return TRANSFORMS.checked({"_target_": taker, argument: number})

    taker = next(name for name in sorted(vars(monai.transforms)) if takes(name, argument))
    high, low = TRANSFORMS.largest.get(argument), TRANSFORMS.smallest.get(argument)
    beyond = low / 2 if high is None else high + 1
    for number in (beyond, -beyond, [1, beyond], [[1, 2], [beyond, 1]], {"a": [beyond]}, float("nan")):
        with pytest.raises(ValueError, match=f"^`{argument}` of `{taker}` is .* in a file it is at (most|least) "):
            checked(number)
    for number in (high or low, 0, [1, high or low], None, True):
        assert checked(number)[argument] == number
    assert TRANSFORMS.checked({"_target_": taker, argument: beyond}, trust=["monai"])


def takes(name, argument):
    """Whether a name is that of a transform a file may name, which takes the argument."""
    found = getattr(monai.transforms, name)
    known = TRANSFORMS._is_kind(found) and TRANSFORMS.allows(found)
    return known and argument in inspect.signature(found).parameters


def test_what_a_file_of_this_package_gives_its_transforms_is_within_the_bounds():
    usual = {
        "RepeatChannel": {"repeats": 3},
        "GaussianSmooth": {"sigma": 2.0},
        "SpatialPad": {"spatial_size": [512] * 3},
    }
    usual |= {"Spacing": {"pixdim": [0.4, 0.4, -1.0]}, "AsDiscrete": {"to_onehot": 105}, "Zoom": {"zoom": 1.5}}
    for name, arguments in usual.items():
        assert TRANSFORMS.checked({"_target_": name, **arguments})


def test_a_network_that_makes_tables_of_its_own_is_built(tmp_path):
    swin = {"_target_": "SwinUNETR", "in_channels": 1, "feature_size": 12, "spatial_dims": 2}
    module = Segmenter(swin, features=4, heads=[["a"]])
    torch.save(content_of(module), tmp_path / "a.ckpt")
    again = Checkpoint(tmp_path / "a.ckpt").module(Segmenter)
    assert all(map(torch.equal, again.state_dict().values(), module.state_dict().values()))


def test_trust_is_for_the_file_that_it_is_given_for(tmp_path, monkeypatch):
    (tmp_path / "once_package.py").write_text("from monai.networks.nets import BasicUNet\nclass Net(BasicUNet): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = Segmenter({**SMALL, "_target_": "once_package.Net"}, features=4, heads=[["a"]], roi_size=[32, 32])
    torch.save(content_of(module), tmp_path / "a.ckpt")
    started = BundleSegmenter()
    Checkpoint(tmp_path / "a.ckpt", "once_package").restore(started)
    assert type(started.body).__name__ == "Net"
    with pytest.raises(ValueError, match="Give --trust once_package"):
        Checkpoint(tmp_path / "a.ckpt").restore(BundleSegmenter())
    with pytest.raises(ValueError, match="Give --trust once_package"):  # whoever hands it over, as Lightning does
        BundleSegmenter().on_load_checkpoint(torch.load(tmp_path / "a.ckpt", weights_only=True))
