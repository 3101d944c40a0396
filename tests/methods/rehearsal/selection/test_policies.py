import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from torch.testing import assert_close

from lit_continual.functional import content_distance
from lit_continual.methods.rehearsal.exemplars import policy_of
from lit_continual.methods.rehearsal.selection.abstraction import layer_activations
from lit_continual.methods.rehearsal.selection.certainty_coverage import CertaintyCoverage, most_certain
from lit_continual.methods.rehearsal.selection.content_coverage import ContentCoverage
from lit_continual.methods.rehearsal.selection.content_distances import content_distances
from lit_continual.methods.rehearsal.selection.herding import Herding
from lit_continual.methods.rehearsal.selection.measurement import measure_samples
from lit_continual.methods.rehearsal.selection.random import ClassBalancedReservoir, Random
from lit_continual.methods.rehearsal.selection.samples import Samples, of_class, union

GOLDEN = np.load(Path(__file__).parents[3] / "golden" / "coverage.npz")


def activations(batch):
    """Two layers, one image by itself."""
    yield torch.cat([batch, batch.square()], 1).relu()
    yield torch.nn.functional.avg_pool2d(batch, 2)


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    contains = torch.rand(40, 4, generator=generator) < torch.tensor([0.9, 0.3, 0.1, 0.0])  # the last class is nowhere
    contains[7] = False
    return Samples(
        contains,
        uncertainty=torch.rand(40, 4, generator=generator),
        features=torch.randn(40, 6, generator=generator).relu(),
        images=torch.randn(40, 1, 8, 8, generator=generator),
    )


POLICIES = {
    "random": Random(),
    "reservoir": ClassBalancedReservoir(),
    "herding": Herding(),
    "certainty": CertaintyCoverage(most_certain=12),
    "content": ContentCoverage(activations, most_certain=12),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_contract(policy, samples):
    whole = policy(samples, 40)
    assert len(set(whole)) == len(whole) > 10
    assert all(type(index) is int and samples.contains[index].any() for index in whole)
    assert [policy(samples, budget) for budget in range(0, 12, 3)] == [whole[:budget] for budget in range(0, 12, 3)]
    assert policy(samples, 10**6) == whole
    nothing = Samples(samples.contains[:0], *(x[:0] for x in (samples.uncertainty, samples.features, samples.images)))
    assert policy(nothing, 3) == []
    for label in range(4):
        members = samples.members(label)
        picks = policy(of_class(samples, label), 2)
        assert len(picks) == min(2, len(members))
        assert set(picks) <= set(members.tolist())


@pytest.mark.parametrize("policy", [Random, ClassBalancedReservoir])
def test_seed_decides(policy, samples):
    assert policy(1)(samples, 9) == policy(1)(samples, 9) != policy(2)(samples, 9)


def test_certainty_coverage_reproduces_the_golden_picks():
    candidates = GOLDEN["kc50/candidates"]
    contains = torch.ones(200, 1, dtype=torch.bool)
    uncertainty = torch.ones(200, 1)
    uncertainty[candidates] = 0.1
    outsider = int(np.setdiff1d(np.arange(200), candidates)[0])
    contains[outsider], uncertainty[outsider] = False, 0.0  # most certain, but of its background
    samples = Samples(contains, uncertainty, torch.from_numpy(GOLDEN["features"]))
    assert CertaintyCoverage(most_certain=50)(samples, 30) == GOLDEN["kc50/picks"].tolist()


def test_most_certain_are_among_those_that_contain_the_class():
    samples = Samples(torch.tensor([[True], [False], [True], [True], [True]]))
    uncertainty = torch.tensor([[0.5], [0.0], [0.2], [0.2], [0.9]])
    assert most_certain(samples, uncertainty, 0, 3).tolist() == [2, 3, 0]
    assert most_certain(samples, uncertainty, 0, 9).tolist() == [2, 3, 0, 4]


def test_content_coverage_is_greedy_over_eq_3(samples):
    layers = list(activations(samples.images))
    expected = []
    for label in range(4):
        members = most_certain(samples, samples.uncertainty, label, 12).sort().values.tolist()
        distance = content_distance(layers, [layer[members] for layer in layers]).double().numpy()
        picks = []
        while len(picks) < min(5, len(members)):
            left = [j for j in range(len(members)) if j not in picks]
            picks.append(min(left, key=lambda j: distance[:, [*picks, j]].min(1).sum()))
        expected.append([members[j] for j in picks])
    policy = ContentCoverage(activations, most_certain=12)
    assert [policy(of_class(samples, label), 5) for label in range(4)] == expected


@pytest.mark.parametrize("reduction", ["mean", "sum", "layer_mean"])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_content_distances_in_batches_are_those_of_all_at_once(samples, reduction, batch_size):
    candidates, layers = torch.tensor([3, 30, 5]), list(activations(samples.images))
    expected = content_distance(layers, [layer[candidates] for layer in layers], reduction).double()
    result = content_distances(samples.images, candidates, activations, reduction, batch_size)
    assert_close(result, expected, rtol=1e-5, atol=0)
    assert all(result[i, j] == 0 for j, i in enumerate(candidates))


class Slices(Sequence):
    """Images that are cut when they are asked for; counts how many exist at once."""

    def __init__(self, images):
        self.images, self.alive, self.most = images, 0, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        image = self.images[k].clone()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self.forget)
        return image

    def forget(self):
        self.alive -= 1


