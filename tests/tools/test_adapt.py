import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.cli import main
from lit_continual.data import PetScanner, pet_phantom, read_noisy_pair
from lit_continual.files.folder_lock import FolderLock
from lit_continual.modules import Denoiser
from lit_continual.runs.checkpoints.checkpoint import Checkpoint

AFFINE = np.array([[-4.0, 0, 0, 10], [0, 4, 0, -7], [0, 0, 5, 3], [0, 0, 0, 1]])


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    module = Denoiser({"_target_": "DnCNN", "features": 6, "depth": 4})
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save({**content, "optimizer_states": [{"state": {}}], "callbacks": {"Other": {}}}, tmp_path / "model.ckpt")
    return str(tmp_path / "model.ckpt")


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    x, y, z = np.indices((20, 18, 6)) - np.array([10, 9, 3])[:, None, None, None]
    truth = 1.0 * (x**2 + y**2 < 60) + 4.0 * (x**2 + (y - 3) ** 2 + z**2 < 9)
    return (truth[..., None] + rng.normal(0, 0.5, (20, 18, 6, 4))).astype(np.float32)


@pytest.fixture
def study(tmp_path, frames):
    nib.save(nib.Nifti1Image(frames, AFFINE), tmp_path / "frames.nii.gz")
    return str(tmp_path / "frames.nii.gz")


def run(checkpoint, study, tmp_path, *options):
    fast = ["--epochs=6", "--lr=0.01", "--accelerator=cpu"]
    main(["adapt", checkpoint, study, f"--output={tmp_path / 'adapted'}", *fast, *options])
    return tmp_path / "adapted"


def test_writes_the_denoised_study_and_the_adapted_network_and_leaves_the_original(checkpoint, study, tmp_path, frames):
    with open(checkpoint, "rb") as file:
        original = file.read()
    folder = run(checkpoint, study, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["adapted.png", "frames.nii.gz", "model.ckpt"]
    with open(checkpoint, "rb") as file:
        assert file.read() == original
    before, after = Checkpoint(checkpoint).module(Denoiser), Checkpoint(folder / "model.ckpt").module(Denoiser)
    assert not any(
        torch.equal(a, b) for a, b in zip(before.network.parameters(), after.network.parameters(), strict=True)
    )
    image = nib.load(folder / "frames.nii.gz")
    np.testing.assert_allclose(image.affine, AFFINE)
    whole = torch.from_numpy(frames).mean(-1).movedim(-1, 0)
    with torch.no_grad():
        expected = after.infer(whole[None])[0].movedim(0, -1)
    np.testing.assert_allclose(image.get_fdata(), expected, atol=1e-5)
    content = torch.load(folder / "model.ckpt", weights_only=True)
    assert content.keys() == {"state_dict", "hyper_parameters", "callbacks", "lit_continual"}


@pytest.mark.usefixtures("undrawn")
def test_with_a_threshold_only_redundant_kernels_move(checkpoint, study, tmp_path):
    folder = run(checkpoint, study, tmp_path, "--phi=0.6")
    before, after = (
        Checkpoint(checkpoint).module(Denoiser).network,
        Checkpoint(folder / "model.ckpt").module(Denoiser).network,
    )
    masks = torch.load(folder / "model.ckpt", weights_only=True)["callbacks"]["TargetedGradientDescent[network]"][
        "masks"
    ]
    moved = 0
    for name, old in before.state_dict().items():
        new, free = after.state_dict()[name], masks[name].expand_as(old)
        assert torch.equal(new[~free], old[~free])
        moved += int((new != old).sum())
    assert moved


@pytest.mark.usefixtures("undrawn")
def test_the_same_seed_makes_the_same_network(checkpoint, study, tmp_path):
    states = [Checkpoint(run(checkpoint, study, tmp_path) / "model.ckpt").state_dict for _ in range(2)]
    assert all(map(torch.equal, states[0].values(), states[1].values()))


def test_frames_and_files_make_the_same_halves(study, tmp_path, frames):
    for r in range(4):
        (tmp_path / "files").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(frames[..., r], AFFINE), tmp_path / f"files/frame_{'abcd'[r]}.nii.gz")
    for pair in (read_noisy_pair(study), read_noisy_pair(tmp_path / "files")):
        np.testing.assert_allclose(pair.first, np.moveaxis(frames[..., ::2].mean(-1), -1, 0), atol=1e-6)
        np.testing.assert_allclose(pair.second, np.moveaxis(frames[..., 1::2].mean(-1), -1, 0), atol=1e-6)
        np.testing.assert_allclose(pair.whole, np.moveaxis(frames.mean(-1), -1, 0), atol=1e-6)


