"""The layers of deep supervision of a DynUNet are trained as MONAI trains them, and go back under all their names."""

import json

import pytest
import torch
from monai.losses import DeepSupervisionLoss
from monai.networks.nets import DynUNet
from torch.nn.functional import cross_entropy

from lit_continual.cli import main
from lit_continual.modules import BundleSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from tests.interop.toys import SIGMOID, SOFTMAX, THRESHOLD, config, write_bundle

NETWORK = {
    "_target_": "DynUNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "kernel_size": [3, 3, 3, 3],
    "strides": [1, 2, 2, 2],
    "upsample_kernel_size": [2, 2, 2],
    "filters": [4, 6, 8, 8],
    "deep_supervision": True,
    "deep_supr_num": 2,
}


class OfAHead(torch.nn.Module):
    def forward(self, logits, label):
        return cross_entropy(logits, label[:, 0])


def network(channels):
    torch.manual_seed(0)
    return DynUNet(**{k: v for k, v in NETWORK.items() if k != "_target_"}, out_channels=channels)


@pytest.fixture
def bundle(tmp_path):
    def write(names=("background", "a", "b"), after=(SOFTMAX,)):
        described = config("DynUNet", len(names), after=after)
        described["network_def"] = {**NETWORK, "out_channels": len(names)}
        return write_bundle(tmp_path / "bundle", described, network(len(names)), names)

    return write


def restored(folder, **options):
    module = BundleSegmenter(loss=OfAHead(), **options)
    Checkpoint(folder).restore(module)
    module.log = lambda *_, **__: None
    return module


def batch(*names):
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(len(names) + 1, (2, 1, 16, 16, 16), generator=generator)
    return {"image": torch.randn(2, 1, 16, 16, 16, generator=generator), "label": label, "classes": [names, names]}


@pytest.mark.parametrize("heads", ["separate", "shared"])
def test_loss_and_gradients_are_those_of_monai(bundle, heads):
    module, theirs, given = restored(bundle(), heads=heads).train(), network(3).train(), batch("a", "b")
    loss = DeepSupervisionLoss(OfAHead(), weight_mode="exp")
    expected = loss([*theirs(given["image"]).unbind(1)], given["label"]) / (1 + 0.5 + 0.25)
    expected.backward()
    step = module.training_step(given, 0)
    step["loss"].backward()
    torch.testing.assert_close(step["loss"], expected)
    assert torch.equal(module.eval()(given["image"]), theirs.eval()(given["image"]))
    for name in ("input_block.conv1.conv.weight", "upsamples.0.transp_conv.conv.weight"):
        torch.testing.assert_close(module.body.get_parameter(name).grad, theirs.get_parameter(name).grad)
    for n, lower in enumerate(module.auxiliary):
        layer = theirs.deep_supervision_heads[1 - n].conv.conv
        torch.testing.assert_close(lower.layers[0].weight.grad, layer.weight.grad)


@pytest.mark.parametrize(
    ("names", "after"), [(("background", "a", "b"), (SOFTMAX,)), (("a", "b"), (SIGMOID, THRESHOLD))]
)
def test_layers_that_were_not_trained_go_back_as_they_came(bundle, tmp_path, names, after):
    folder = bundle(names, after)
    main(["export", str(folder), "--format=bundle", f"--output={tmp_path / 'out'}"])
    old, new = (torch.load(place / "models/model.pt", weights_only=True) for place in (folder, tmp_path / "out"))
    assert old.keys() == new.keys()
    assert all(torch.equal(value, new[name]) for name, value in old.items())
    described = json.loads((tmp_path / "out/configs/inference.json").read_text())["network_def"]
    assert (described["deep_supervision"], described["deep_supr_num"], described["out_channels"]) == (
        True,
        2,
        len(names),
    )


@pytest.mark.parametrize("heads", ["separate", "shared"])
def test_a_class_is_learnt_at_each_resolution_and_goes_back(bundle, tmp_path, heads):
    module = restored(bundle(), heads=heads, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    module.grow(["c"])
    optimizer, given = module.configure_optimizers(), batch("c")
    for _ in range(2):
        optimizer.zero_grad()
        module.train().training_step(given, 0)["loss"].backward()
        optimizer.step()
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    content["datamodule_hyper_parameters"] = {"preprocessing": {"orientation": "RAS", "spacing": None, "normalise": []}}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "model.ckpt")
    again = Checkpoint(tmp_path / "model.ckpt").module(Segmenter)
    followed = restored(tmp_path / "model.ckpt", heads=heads)  # as the next experience does
    for other in (again, followed):
        assert len(other.auxiliary) == 2
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in module.state_dict().items())
    main(["export", str(tmp_path / "model.ckpt"), "--format=bundle", f"--output={tmp_path / 'out'}"])
    theirs = network(4)
    theirs.load_state_dict(torch.load(tmp_path / "out/models/model.pt", weights_only=True))
    features = []
    hook = module.body.upsamples[1].register_forward_hook(lambda _, __, output: features.append(output))
    with torch.no_grad():
        module.eval()(given["image"])
        theirs.eval()(given["image"])
        found, logits = theirs.heads[0], module.auxiliary[1](features[0])
    hook.remove()
    new = logits[:, 4] - logits[:, 3] if heads == "separate" else logits[:, 3] - logits[:, 0]
    torch.testing.assert_close(found[:, 3] - found[:, 0], new, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, :3], logits[:, :3], atol=1e-5, rtol=1e-5)
    assert module.auxiliary[0].layers[-1].weight.abs().sum() > 0


def test_it_can_be_left_off(bundle):
    module = restored(bundle(), deep_supervision=False).train()
    module.grow(["c"])
    module.training_step(batch("a", "b"), 0)["loss"].backward()
    assert all(p.grad is None for p in module.auxiliary.parameters())
    assert not any(p.requires_grad for p in module.auxiliary.parameters())


def test_a_plain_segmenter_takes_the_bundle_without_them(bundle):
    spec = {key: value for key, value in NETWORK.items() if not key.startswith("deep")}
    module, folder = Segmenter(spec, 4), bundle()
    Checkpoint(folder).restore(module)
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(module.eval()(image), network(3).eval()(image))


def test_a_bundle_that_lacks_them_is_refused(bundle):
    folder = bundle()
    weights = torch.load(folder / "models/model.pt", weights_only=True)
    torch.save({k: v for k, v in weights.items() if "deep_supervision_heads.1" not in k}, folder / "models/model.pt")
    with pytest.raises(ValueError, match=r"the layer of deep supervision `deep_supervision_heads.1.conv.conv` is not"):
        Checkpoint(folder)
