import copy

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lit_continual.methods.bases.old_network.layer_outputs import LayerOutputs, candidate_layers, level_ends
from lit_continual.modules import SharedHead


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(weight_norm(nn.Conv2d(1, 2, 1)), nn.ReLU(inplace=True), nn.Dropout2d())
        self.down, self.head = nn.MaxPool2d(2), SharedHead(2, 2, [["a"], ["b"]])

    def forward(self, image):
        return self.head(self.down(self.first(image)))


def test_candidates_are_layers_that_answer_with_features():
    assert candidate_layers(Network()) == ["first.0", "first.1", "down"]


def test_the_last_call_counts_as_long_as_it_is_watched():
    network, image = Network().eval(), torch.ones(1, 1, 4, 4)
    outputs = LayerOutputs(network, ["first.1", "down"])
    network(image)
    network.first[1](-image)
    assert list(outputs.found) == ["down", "first.1"]
    assert not outputs.found["first.1"].any()
    before, outputs.active = dict(outputs.found), False
    network(2 * image)
    copy.deepcopy(network)(image)
    assert all(outputs.found[name] is value for name, value in before.items())
    outputs.remove()
    outputs.active = True
    network(image)
    assert all(outputs.found[name] is value for name, value in before.items())
    assert not any(part._forward_hooks for part in network.modules())


def test_levels_end_where_sizes_change_and_logits_are_no_features():
    sizes = {"a": (8, 8), "b": (4, 8), "c": (4, 4), "d": (4, 4), "e": (8, 8), "logits": (8, 8)}
    outputs = {name: torch.zeros(1, 2, *size) for name, size in sizes.items()}
    outputs["tokens"] = torch.zeros(1, 2, 7)
    assert level_ends(outputs, outputs["logits"]) == ["a", "b", "d", "e"]
    assert level_ends({"tokens": outputs["tokens"]}, outputs["logits"]) == []
