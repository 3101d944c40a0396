"""A bundle where a checkpoint may stand: extended by a stream, a teacher, scored by its kernels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_continual import BundleDataModule
from lit_continual.cli import main
from lit_continual.modules import BundleSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from tests.interop.toys import ARGMAX, INVERT, LOAD, NETWORKS, SCALE, config, network, write_bundle, write_images

NETWORK = {"class_path": "BasicUNet", "init_args": NETWORKS["BasicUNet"]}


@pytest.fixture
def bundle(tmp_path):
    described = config(steps=[*LOAD, *SCALE], after=[INVERT, ARGMAX])
    return write_bundle(tmp_path / "bundle", described, network(channels=2), ["background", "ball"])


@pytest.fixture
def extended(tmp_path, stream, bundle):
    """Extend the bundle, and return the checkpoint."""

    def fit(*callbacks, whole=True):
        experience = {"name": "box", "classes": {"box": 2}, "max_epochs": 1}
        path = stream(*callbacks, start=str(bundle), experiences=[experience])
        described = json.loads(Path(path).read_text())
        if whole:
            described["model"]["init_args"] |= {"network": NETWORK, "features": 6}
            described["data"]["init_args"] |= {"patch_size": [16, 16, 16]}
        else:
            described["model"]["class_path"], described["data"]["class_path"] = "BundleSegmenter", "BundleDataModule"
            del described["data"]["init_args"]["patch_size"]
            del described["model"]["init_args"]["network"], described["model"]["init_args"]["features"]
        Path(path).write_text(json.dumps(described))
        main(["fit", "--config", path])
        return tmp_path / "run/experiences/0_box/model.ckpt"

    return fit


@pytest.mark.filterwarnings("ignore:The optimizer's weight decay")
def test_a_stream_extends_a_bundle_that_goes_out_again(tmp_path, bundle, extended):
    distilled = {"class_path": "Distillation", "init_args": {"alpha": 0.5, "teacher": str(bundle)}}
    checkpoint = extended(distilled)
    module = Checkpoint(checkpoint).module(Segmenter)
    assert module.classes == ["ball", "box"]
    assert module.hparams["roi_size"] == [16, 16, 16]
    assert (module.inference.overlap, module.inference.sw_batch_size) == (0.5, 2)  # of the bundle
    folder = tmp_path / "exported"
    main(["export", str(checkpoint), "--format=bundle", f"--output={folder}"])
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "background",
        "1": "ball",
        "2": "box",
    }
    assert (metadata["authors"], metadata["version"]) == ("toys", "0.2.0")
    assert (folder / "LICENSE").read_text() == "For toys only."
    assert Checkpoint(folder).module(Segmenter).classes == ["ball", "box"]


@pytest.mark.filterwarnings("ignore:The optimizer's weight decay")
def test_network_and_preprocessing_may_come_with_the_bundle(tmp_path, bundle, extended):
    checkpoint = extended({"class_path": "Distillation", "init_args": {"alpha": 0.5, "teacher": "start"}}, whole=False)
    opened = Checkpoint(checkpoint)
    assert type(opened.module()) is BundleSegmenter
    assert opened.preprocessing == Checkpoint(bundle).preprocessing
    assert opened.hyper_parameters["network"] == Checkpoint(bundle).hyper_parameters["network"]
    assert opened.module().classes == ["ball", "box"]
    main(["export", str(checkpoint), "--format=bundle", f"--output={tmp_path / 'exported'}"])
    assert Checkpoint(tmp_path / "exported").module().classes == ["ball", "box"]


@pytest.mark.filterwarnings("ignore:The optimizer's weight decay")
def test_a_shared_head_begins_as_the_last_layer_of_the_bundle(tmp_path, bundle):
    module = BundleSegmenter(heads="shared")
    Checkpoint(bundle).restore(module)
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = network(channels=2)(image)
        assert torch.equal(module.eval()(image), expected)
        module.grow(["box"])
        grown = module(image).softmax(1)
        torch.testing.assert_close(grown[:, 1], expected.softmax(1)[:, 1])
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    content["datamodule_hyper_parameters"] = {"preprocessing": Checkpoint(bundle).preprocessing}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "model.ckpt")
    main(["export", str(tmp_path / "model.ckpt"), "--format=bundle", f"--output={tmp_path / 'exported'}"])
    exported = Checkpoint(tmp_path / "exported").module()
    assert exported.classes == ["ball", "box"]
    with torch.no_grad():
        torch.testing.assert_close(exported(image).softmax(1), grown, atol=1e-5, rtol=1e-4)


def test_a_segmenter_without_a_network_says_so(tmp_path, shapes):
    with pytest.raises(MisconfigurationException, match="has no network: it takes that of the model it starts from"):
        BundleSegmenter().rehearse(None, 1)
    with pytest.raises(ValueError, match="does not know how images are preprocessed"):
        BundleDataModule(str(shapes), classes={"box": 2}).setup("fit")


@pytest.mark.slow  # those of a folder of nnU-Net are in fast tests
def test_kernels_of_a_bundle_are_scored(tmp_path, bundle):
    (image,) = write_images(tmp_path / "images", count=1).glob("*")
    main(["kse", str(bundle), f"--output={tmp_path / 'kse'}", f"--image={image}"])
    assert (tmp_path / "kse/kse.html").exists()


def test_a_bundle_of_another_network_is_refused_before_training(tmp_path, stream, bundle):
    path = stream(start=str(bundle), experiences=[{"name": "box", "classes": {"box": 2}}])
    with pytest.raises(ValueError, match=r"bundle does not fit the model of this config"):
        main(["fit", "--config", path])
    assert not (tmp_path / "run").exists()


def test_a_bundle_is_read_in_python(bundle):
    module = Segmenter.load_from_checkpoint(bundle).eval()
    with torch.no_grad():
        found = module(torch.ones(1, 1, 16, 16, 16))
    np.testing.assert_array_equal(found, network(channels=2)(torch.ones(1, 1, 16, 16, 16)).detach())
