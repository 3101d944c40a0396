"""A graph computes what its checkpoint does, for those who have neither this package nor MONAI."""

import importlib.util
import io
import json
import logging
import re
import signal

import numpy as np
import onnxruntime
import pytest
import torch

from lit_continual.cli import main
from lit_continual.data import Preprocessing, read_cases
from lit_continual.data.volumes import load_case
from lit_continual.interop import FORMATS
from lit_continual.modules import RegionSegmenter, Segmenter
from lit_continual.segmentation.label_map import folded_logits
from tests import processes
from tests.fixtures.data import write
from tests.interop.toys import NETWORKS

GRAPHS = ["onnx", "pt2", "torchscript"]
NAMES = ["background", "a", "b", "c"]
PREPROCESSING = {"orientation": "RAS", "spacing": None, "normalise": [{"_target_": "NormalizeIntensity"}]}


def run(folder, image):
    """The logits of a graph, by the libraries of its format."""
    (path,) = folder.glob("model.[!j]*")
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])
    return torch.export.load(path).module()(image) if path.suffix == ".pt2" else torch.jit.load(path)(image)


@pytest.fixture
def save(tmp_path):
    def write(module):
        content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        content["datamodule_hyper_parameters"] = {"preprocessing": PREPROCESSING}
        module.on_save_checkpoint(content)
        torch.save(content, tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    return write


def segmenter(name="BasicUNet", features=6, window=(16, 16, 16), **arguments):
    torch.manual_seed(0)
    spec = {"_target_": name, **{k: v for k, v in NETWORKS[name].items() if k != "deep_supervision"}, **arguments}
    return Segmenter(spec, features, [["a", "b"], ["c"]], roi_size=window).eval()


def export(checkpoint, form, folder, *options):
    main(["export", str(checkpoint), f"--format={form}", f"--output={folder}", *options])
    return folder


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("form", GRAPHS)
@pytest.mark.slow
def test_a_graph_has_the_logits_of_all_classes_for_any_batch(tmp_path, save, form):
    module = segmenter()
    folder = export(save(module), form, tmp_path / "graph")
    for batch in (1, 2, 5):
        image = torch.randn(batch, 1, 16, 16, 16)
        with torch.no_grad():
            expected = folded_logits(module(image), module.head_channels)
            torch.testing.assert_close(run(folder, image), expected, atol=1e-4, rtol=1e-4)
    told = json.loads((folder / "model.json").read_text())
    assert told["output"] == {"name": "logits", "activation": "softmax", "channels": NAMES}
    assert told["input"] == {"name": "image", "channels": 1, "window": [16, 16, 16]}
    assert told["preprocessing"] == PREPROCESSING
    assert len(list(folder.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("form", GRAPHS)
@pytest.mark.parametrize(("name", "features"), [("SegResNet", 8), ("DynUNet", 4), ("UNETR", 4), ("UNet", 5)])
def test_graphs_of_other_networks(tmp_path, save, form, name, features):
    module = segmenter(name, features)
    folder, image = export(save(module), form, tmp_path / "graph"), torch.randn(3, 1, 16, 16, 16)
    with torch.no_grad():
        expected = folded_logits(module(image), module.head_channels)
        torch.testing.assert_close(run(folder, image), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_onnx_runtime_says_what_torch_says_of_a_real_image(tmp_path, save, real_data):
    module = segmenter(window=(32, 32, 32))
    folder = export(save(module), "onnx", tmp_path / "graph")
    volume = load_case(read_cases(str(real_data / "Task04_Hippocampus")).cases[0], Preprocessing(**PREPROCESSING))[
        "image"
    ]
    patch = torch.nn.functional.pad(volume, (0, 32, 0, 32, 0, 32))[:, :32, :32, :32][None]
    with torch.no_grad():
        expected = folded_logits(module(patch), module.head_channels)
    assert patch.std() > 0.1
    torch.testing.assert_close(run(folder, patch), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_regions_are_sigmoids(tmp_path, save):
    torch.manual_seed(0)
    spec = {"_target_": "BasicUNet", "spatial_dims": 2, "in_channels": 2, "features": [4] * 6}
    module = RegionSegmenter(spec, 4, {"whole": ["x", "y"], "core": ["x"]}, roi_size=[32, 32]).eval()
    folder, image = export(save(module), "torchscript", tmp_path / "graph"), torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(run(folder, image).sigmoid(), module.probabilities(module(image)))
    assert json.loads((folder / "model.json").read_text())["output"]["activation"] == "sigmoid"


@pytest.mark.slow
def test_an_export_says_nothing_of_libraries_that_it_does_not_need(tmp_path, save):
    logger, handler = logging.getLogger("torch.onnx"), logging.StreamHandler(said := io.StringIO())
    logger.addHandler(handler)
    try:
        export(save(segmenter()), "onnx", tmp_path / "graph")
    finally:
        logger.removeHandler(handler)
    assert said.getvalue() == ""


def test_onnx_needs_its_libraries(tmp_path, save, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else found(name, *a))
    with pytest.raises(ValueError, match=r"needs onnxscript. Run `pip install lit-continual\[onnx\]`"):
        export(save(segmenter()), "onnx", tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def test_what_has_no_window_or_computes_otherwise_is_refused(tmp_path, save, monkeypatch):
    with pytest.raises(ValueError, match="has no `roi_size`, the size of the window"):
        export(save(segmenter(window=None)), "pt2", tmp_path / "graph")
    form = next(one for one in FORMATS if one.name == "pt2")
    monkeypatch.setattr(form, "run", lambda path, image: torch.full((len(image), 4, 16, 16, 16), np.nan))
    with pytest.raises(ValueError, match="computes logits that are up to nan apart"):
        export(save(segmenter()), "pt2", tmp_path / "graph")
    monkeypatch.setattr(form, "convert", lambda network, image, path: 1 / 0)
    with pytest.raises(ValueError, match=r"cannot be written as pt2 \(division by zero\)"):
        export(save(segmenter()), "pt2", tmp_path / "graph")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


@pytest.mark.parametrize("form", ["bundle", *GRAPHS])
def test_a_network_that_fails_on_its_window_is_named(tmp_path, save, form):
    checkpoint = save(segmenter(norm="INSTANCE"))  # one voxel is left of 16
    image = tmp_path / "images/a.nii.gz"
    write(image, np.zeros((16, 16, 16), np.float32))
    with pytest.raises(ValueError, match=r"The network fails on .* of 16 x 16 x 16 voxels \(Expected more than 1"):
        export(checkpoint, form, tmp_path / "new", "--images", str(image))
    with pytest.raises(ValueError, match=r"The network fails on .*a.nii.gz of 16 x 16 x 16 voxels"):
        main(["kse", str(checkpoint), "--image", str(image), f"--output={tmp_path / 'kse'}"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "model.ckpt"]


def fill(checkpoint, folder, forms, log):
    """Export in a process that may write no file of more than some bytes, and note what is said."""
    import resource

    processes.quiet_process(log, reports=True)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    unlimited, said = resource.getrlimit(resource.RLIMIT_FSIZE), []
    for form in forms:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, unlimited[1]))
        try:
            export(checkpoint, form, folder / f"new_{form}")
        except OSError as error:
            said.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    (folder / "said.txt").write_text("\n".join(said))


@pytest.mark.slow
def test_an_export_onto_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, save):
    checkpoint, forms = save(segmenter("UNet", 4, (16, 16), spatial_dims=2)), ["bundle", *GRAPHS]
    (folder := tmp_path / "full").mkdir()
    process = processes.context.Process(target=fill, args=(checkpoint, folder, forms, str(tmp_path / "log.txt")))
    process.start()
    process.join(300)
    assert process.exitcode == 0, (tmp_path / "log.txt").read_text()[-1000:]
    said = (folder / "said.txt").read_text().splitlines()
    assert len(said) == len(forms), said
    for form, line in zip(forms, said, strict=True):
        assert re.search(rf"^Cannot write \S*/new_{form} \(.*\); .* Free some space or choose another folder", line)
    assert [path.name for path in folder.iterdir()] == ["said.txt"]