def test_content_coverage_holds_one_batch_of_images(samples):
    slices = Slices(samples.images)
    network = torch.nn.Conv2d(1, 1, 1)
    measured = measure_samples(network, slices, samples.contains, network, passes=2)
    policy = ContentCoverage(activations, most_certain=None, batch_size=3)
    assert policy(measured, 9) == policy(Samples(samples.contains, images=samples.images), 9)
    assert slices.most == 3
    assert torch.equal(measured.need("images", policy), samples.images)  # a policy of one's own may want all at once


def test_content_coverage_works_without_certainty(samples):
    plain = Samples(samples.contains, images=samples.images)
    assert len(ContentCoverage(activations, most_certain=None)(plain, 20)) == 20


def test_rare_classes_get_their_share():
    contains = torch.zeros(1000, 2, dtype=torch.bool)
    contains[:, 0], contains[::100, 1] = True, True
    kept = ClassBalancedReservoir(0)(Samples(contains), 16)
    assert contains[kept, 1].sum() >= 8
    assert contains[Random(0)(Samples(contains), 16), 1].sum() < 4


def test_reservoir_is_uniform_within_a_class():
    samples = Samples(torch.ones(5, 1, dtype=torch.bool))
    counts = np.bincount([i for seed in range(600) for i in ClassBalancedReservoir(seed)(samples, 2)], minlength=5)
    assert (abs(counts - 240) < 4 * math.sqrt(600 * 0.4 * 0.6)).all()


def test_union_takes_turns_and_names_none_twice():
    assert union([[1, 2, 3], [2, 4], []]) == [1, 2, 4, 3]
    assert union([]) == []


def test_names_what_is_missing(samples):
    bare = Samples(samples.contains)
    for policy, name in (
        (Herding(), "features"),
        (CertaintyCoverage(), "uncertainty"),
        (POLICIES["content"], "images"),
    ):
        with pytest.raises(ValueError, match=f"`{type(policy).__name__}` needs the `{name}`"):
            policy(bare, 3)
    with pytest.raises(ValueError, match="`features` describes 3 samples, and `contains` 40"):
        Samples(samples.contains, features=torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"`contains` must have shape \(samples, classes\), got \(4,\)"):
        Samples(torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`most_certain`.* must be at least 1, got 0"):
        CertaintyCoverage(0)


def choose_in_a_group(rank, world, store, results):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Dropout(0.3), torch.nn.Conv2d(4, 2, 1))
    images = list(torch.randn(21, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    contains = torch.arange(42).view(21, 2) % 3 > 0
    samples = measure_samples(
        network, images, contains, lambda x: network(x).sigmoid(), "0", 3, 4, distributed.group.WORLD
    )
    policies = [CertaintyCoverage(9), ContentCoverage(activations, most_certain=9), Herding()]
    picks = [policy(samples, 12) for policy in policies]
    torch.save({"picks": picks, "uncertainty": samples.uncertainty.value}, results / f"{world}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_that_share_the_work_choose_what_one_chooses(tmp_path):
    found = []
    for world in (1, 2, 3):
        store = tmp_path / f"store{world}"
        multiprocessing.spawn(choose_in_a_group, (world, store, tmp_path), nprocs=world)
        found += [torch.load(tmp_path / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]
    assert [len(picks) for picks in found[0]["picks"]] == [12, 12, 12]
    for other in found[1:]:
        assert other["picks"] == found[0]["picks"]
        assert torch.equal(other["uncertainty"], found[0]["uncertainty"])


def test_a_network_of_any_name_can_see_the_content(samples):
    random = {"_target_": "VGG16Features", "weights": "random"}
    images = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    large = Samples(samples.contains, samples.uncertainty, images=images)
    before = torch.random.get_rng_state()
    first, second = (ContentCoverage(random, most_certain=4)(large, 5) for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), before)
    own = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU())
    named = ContentCoverage(lambda batch: layer_activations(own, ["1"], batch), most_certain=4)
    itself = ContentCoverage("own", ["1"], most_certain=4)
    assert itself(replace(large, network=own), 5) == named(large, 5)
    with pytest.raises(ValueError, match=r"`layers` must name the layers of own"):
        ContentCoverage("own")
    with pytest.raises(ValueError, match=r"`network: own` needs the network that has learnt"):
        itself(large, 5)


def test_measures_only_what_a_policy_asks_for_and_of_candidates_only():
    network = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Conv2d(1, 2, 1))
    contains = torch.tensor([[True, False], [False, False], [True, True]])
    seen = []

    def probabilities(batch):
        seen.append(len(batch))
        return network(batch).sigmoid()

    samples = measure_samples(network, list(torch.rand(3, 1, 4, 4)), contains, probabilities, "1", passes=2)
    Random()(samples, 3), Herding()(samples, 3)
    assert seen == []
    assert samples.uncertainty.value is None
    CertaintyCoverage()(samples, 3)
    assert seen == [2, 2]
    assert samples.uncertainty.value.isinf().tolist() == [[False] * 2, [True] * 2, [False] * 2]


def newest(samples, budget, step=1):
    return list(range(len(samples.contains)))[::-step][:budget]


def test_a_policy_is_a_class_of_ours_or_any_function(samples):
    assert policy_of("Herding")(samples, 3) == Herding()(samples, 3)
    assert policy_of({"_target_": "Random", "seed": 4})(samples, 3) == Random(4)(samples, 3)
    assert policy_of(f"{__name__}.newest")(samples, 3) == [39, 38, 37]
    assert policy_of({"_target_": f"{__name__}.newest", "step": 2})(samples, 3) == [39, 37, 35]
    with pytest.raises(ValueError, match=r"There is no `Newest` in lit_continual"):
        policy_of("Newest")
    with pytest.raises(ValueError, match="does not say what to build"):
        policy_of({"seed": 4})
