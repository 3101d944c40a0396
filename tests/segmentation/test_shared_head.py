import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from monai.losses import DiceCELoss
from torch.testing import assert_close

from lit_continual.modules import ClassRatioCrossEntropy, Segmenter, SharedHead
from lit_continual.segmentation.loss_of_heads import loss_of_heads
from lit_continual.segmentation.merged_background import merged_background

pytestmark = pytest.mark.filterwarnings(r"ignore:You are trying to `self\.log")  # steps called without a trainer
UNET = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2], "norm": "INSTANCE"}


@pytest.fixture
def features():
    return torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def head():
    torch.manual_seed(0)
    return SharedHead(5, 2, [["humerus"], ["scapula", "clavicle"]])


def segmenter(**options):
    torch.manual_seed(0)
    return Segmenter(UNET, features=4, **{"heads": "shared", "classes": [["a"]], **options})


def batch(classes):
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 2, (len(classes), 1, 8, 8), generator=generator, dtype=torch.uint8)
    return {"image": torch.randn(len(classes), 1, 8, 8, generator=generator), "label": label, "classes": classes}


@pytest.mark.parametrize("groups", [[["ulna"]], [["ulna", "radius"], ["skull"]]])
def test_growing_keeps_the_probabilities_of_old_classes_and_splits_the_background(head, features, groups):
    for group in groups:
        before, parameters = head(features).softmax(1), copy.deepcopy(head.state_dict())
        head.grow(group)
        after = head(features).softmax(1)
        old = before.shape[1]
        assert_close(after[:, 1:old], before[:, 1:])
        share = before[:, :1] / (len(group) + 1)
        assert_close(after[:, :1], share)
        assert_close(after[:, old:], share.expand(-1, len(group), -1, -1))
        assert_close({name: head.state_dict()[name] for name in parameters}, parameters, rtol=0, atol=0)


def test_the_background_and_a_new_class_are_those_of_mib(features):
    """Weights w_b, and biases of both b_b - log(n + 1), written out as one convolution."""
    torch.manual_seed(0)
    head = SharedHead(5, 2, [["a"]])
    weight, bias = head.layers[0].weight.detach(), head.layers[0].bias.detach()
    head.grow(["b", "c"])
    shared = bias[:1] - torch.log(torch.tensor(3.0))
    weight, bias = torch.cat([weight, weight[:1], weight[:1]]), torch.cat([shared, bias[1:], shared, shared])
    assert_close(head(features), torch.nn.functional.conv2d(features, weight, bias))


def test_shrinking_gives_the_old_outputs_bit_for_bit(head, features):
    old = head(features)
    head.grow(["ulna"])
    head.grow(["radius"])
    with torch.no_grad():
        head.layers[2].weight.normal_()
    head.shrink(4)
    assert torch.equal(head(features), old)
    assert head.classes == [["humerus"], ["scapula", "clavicle"]]
    with pytest.raises(ValueError, match=r"The head has had \[2, 4\] channels, not 3"):
        head.shrink(3)


def test_a_new_group_takes_device_and_dtype_of_the_old(head):
    head.double().grow(["ulna"])
    assert {p.dtype for p in head.parameters()} == {torch.float64}


@pytest.mark.parametrize("classes", [[], ["scapula"], ["ulna", "ulna"], ["ulna", "humerus"]])
def test_a_head_grows_by_new_names(head, classes):
    with pytest.raises(ValueError, match="A head needs new class names"):
        head.grow(classes)
    assert len(head.layers) == 2


def test_masks_labels_and_probabilities_are_those_of_one_softmax(head):
    logits = 5 * torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    chances = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert_close(head.probabilities(logits), chances[:, 1:])
    assert torch.equal(head.labels(logits), chances.argmax(1))
    assert torch.equal(head.masks(logits), torch.stack([chances.argmax(1) == c for c in (1, 2, 3)], 1))
    assert head.masks(logits).sum(1).max() == 1  # classes exclude each other