def acquisition(path, counts=None, **options):
    phantom = pet_phantom(0, size=32, depth=8)
    scanner, rng = PetScanner(32, phantom.pixel), np.random.default_rng(0)
    planes = zip(phantom.activity[:2], phantom.attenuation[:2], strict=True)
    found = [scanner.counts(a, mu, 120, rng) for a, mu in planes]
    facts = {"attenuation": phantom.attenuation[:2], "pixel": phantom.pixel, "thickness": 5.0, "seconds": 120}
    np.savez(path, counts=found if counts is None else counts(np.array(found)), version="v2", **facts, **options)
    return phantom


@pytest.mark.usefixtures("undrawn")
def test_an_acquisition_is_split_count_by_count(checkpoint, tmp_path):
    phantom = acquisition(tmp_path / "scan.npz")
    pair = read_noisy_pair(tmp_path / "scan.npz")
    body = torch.from_numpy(phantom.attenuation[:2] > 0)
    for volume in (pair.first, pair.second, pair.whole):
        assert volume[body].mean().item() == pytest.approx(phantom.activity[:2][body.numpy()].mean(), rel=0.15)
    apart, off = pair.first - pair.second, (pair.first + pair.second) / 2 - pair.whole
    assert off[body].std() < 0.5 * apart[body].std()  # together they are the whole
    folder = run(checkpoint, str(tmp_path / "scan.npz"), tmp_path, "--epochs=1")
    assert nib.load(folder / "scan.nii.gz").header.get_zooms() == (15, 15, 5)


def test_bad_input(checkpoint, study, tmp_path, frames):
    nib.save(nib.Nifti1Image(frames[..., 0], AFFINE), tmp_path / "one.nii.gz")
    with pytest.raises(
        ValueError, match=r"one.nii.gz holds one noise realisation only, and Noise2Noise learns from two"
    ):
        run(checkpoint, str(tmp_path / "one.nii.gz"), tmp_path)
    (tmp_path / "files").mkdir()
    for name, affine in (("a", AFFINE), ("b", np.diag([4, 4, 5, 1.0]))):
        nib.save(nib.Nifti1Image(frames[..., 0], affine), tmp_path / f"files/{name}.nii.gz")
    with pytest.raises(ValueError, match=r"b.nii.gz and .*a.nii.gz are not on one grid"):
        run(checkpoint, str(tmp_path / "files"), tmp_path)
    acquisition(tmp_path / "negative.npz", lambda counts: counts - 1)
    with pytest.raises(ValueError, match=r"negative.npz cannot be split into halves: Counts .* not negative"):
        run(checkpoint, str(tmp_path / "negative.npz"), tmp_path)
    np.savez(tmp_path / "empty.npz", counts=np.zeros(3))
    with pytest.raises(ValueError, match=r"empty.npz is no acquisition .* It needs counts, attenuation"):
        run(checkpoint, str(tmp_path / "empty.npz"), tmp_path)
    with pytest.raises(ValueError, match=r"would be overwritten. Choose another --output"):
        run(checkpoint, study, tmp_path, f"--output={tmp_path}")
    with pytest.raises(ValueError, match=r"`phi` must lie in \[0, 1\], got 1.5"):
        run(checkpoint, study, tmp_path, "--phi=1.5")
    assert not (tmp_path / "adapted").exists()


