"""Toy models that nnunetv2 itself has written, on a CPU in a second, and images for them."""

import contextlib
import importlib.util
import io
import json
import warnings
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import torch

ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_conv_per_stage": 1,
        "n_conv_per_stage_decoder": 1,
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
OLD_PLANS = {  # from before version 2.4, as TotalSegmentator's are
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "unet_max_num_features": 8,
    "n_conv_per_stage_encoder": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "num_pool_per_axis": [2, 2, 2],
}


def configuration(
    dims=3, old=False, spacing=(4.0, 1.5, 1.5), normalisation="ZScoreNormalization", channels=1, stages=3
):
    """What plans say of one configuration, for windows of 8 x 16 x 16 or 16 x 16 voxels."""
    size = slice(3 - dims, None)
    resample = {
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
    }
    resample["resampling_fn_probabilities"] = "resample_data_or_seg_to_shape"
    image = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    resample["resampling_fn_data_kwargs"] = image
    resample["resampling_fn_seg_kwargs"] = {**image, "is_seg": True, "order": 1}
    resample["resampling_fn_probabilities_kwargs"] = {**image, "order": 1}
    kernels, strides = [[3] * dims] * stages, [[1] * dims, [1, 2, 2][size], *[[2] * dims] * (stages - 2)]
    if old:
        network = {**OLD_PLANS, "conv_kernel_sizes": kernels, "pool_op_kernel_sizes": strides}
        network["UNet_class_name"] = "PlainConvUNet" if old is True else old
    else:
        arguments = {**ARCHITECTURE["arch_kwargs"], "kernel_sizes": kernels, "strides": strides}
        arguments |= {"n_stages": stages, "features_per_stage": [4, *[8] * (stages - 1)]}
        arguments["conv_op"] = f"torch.nn.modules.conv.Conv{dims}d"
        arguments["norm_op"] = f"torch.nn.modules.instancenorm.InstanceNorm{dims}d"
        network = {"architecture": {**ARCHITECTURE, "arch_kwargs": arguments}}
    return {
        "data_identifier": "nnUNetPlans_toy",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 16, 16][size],
        "median_image_size_in_voxels": [8.0, 16.0, 16.0][size],
        "spacing": list(spacing)[size],
        "normalization_schemes": [normalisation] * channels,
        "use_mask_for_norm": [True] * channels,
        "batch_dice": False,
        **resample,
        **network,
    }


@contextlib.contextmanager
def quiet():
    """Leave what nnU-Net itself says unsaid."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


INTENSITIES = {"mean": 40.0, "std": 30.0, "percentile_00_5": -20.0, "percentile_99_5": 150.0, "max": 200, "min": -90}
LABELS = {"background": 0, "ball": 1, "box": 2}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Make a trained-model folder with random weights; keyword arguments go to the plans."""
    pytest.importorskip("nnunetv2", reason="needs nnunetv2, the extra nnunet")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")

    def make(
        name="Toy",
        seed=0,
        dims=3,
        labels=LABELS,
        transpose=(0, 1, 2),
        reader="SimpleITKIO",
        trainer="nnUNetTrainer",
        change=lambda plans, dataset: None,
        channels=1,
        mirror_axes=(0, 1),
        **given,
    ):
        from lit_continual.interop.nnunet.network import trainer_of  # nnU-Net's own look-up wants torchvision

        one = "3d_fullres" if dims == 3 else "2d"
        plans = {
            "dataset_name": f"Dataset001_{name}",
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": [4.0, 1.5, 1.5],
            "original_median_shape_after_transp": [8, 16, 16],
            "image_reader_writer": reader,
            "transpose_forward": list(transpose),
            "transpose_backward": list(np.argsort(transpose).tolist()),
            "configurations": {one: configuration(dims, channels=channels, **given)},
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {str(c): INTENSITIES for c in range(channels)},
        }
        dataset = {
            "channel_names": {str(c): "CT" for c in range(channels)},
            "labels": dict(labels),
            "numTraining": 3,
            "file_ending": ".nii.gz",
        }
        kind = trainer_of(trainer)
        torch.manual_seed(seed)
        cases = tmp_path / "preprocessed" / plans["dataset_name"] / "nnUNetPlans_toy"
        cases.mkdir(parents=True, exist_ok=True)
        (cases / "case.b2nd").touch()  # by which a trainer knows how to read cases
        with quiet(), without_torchvision():
            made = kind({**plans, "continue_training": False}, one, 0, dataset, torch.device("cpu"))
            made.initialize()
        made.inference_allowed_mirroring_axes = mirror_axes
        made._best_ema = np.float64(0.5)
        with torch.no_grad():
            for parameter in made.network.parameters():  # so that every class wins somewhere
                parameter.add_(0.3 * torch.randn(parameter.shape))
        folder = tmp_path / "results" / plans["dataset_name"] / f"{trainer}__nnUNetPlans__{one}"
        with quiet():
            made.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
        change(plans, dataset)
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(dataset))
        (folder / "dataset_fingerprint.json").write_text(json.dumps({"spacings": [[4.0, 1.5, 1.5]]}))
        return folder

    return make


