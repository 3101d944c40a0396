import pytest
import torch
from monai.inferers import SlidingWindowInferer

from lit_continual.modules import Segmenter
from lit_continual.segmentation.inference import Inference

NETWORK = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "kernel_size": 3, "padding": 1}
HEADS = [[0, 1], [2, 3, 4]]


def pairs(volume, batch, mode="bilinear"):
    """Bring a volume to half as many voxels: the mean of two, or the first of them."""
    first, second = volume[..., ::2], volume[..., 1::2]
    return first if mode == "nearest" else (first + second) / 2


@pytest.fixture
def logits():
    return 3 * torch.randn(2, 5, 4, 4, 8, generator=torch.Generator().manual_seed(0))


def test_probabilities_are_what_is_interpolated(logits):
    found = Inference(resample="probabilities").resampled(logits, HEADS, pairs, {})
    for channels in HEADS:
        expected = pairs(logits[:, channels].softmax(1), {})
        torch.testing.assert_close(found[:, channels].softmax(1), expected)
        assert torch.equal(found[:, channels].argmax(1), expected.argmax(1))


def test_labels_are_those_of_the_nearest_voxel(logits):
    found = Inference(resample="labels").resampled(logits, HEADS, pairs, {})
    assert torch.equal(found[:, :2].argmax(1), logits[:, :2].argmax(1)[..., ::2])


def test_logits_are_interpolated_by_default(logits):
    assert torch.equal(Inference().resampled(logits, HEADS, pairs, {}), pairs(logits, {}))


@pytest.mark.parametrize("asked", [{}, {"overlap": 0.6, "mode": "constant", "padding_mode": "replicate"}])
def test_windows_are_laid_as_asked(asked):
    torch.manual_seed(0)
    module = Segmenter(NETWORK, 3, [["a"]], roi_size=[6, 6, 6], inference=Inference(sw_batch_size=2, **asked))
    volume = torch.randn(1, 1, 9, 11, 5)
    how = {"overlap": 0.25, "mode": "gaussian", **asked}
    with torch.no_grad():
        expected = SlidingWindowInferer([6, 6, 6], sw_batch_size=2, **how)(volume, module)
        assert torch.equal(module.infer(volume), expected)
    assert Inference.of(module.hparams["inference"]) == module.inference


def test_a_stream_goes_on_as_it_was_started_unless_told_otherwise():
    tight, plain = Inference(overlap=0.5), Segmenter(NETWORK, 3, [["a"]])
    started = {"hyper_parameters": dict(Segmenter(NETWORK, 3, [["a"]], inference=tight).hparams), "state_dict": {}}
    plain.on_load_checkpoint(started)
    assert plain.inference == tight
    other = Segmenter(NETWORK, 3, [["a"]], inference=Inference(overlap=0.1))
    other.on_load_checkpoint(started)
    assert other.inference.overlap == 0.1
    assert "inference" not in Segmenter(NETWORK, 3, [["a"]]).hparams  # so that old programs read new checkpoints


def test_a_checkpoint_holds_how_windows_are_added_up_where_it_was_said():
    assert not {"stitch_device", "stitch_dtype"} & Inference(overlap=0.5).plain().keys()  # which old programs know
    asked = Inference(stitch_device="cpu", stitch_dtype="float16")
    assert Inference.of(asked.plain()) == asked
    old = {"overlap": 0.5, "mode": "constant", "padding_mode": "constant", "sw_batch_size": 1, "resample": "labels"}
    assert Inference.of(old).plain() == old


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overlap": 1.0}, r"`overlap` must be in \[0, 1\), got 1.0"),
        ({"mode": "sharp"}, "`mode` must be one of gaussian, constant, got 'sharp'"),
        ({"resample": "voxels"}, "`resample` must be one of logits, probabilities, labels"),
        ({"stitch_device": "gpu"}, "`stitch_device` must be one of same, cpu, got 'gpu'"),
        ({"stitch_dtype": "bfloat16"}, "`stitch_dtype` must be one of float32, float16, got 'bfloat16'"),
        ({"sw_batch_size": 0}, "`sw_batch_size` must be 1 or more"),
    ],
)
def test_what_is_out_of_range(wrong, message):
    with pytest.raises(ValueError, match=message):
        Inference(**wrong)


def test_an_image_that_the_network_does_not_take_is_named():
    network = {"_target_": "BasicUNet", "spatial_dims": 3, "features": [2, 2, 2, 2, 2, 2]}
    module = Segmenter(network, 2, [["a"]])
    batch = {"image": torch.zeros(1, 1, 8, 8, 8), "path": ["scan.nii"]}
    with pytest.raises(ValueError, match=r"^The network fails on scan.nii of 8 x 8 x 8 voxels \([^\n]*\). Give"):
        module.predict_step(batch, 0)
