import math
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import TensorDataset

from lit_continual.data import PatientEpisodes

DICE = [0.9, 0.8, 0.1, 0.2, 0.65, 0.75, 0.4, 0.3, 0.0, 0.1, 0.95, 0.85]
PATIENTS = ["a"] * 4 + ["b"] * 4 + ["c"] * 4


def make(dice=DICE, patients=PATIENTS, **options):
    return PatientEpisodes(range(len(patients)), patients, lambda slices: [dice[i] for i in slices], **options)


def numbers(loader):
    return [[(inner.tolist(), outer.tolist()) for inner, outer in batch] for batch in loader]


def test_active_puts_the_worst_patient_and_slice_first():
    # Means: c 0.475, a 0.5, b 0.525.
    c, a, b = [([8], [9]), ([11], [10])], [([2], [3]), ([1], [0])], [([7], [6]), ([4], [5])]
    assert numbers(make()) == make().episodes() == [c, a, b]


def test_passive_is_seeded_and_changes_with_the_epoch():
    def epochs(seed):
        loader = make(order="passive", seed=seed)
        for epoch in range(4):
            loader.set_epoch(epoch)
            yield numbers(loader)

    first = list(epochs(0))
    assert first == list(epochs(0))
    assert first != list(epochs(9))
    assert any(first[0] != other for other in first[1:])


def test_batches_are_collated_items_of_the_dataset():
    data = TensorDataset(torch.arange(24.0).reshape(12, 2), torch.arange(12))
    loader = PatientEpisodes(data, PATIENTS, lambda slices: DICE, threshold=1.0, shots=2)
    (images, labels), (others, _) = next(iter(loader))[0]
    assert labels.tolist() == [8, 11]
    assert images.tolist() == [[16.0, 17.0], [22.0, 23.0]]
    assert others.tolist() == [[18.0, 19.0], [20.0, 21.0]]


def test_says_the_epoch_to_the_dataset():
    class Epochs(list):
        def set_epoch(self, epoch):
            self.epoch = epoch

        def __getitem__(self, index):
            return torch.tensor([self.epoch, index])

    loader = PatientEpisodes(Epochs(range(2)), "aa", lambda slices: [0.1, 0.2])
    loader.set_epoch(3)
    assert numbers(loader) == [[([[3, 0]], [[3, 1]])]]


@pytest.mark.parametrize(("every", "calls"), [(0, [0]), (1, [0, 1, 2, 3]), (2, [0, 2])])
def test_ranks_again_when_due(every, calls):
    seen = []
    loader = PatientEpisodes(range(12), PATIENTS, lambda slices: seen.append(epoch) or DICE, rerank_every=every)
    for epoch in range(4):
        loader.set_epoch(epoch)
        list(loader)
    assert seen == calls


def test_between_rankings_it_walks_down_the_order():
    loader = make([i / 10 for i in range(8)], "aaaaaaaa", threshold=1.0, rerank_every=0)
    drawn = []
    for epoch in range(5):
        loader.set_epoch(epoch)
        drawn += numbers(loader)
    assert drawn == [[([0], [1])], [([2], [3])], [([4], [5])], [([6], [7])], [([0], [1])]]


def test_follows_the_network_when_ranked_again():
    dice = [0.1, 0.2, 0.3, 0.4]
    loader = make(dice, "aaaa")
    first = numbers(loader)
    dice.reverse()
    loader.set_epoch(1)
    assert (first, numbers(loader)) == ([[([0], [1])]], [[([3], [2])]])


def test_the_place_of_a_patient_without_a_task_is_taken_by_the_others():
    dice = [0.3, math.nan, math.nan, 0.2, 0.4, 0.1, 0.3]
    loader = make(dice, ["one", "empty", "empty", "b", "b", "c", "c"])
    with pytest.warns(UserWarning, match=r"Patients \['one', 'empty'\] have fewer than two slices with a Dice"):
        batches = numbers(loader)
    c, b = [([5], [6])], [([3], [4])]
    assert batches == [c, b, c, b]
    assert len(loader) == 4


def process(rank, results, port):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    # A rank that scored for itself would rank the other way round.
    dice = [0.1 * i for i in range(10)] if rank == 0 else [-0.1 * i for i in range(10)]
    loader = make(dice, [i // 2 for i in range(10)])
    results[rank] = (len(loader), numbers(loader))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_processes_share_the_patients_and_the_ranking_of_the_first(tmp_path):
    context = mp.get_context("fork")
    with context.Manager() as manager:
        results = manager.dict()
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = store.port
        del store
        workers = [context.Process(target=process, args=(rank, results, port)) for rank in (0, 1)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        pairs = [[([2 * i], [2 * i + 1])] for i in range(5)]
        assert dict(results) == {0: (3, [pairs[0], pairs[2], pairs[4]]), 1: (3, [pairs[1], pairs[3], pairs[0]])}


class Recorder(BoringModel):
    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append([(inner.tolist(), outer.tolist()) for inner, outer in batch])
        return self.layer(torch.ones(1, 32)).sum()


@pytest.mark.filterwarnings("ignore:.*val_dataloader", "ignore:Checkpoint directory .* not empty")
@pytest.mark.parametrize("order", ["active", "passive"])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_lightning_resumes_it_within_an_epoch(tmp_path, order, at):
    def fit(loader, **options):
        module = Recorder()
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", max_epochs=3, limit_val_batches=0, callbacks=saver, **quiet)
        trainer.fit(module, loader, **options)
        return module.seen

    def moving():
        """Dice that changes from call to call as it does while a network learns."""
        calls = [0]

        def scores(slices, shift=0):
            calls[0] += 1
            return [(value + 0.3 * (calls[0] + shift)) % 1 for value in DICE]

        return calls, scores

    make_loader = partial(PatientEpisodes, range(12), PATIENTS, order=order)
    _, scores = moving()
    whole = fit(make_loader(scores))
    calls, scores = moving()
    calls[0] = math.ceil(at / 3)  # the rankings that were done before the checkpoint
    resumed = fit(make_loader(scores), ckpt_path=tmp_path / f"step={at}.ckpt", weights_only=True)
    assert len(whole) == 9
    assert resumed == whole[at:]


@pytest.mark.slow
def test_workers_load_the_same():
    assert numbers(make(num_workers=2)) == numbers(make())


def test_names_what_is_wrong():
    with pytest.raises(ValueError, match="patient of each of the 3 slices, got 2"):
        PatientEpisodes(range(3), "ab", lambda slices: [])
    with pytest.raises(ValueError, match="`order` must be 'active' or 'passive', got 'worst'"):
        make(order="worst")
    with pytest.raises(ValueError, match="got 0, 1 and 1"):
        make(tasks=0)
    with pytest.raises(ValueError, match="one Dice for each of the 12 slices, got 3"):
        list(make_short())
    with pytest.raises(ValueError, match="No patient has two"), pytest.warns(UserWarning, match="fewer"):
        list(make([math.nan] * 12))


def make_short():
    return PatientEpisodes(range(12), PATIENTS, lambda slices: [0.1, 0.2, 0.3])
