"""The loss at each resolution is nnU-Net's, and what it teaches goes back to nnU-Net."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from lit_continual.cli import main
from lit_continual.modules import NNUNetSegmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from tests.interop.nnunet.conftest import quiet
from tests.interop.nnunet.test_learn import config
from tests.interop.nnunet.test_out import load, save
from tests.marks import slow_but

STAGES = 5  # four resolutions of the decoder, of which nnU-Net trains three


def theirs(folder):
    """The network with its outputs at all resolutions, and the loss, as nnU-Net trains them, of cross-entropy."""
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    opened = Checkpoint(folder).module(NNUNetSegmenter).model
    with quiet():
        trainer = nnUNetTrainer(
            {**opened.plans, "continue_training": False}, opened.configuration, 0, opened.dataset, torch.device("cpu")
        )
    content = load(folder)
    network = trainer.build_network_architecture(
        opened.manager, opened.settings, 1, len(opened.classes) + 1, enable_deep_supervision=True
    )
    network.load_state_dict(content["network_weights"])
    scales = trainer._get_deep_supervision_scales()
    trainer._do_i_compile = lambda: False
    trainer.is_ddp = False
    weights = trainer._build_loss().weight_factors
    loss = DeepSupervisionWrapper(lambda logits, label: cross_entropy(logits, label[:, 0].long()), weights)
    return network, loss, DownsampleSegForDSTransform(scales)


class OfAHead(torch.nn.Module):
    def forward(self, logits, label):
        return cross_entropy(logits, label[:, 0])


def batch(*names, size=(16, 32, 32)):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, *size, generator=generator)
    label = torch.randint(len(names) + 1, (2, 1, *size), generator=generator)
    return {"image": image, "label": label, "classes": [names, names]}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("heads", ["separate", "shared"])
def test_loss_and_gradients_are_those_of_nnunet(toy, dims, heads):
    folder = toy(stages=STAGES, dims=dims)
    network, loss, downsampled = theirs(folder)
    given = batch("ball", "box", size=(32, 32) if dims == 2 else (16, 32, 32))
    labels = zip(*(downsampled(segmentation=one)["segmentation"] for one in given["label"]), strict=True)
    expected = loss(network(given["image"]), [torch.stack(label) for label in labels])
    expected.backward()
    module = NNUNetSegmenter(heads=heads, loss=OfAHead())
    start = Checkpoint(folder)
    module.on_load_checkpoint(start.content)
    module.load_state_dict(start.state_dict)
    module.log = lambda *_, **__: None
    step = module.training_step(given, 0)
    step["loss"].backward()
    torch.testing.assert_close(step["loss"], expected)
    assert torch.equal(step["logits"], network(given["image"])[0])
    for name, parameter in module.body.named_parameters():
        torch.testing.assert_close(parameter.grad, network.get_parameter(name).grad)
    for n, layers in enumerate(module.all_heads):
        layer, grown = network.decoder.seg_layers[n], layers.layers[0]
        if n == 0:
            assert not grown.weight.requires_grad  # the lowest resolution
            assert layer.weight.grad is None
        else:
            torch.testing.assert_close(grown.weight.grad, layer.weight.grad)


@pytest.mark.parametrize("heads", slow_but(["separate", "shared"], "shared"))
def test_what_is_learnt_at_each_resolution_is_exported(toy, raw, tmp_path, heads):
    folder = toy(stages=4)
    options = [f"--stream.start={folder}", f"--model.heads={heads}", "--trainer.limit_train_batches=2"]
    main(["fit", "--config", config(raw, tmp_path), *options])
    opened = Checkpoint(tmp_path / "run/experiences/0_cone/model.ckpt")
    module = opened.module(NNUNetSegmenter)
    middle = module.all_heads[1]
    assert middle.layers[1].weight.abs().sum() > 0
    main(["export", str(opened.path), "--format=nnunet", f"--output={tmp_path / 'out'}"])
    before, after = (load(place)["network_weights"] for place in (folder, tmp_path / "out"))
    for name in ("decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"):  # not trained, as in nnU-Net
        assert torch.equal(after[name][1:3], before[name][1:])
    network, _, _ = theirs(tmp_path / "out")
    image = batch("ball")["image"]
    features = []
    hook = module.body.decoder.stages[1].register_forward_hook(lambda _, __, output: features.append(output))
    with torch.no_grad():
        module(image)
        found, logits = network.eval()(image)[1], middle(features[0])
    hook.remove()
    new = logits[:, 4] - logits[:, 3] if heads == "separate" else logits[:, 3] - logits[:, 0]
    torch.testing.assert_close(found[:, 3] - found[:, 0], new, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, :3], logits[:, :3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("trainer", "option", "expected"),
    [
        ("nnUNetTrainer", None, True),
        ("nnUNetTrainerNoDeepSupervision", None, False),
        ("nnUNetTrainer", False, False),
        ("nnUNetTrainerNoDeepSupervision", True, True),
    ],
)
def test_it_is_on_where_the_model_has_it(toy, monkeypatch, trainer, option, expected):
    folder = toy(stages=4)
    content = load(folder)
    content["trainer_name"] = trainer
    torch.save(content, folder / "fold_0/checkpoint_final.pth")
    module = NNUNetSegmenter(deep_supervision=option)
    module.on_load_checkpoint(Checkpoint(folder).content)
    module.log = lambda *_, **__: None
    module.grow(["cone"])
    assert module.hparams["deep_supervision"] is expected
    module.training_step(batch("ball", "box"), 0)["loss"].backward()
    assert (module.auxiliary[1].layers[0].weight.grad is not None) == expected
    assert all(not p.requires_grad for p in module.auxiliary[0].parameters())


def test_classes_that_were_not_trained_at_a_resolution_are_background_there(toy, tmp_path):
    module = Checkpoint(toy(stages=4)).module(NNUNetSegmenter)
    module.grow(["cone"])
    checkpoint = save(module, tmp_path / "model.ckpt")
    main(["export", str(checkpoint), "--format=nnunet", f"--output={tmp_path / 'out'}"])
    weights = load(tmp_path / "out")["network_weights"]
    for n in (0, 1):
        rows = weights[f"decoder.seg_layers.{n}.weight"]
        assert len(rows) == 4
        assert torch.equal(rows[3], rows[0])
