from math import nan

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule, Trainer
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lit_continual.callbacks import TargetedGradientDescent
from lit_continual.denoising.study_scores import StudyScores
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


def test_reports_psnr_and_ssim_over_all_batches(trainer):
    module, data = Denoiser(SMALL, data_range=2.0), Pairs("image", "target")
    batch = batch_of("image", "target")
    fitting = trainer()
    scores = fitting.test(module, DataLoader(data, batch_size=2), verbose=False)[0]
    with torch.no_grad():
        denoised = module.eval()(batch["image"])
    assert scores["test/psnr"] == pytest.approx(
        peak_signal_noise_ratio(denoised, batch["target"], data_range=2.0).item(), abs=1e-4
    )
    ssim = structural_similarity_index_measure(denoised, batch["target"], data_range=2.0)
    assert scores["test/ssim"] == pytest.approx(ssim.item(), abs=1e-5)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_trains_under_targeted_gradient_descent(trainer):
    torch.manual_seed(0)  # of other weights it may be the kernels of the first block that are useful
    module = Denoiser(SMALL)
    last = module.network.blocks[-1][0].weight.detach().clone()
    first = module.network.blocks[0][0].weight.detach().clone()
    callback = TargetedGradientDescent(share=0.1, network="network")
    trainer(callbacks=callback).fit(module, DataLoader(Pairs("image", "twin"), batch_size=2))
    assert torch.equal(module.network.blocks[-1][0].weight, last)
    assert not torch.equal(module.network.blocks[0][0].weight, first)


def test_a_volume_is_denoised_slice_by_slice_with_its_neighbours(module):
    volumes = torch.rand(2, 20, 12, 10, generator=torch.Generator().manual_seed(1))  # more than go through at once
    with torch.no_grad():
        found = module.infer(volumes)
        for r, z, around in ((0, 0, [0, 0, 1]), (1, 7, [6, 7, 8]), (1, 19, [18, 19, 19])):
            torch.testing.assert_close(found[r, z], module(volumes[r, around][None])[0, 0])


class Studies(LightningDataModule):
    """Two patients of one group and one of another, one of them without a lesion."""

    regions, groups = ("lesion", "liver"), ("low", "high")

    def test_dataloader(self):
        generator, studies = torch.Generator().manual_seed(0), []
        for patient, group in (("a", "low"), ("b", "low"), ("c", "high")):
            masks = {name: torch.rand(3, 16, 16, generator=generator) > 0.5 for name in self.regions}
            masks["lesion"] &= patient != "b"
            realisations, target = (torch.rand(*n, 3, 16, 16, generator=generator) for n in ((4,), ()))
            study = {"realisations": realisations, "target": target, "regions": masks}
            studies.append({**study, "patient": patient, "group": group})
        return DataLoader(studies)


def test_whole_studies_are_scored_by_region_and_by_group(trainer):
    module, data = Denoiser(SMALL, data_range=2.0).eval(), Studies()
    (scores,) = trainer().test(module, data, verbose=False)
    expected = {"psnr": [], "ssim": [], "lesion_bias": [], "lesion_cov": [], "liver_cov": [], "liver_rmse": []}
    for study in data.test_dataloader():
        with torch.no_grad():
            denoised = module.infer(study["realisations"][0])
        slices = denoised.reshape(12, 1, 16, 16), study["target"][0].repeat(4, 1, 1)[:, None]
        expected["psnr"].append(peak_signal_noise_ratio(*slices, data_range=2.0))
        expected["ssim"].append(structural_similarity_index_measure(*slices, data_range=2.0))
        for region, mask in study["regions"].items():
            values, truth = denoised[:, mask[0]].double().numpy(), study["target"][mask].double().numpy()
            bias = 100 * (values.mean() / truth.mean() - 1) if truth.size else nan
            cov = (100 * values.std(1) / values.mean(1)).mean() if truth.size else nan
            rmse = 100 * np.sqrt(((values.mean(0) - truth) ** 2).mean()) / truth.mean() if truth.size else nan
            for name, value in ((f"{region}_bias", bias), (f"{region}_cov", cov), (f"{region}_rmse", rmse)):
                expected.setdefault(name, []).append(value)
    for name, values in expected.items():
        found = torch.stack([torch.as_tensor(v).double() for v in values])
        assert scores[f"test/{name}"] == pytest.approx(found.nanmean().item(), rel=1e-4)
        assert scores[f"test/{name}/low"] == pytest.approx(found[:2].nanmean().item(), rel=1e-4)
        assert scores[f"test/{name}/high"] == pytest.approx(found[2].item(), rel=1e-4)


def rank_scores(rank, file, out):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    scores = StudyScores(["liver", "lesion"], ["low"], 2.0, "cpu")
    if rank == 0:
        mask = torch.ones(1, 2, 12, 12, dtype=torch.bool)
        batch = {"target": torch.ones(1, 2, 12, 12), "group": ["low"], "regions": {"liver": mask}}
        scores.update(torch.full((2, 2, 12, 12), 1.5), batch)
    torch.save(scores.compute(), f"{out}{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_without_a_study_or_a_region_gather_the_same(tmp_path):
    torch.multiprocessing.spawn(rank_scores, (tmp_path / "store", tmp_path / "rank"), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}", weights_only=True)
        assert found["liver_bias"] == found["liver_bias/low"] == 50
        assert found["psnr"] == pytest.approx(10 * np.log10(4 / 0.25))
        assert found["lesion_bias"].isnan()


def test_scores_of_no_study_ask_every_rank_and_are_nan(monkeypatch):
    asked = []
    compute = MeanMetric.compute
    monkeypatch.setattr(MeanMetric, "compute", lambda self: asked.append(self) or compute(self))
    found = StudyScores(["liver"], ["low"], 2.0, "cpu").compute()
    assert len(asked) == len(found) == 10
    assert all(value.isnan() for value in found.values())


def test_a_region_counts_the_same_however_large_and_not_without_activity():
    scores = StudyScores(["lesion"], [], 2.0, "cpu")
    for size, activity, truth in (
        (3, 1.0, 1.0),
        (9, 2.0, 1.0),
        (4, 1.0, 0.0),
    ):  # 0 %, 100 %, and nothing to compare with
        mask = torch.zeros(1, 2, 12, 12, dtype=torch.bool)
        mask.view(-1)[:size] = True
        batch = {"target": torch.full((1, 2, 12, 12), truth), "group": [""], "regions": {"lesion": mask}}
        scores.update(torch.full((2, 2, 12, 12), activity), batch)
    assert scores.compute()["lesion_bias"] == pytest.approx(50)


def test_a_report_is_shown_the_denoised_slice_and_the_last_region():
    module, data = Denoiser(SMALL, data_range=2.0).eval(), Studies()
    module.trainer = Trainer(accelerator="cpu", logger=False)
    module.trainer.datamodule = data
    module.on_test_epoch_start()
    for study in data.test_dataloader():
        with torch.no_grad():
            assert module.test_step(study, 0)["truth"] == {}  # nobody says how large a pixel is
            shown = module.test_step({**study, "pixel": [4.0]}, 0)
            denoised = module.infer(study["realisations"][0])[0]
        assert torch.equal(shown["image"], denoised.permute(1, 2, 0))
        assert torch.equal(shown["truth"]["liver"].permute(2, 0, 1), study["regions"]["liver"][0])
        assert not shown["prediction"]["liver"].any()
        assert shown["spacing"] == (4.0,) * 3


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
