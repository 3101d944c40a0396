"""Make the golden numbers anew, in numpy and float64, from the papers' equations: ``python generate.py OUT``.

Nothing here knows the package. The random inputs (``INPUTS``) are read from the files that stand beside this one, and
all else follows from them. ``wrong/…`` are readings of a paper that a test must reject.
"""

import sys
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from scipy.special import entr, expit, log_expit, log_softmax, logsumexp, softmax

HERE = Path(__file__).parent
INPUTS = {
    "distill": ["teacher_logits", "student_logits", "heads", "extreme/[zp]", "total/Lc", "total/alpha", "mib/*_logits"],
    "importance": ["X", "labels", "W", "agem/g", "agem/reference"],
    "kse": ["names", "*/W"],
    "l2sp": ["theta/*", "theta0/*", "*/lambda", "*/alpha", "*/beta", "sgd/lr"],
    "maml": ["theta", "alpha", "beta", "n_inner_steps", "shape?", "task?/[xt]_*"],
    "mib": ["logits", "old_logits", "target", "old_channels"],
    "pod": ["?d/a", "?d/b"],
    "coverage": ["features", "kc50/candidates", "signed/features", "distance/D"],
}


def generate(name):
    """Return all arrays of a golden file, its inputs among them."""
    with np.load(HERE / f"{name}.npz") as file:
        given = {k: file[k] for k in file if any(fnmatchcase(k, pattern) for pattern in INPUTS[name])}
    return {**given, **{k: np.asarray(v) for k, v in globals()[name](given).items()}}


def distill(x):
    """Ozdemir et al. 2018, eq. 1 and 2; Cermelli et al. 2020, eq. 8, for ``mib``."""
    z, teacher, found = x["student_logits"], x["teacher_logits"], {}
    pixels = z[:, 0].size

    def keep(key, losses, gradient, means):
        sizes = {"sum": 1, "per_pixel_mean": pixels, "element_mean": z.size}
        for mean in means:
            found[f"{key}/{mean}"] = losses.sum() / sizes[mean]
            found[f"{key}/grad_{mean}"] = gradient / sizes[mean]

    for T in (1, 2):
        p, y = expit(teacher / T), expit(z / T)
        losses = -(p * log_expit(z / T) + (1 - p) * log_expit(-z / T))
        keep(f"sigmoid_bce/T{T}", losses, (y - p) / T, ["sum", "per_pixel_mean", "element_mean"])
        heads = [_softmax_term(z[:, h], teacher[:, h], T) for h in x["heads"]]
        losses, gradients = (np.concatenate(parts, 1) for parts in zip(*heads, strict=True))
        keep(f"softmax_per_head/T{T}", losses, gradients, ["sum", "per_pixel_mean"])
        keep(f"softmax_joint/T{T}", *_softmax_term(z, teacher, T), ["per_pixel_mean"])
        terms = [_dice_term(z[:, h], teacher[:, h], T) for h in x["heads"]]
        losses, gradients = (np.concatenate(parts, 1) for parts in zip(*terms, strict=True))  # a class, a channel
        found[f"dice/T{T}/per_sample"], found[f"dice/T{T}/mean"] = losses.mean(1), losses.mean()
        found[f"dice/T{T}/grad_mean"] = gradients / losses.size

    p, y, log_y = expit(teacher), expit(z), log_expit(z)
    first = _softmax_term(z[:, x["heads"][0]], teacher[:, x["heads"][0]], 1)[0].sum()
    found["identity/softmax2_equals_bce_of_logit_difference"] = first
    found["wrong/printed_sign_sum_p_log_y"] = (p * log_y).sum()
    found["wrong/no_minus_grad"] = p * (1 - y)
    found["wrong/minus_but_no_1mp_term"] = -(p * log_y).sum()
    found["wrong/minus_but_no_1mp_term_grad"] = -p * (1 - y)
    p, z = x["extreme/p"], x["extreme/z"]
    found["extreme/loss"] = -(p * log_expit(z) + (1 - p) * log_expit(-z))
    found["extreme/grad"] = expit(z) - p
    L_c, L_d, alpha = x["total/Lc"], found["sigmoid_bce/T1/per_pixel_mean"], x["total/alpha"]
    found["total/new_batch"], found["total/exemplar_batch"] = alpha * L_c + (1 - alpha) * L_d, L_d

    z, p = x["mib/student_logits"], softmax(teacher, 1)
    old = p.shape[1]
    background = logsumexp(np.concatenate([z[:, :1], z[:, old:]], 1), 1, keepdims=True)  # the new classes are in it
    log_q = np.concatenate([background, z[:, 1:old]], 1) - logsumexp(z, 1, keepdims=True)
    found["mib/unkd_mean"], found["mib/kd_mean"] = -(p * log_q).mean(), -(p * log_softmax(z[:, :old], 1)).mean()
    return found