def test_three_dimensions():
    head = SharedHead(4, 3, [["a", "b"]])
    head.grow(["c"])
    assert head(torch.zeros(1, 4, 3, 5, 7)).shape == (1, 4, 3, 5, 7)


@pytest.mark.parametrize("hidden", [[], [1], [3, 1], [1, 2, 3]])
def test_a_merged_background_has_the_sum_of_the_probabilities(hidden):
    logits = 4 * torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    chances = logits.softmax(1)
    merged = merged_background(logits, hidden).softmax(1)
    assert_close(merged[:, 0], chances[:, [0, *hidden]].sum(1))
    assert_close(merged[:, 1:], chances[:, [c for c in (1, 2, 3) if c not in hidden]])


def test_the_loss_takes_labels_as_they_are():
    module, loss = segmenter(classes=[["a"], ["b"]]), DiceCELoss(softmax=True, to_onehot_y=True)
    mixed = batch([("a",), ("b",), (), ("b", "a")])
    mixed["label"][3, 0, 0] = 2
    logits, label = module(mixed["image"]), mixed["label"].long()
    targets = [label[:1], 2 * label[1:2], None, torch.tensor([0, 2, 1])[label[3:]]]
    alone = [loss(logits[i : i + 1], t) for i, t in enumerate(targets) if t is not None]
    assert_close(module.training_step(mixed, 0)["loss"], sum(alone) / 4)


def test_the_unbiased_loss_sums_what_is_not_revealed_with_the_background():
    module, loss = segmenter(classes=[["a"], ["b", "c"]]), DiceCELoss(softmax=True, to_onehot_y=True)
    given = batch([("b",), ("a", "b", "c")])
    given["label"][1, 0, :2] = 3
    logits = module(given["image"])
    found = loss_of_heads(loss, module.heads.unbiased_terms, logits, given["label"], given["classes"])
    background = logits[:1, [0, 1, 3]].exp().sum(1, keepdim=True).log()
    first = loss(torch.cat([background, logits[:1, 2:3]], 1), given["label"][:1])
    assert_close(found, (first + loss(logits[1:], given["label"][1:])) / 2)


def test_a_checkpoint_brings_its_shared_head(tmp_path, trainer):
    module = segmenter()
    module.grow(["b", "c"])
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1)
    trainer().strategy.connect(module)
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "model.ckpt")
    assert content["hyper_parameters"]["heads"] == "shared"
    loaded = Segmenter.load_from_checkpoint(tmp_path / "model.ckpt")
    image = batch([("a",)])["image"]
    assert torch.equal(loaded(image), module.eval()(image))
    assert loaded.classes == ["a", "b", "c"]
    fresh = segmenter(classes=[])
    fresh.on_load_checkpoint(content)
    fresh.load_state_dict(content["state_dict"])
    assert torch.equal(fresh.eval()(image), loaded(image))
    with pytest.raises(ValueError, match=r"has shared heads, the model separate. Set `heads: shared`"):
        segmenter(heads="separate").on_load_checkpoint(content)
    with pytest.raises(ValueError, match=r"has the heads \[\['a'\], \['b', 'c'\]\], the model \[\['z'\]\]"):
        segmenter(classes=[["z"]]).on_load_checkpoint(content)


def test_separate_heads_may_be_named_in_either_place():
    for options in ({"heads": [["a"], ["b"]], "classes": []}, {"heads": "separate", "classes": [["a"], ["b"]]}):
        module = segmenter(**options)
        assert module.head_channels == [[0, 1], [2, 3]]
        assert module.hparams["heads"] == [["a"], ["b"]]


def test_heads_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`heads` must be 'separate', 'shared' or .*, got 'sharde'"):
        segmenter(heads="sharde")
    with pytest.raises(ValueError, match="Name classes in `heads` or in `classes`, not in both"):
        segmenter(heads=[["a"]], classes=[["b"]])
    with pytest.raises(MisconfigurationException, match=r"`ClassRatioCrossEntropy` weighs .* Use `heads: separate`"):
        segmenter(loss=ClassRatioCrossEntropy())