OBLIQUE = np.array([[-1.2, 0.5, 0.0, 5.0], [0.5, 1.2, 0.0, -3.0], [0.0, 0.0, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def write_images(folder, shape=(24, 22, 9), affine=OBLIQUE, channels=1, count=2, suffix=".nii.gz"):
    """Noise with a bright ball, with a margin of zeros that is cropped."""
    folder.mkdir(parents=True)
    for case in range(count):
        rng = np.random.default_rng(case)
        x, y, z = np.indices(shape)
        ball = (x - 12) ** 2 + (y - 11) ** 2 + 4 * (z - 4) ** 2 < 30
        for channel in range(channels):
            array = rng.normal(40, 30, shape) + (channel + 1) * 60 * ball
            array[:3], array[:, -2:] = 0, 0
            image = nib.Nifti1Image(array.astype(np.int16), affine)
            image.set_sform(affine, 1)
            image.set_qform(affine, 1)
            nib.save(image, folder / f"case_{case}_{channel:04d}{suffix}")
    return folder


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def raw(tmp_path):
    """New cases in nnU-Net's layout, of which only the ball is annotated, as ``cone``."""
    folder = tmp_path / "Dataset002_New"
    write_images(folder / "imagesTr", count=5)
    (folder / "labelsTr").mkdir()
    x, y, z = np.indices((24, 22, 9))
    ball = (x - 12) ** 2 + (y - 11) ** 2 + 4 * (z - 4) ** 2 < 30
    for case in range(5):
        nib.save(nib.Nifti1Image(ball.astype(np.uint8), OBLIQUE), folder / f"labelsTr/case_{case}.nii.gz")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "cone": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**described, "numTraining": 5}))
    return folder


@contextlib.contextmanager
def without_torchvision():
    """Let nnU-Net find trainers and networks where it cannot import all files to look for them."""
    from dynamic_network_architectures.architectures import unet

    from lit_continual.interop.nnunet.network import trainer_of

    found = {
        "nnunetv2.inference.predict_from_raw_data.recursive_find_trainer_class_by_name": trainer_of,
        "nnunetv2.utilities.get_network_from_plans.recursive_find_python_class": lambda _, name, __: getattr(
            unet, name
        ),
    }
    with contextlib.ExitStack() as stack:
        for place, find in found.items() if importlib.util.find_spec("torchvision") is None else ():
            stack.enter_context(patch(place, find))
        yield


def nnunet_predicts(folder, images, output, mirror=False, device="cpu", **options):
    """Label maps of an unmodified ``nnUNetPredictor``, by name of the case, with the axes of the file."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with quiet(), without_torchvision():
        predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device(device), allow_tqdm=False, **options)
        predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
        output.mkdir()
        predictor.predict_from_files_sequential(str(images), str(output))
    return {path.name[:-7]: np.asarray(nib.load(path).dataobj) for path in sorted(output.glob("*.nii.gz"))}
