import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lit_continual.callbacks import TargetedGradientDescent
from lit_continual.modules import Denoiser

SMALL = {"_target_": "DnCNN", "features": 4, "depth": 3}


class Pairs(Dataset):
    def __init__(self, *keys):
        generator = torch.Generator().manual_seed(0)
        sizes = {"image": 3, "twin": 3, "target": 1}
        self.data = [{k: torch.rand(sizes[k], 16, 16, generator=generator) for k in keys} for _ in range(6)]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def batch_of(*keys):
    return next(iter(DataLoader(Pairs(*keys), batch_size=6)))


@pytest.fixture
def module():
    module = Denoiser(SMALL).eval()
    module.log = lambda *args, **options: None  # there is no trainer
    return module


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", enable_model_summary=False, **quiet, **options)


def test_noise2noise_learns_in_both_directions(module):
    batch = batch_of("image", "twin")
    one, two = batch["image"], batch["twin"]
    expected = (mse_loss(module(one), two[:, 1:2]) + mse_loss(module(two), one[:, 1:2])) / 2
    torch.testing.assert_close(module.training_step(batch, 0), expected)
    swapped = module.training_step({"image": two, "twin": one}, 0)
    torch.testing.assert_close(swapped, expected)


def test_a_target_is_used_where_there_is_one(module):
    module.loss, batch = torch.nn.L1Loss(), batch_of("image", "twin", "target")
    torch.testing.assert_close(module.training_step(batch, 0), (module(batch["image"]) - batch["target"]).abs().mean())


def test_reports_psnr_and_ssim_over_all_batches(tmp_path):
    module, data = Denoiser(SMALL, data_range=2.0), Pairs("image", "target")
    batch = batch_of("image", "target")
    fitting = trainer(tmp_path)
    scores = fitting.test(module, DataLoader(data, batch_size=2), verbose=False)[0]
    with torch.no_grad():
        denoised = module.eval()(batch["image"])
    assert scores["test/psnr"] == pytest.approx(
        peak_signal_noise_ratio(denoised, batch["target"], data_range=2.0).item(), abs=1e-4
    )
    ssim = structural_similarity_index_measure(denoised, batch["target"], data_range=2.0)
    assert scores["test/ssim"] == pytest.approx(ssim.item(), abs=1e-5)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_trains_under_targeted_gradient_descent(tmp_path):
    module = Denoiser(SMALL)
    last = module.network.blocks[-1][0].weight.detach().clone()
    first = module.network.blocks[0][0].weight.detach().clone()
    callback = TargetedGradientDescent(share=0.1, network="network")
    trainer(tmp_path, callbacks=callback, max_epochs=1).fit(module, DataLoader(Pairs("image", "twin"), batch_size=2))
    assert torch.equal(module.network.blocks[-1][0].weight, last)
    assert not torch.equal(module.network.blocks[0][0].weight, first)


def test_any_network_of_monai():
    spec = {"spatial_dims": 2, "in_channels": 3, "out_channels": 1, "features": [4] * 6}
    module = Denoiser({"_target_": "BasicUNet", **spec})
    assert module(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)
    assert module.hparams["network"]["_target_"] == "BasicUNet"


def test_bad_input():
    with pytest.raises(ValueError, match="needs `target` or `twin`, and this one has image"):
        Denoiser(SMALL).training_step(batch_of("image"), 0)
    with pytest.raises(ValueError, match="There is no `DnCN`"):
        Denoiser("DnCN")
