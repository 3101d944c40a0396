import numpy as np
import pytest

from lit_continual.data import PetScanner, Reconstruction, split_counts
from lit_continual.denoising.pet_scanner import RECONSTRUCTIONS


def disc(size=32, radius=9, centre=(0, 0)):
    axis = np.arange(size) - (size - 1) / 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return (np.hypot(y - centre[0], x - centre[1]) < radius).astype(float)


@pytest.fixture
def scanner():
    return PetScanner(size=32, pixel=8.0, angles=36)


def test_projection_is_the_length_of_the_chord(scanner):
    """A disc's shadow is the same from everywhere: chords of 2 * sqrt(r^2 - s^2)."""
    shadow = (scanner.system @ disc(radius=9).ravel()).reshape(36, -1)
    bins = np.arange(shadow.shape[1]) - shadow.shape[1] // 2
    chord = 2 * np.sqrt(np.maximum(9**2 - bins**2, 0)) * 8.0
    assert np.abs(shadow - chord).mean(1).max() < 0.05 * chord.max()
    np.testing.assert_allclose(shadow.sum(1), disc(radius=9).sum() * 8.0)  # nothing is lost on the way


def test_expected_counts_are_proportional_to_time_and_attenuated(scanner):
    activity, water = disc() * 2, disc() * 0.0096
    short, long = (scanner.expected(activity, water, seconds) for seconds in (30, 180))
    np.testing.assert_allclose(long, 6 * short)
    assert scanner.expected(activity, 0 * water, 30).sum() > 2 * short.sum()


def test_a_realisation_is_poisson(scanner):
    rng = np.random.default_rng(0)
    expected = scanner.expected(disc(), disc() * 0.0096, 60)
    counts = np.stack([scanner.counts(disc(), disc() * 0.0096, 60, rng) for _ in range(200)])
    assert counts.mean() == pytest.approx(expected.mean(), rel=0.01)
    assert (counts.var(0) / counts.mean(0).clip(1e-9)).mean() == pytest.approx(1, abs=0.05)


def test_binned_realisations_add_up_and_are_independent():
    rng = np.random.default_rng(0)
    counts = rng.poisson(20.0, 5000).astype(float)
    parts = split_counts(counts, 4, rng)
    np.testing.assert_array_equal(sum(parts), counts)
    assert [part.mean() for part in parts] == pytest.approx([5] * 4, rel=0.05)
    assert [part.var() for part in parts] == pytest.approx([5] * 4, rel=0.1)
    assert abs(np.corrcoef(parts[0], parts[1])[0, 1]) < 0.05


def test_reconstructs_noiseless_data_of_its_own_model():
    scanner = PetScanner(size=32, pixel=8.0, angles=36, resolution=8.0)
    activity, water = disc() * 2 + disc(radius=3, centre=(2, 3)) * 3, disc() * 0.0096
    how = Reconstruction(psf=8.0, smoothing=0.0, iterations=20)
    image = scanner.reconstruct(scanner.expected(activity, water, 600), water, 600, how)
    inner = disc(radius=7) > 0
    assert np.abs(image - activity)[inner].mean() < 0.15
    again = scanner.expected(image, water, 600)
    assert np.abs(again - scanner.expected(activity, water, 600)).max() < 0.02 * again.max()


def test_the_old_protocol_overshoots_at_edges_and_has_noise_of_a_coarser_grain():
    scanner, rng = PetScanner(size=48, pixel=5.0, angles=36), np.random.default_rng(0)
    body, water = disc(48, 18), disc(48, 18) * 0.0096
    inside, peak, grain = disc(48, 14) > 0, {}, {}
    counts = [scanner.counts(body, water, 60, rng) for _ in range(6)]
    for version, how in RECONSTRUCTIONS.items():
        peak[version] = scanner.reconstruct(scanner.expected(body, water, 600), water, 600, how).max()
        images = np.stack([scanner.reconstruct(c, water, 60, how) for c in counts])
        noise = images - images.mean(0)
        grain[version] = (noise * np.roll(noise, 1, axis=2))[:, inside].mean() / (noise**2)[:, inside].mean()
    assert peak["v1"] > 1.05 * peak["v2"]
    assert grain["v1"] > grain["v2"] + 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: s.reconstruct(np.full(s.system.shape[0], -1.0), disc(), 1, RECONSTRUCTIONS["v2"]),
            "a minimum of -1",
        ),
        (lambda s: s.reconstruct(np.ones(3), disc(), 1, RECONSTRUCTIONS["v2"]), r"got shape \(3,\)"),
        (
            lambda s: s.reconstruct(np.ones(s.system.shape[0]), disc(), 1, Reconstruction(0, 0, 1, 7)),
            "7 subsets do not",
        ),
        (lambda s: split_counts(np.array([-1.0]), 2, np.random.default_rng(0)), "must be whole and not negative"),
        (lambda s: split_counts(np.array([1.0]), 0, np.random.default_rng(0)), "`parts` must be at least 1, got 0"),
    ],
)
def test_bad_input(scanner, call, message):
    with pytest.raises(ValueError, match=message):
        call(scanner)