def _softmax_term(z, teacher, T):
    p = softmax(teacher / T, 1)
    return -p * log_softmax(z / T, 1), (softmax(z / T, 1) - p) / T


def _dice_term(z, teacher, T):
    """Milletari et al. 2016, eq. 3, of each class of a head between two networks, and the gradient of their sum."""
    s, t = softmax(z / T, 1), softmax(teacher / T, 1)
    axes = tuple(range(2, z.ndim))
    over, under = 2 * (s * t).sum(axes, keepdims=True) + 1, (s**2 + t**2).sum(axes, keepdims=True) + 1
    by_s = -(2 * t * under - over * 2 * s) / under**2
    by_s[:, 0] = 0  # the background is no class
    return (1 - over / under)[:, 1:].reshape(len(z), -1), s * (by_s - (by_s * s).sum(1, keepdims=True)) / T


def importance(x):
    """Kirkpatrick et al. 2017, Aljundi et al. 2018, for a softmax of logits X W'; Chaudhry et al. 2019, eq. 11."""
    z, classes = x["X"] @ x["W"].T, np.eye(len(x["W"]))
    p = softmax(z, 1)
    by_class = (classes - p[:, None])[..., None] * x["X"][:, None, None]  # d log p_c / d W, for each sample
    given = by_class[np.arange(len(z)), x["labels"]]
    found = {"fisher_given": (given**2).mean(0), "fisher_expected": (p[..., None, None] * by_class**2).sum(1).mean(0)}
    found["wrong/fisher_of_batch_gradient"] = given.mean(0) ** 2
    found["wrong/signed_mean_gradient"] = given.mean(0)
    by_sample = 2 * z[..., None] * x["X"][:, None]
    found["mas"], found["wrong/mas_of_batch_gradient"] = np.abs(by_sample).mean(0), np.abs(by_sample.mean(0))
    g, reference = x["agem/g"], x["agem/reference"]
    found["agem/projected"] = g - (g @ reference) / (reference @ reference) * reference
    found["agem/kept"] = g  # of which the product with -reference is not negative
    return found


def mib(x):
    """Cermelli et al. 2020, eq. 5 and 9, over voxels, and divided by the old channels in the latter."""
    z, target, old = x["logits"], x["target"], int(x["old_channels"])
    voxels, y, p = target.size, softmax(x["logits"], 1), softmax(x["old_logits"], 1)
    background, classes = target == 0, np.eye(z.shape[1])[target].transpose(0, 3, 1, 2)
    seen = np.concatenate([logsumexp(z[:, :old], 1, keepdims=True), z[:, 1:]], 1)
    losses = logsumexp(z, 1) - np.take_along_axis(seen, target[:, None], 1)[:, 0]
    among_old = np.concatenate([softmax(z[:, :old], 1), np.zeros_like(z[:, old:])], 1)
    found = {"unce": losses.mean(), "grad_unce": (y - np.where(background[:, None], among_old, classes)) / voxels}
    new = [0, *range(old, z.shape[1])]
    log_q = np.concatenate([logsumexp(z[:, new], 1, keepdims=True), z[:, 1:old]], 1) - logsumexp(z, 1, keepdims=True)
    wanted = np.concatenate([p, np.zeros_like(z[:, old:])], 1)
    wanted[:, new] = p[:, :1] * softmax(z[:, new], 1)
    return {**found, "unkd": -(p * log_q).sum() / voxels / old, "grad_unkd": (y - wanted) / voxels / old}


def pod(x):
    """Douillard et al. 2021, eq. 4 to 7, scales 1, 2 and 4, in squares, windows one by one."""
    return {f"{d}/distance": _pod_distance(x[f"{d}/a"], x[f"{d}/b"]) for d in ("2d", "3d")}


def _pod_distance(*maps):
    a, b = (_pod_embedding(values**2) for values in maps)
    return np.linalg.norm(a - b, axis=1).mean()


