import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import Distillation
from lit_continual.functional import dice_distillation_loss, distillation_loss


class Foreign(LightningModule):
    """Somebody else's segmenter: a softmax over all classes, batch norm, dropout, a tuple for a batch."""

    def __init__(self, classes=3, extra=None):
        super().__init__()
        self.save_hyperparameters("classes")
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, classes, 1)
        )
        self.extra = extra

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, batch_idx):
        image, label = batch
        logits = self(image)
        loss = cross_entropy(logits, label)
        return {"loss": loss if self.extra is None else self.extra(loss, logits, image), "logits": logits}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def batches(seed, n=8):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 1, 8, 8, generator=generator)
    return DataLoader(TensorDataset(image, (image[:, 0] > seed).long()), batch_size=4)


@pytest.fixture
def foreign():
    torch.manual_seed(0)
    return Foreign()


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("alpha", "temperature", "dice"),
    [(0.5, 1.0, 0.0), (0.2, 2.0, 0.0), (0.0, 1.0, 0.0), (0.5, 1.0, 1.0), (0.3, 2.0, 4.0)],
)
def test_second_fit_equals_eq_1_written_by_hand(foreign, trainer, alpha, temperature, dice):
    callback = Distillation(alpha, temperature, dice=dice)
    trainer(callbacks=callback).fit(foreign, batches(0))
    teacher, by_hand = copy.deepcopy(foreign).eval(), copy.deepcopy(foreign)

    def total(loss, student, image):
        with torch.no_grad():
            p = (teacher(image) / temperature).softmax(1)
        distilled = -(p * (student / temperature).log_softmax(1)).sum(1).mean()
        s, t = (student / temperature).softmax(1)[:, 1:], p[:, 1:]
        overlap = (2 * (s * t).sum((2, 3)) + 1) / ((s * s).sum((2, 3)) + (t * t).sum((2, 3)) + 1)
        return alpha * loss + (1 - alpha) * (distilled + dice * (1 - overlap).mean())

    by_hand.extra = total
    torch.manual_seed(1)
    trainer().fit(by_hand, batches(1))
    torch.manual_seed(1)
    trainer(callbacks=callback).fit(foreign, batches(1))
    assert_close(state(foreign), state(by_hand), rtol=1e-5, atol=1e-6)


def test_teacher_teaches_in_eval_mode_and_does_not_move(foreign, trainer):
    callback, before = Distillation(teacher="start"), state(foreign)
    seen = []

    def look(trainer, pl_module, *_):
        seen.append((state(callback._teacher.module), any(m.training for m in callback._teacher.module.modules())))

    trainer(callbacks=[callback, LambdaCallback(on_train_batch_end=look)]).fit(foreign, batches(0))
    for weights, training in seen:
        assert_close(weights, before, rtol=0, atol=0)
        assert not training
    assert any((state(foreign)[k] != before[k]).any() for k in before)


def test_the_term_has_a_gradient(foreign):
    callback = Distillation(alpha=0.0)
    callback._teacher = type("T", (), {"module": copy.deepcopy(foreign).eval()})()
    image, label = next(iter(batches(0)))
    outputs = foreign.training_step((image, label), 0)
    callback.compute(foreign, (image, label), outputs).backward()
    assert foreign.net[0].weight.grad.abs().max() > 0


