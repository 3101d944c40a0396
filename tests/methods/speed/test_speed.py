"""Options that change how a fit computes, and not what it learns, together with every method."""

import copy
import json

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.testing import assert_close

from lit_continual.callbacks import PLOP, ChannelsLast, CompiledNetwork, Distillation, LoRA, MetaTune
from lit_continual.cli import main
from lit_continual.modules import MAML, HydraNet, Segmenter
from tests.marks import slow_but
from tests.methods.test_contract import ENTRIES, FAST, Small, fit, small

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* has no old network"),
    pytest.mark.filterwarnings("ignore:.* met no exemplar"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # torch, of a dropout
]
METHODS = [name for name in ENTRIES if name not in ("ChannelsLast", "CompiledNetwork")]


class Net(LightningModule):
    """A network of two or three dimensions whose convolutions have several channels."""

    def __init__(self, dims):
        super().__init__()
        convolution, up = (nn.Conv2d, nn.ConvTranspose2d) if dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        self.net = nn.Sequential(
            convolution(1, 4, 3, padding=1), convolution(4, 6, 3, padding=1), up(6, 2, 3, padding=1)
        )
        self.dims, self.outputs = dims, []

    def training_step(self, batch, batch_idx):
        output = self.net(batch)
        self.outputs.append(output)
        return output.square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        image = torch.randn(2, 1, *[8] * self.dims, generator=torch.Generator().manual_seed(0))
        return torch.utils.data.DataLoader([image, image], batch_size=None)


def net(dims):
    torch.manual_seed(0)
    return Net(dims)


LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_and_outputs_have_the_channels_last_while_a_fit_runs(trainer, tmp_path, dims):
    module, plain, layout = net(dims), net(dims), LAYOUTS[dims]
    seen = []
    strides = LambdaCallback(
        on_train_batch_start=lambda t, m, *_: seen.append(
            [p.is_contiguous(memory_format=layout) for p in m.parameters() if p.ndim > 1]
        )
    )
    trainer(callbacks=[ChannelsLast(), strides]).fit(module)
    trainer().fit(plain)
    assert seen == [[True] * 3] * 2
    assert all(output.is_contiguous(memory_format=layout) for output in module.outputs)
    assert not any(output.is_contiguous(memory_format=layout) for output in plain.outputs)
    assert all(p.is_contiguous() for p in module.parameters())
    assert_close(dict(module.state_dict()), dict(plain.state_dict()), rtol=1e-4, atol=1e-6)


