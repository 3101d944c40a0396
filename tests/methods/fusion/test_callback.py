import copy
import json
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import WeightFusion
from lit_continual.cli import main
from tests.marks import slow_but

pytestmark = pytest.mark.filterwarnings("ignore:.* has no old network")  # in a first fit

FUSION = {"class_path": "WeightFusion", "init_args": {"share": 0.25, "statistics": "fused"}}


class Foreign(LightningModule):
    """Somebody's segmenter in 2D or 3D, with a list of heads."""

    def __init__(self, dims=2):
        super().__init__()
        torch.manual_seed(0)
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.dims = dims
        self.body = nn.Sequential(convolution(1, 4, 3, padding=1), norm(4), nn.ReLU())
        self.heads = nn.ModuleList([convolution(4, 2, 1)])

    def grow(self):
        torch.manual_seed(5)
        self.heads.append(type(self.heads[0])(4, 2, 1))

    def forward(self, image):
        return torch.cat([head(self.body(image)) for head in self.heads], 1)

    def training_step(self, batch, batch_idx):
        return sum(cross_entropy(logits, batch[1]) for logits in self(batch[0]).split(2, 1))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


def batches(seed, dims=2):
    image = torch.randn(8, 1, *[6] * dims, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(image, (image[:, 0] > seed / 2).long()), batch_size=4)


def mean(old, new, share):
    """By hand: what the old network does not have, and what counts, is the new one's."""
    return {
        name: (1 - share) * old[name] + share * value if name in old and value.is_floating_point() else value
        for name, value in new.items()
    }


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}],
    ids=["plain", "accumulated", "bf16"],
)
def test_a_second_fit_leaves_the_mean_and_a_new_head_as_it_was_found(trainer, dims, options):
    callback, module = WeightFusion(0.3, statistics="fused"), Foreign(dims)
    trainer(callbacks=callback).fit(module, batches(0, dims))
    old = state(module)
    module.grow()
    plain = copy.deepcopy(module)
    trainer(max_epochs=2, **options).fit(plain, batches(1, dims))
    fitted = trainer(callbacks=callback, max_epochs=2, **options)
    fitted.fit(module, batches(1, dims))
    assert_close(state(module), mean(old, state(plain), 0.3), rtol=1e-5, atol=1e-6)
    assert torch.equal(module.heads[1].weight, plain.heads[1].weight)
    assert module.body[1].num_batches_tracked == plain.body[1].num_batches_tracked
    assert fitted.callback_metrics["train/fusion_share"] == pytest.approx(0.3)


def test_the_weights_at_the_start_may_be_the_old_ones(trainer):
    module = Foreign()
    old, plain = state(module), Foreign()
    trainer().fit(plain, batches(1))
    trainer(callbacks=WeightFusion(0.8, old="start", statistics="fused")).fit(module, batches(1))
    assert_close(state(module), mean(old, state(plain), 0.8), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", [1, -1])
def test_an_average_of_the_weights_is_the_new_network(trainer, order):
    module, averaged = Foreign(), Foreign()
    old = state(module)
    trainer(callbacks=EMAWeightAveraging(decay=0.7), max_epochs=2).fit(averaged, batches(1))
    both = [WeightFusion(0.3, old="start", statistics="fused"), EMAWeightAveraging(decay=0.7)][::order]
    trainer(callbacks=both, max_epochs=2).fit(module, batches(1))
    assert_close(state(module), mean(old, state(averaged), 0.3), rtol=1e-5, atol=1e-6)


class Counted(Foreign):
    """Says which classes it has; a head grows when a fit starts."""

    def __init__(self):
        super().__init__()
        self.classes = ["liver", "spleen"]

    def setup(self, stage):
        if "tumour" not in self.classes:
            self.grow()
            self.classes.append("tumour")


@pytest.mark.parametrize("old", ["start", "last_fit"])
def test_classes_are_counted(trainer, old):
    module, callback = Counted(), WeightFusion("class_count", old=old, statistics="fused")
    before = state(module)
    if old == "last_fit":
        callback.follow(module)
    plain = copy.deepcopy(module)
    trainer().fit(plain, batches(1))
    trainer(callbacks=callback).fit(module, batches(1))
    assert_close(state(module), mean(before, state(plain), (1 / 3) ** 0.5), rtol=1e-5, atol=1e-6)
    with pytest.raises(MisconfigurationException, match="without a new class: `Counted` had 3 and has 3"):
        trainer(callbacks=callback).fit(module, batches(1))


def test_classes_are_counted_by_heads_too(trainer):
    module, callback = Foreign(), WeightFusion("class_count")
    module.head_channels = [[0, 1]]
    callback.follow(module)
    module.grow()
    module.head_channels = [[0, 1], [2, 3]]
    fitted = trainer(callbacks=callback)
    fitted.fit(module, batches(1))
    assert fitted.callback_metrics["train/fusion_share"] == pytest.approx(0.5**0.5)


def test_what_cannot_be_fused_is_refused_before_training(trainer):
    for arguments, message in (
        ({"share": 1.2}, r"`share` of the new network must be in \[0, 1\], got 1.2"),
        ({"share": "classes"}, "a number in .* or 'class_count', got 'classes'"),
        ({"old": "first"}, "`old` must be 'last_fit' or 'start', got 'first'"),
        ({"statistics": "new"}, "`statistics` must be 'measured' or 'fused', got 'new'"),
    ):
        with pytest.raises(ValueError, match=message):
            WeightFusion(**arguments)
    with pytest.raises(MisconfigurationException, match="`Foreign` has neither `classes` nor `head_channels`"):
        trainer(callbacks=WeightFusion("class_count")).fit(Foreign(), batches(0))
    callback, smaller = WeightFusion(), Foreign()
    callback.follow(Foreign())
    smaller.heads[0] = nn.Conv2d(4, 1, 1)
    with pytest.raises(ValueError, match=r"`heads.0.weight` had the shape \(2, 4, 1, 1\) and has \(1, 4, 1, 1\)"):
        trainer(callbacks=callback).fit(smaller, batches(0))


def test_the_only_fit_of_a_project_warns(trainer):
    with pytest.warns(UserWarning, match="no old network in this fit.*set `old='start'`"):
        trainer(callbacks=WeightFusion()).fit(Foreign(), batches(0))


def checkpoint(run, name):
    return torch.load(Path(run) / f"experiences/{name}/model.ckpt", weights_only=True)


@pytest.mark.parametrize("average", slow_but([False, True], True))
def test_the_checkpoint_of_a_stream_is_fused(stream, tmp_path, average):
    ema = [{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.7}}] if average else []
    path = stream(FUSION, *ema)
    main(["fit", "--config", path, "--trainer.max_epochs=1"])
    config = json.loads(Path(path).read_text())
    config["trainer"] |= {"callbacks": ema, "max_epochs": 1}
    Path(path).write_text(json.dumps(config))
    main(["fit", "--config", path, f"--trainer.default_root_dir={tmp_path / 'plain'}"])
    old, new = (checkpoint(tmp_path / "plain", name)["state_dict"] for name in ("0_ball", "1_box"))
    fused = checkpoint(tmp_path / "run", "1_box")
    assert_close(checkpoint(tmp_path / "run", "0_ball")["state_dict"], old, rtol=0, atol=0)
    assert_close(fused["state_dict"], mean(old, new, 0.25), rtol=1e-5, atol=1e-6)
    assert fused["callbacks"]["WeightFusion[fusion]"]["old"] == {}  # no second copy of the weights
    assert not {"averaging_state", "current_model_state"} & fused.keys()