def test_teacher_is_neither_parameter_nor_in_the_checkpoint(foreign, trainer, tmp_path):
    callback = Distillation(teacher="start")
    keep = ModelCheckpoint(tmp_path / "with", every_n_train_steps=1, save_top_k=-1)
    plain = ModelCheckpoint(tmp_path / "without", every_n_train_steps=1, save_top_k=-1)
    count = []
    look = LambdaCallback(on_train_start=lambda t, m: count.append(len(list(m.parameters()))))
    other = copy.deepcopy(foreign)
    trainer(callbacks=[plain], enable_checkpointing=True).fit(other, batches(0))
    trainer(callbacks=[callback, keep, look], enable_checkpointing=True).fit(foreign, batches(0))
    assert count == [len(list(other.parameters()))]
    mine = torch.load(keep.best_model_path, weights_only=True)
    assert mine["state_dict"].keys() == torch.load(plain.best_model_path, weights_only=True)["state_dict"].keys()
    tensors = [v for v in mine["callbacks"]["Distillation[distillation]"].values() if torch.is_tensor(v)]
    assert not tensors
    assert len(list((tmp_path / "with").glob("teacher-*.pt"))) == 1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_resume_says_what_is_missing_or_damaged(foreign, trainer, tmp_path):
    keep = ModelCheckpoint(tmp_path / "c", "{epoch}", save_top_k=-1)
    options = {"enable_checkpointing": True, "max_epochs": 2}
    trainer(callbacks=[Distillation(teacher="start"), keep], **options).fit(foreign, batches(1))
    (file,) = (tmp_path / "c").glob("teacher-*.pt")
    torch.save({k: v + 1 for k, v in torch.load(file, weights_only=True).items()}, file)
    resume = {"ckpt_path": tmp_path / "c" / "epoch=0.ckpt", "weights_only": True}
    with pytest.raises(ValueError, match=r"teacher-.*holds other weights"):
        trainer(callbacks=Distillation(teacher="start"), max_epochs=2).fit(foreign, batches(1), **resume)
    file.unlink()
    with pytest.raises(ValueError, match=r"teacher-.*is not in .*Move it there"):
        trainer(callbacks=Distillation(teacher="start"), max_epochs=2).fit(foreign, batches(1), **resume)


def test_an_extended_network_learns_from_its_old_checkpoint(foreign, trainer, tmp_path):
    first = trainer()
    first.fit(foreign, batches(0))
    first.save_checkpoint(tmp_path / "old.ckpt")
    old, extended = copy.deepcopy(foreign).eval(), Foreign(classes=5)
    weights = state(old)
    grown = {k: torch.cat([v, torch.zeros(2, *v.shape[1:])]) for k, v in weights.items() if k.startswith("net.4")}
    extended.load_state_dict(weights | grown)
    callback = Distillation(alpha=0.3, teacher=str(tmp_path / "old.ckpt"))
    by_hand = copy.deepcopy(extended)

    def total(loss, student, image):
        with torch.no_grad():
            teacher = old(image)
        return 0.3 * loss + 0.7 * distillation_loss(student[:, :3], teacher, [[0, 1, 2]])

    by_hand.extra = total
    torch.manual_seed(1)
    trainer().fit(by_hand, batches(1))
    torch.manual_seed(1)
    trainer(callbacks=callback).fit(extended, batches(1))
    assert_close(state(extended), state(by_hand), rtol=1e-5, atol=1e-6)


def test_logits_may_come_from_anywhere(foreign, trainer):
    given = Distillation(0.3, logits=lambda module, batch: 2 * module.net(batch[0]), heads="sigmoid", teacher="start")
    for layer in foreign.net:
        layer.p = 0.0  # so that asking the network twice is asking it once
    foreign.net[1] = nn.Identity()
    teacher, by_hand = copy.deepcopy(foreign).eval(), copy.deepcopy(foreign)

    def total(loss, student, image):
        with torch.no_grad():
            p = (2 * teacher(image)).sigmoid()
        entropy = -(p * logsigmoid(2 * student) + (1 - p) * logsigmoid(-2 * student))
        return 0.3 * loss + 0.7 * entropy.sum(1).mean()

    by_hand.extra = total
    trainer().fit(by_hand, batches(1))
    trainer(callbacks=given).fit(foreign, batches(1))
    assert_close(state(foreign), state(by_hand), rtol=1e-5, atol=1e-6)


def test_mixed_batches_are_the_weighted_sum_of_pure_ones(foreign):
    callback = Distillation(alpha=0.3, heads=[[0, 1, 2]])
    torch.manual_seed(5)
    callback._teacher = type("T", (), {"module": Foreign().eval()})()
    image = torch.randn(4, 1, 8, 8)
    foreign.eval()

    def term(rows, origin):
        batch = {"image": image[rows], "origin": origin}
        return callback.compute(foreign, batch, {"logits": foreign(image[rows])}).detach()

    mixed = term([0, 1, 2, 3], ["new", "exemplar", "exemplar", "new"])
    new, exemplar = term([0, 3], ["new", "new"]), term([1, 2], ["exemplar", "exemplar"])
    assert_close(mixed, 0.5 * new + 0.5 * exemplar)
    assert_close(term([0, 3], ["exemplar"] * 2) * 0.7, new)  # L_d alone, without the factor 1 - alpha


