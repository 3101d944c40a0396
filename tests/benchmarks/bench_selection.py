"""Measure the selection of exemplars: ``python tests/benchmarks/bench_selection.py content|coverage``.

``content`` compares the all-pairs content distances of 50 candidates against 448 images of 3 x 192 x 192 with the bare
forward passes of those images (at most 1.3 times, below 2.5 GB). ``coverage`` compares the coverage of 300 of 20 000
samples of 256 features with apricot-select's lazy optimizer where it is installed (not slower, below 0.5 GB). Each
part runs in a process of its own, since a process's peak of memory never falls again.
"""

import argparse
import resource
import sys
import time
from multiprocessing import get_context

import numpy as np
import torch

from lit_continual.functional import maximum_coverage_of_features
from lit_continual.methods.rehearsal.selection.content_distances import content_distances
from lit_continual.networks import VGG16Features

N, D, K = 20_000, 256, 300


def peak():
    """Return the peak of resident memory in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(label, run):
    """Print wall and processor seconds, and by how much the peak of memory rose."""
    memory, wall, cpu = peak(), time.perf_counter(), time.process_time()
    result = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{label}: {wall:.1f} s, {cpu:.1f} s of processors, peak {peak():.2f} GB (+{peak() - memory:.2f})", flush=True
    )
    return wall, cpu, result


def phantoms(n, size):
    """Draw grey discs on noise, three equal channels."""
    generator = torch.Generator().manual_seed(0)
    images = 0.1 * torch.rand(n, 1, size, size, generator=generator)
    axis = torch.linspace(-1, 1, size)
    for image, (x, y, r) in zip(images, torch.rand(n, 3, generator=generator), strict=True):
        image[0] += ((axis - x + 0.5) ** 2 + (axis[:, None] - y + 0.5) ** 2 < (0.2 + r / 2) ** 2).float()
    return images.expand(-1, 3, -1, -1)


@torch.no_grad()
def bare(network, images, batch_size):
    for batch in images.split(batch_size):
        network.features(network.normalise(batch))


def content(images, candidates, size, batch_size, weights):
    network, samples = VGG16Features(weights), phantoms(images, size)
    chosen = torch.arange(0, images, max(images // candidates, 1))[:candidates]
    bare(network, samples[:batch_size], batch_size)
    forward = timed("bare forward passes", lambda: bare(network, samples, batch_size))
    ours = timed(
        "content distances", lambda: content_distances(samples, chosen, network.activations, batch_size=batch_size)
    )
    print(f"ratio: {ours[0] / forward[0]:.2f} of wall time, {ours[1] / forward[1]:.2f} of processor time")


def features(kind):
    rng = np.random.default_rng(0)
    if kind == "normal":
        return rng.standard_normal((N, D))
    if kind == "positive":
        return np.abs(rng.standard_normal((N, D)))
    return np.maximum(rng.standard_normal((50, D))[rng.integers(0, 50, N)] + 0.5 * rng.standard_normal((N, D)), 0)


def coverage(kind):
    data = torch.from_numpy(features(kind))
    timed(f"coverage, {kind}", lambda: maximum_coverage_of_features(data, K))


def coverage_by_apricot(kind):
    try:
        from apricot import FacilityLocationSelection
    except ImportError:
        print("apricot-select is not installed: no comparison")
        return
    FacilityLocationSelection(3, metric="cosine", optimizer="lazy").fit(features(kind)[:200])  # compiles
    data = features(kind)
    selection = FacilityLocationSelection(K, metric="cosine", optimizer="lazy")  # of squared cosines, in fact
    timed(f"apricot, {kind}", lambda: selection.fit(data))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["content", "coverage"], choices=["content", "coverage"])
    parser.add_argument("--images", type=int, default=448)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--weights", default="random", help="file of VGG16's weights; random weights cost the same")
    parser.add_argument("--kind", default="positive", choices=["positive", "normal", "clusters"])
    options = parser.parse_args()
    jobs = []
    if "content" in options.parts:
        arguments = (options.images, options.candidates, options.size, options.batch_size, options.weights)
        jobs.append((content, arguments))
    if "coverage" in options.parts:
        jobs += [(coverage, (options.kind,)), (coverage_by_apricot, (options.kind,))]
    failed = 0
    for job, arguments in jobs:
        process = get_context("spawn").Process(target=job, args=arguments)
        process.start()
        process.join()
        failed |= bool(process.exitcode)
    sys.exit(failed)


if __name__ == "__main__":
    main()
