"""Measure the selection of exemplars: ``python tests/benchmarks/bench_selection.py content|coverage``.

``content`` compares the all-pairs content distances of 50 candidates against 448 images of 3 x 192 x 192 with the bare
forward passes of those images. ``coverage`` compares the coverage of 300 of 20 000 samples of 256 features with one
product of all features, the least that tells all cosines, and with apricot-select's lazy optimizer where that is
installed. Each runs in a process of its own, since a process's peak of memory never falls again; one that passes a
limit makes the script exit with 1.
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
CONTENT = {"processor time / bare forward passes": 1.3, "rise of the peak in GB": 1.55}  # whatever torch itself takes
PRODUCTS = {"positive": 6, "normal": 10, "clusters": 8}  # what coverage may cost, in products of all features
ROOM = 0.45  # GB that coverage may take


def peak():
    """Return the peak of resident memory in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def timed(label, run):
    """Print seconds and memory, and return processor seconds and by how much the peak of memory rose."""
    memory, wall, cpu = peak(), time.perf_counter(), time.process_time()
    run()
    wall, cpu, rise = time.perf_counter() - wall, time.process_time() - cpu, peak() - memory
    print(f"{label}: {wall:.1f} s, {cpu:.1f} s of processors, peak {peak():.2f} GB (+{rise:.2f})", flush=True)
    return cpu, rise


def judge(limits, *figures):
    """Print figures with their limits, and exit with 1 if one is passed."""
    for (name, limit), figure in zip(limits.items(), figures, strict=True):
        print(f"{name}: {figure:.2f} (at most {limit}) {'ok' if figure <= limit else 'MISSED'}", flush=True)
    raise SystemExit(any(figure > limit for limit, figure in zip(limits.values(), figures, strict=True)))


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
    judge(CONTENT, ours[0] / forward[0], ours[1])


def features(kind):
    rng = np.random.default_rng(0)
    if kind == "normal":
        return rng.standard_normal((N, D))
    if kind == "positive":
        return np.abs(rng.standard_normal((N, D)))
    return np.maximum(rng.standard_normal((50, D))[rng.integers(0, 50, N)] + 0.5 * rng.standard_normal((N, D)), 0)


def product(data):
    unit = torch.nn.functional.normalize(data.float())
    for part in unit.split(256):
        torch.mm(unit, part.T)


def coverage(kind):
    data = torch.from_numpy(features(kind))
    ours, rise = timed(f"coverage, {kind}", lambda: maximum_coverage_of_features(data, K))
    product(data[:1000])
    least, _ = timed("one product of all features", lambda: product(data))
    limits = {"processor time / one product of all features": PRODUCTS[kind], "rise of the peak in GB": ROOM}
    figures = [ours / least, rise]
    try:
        from apricot import FacilityLocationSelection
    except ImportError:
        print("apricot-select is not installed: no comparison")
    else:
        FacilityLocationSelection(3, metric="cosine", optimizer="lazy").fit(data[:200].numpy())  # compiles
        selection = FacilityLocationSelection(K, metric="cosine", optimizer="lazy")  # of squared cosines, in fact
        limits["processor time / apricot"] = 1
        figures.append(ours / timed(f"apricot, {kind}", lambda: selection.fit(data.numpy()))[0])
    judge(limits, *figures)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["content", "coverage"], help="both without it")
    parser.add_argument("--images", type=int, default=448)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--weights", default="random", help="file of VGG16's weights; random weights cost the same")
    parser.add_argument("--kind", default="positive", choices=list(PRODUCTS))
    options = parser.parse_args()
    jobs = {
        "content": (content, options.images, options.candidates, options.size, options.batch_size, options.weights),
        "coverage": (coverage, options.kind),
    }
    failed = 0
    for job, *arguments in [jobs[options.part]] if options.part else jobs.values():
        process = get_context("spawn").Process(target=job, args=arguments)
        process.start()
        process.join()
        failed |= bool(process.exitcode)
    sys.exit(failed)


if __name__ == "__main__":
    main()