def test_cached_targets_need_a_data_module_that_keeps_them(foreign, trainer):
    with pytest.raises(MisconfigurationException, match=r"needs a data module with `cache_targets.*targets='online'"):
        trainer(callbacks=Distillation(teacher="start", targets="cached")).fit(foreign, batches(0))


def test_centres_need_a_data_module_that_moves_them(foreign, trainer):
    with pytest.raises(MisconfigurationException, match=r"old_patches=0.5.* needs a data module with `centre_patches"):
        trainer(callbacks=Distillation(teacher="start", old_patches=0.5)).fit(foreign, batches(0))


@pytest.mark.parametrize(
    ("heads", "numbers"),
    [([[0, 1, 2]], [0, 1, 2]), ([[0, 1], [2, 3]], [0, 1, 0, 2]), ("sigmoid", [1, 2, 3])],
    ids=["one softmax", "two", "sigmoids"],
)
def test_patches_are_centred_on_what_the_teacher_finds(heads, numbers):
    """Each channel of the teacher answers where the image has its number, which is 0 for a background."""

    class Sees(Foreign):
        def forward(self, image):
            return torch.cat([8.0 * (image == k) - 4.0 * bool(k) for k in numbers], 1)

    asked = {}
    callback = Distillation(old_patches=0.25, heads=heads)
    callback._teacher = type("T", (), {"module": Sees().eval()})()
    data = type("Data", (), {"centre_patches": lambda self, *given: asked.update(zip("pls", given, strict=True))})()
    callback._look_ahead(type("Trainer", (), {"datamodule": data})(), torch.device("cpu"))
    image = torch.arange(1.0 + max(numbers)).reshape(1, 1, 1, -1)
    assert asked["l"](asked["p"](image)).flatten().tolist() == image.flatten().tolist()
    assert asked["s"] == 0.25


def exclusive_dice(student, teacher, head_channels=None, heads=((0, 1, 2),), temperature=1.0):
    """The Dice term that the callback takes from two tensors of logits."""
    module = Foreign()
    if head_channels is not None:
        module.head_channels = head_channels
        heads = [head for head in head_channels if max(head) < teacher.shape[1]]
    return Distillation(dice=1.0, exclusive=True, temperature=temperature)._dice(module, student, teacher, heads).mean()


def distance(s, t):
    products, squares = (s * t).sum((2, 3)), s.square().sum((2, 3)) + t.square().sum((2, 3))
    return (1 - (2 * products + 1) / (squares + 1)).mean()


