import copy
from functools import cache, partial

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from monai.losses import DiceCELoss
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lit_continual.data import collate
from lit_continual.methods.pretrained.load_pretrained import load_pretrained
from lit_continual.modules import HydraNet, Segmenter

NETWORK = {"_target_": "DenseNet121UNet", "decoder_channels": [8, 8, 8, 8, 8]}
HEADS = [["anterior", "posterior"], ["tumour"]]
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def hydra(**arguments):
    if not arguments:
        return copy.deepcopy(_plain())
    torch.manual_seed(0)
    return HydraNet(NETWORK, features=4, heads=HEADS, **arguments)


@cache
def _plain():
    """What is copied faster than it draws the weights of 121 layers."""
    torch.manual_seed(0)
    return HydraNet(NETWORK, features=4, heads=HEADS)


def samples(size, classes, count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.rand(1, *size, generator=generator),
            "label": torch.randint(0, len(classes) + 1, (1, *size), generator=generator),
            "classes": tuple(classes),
        }
        for _ in range(count)
    ]


def batch_of(items):
    return collate(items)


class Tasks(LightningDataModule):
    patch_size = (64, 64)
    head_classes = HEADS
    classes = {"anterior": 1, "posterior": 2, "tumour": 1}  # noqa: RUF012

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def train_dataloader(self):
        loaders = {
            "hippocampus": DataLoader(samples(self.sizes[0], HEADS[0], 4, 0), batch_size=2, collate_fn=collate),
            "sts": DataLoader(samples(self.sizes[1], HEADS[1], 9, 1), batch_size=3, collate_fn=collate),
        }
        return CombinedLoader(loaders, "max_size_cycle")


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [((64, 64), (64, 64)), ((32, 64), (64, 48))], ids=["one size", "two sizes"])
def test_tasks_of_any_sizes_are_learnt_in_one_fit(trainer, sizes):
    torch.manual_seed(0)
    module = HydraNet(NETWORK, features=4, optimizer=partial(torch.optim.SGD, lr=0.1))
    fitted = trainer()
    before = module.body["encoder"].features.conv0.weight.detach().clone()
    fitted.fit(module, datamodule=Tasks(sizes))
    assert module.heads.classes == HEADS
    assert fitted.global_step == 3
    logs = fitted.callback_metrics
    mean = (logs["train/loss/hippocampus"] + logs["train/loss/sts"]) / 2
    assert_close(logs["train/loss"], mean)
    assert not torch.equal(module.body["encoder"].features.conv0.weight, before)
    assert len(module.decoders) == 2


def test_the_loss_is_the_mean_over_tasks_written_by_hand():
    module = hydra()
    module.log_dict = module.log = lambda *args, **kwargs: None
    batch = {
        "a": batch_of(samples((64, 64), HEADS[0], 2, 0)),
        "b": batch_of(samples((64, 64), HEADS[1], 3, 1)),
    }
    twin = copy.deepcopy(module)
    loss = module.training_step(batch, 0)["loss"]

    features = twin.body["encoder"](torch.cat([batch["a"]["image"], batch["b"]["image"]]))
    loss_of = DiceCELoss(softmax=True, to_onehot_y=True)
    first = twin.heads.layers[0](twin.decoders[0]([f[:2] for f in features]))
    second = twin.heads.layers[1](twin.decoders[1]([f[2:] for f in features]))
    by_hand = (loss_of(first, batch["a"]["label"]) + loss_of(second, batch["b"]["label"])) / 2
    assert_close(loss, by_hand)
    assert_close(module.body["encoder"].features.norm0.running_mean, twin.body["encoder"].features.norm0.running_mean)


def test_each_task_trains_its_own_decoder_and_the_shared_encoder():
    module = hydra()
    module.log_dict = module.log = lambda *args, **kwargs: None
    module.training_step({"b": batch_of(samples((64, 64), HEADS[1], 2, 0))}, 0)["loss"].backward()
    parts = {"encoder": module.body, "own": module.decoders[1], "other": module.decoders[0]}
    parts |= {"own head": module.heads.layers[1], "other head": module.heads.layers[0]}
    gradients = {name: [p.grad for p in part.parameters() if p.grad is not None] for name, part in parts.items()}
    assert {name for name, found in gradients.items() if any(g.any() for g in found)} == {"encoder", "own", "own head"}


def test_a_new_task_leaves_the_others_as_they_are():
    module = hydra().eval()
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        before = module(image)
        module.grow(["mandible"])
        assert torch.equal(module.eval()(image)[:, :5], before)
    assert module.head_channels == [[0, 1, 2], [3, 4], [5, 6]]


@pytest.fixture
def one_process():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True}, {"static_graph": True}, None])
def test_a_decoder_without_a_batch_is_refused_where_processes_wait_for_its_gradient(options, one_process):
    trainer, module = Trainer(accelerator="cpu", devices=1, logger=False), hydra()
    trainer.strategy.connect(module)
    module.trainer = trainer
    if options is not None:
        trainer.strategy.model = DistributedDataParallel(module, **options)  # as strategies do before a fit starts
    data = Tasks([(64, 64), (64, 64)])
    data.head_classes = HEADS[1:]
    trainer._data_connector.attach_datamodule(module, data)
    if options != {}:
        module.on_fit_start()
        return
    with pytest.raises(MisconfigurationException, match="The decoder of anterior, posterior has no batch in this fit"):
        module.on_fit_start()
    data.head_classes = HEADS
    module.on_fit_start()