def _pod_embedding(squares):
    parts, sizes = [], squares.shape[2:]
    for scale in (1, 2, 4):
        for place in np.ndindex(*[scale] * len(sizes)):
            cut = tuple(slice(i * n // scale, (i + 1) * n // scale) for i, n in zip(place, sizes, strict=True))
            window = squares[(slice(None), slice(None), *cut)]
            axes = range(2, squares.ndim)
            parts += [window.mean(tuple(o for o in axes if o != axis)).reshape(len(squares), -1) for axis in axes]
    whole = np.concatenate(parts, 1)
    return whole / np.linalg.norm(whole, axis=1, keepdims=True)


def kse(x):
    """Chen, Asma and Chan 2021, eqs. 1 to 3, with k = 5 and alpha = 1."""
    found = {}
    for name in x["names"]:
        W = x[f"{name}/W"].astype(float)
        kernels = W.reshape(*W.shape[:2], -1).transpose(1, 0, 2)  # (C, N, kernel)
        s = np.abs(kernels).sum((1, 2))
        facts = {"s": s, "s_norm": _min_max(s, 1.0)}
        for suffix, same in (("_alt_degenerate_zero", 0.0), ("", 1 / W.shape[0])):  # shares where all kernels are equal
            e = np.array([_entropy(channel, same) for channel in kernels])
            facts |= {"e": e, "e_norm": _min_max(e, 0.0)}
            facts["indicator"] = np.sqrt(facts["s_norm"] / (1 + facts["e_norm"]))
            facts[f"kse{suffix}"] = _min_max(facts["indicator"], 1.0)
        found |= {f"{name}/{key}": value for key, value in facts.items()}
    found["convtranspose_8x16/kse"] = found["conv3x3_16x8/kse"]  # the same weight with its axes swapped
    return found


def _entropy(kernels, same):
    distances = np.sqrt(np.square(kernels[:, None] - kernels).sum(-1))
    distances = np.sort(distances + np.diag([np.inf] * len(kernels)), 1)[:, : min(5, len(kernels) - 1)].sum(1)
    total = distances.sum()
    return entr(distances / total if total > 0 else np.full(len(kernels), same)).sum() / np.log(2)


def _min_max(values, constant):
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread > 1e-12 else np.full_like(values, constant)


def l2sp(x):
    """Sagie et al. eq. 2 without a half; Li et al. 2018 with halves, of weights or of all; explicit and proximal."""
    names = [key.removeprefix("theta/") for key in x if key.startswith("theta/")]
    theta, anchor = ({n: x[f"{kind}/{n}"] for n in names} for kind in ("theta", "theta0"))
    lam, half_alpha, half_beta = x["sagie_all/lambda"], x["li_mode1/alpha"] / 2, x["li_mode1/beta"] / 2
    modes = {
        "sagie_all": (lam, 0, True),
        "sagie_weights": (lam, 0, False),
        "li_mode1": (half_alpha, half_beta, False),
        "li_mode101": (half_alpha, half_beta, True),
    }
    found = {}
    for mode, (strength, rest, vectors) in modes.items():
        penalty = 0.0
        for n in names:
            encoder = n.startswith("encoder.")
            factor = (strength if encoder else rest) * (vectors or theta[n].ndim > 1)
            away = theta[n] - anchor[n] if encoder else theta[n]
            penalty += factor * np.square(away).sum()
            found[f"{mode}/grad/{n}"] = 2 * factor * away
        found[f"{mode}/penalty"] = penalty
    lr = x["sgd/lr"]
    for n in (n for n in names if n.startswith("encoder.")):
        found[f"sgd/theta1/{n}"] = theta[n] - lr * found[f"sagie_all/grad/{n}"]
        found[f"prox/theta1/{n}"] = (theta[n] + 2 * lr * lam * anchor[n]) / (1 + 2 * lr * lam)
    return found


def maml(x):
    """Finn et al. 2017 on two tasks: conv, tanh, conv, and the cross-entropy of a sigmoid, averaged over pixels."""
    shapes = [tuple(x[f"shape{i}"]) for i in range(4)]
    theta, alpha, beta = x["theta"], x["alpha"], x["beta"]
    tasks = [[(x[f"task{k}/x_{s}"], x[f"task{k}/t_{s}"]) for s in ("in", "out")] for k in (0, 1)]

    def loss_and_gradient(theta, batch):  # of complex parameters too
        image, truth = batch[0][0], batch[1][0, 0]
        ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
        w1, b1, w2, b2 = (part.reshape(shape) for part, shape in zip(np.split(theta, ends), shapes, strict=True))
        hidden = np.tanh(_convolve(image, w1) + b1[:, None, None])
        z = (_convolve(hidden, w2) + b2[:, None, None])[0]
        loss = (np.log(1 + np.exp(-z)) + (1 - truth) * z).mean()
        by_z = ((1 / (1 + np.exp(-z)) - truth) / z.size)[None]
        by_hidden = _convolve(by_z, w2[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)) * (1 - hidden**2)
        parts = [_by_weight(image, by_hidden), by_hidden.sum((1, 2)), _by_weight(hidden, by_z), by_z.sum((1, 2))]
        return loss, np.concatenate([part.ravel() for part in parts])

    def step(theta, batch):
        return theta - alpha * loss_and_gradient(theta, batch)[1]

    def through(theta, batch, gradient):  # the inner step, whose Hessian a complex step gives exactly
        curvature = loss_and_gradient(theta + 1e-30j * gradient, batch)[1].imag / 1e-30
        return gradient - alpha * curvature

    found, reused = {}, 0
    for k, (inner, outer) in enumerate(tasks):
        fast = step(theta, inner)
        loss, gradient = loss_and_gradient(fast, outer)
        found |= {f"task{k}/theta_prime": fast, f"task{k}/outer_loss": loss}
        found[f"task{k}/inner_loss"], found[f"task{k}/inner_grad"] = loss_and_gradient(theta, inner)
        found[f"task{k}/outer_grad_first_order"] = gradient
        found[f"task{k}/outer_grad_second_order"] = through(theta, inner, gradient)
        reused = reused + through(theta, inner, loss_and_gradient(fast, inner)[1])
    for order in ("first_order", "second_order"):
        found[f"meta_grad_{order}"] = total = sum(found[f"task{k}/outer_grad_{order}"] for k in (0, 1))
        for reduction, count in (("sum", 1), ("mean", 2)):
            found[f"theta_new_{order}_{reduction}"] = theta - beta * total / count
    found["wrong/inner_data_reused_meta_grad"] = reused
    found["wrong/sequential_theta_prime_task1"] = step(found["task0/theta_prime"], tasks[1][0])
    return found


def _convolve(image, weight):
    """Correlate ``(C, H, W)`` with ``(N, C, 3, 3)``, padded by one."""
    return np.einsum("chwij,ncij->nhw", _windows(image), weight)


def _by_weight(image, by_output):
    return np.einsum("chwij,nhw->ncij", _windows(image), by_output)


def _windows(image):
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))