def test_the_exclusive_dice_term_is_that_of_one_softmax_written_by_hand():
    """Heads of channels 0-1, 2-4 and the new 5-6; log-odds of each class against its own background."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, 3, 3), torch.randn(2, 5, 3, 3)
    channels = [[0, 1], [2, 3, 4], [5, 6]]
    odds = [(student[:, c] - student[:, b]).exp() for c, b in [(1, 0), (3, 2), (4, 2), (6, 5)]]
    old = [(teacher[:, c] - teacher[:, b]).exp() for c, b in [(1, 0), (3, 2), (4, 2)]]
    s = torch.stack([one / (1 + sum(odds)) for one in odds[:3]], 1)
    t = torch.stack([one / (1 + sum(old)) for one in old], 1)
    assert_close(exclusive_dice(student, teacher, channels), distance(s, t))
    assert_close(exclusive_dice(3 * student, 3 * teacher, channels, temperature=3.0), distance(s, t))
    half = exclusive_dice(student.bfloat16(), teacher.bfloat16(), channels)
    assert half.dtype == torch.float32
    assert_close(half, exclusive_dice(student.bfloat16().float(), teacher.bfloat16().float(), channels))
    s, t = student.softmax(1)[:, 1:3], teacher[:, :3].softmax(1)[:, 1:]
    assert_close(exclusive_dice(student, teacher[:, :3]), distance(s, t))  # of a softmax that has grown from 3 to 7


def test_a_new_head_that_claims_an_old_class_costs_the_exclusive_term_alone():
    agreeing = torch.tensor([0.0, 8.0, 0.0, -8.0])[None, :, None, None].expand(1, 4, 5, 5)
    claiming = torch.tensor([0.0, 8.0, 0.0, 12.0])[None, :, None, None].expand(1, 4, 5, 5)
    teacher, channels = agreeing[:, :2], [[0, 1], [2, 3]]
    assert exclusive_dice(agreeing, teacher, channels) < 0.001
    assert exclusive_dice(claiming, teacher, channels) > 0.7
    assert dice_distillation_loss(claiming[:, :2], teacher, [[0, 1]]) == 0


@pytest.mark.parametrize(("channels", "heads"), [(None, None), (None, [[0, 1], [2, 3]])])
def test_heads_that_are_not_the_students_are_refused(channels, heads):
    with pytest.raises(MisconfigurationException, match=r"exclusive=True.* needs softmax heads that both networks"):
        exclusive_dice(torch.zeros(1, 4, 5, 5), torch.zeros(1, 4, 5, 5), channels, heads)


def test_the_cached_teacher_is_asked_on_the_device_of_the_network_and_then_makes_room_there(trainer):
    """``meta`` stands for a GPU; the data module holds its volumes on the CPU, and gets its answers there."""

    class Elsewhere(Foreign):
        def forward(self, image):
            devices.append((image.device.type, self.net[0].weight.device.type))
            return torch.zeros(len(image), 3, 8, 8)  # what `meta` cannot copy back

    devices, kept = [], {}
    callback = Distillation(targets="cached", heads=[[0, 1, 2]])
    callback._teacher = type("T", (), {"module": Elsewhere().eval().to("meta")})()
    callback._teacher.module.cpu = lambda: kept.update(moved=True)  # which `meta` cannot do either
    data = type("Data", (), {"cache_targets": lambda self, key, ask: kept.update({key: ask(torch.ones(2, 1, 8, 8))})})()
    callback._look_ahead(type("Trainer", (), {"datamodule": data})(), torch.device("meta"))
    assert set(devices) == {("meta", "meta")}
    assert kept["distillation"].device.type == "cpu"
    assert kept["moved"]


def test_a_teacher_that_cannot_be_read_is_named(foreign, trainer, tmp_path):
    with pytest.raises(ValueError, match=r"There is no checkpoint at .*nowhere.ckpt"):
        trainer(callbacks=Distillation(teacher=tmp_path / "nowhere.ckpt")).fit(foreign, batches(0))
    (tmp_path / "torn.ckpt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"torn.ckpt cannot be read as a checkpoint"):
        trainer(callbacks=Distillation(teacher=tmp_path / "torn.ckpt")).fit(foreign, batches(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.5}, r"`alpha` must be in \[0, 1\], got 1.5"),
        ({"temperature": -1.0}, "`temperature` must be positive, got -1.0"),
        ({"targets": "stored"}, "got 'stored'"),
        ({"exclusive": True}, "`exclusive` is of the Dice term, and `dice` is 0"),
        ({"old_patches": 1.5}, r"`old_patches` must be in \[0, 1\], got 1.5"),
        ({"dice": -1.0}, "`dice` must be a finite number of at least 0, got -1.0"),
        ({"dice": float("nan")}, "`dice` must be a finite number of at least 0, got nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Distillation(**arguments)


def test_a_module_whose_batches_are_several_is_refused_outside_of_a_stream_too(module, loader, trainer):
    module.trains_by_task = True
    with pytest.raises(MisconfigurationException, match=r"a batch of `TinyModule` has one of every task. Use `L2SP`"):
        trainer(callbacks=Distillation(teacher="start")).fit(module, loader)
    trainer(callbacks=Distillation(teacher="start", logits=lambda module, batch: module(batch[0]))).fit(module, loader)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_a_teacher_on_a_processor_lies_as_it_is_fastest(foreign, trainer, norm):
    foreign.net[1] = norm(4)
    callback, seen = Distillation(teacher="start"), []

    def look(t, student, *_):
        layout = {"memory_format": torch.channels_last}
        seen.extend(module.net[4].weight.is_contiguous(**layout) for module in (callback._teacher.module, student))

    foreign.net[4] = nn.Conv2d(4, 3, 3, padding=1)
    trainer(callbacks=[callback, LambdaCallback(on_train_batch_start=look)], max_steps=1).fit(foreign, batches(0))
    assert seen[:2] == [norm is nn.BatchNorm2d, False]
