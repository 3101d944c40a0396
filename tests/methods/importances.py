"""What tests of methods with importances share: a classifier whose importances are golden, and ways to train it."""

import copy

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

PRECISIONS = {
    "32": lambda: {"precision": "32-true"},
    "bf16": lambda: {"precision": "bf16-mixed"},
    "fp16": lambda: {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))},
}


class Linear(LightningModule):
    """Softmax of X W', as in the golden numbers; by default it stays where it is."""

    def __init__(self, weight, lr=0.0):
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], len(weight), bias=False)
        self.layer.weight = nn.Parameter(weight.float())
        self.unused, self.lr = nn.Parameter(torch.ones(2)), lr

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch):  # No `batch_idx`: Lightning allows it.
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def golden_data(numbers, **options):
    data = TensorDataset(torch.from_numpy(numbers["X"]).float(), torch.from_numpy(numbers["labels"]))
    return DataLoader(data, **{"batch_size": 3, **options})


class Network(LightningModule):
    """Batch normalisation, dropout, momentum, a parameter that nobody asks; ``extra`` is a term written by hand."""

    def __init__(self, optimizer=None, extra=None):
        super().__init__()
        first = nn.Linear(4, 5, bias=False)  # a bias before the normalisation has rounding errors for gradients
        self.encoder = nn.Sequential(first, nn.BatchNorm1d(5), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(5, 3))
        self.unused = nn.Parameter(torch.ones(2))
        self.optimizer, self.extra = optimizer, extra

    def forward(self, x):
        return self.head(self.encoder(x))

    def training_step(self, batch, batch_idx):
        torch.manual_seed(batch_idx)  # dropout is the same, whatever else draws random numbers
        loss = cross_entropy(self(batch[0]), batch[1])
        return loss if self.extra is None or not self.training else loss + self.extra(self)

    def configure_optimizers(self):
        make = self.optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
        return make(self.parameters())


def network(seed=0, **options):
    torch.manual_seed(seed)
    return Network(**options)


def batches(seed=0, size=12, **options):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 4, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), **{"batch_size": 4, **options})


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def by_sample(module, loader, value, of):
    """Mean over samples of a function of the gradient of each, in evaluation mode; slowly."""
    module = copy.deepcopy(module).eval()
    found = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    samples = list(zip(*loader.dataset.tensors, strict=True))
    for x, y in samples:
        module.zero_grad(set_to_none=False)
        value(module, x[None], y[None]).backward()
        for name, p in module.named_parameters():
            found[name] += of(torch.zeros_like(p) if p.grad is None else p.grad) / len(samples)
    return found


def penalty(pairs, strength):
    """Sum over pairs of anchor and importance, as a term written by hand."""

    def term(module):
        named = dict(module.named_parameters())
        return strength * sum((f * (named[n] - a[n]) ** 2).sum() for a, omega in pairs for n, f in omega.items())

    return term


def slopes(module, value, step=1e-6):
    """Yield name, index and finite difference of the values of each sample, for each weight."""
    for name, p in module.named_parameters():
        for i in range(p.numel()):
            values = []
            for move in (step, -2 * step, step):
                with torch.no_grad():
                    values.append(value(module))
                    p.view(-1)[i] += move
            yield name, i, (values[1] - values[2]) / (2 * step)