@pytest.mark.usefixtures("undrawn")
def test_an_adaptation_never_falls_on_the_study_nor_on_another(checkpoint, study, tmp_path, frames):
    fast = ["--epochs=1", "--accelerator=cpu"]
    with open(study, "rb") as file:
        original = file.read()
    (tmp_path / "there").symlink_to(tmp_path)
    for output in (tmp_path, tmp_path / "there"):
        with pytest.raises(ValueError, match=r"would be overwritten. Choose another --output"):
            main(["adapt", str(shutil.copy(checkpoint, tmp_path / "net.ckpt")), study, f"--output={output}", *fast])
    (tmp_path / "files").mkdir()
    for r in range(2):
        nib.save(nib.Nifti1Image(frames[..., r], AFFINE), tmp_path / f"files/{r}.nii.gz")
    with pytest.raises(ValueError, match=r"would be overwritten. Choose another --output"):
        main(["adapt", checkpoint, str(tmp_path / "files"), f"--output={tmp_path / 'files'}", *fast])
    with open(study, "rb") as file:
        assert file.read() == original
    run(checkpoint, study, tmp_path, "--epochs=1")
    run(checkpoint, study, tmp_path, "--epochs=1")  # makes the same again
    with pytest.raises(ValueError, match=r"model.ckpt and 2 more files are there already. Add --overwrite"):
        run(checkpoint, study, tmp_path, "--epochs=2")
    run(checkpoint, study, tmp_path, "--epochs=2", "--overwrite")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--epochs=-1", "`epochs` must be 0 or more, got -1"),
        ("--batch_size=0", "`batch_size` must be 1 or more"),
        ("--seed=-1", "`seed` must be 0 or more"),
        ("--lr=-1", "`lr` must be above 0, got -1"),
        ("--lr=0", "`lr` must be above 0, got 0"),
        ("--lr=1e38", r"`lr` must be above 0, got 1e\+38, and at most 1e\+30"),
        (f"--seed={10**30}", "`seed` must be at most 4294967295, got 10+"),
        ("--accelerator=gup", "The adaptation cannot run: You selected an invalid accelerator"),
    ],
)
def test_numbers_that_cannot_be(checkpoint, study, tmp_path, option, said):
    with pytest.raises(ValueError, match=said):
        run(checkpoint, study, tmp_path, option)
    assert not (tmp_path / "adapted").exists()


def tiny_acquisition(tmp_path, **changes):
    lines = PetScanner(8, 4.0).system.shape[0]
    known = {"counts": np.full((2, lines), 3.0), "attenuation": np.zeros((2, 8, 8)), "version": np.array("v2")}
    known |= dict.fromkeys(("pixel", "thickness", "seconds"), np.array(4.0))
    np.savez(tmp_path / "study.npz", **{**known, **changes})
    return str(tmp_path / "study.npz")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attenuation": np.full((2, 8, 8), np.nan)}, r"answers .*study.npz with numbers that are nan or infinite"),
        ({"attenuation": np.full((2, 8, 8), -1e6)}, r"answers .*study.npz with numbers that are nan or infinite"),
        ({"counts": np.zeros((0, 9)), "attenuation": np.zeros((0, 8, 8))}, "study.npz is no acquisition"),
        ({"attenuation": np.zeros((2, 4000, 4000), np.uint8)}, "study.npz is no acquisition"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value", "ignore:divide by zero")
def test_what_is_no_answer_is_written_nowhere(checkpoint, tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        run(checkpoint, tiny_acquisition(tmp_path, **changes), tmp_path, "--epochs=1")
    assert not (tmp_path / "adapted").exists()


def test_a_training_that_ends_in_no_numbers_is_written_nowhere(checkpoint, study, tmp_path):
    with pytest.raises(ValueError, match=r"The adapted network answers with nan or infinite numbers. Choose a smaller"):
        run(checkpoint, study, tmp_path, "--epochs=2", "--lr=1e25")
    assert not (tmp_path / "adapted").exists()


def test_two_processes_do_not_mix_in_one_folder(checkpoint, study, tmp_path):
    with (
        FolderLock(tmp_path / "adapted").held(),
        pytest.raises(ValueError, match="adapted is being written by process"),
    ):
        run(checkpoint, study, tmp_path, "--epochs=1")
    left = tmp_path / "adapted/.model.ckpt.1.part"
    left.parent.mkdir()
    left.touch()
    assert not list(run(checkpoint, study, tmp_path, "--epochs=1").glob(".*"))