def decoders_run(module):
    """A list that every decoder adds its number to when it runs."""
    ran = []
    for i, decoder in enumerate(module.decoders):
        decoder.register_forward_hook(lambda *_, i=i: ran.append(i))
    return ran


@pytest.mark.slow
def test_a_volume_is_scored_by_its_own_decoder_alone():
    module, volume = hydra(roi_size=[32, 32]).eval(), batch_of(samples((32, 32, 2), HEADS[1], 1, 0))
    volume |= {"spacing": [(1.0, 1.0, 1.0)]}
    module.to_source_grid = lambda logits, batch: logits
    ran = decoders_run(module)
    with torch.no_grad():
        module.trainer = Trainer(accelerator="cpu", logger=False)
        module.on_test_epoch_start()
        found = module.test_step(volume, 0)
        assert set(ran) == {1}
        assert set(found["prediction"]) == {"tumour"}
        whole = module.masks(module.infer(volume["image"]))
    assert set(ran) == {0, 1}
    assert torch.equal(found["prediction"]["tumour"], whole[0, module.classes.index("tumour")])


def test_post_processing_sees_the_classes_of_every_decoder():
    module = hydra(roi_size=[32, 32], post=[{"_target_": "RemoveOutside", "label": 3, "organ": [1]}]).eval()
    volume = batch_of(samples((32, 32, 2), HEADS[1], 1, 0)) | {"spacing": [(1.0, 1.0, 1.0)]}
    module.to_source_grid = lambda logits, batch: logits
    ran = decoders_run(module)
    with torch.no_grad():
        module.trainer = Trainer(accelerator="cpu", logger=False)
        module.on_test_epoch_start()
        module.test_step(volume, 0)
    assert set(ran) == {0, 1}  # the organ is of the other task


def test_a_checkpoint_brings_its_tasks(trainer, tmp_path):
    module = HydraNet(NETWORK, features=4)
    fitted = trainer(limit_train_batches=1)
    fitted.fit(module, datamodule=Tasks(((64, 64), (64, 64))))
    fitted.save_checkpoint(tmp_path / "hydra.ckpt")
    loaded = HydraNet.load_from_checkpoint(tmp_path / "hydra.ckpt", weights_only=True)
    assert loaded.heads.classes == HEADS
    assert_close(dict(loaded.state_dict()), dict(module.state_dict()), rtol=0, atol=0)


def test_the_encoder_is_exported_as_the_source_of_a_transfer(tmp_path):
    module = hydra()
    module.export_encoder(tmp_path / "encoder.pt")
    target = Segmenter(NETWORK, features=8, heads=[["infection"]])
    report = load_pretrained(target, tmp_path / "encoder.pt")
    encoder = dict(module.body["encoder"].state_dict())
    assert report.count("renamed") == len(encoder)
    assert {row.outcome for row in report.rows} == {"renamed", "missing"}
    assert_close(dict(target.body.encoder.state_dict()), encoder, rtol=0, atol=0)


def test_bad_input_is_named():
    small = {"_target_": "BasicUNet", "spatial_dims": 2, "features": [8] * 6}
    with pytest.raises(ValueError, match=r"`network` must have an `encoder` and a `decoder`, and BasicUNet has not"):
        HydraNet(small, features=8)
    module = hydra()
    part = batch_of(samples((64, 64), ["mandible"], 2, 0))
    with pytest.raises(ValueError, match=r"Task neck gave samples of \[\('mandible',\)\].*for \[\['anterior'"):
        module.training_step({"neck": part}, 0)


def test_the_loss_may_be_weighted():
    weight = torch.tensor([1.0, 5.0, 0.2])
    module = hydra(loss=Weighted(weight))
    module.log_dict = module.log = lambda *args, **kwargs: None
    part = batch_of(samples((64, 64), HEADS[0], 2, 0))
    logits = module.heads.layers[0](module.decoders[0](module.body["encoder"](part["image"])))
    nll = -logits.log_softmax(1).gather(1, part["label"])
    by_hand = (weight[part["label"]] * nll).sum() / weight[part["label"]].sum()
    assert_close(module.training_step({"a": part}, 0)["loss"], by_hand)
    assert (by_hand - nll.mean()).abs() > 0.01  # of equal weights


class Weighted(nn.CrossEntropyLoss):
    def forward(self, logits, label):
        return super().forward(logits, label[:, 0])


def test_the_loss_of_a_task_that_is_annotated_in_part_is_that_of_the_voxels_that_are():
    module, part = hydra().eval(), collate(samples((32, 32), HEADS[1], 2, 0))
    module.log = module.log_dict = lambda *args, **options: None  # there is no trainer
    part["annotated"] = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    part["annotated"][0, :, 5:9] = part["annotated"][1, :, :, 3] = True
    found = module.training_step({"sts": part}, 0)["loss"]
    known = part["annotated"][:, 0]
    logits = module(part["image"])[:, module.heads.channels[1]].movedim(1, -1)[known].T[None]
    expected = DiceCELoss(softmax=True, to_onehot_y=True)(logits, part["label"][:, 0][known][None, None])
    assert_close(found, expected)
    part["label"][~part["annotated"]] = 0
    assert_close(module.training_step({"sts": part}, 0)["loss"], expected)