def test_a_checkpoint_written_meanwhile_has_weights_that_lie_as_ever(trainer, tmp_path):
    path = tmp_path / "c.ckpt"
    save = LambdaCallback(on_train_batch_end=lambda t, *_: t.save_checkpoint(path))
    module = net(2)
    trainer(callbacks=[ChannelsLast(), save], max_steps=1).fit(module)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert all(value.is_contiguous() for value in state.values())
    assert list(state) == list(module.state_dict())
    assert_close(state, dict(module.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("name", slow_but(METHODS, *(name for name in FAST if name in METHODS)))
def test_every_method_learns_the_same_with_the_channels_last(name, trainer, tmp_path):
    module, plain = small(), small()
    module.head[0].p = plain.head[0].p = 0.0  # dropout draws in the order in which a tensor lies
    for one, more in ((plain, []), (module, [ChannelsLast()])):
        torch.manual_seed(1)  # of adapters
        method = ENTRIES[name](tmp_path)
        for _ in range(2):
            fit(trainer, one, *more, method)
    assert all(p.is_contiguous() for p in module.parameters())
    assert_close(dict(module.state_dict()), dict(plain.state_dict()), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_about_the_same_in_16_bits_with_the_channels_last(name, precision, trainer, tmp_path):
    """With a scaled loss, as on a GPU."""
    module, plain = small(), small()
    module.head[0].p = plain.head[0].p = 0.0
    for one, more in ((plain, {}), (module, {"precision": precision})):
        torch.manual_seed(1)
        method = ENTRIES[name](tmp_path)
        for _ in range(2):
            if more and precision == "16-mixed":  # which Lightning has for GPUs alone
                more = {"plugins": [MixedPrecision(precision, "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))]}
            fit(trainer, one, *([ChannelsLast()] if more else []), method, **more)
    state = module.state_dict()
    assert all(value.dtype != torch.float16 and value.isfinite().all() for value in state.values())
    assert_close(dict(state), dict(plain.state_dict()), rtol=0.2, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_the_same_on_a_compiled_network_or_says_that_it_cannot(name, trainer, tmp_path):
    torch._dynamo.reset()
    module, plain = small(), small()
    method = ENTRIES[name](tmp_path)
    if getattr(method, "needs_eager", False):
        for order in ([CompiledNetwork(backend="eager"), method], [method, CompiledNetwork(backend="eager")]):
            before = copy.deepcopy(module.state_dict())
            with pytest.raises(MisconfigurationException, match=r"a network that `CompiledNetwork` compiles does not"):
                fit(trainer, module, *order)
            assert_close(dict(module.state_dict()), dict(before), rtol=0, atol=0)
            assert not any(part._compiled_call_impl for part in module.modules())
        return
    for one, more in ((plain, []), (module, [CompiledNetwork(backend="eager")])):
        torch.manual_seed(1)
        method = ENTRIES[name](tmp_path)
        for _ in range(2):
            fit(trainer, one, *more, method)
    assert_close(dict(module.state_dict()), dict(plain.state_dict()), rtol=1e-4, atol=1e-6)


def test_those_who_cannot_are_known():
    assert all(one.needs_eager for one in (PLOP(), LoRA(), MetaTune(MAML())))
    assert not Distillation().needs_eager


def counted(calls):
    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    return backend


@pytest.mark.parametrize("network", [None, "encoder"])
def test_the_network_is_compiled_and_then_as_it_was(trainer, network):
    torch._dynamo.reset()
    module, calls = small(), []
    fit(trainer, module, CompiledNetwork(network, backend=counted(calls)))
    assert len(calls) >= (2 if network is None else 1)  # encoder and head, or the encoder
    assert not any("_compiled_call_impl" in vars(part) for part in module.modules())
    assert list(module.state_dict()) == list(Small().state_dict())


def test_a_network_that_is_not_there_is_refused(trainer):
    with pytest.raises(MisconfigurationException, match=r"`Small` has no submodule `encodr` to compile.*`?encoder"):
        fit(trainer, small(), CompiledNetwork("encodr", backend="eager"))


def test_parts_that_hold_no_call_of_their_own_are_looked_into():
    narrow = {"class_path": "DenseNet121UNet", "init_args": {"decoder_channels": [8] * 5}}
    hydra = HydraNet(narrow, features=4, heads=[["a"], ["b"]])
    found = CompiledNetwork(backend="eager")._parts(hydra)
    assert {hydra.body["encoder"], *hydra.decoders} <= set(found)
    segmenter = Segmenter(
        {"class_path": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}
    )
    assert CompiledNetwork(backend="eager")._parts(segmenter) == [segmenter.body]


@pytest.mark.slow
@pytest.mark.parametrize("option", ["ChannelsLast", "CompiledNetwork"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_stream_learns_the_same_by_one_line_more(stream, tmp_path, option, dims):
    """Of YAML; a teacher, a growing head and exemplars by their features are in it."""
    torch._dynamo.reset()
    init = {} if option == "ChannelsLast" else {"backend": "aot_eager"}
    lwf = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}
    policy = {"policy": "Herding", "layer": "body.model.0", "budget": {"samples": 2}}
    network = f"--model.network.init_args.spatial_dims={dims}"
    patch = f"--data.patch_size={[16, 16, 4][:dims]}"
    found = {}
    for name, more in (("plain", []), ("fast", [{"class_path": option, "init_args": init}])):
        root = f"--trainer.default_root_dir={tmp_path / name}"
        main(["fit", "--config", stream(*more, lwf, memory=policy), network, patch, root])
        states = [
            torch.load(tmp_path / name / f"experiences/{e}/model.ckpt", weights_only=True)["state_dict"]
            for e in ("0_ball", "1_box")
        ]
        assert all(value.is_contiguous() for state in states for value in state.values())
        chosen = json.loads((tmp_path / name / "memory/manifest.json").read_text())["exemplars"]
        found[name] = states, [(one["patient"], one["slice"]) for one in chosen]
    for fast, plain in zip(found["fast"][0], found["plain"][0], strict=True):
        assert list(fast) == list(plain)
        assert_close(fast, plain, rtol=0.02, atol=0.02)  # Adam makes whole steps of rounding errors
    assert found["fast"][1] == found["plain"][1]
