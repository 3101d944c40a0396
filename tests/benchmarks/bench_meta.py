"""Time and memory of a meta-step, against `torch.func` written by hand and against `vmap` over the tasks.

Run as `python tests/benchmarks/bench_meta.py`. Four tasks, one inner step, a small segmentation CNN.
"""

import statistics
import time

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from lit_continual.functional import meta_gradient

TASKS, BATCH, SIZE, WIDTH, INNER_LR, ROUNDS = 4, 2, 32, 16, 0.1, 9


def build():
    layers = []
    for i in range(4):
        layers += [nn.Conv2d(WIDTH if i else 4, WIDTH, 3, padding=1), nn.GroupNorm(4, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, 4, 1))


def batch(generator):
    image = torch.randn(BATCH, 4, SIZE, SIZE, generator=generator)
    return image, torch.randint(4, (BATCH, SIZE, SIZE), generator=generator)


def peak(step):
    """Bytes allocated at the peak, above those held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def time_each(steps):
    """Median seconds of each step; the steps take turns, so that load on the machine hits all alike."""
    seconds = {name: [] for name in steps}
    for turn in range(ROUNDS + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn:  # the first turn warms up
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, generator = build(), torch.Generator().manual_seed(0)
    theta = {name: p.detach() for name, p in net.named_parameters()}
    tasks = [(batch(generator), batch(generator)) for _ in range(TASKS)]

    def loss(parameters, pair):
        return cross_entropy(functional_call(net, parameters, (pair[0],)), pair[1])

    def outer(parameters, inner, pair):
        gradient = grad(loss)(parameters, inner)
        return loss({name: p - INNER_LR * gradient[name] for name, p in parameters.items()}, pair)

    def by_hand():
        total = dict.fromkeys(theta, 0.0)
        for inner, pair in tasks:
            total = {name: total[name] + g for name, g in grad(outer)(theta, inner, pair).items()}
        return total

    def vectorised():
        stack = [[torch.stack([task[i][j] for task in tasks]) for j in (0, 1)] for i in (0, 1)]
        return grad(lambda p: vmap(outer, in_dims=(None, 0, 0))(p, *stack).sum())(theta)

    steps = {
        "second order": lambda: meta_gradient(loss, theta, tasks, INNER_LR),
        "first order": lambda: meta_gradient(loss, theta, tasks, INNER_LR, order=1),
        "torch.func by hand": by_hand,
        "vmap over tasks": vectorised,
    }
    reference = by_hand()
    gap = max((steps["second order"]()[key] - value).abs().max().item() for key, value in reference.items())
    print(f"second order differs from torch.func by hand by {gap:.1e}")
    seconds, memory = time_each(steps), {name: peak(step) for name, step in steps.items()}
    for name in steps:
        print(f"{name:20} {1000 * seconds[name]:8.1f} ms  {memory[name] / 2**20:8.1f} MiB")
    second, first = seconds["second order"], seconds["first order"]
    ratios = {
        "second order / torch.func by hand": (second / seconds["torch.func by hand"], 1.1),
        "first order / second order": (first / second, 0.6),
        "peak memory / vmap over tasks": (memory["second order"] / memory["vmap over tasks"], 1 / 3),
    }
    for name, (ratio, limit) in ratios.items():
        print(f"{name}: {ratio:.3f} (at most {limit:.2f}) {'ok' if ratio <= limit else 'MISSED'}")
    raise SystemExit(any(ratio > limit for ratio, limit in ratios.values()))


if __name__ == "__main__":
    main()