def coverage(x):
    """Coverage of Ozdemir et al. 2018, section 2.2, by cosine and by distance; herding of Rebuffi et al. 2017."""
    unit, signed = _unit(x["features"]), _unit(x["signed/features"])
    cosines, candidates = unit @ unit.T, np.sort(x["kc50/candidates"])
    found = {**_greedy("all", cosines, 30), **_greedy("kc50", cosines, 30, candidates)}
    among = _greedy("", cosines[candidates], 30, candidates)
    found["kc50/WRONG_picks_if_coverage_over_candidates_only"] = among["/picks"]
    for name, start in (("minus_inf", -np.inf), ("zero", 0.0)):
        found |= _greedy(f"signed/{name}", signed @ signed.T, 30, start=start)
    found |= _greedy("distance", -x["distance/D"], 20)
    for name in ("signed/minus_inf", "signed/zero", "distance"):
        del found[f"{name}/n_tied"]
    found["herding/picks"] = _herding(unit[:100], 20)
    return found


def _unit(features):
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)


def _greedy(name, similarity, k, candidates=None, start=-np.inf, rounding=1e-9):
    left = list(range(similarity.shape[1]) if candidates is None else candidates)
    covered, steps = np.full(len(similarity), start), []
    for _ in range(k):
        F = np.maximum(covered[:, None], similarity[:, left]).sum(0)
        tied = np.isclose(F, F.max(), rtol=0, atol=rounding)
        steps.append((left.pop(int(tied.argmax())), F.max(), F.max() - F[~tied].max(), tied.sum()))
        covered = np.maximum(covered, similarity[:, steps[-1][0]])
    keys, columns = ("picks", "F", "gap_to_next", "n_tied"), zip(*steps, strict=True)
    return {f"{name}/{key}": np.array(column) for key, column in zip(keys, columns, strict=True)}


def _herding(unit, k, rounding=1e-12):
    picks = []
    for step in range(1, k + 1):
        distance = np.linalg.norm(unit.mean(0) - (unit[picks].sum(0) + unit) / step, axis=1)
        distance[picks] = np.inf
        picks.append(int((distance <= distance.min() + rounding).argmax()))
    return picks


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for golden in INPUTS:
        np.savez_compressed(out / f"{golden}.npz", **generate(golden))
