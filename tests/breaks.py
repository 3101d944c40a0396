"""The hand-made breaks of :mod:`tests.mutations`, room by room, each with the tests that must find it."""

from typing import NamedTuple


class Break(NamedTuple):
    file: str
    old: str
    new: str
    tests: str


def room(file, tests, *pairs):
    return [Break(file, old, new, tests) for old, new in pairs]


KILLS, REHEARSAL = "tests/stream/test_kills.py", "tests/methods/rehearsal/"
BREAKS = [
    # Formulas
    *room(
        "methods/distillation/loss.py",
        "tests/methods/distillation/test_loss.py",
        ("teacher = teacher_logits.detach().to(precision) / temperature", "teacher = teacher_logits.to(precision)"),
        ("(len(pixels), -1).mean(1)", "(len(pixels), -1).sum(1)"),
    ),
    *room(
        "methods/soft_cross_entropy.py",
        "tests/methods/distillation/test_loss.py",
        ("return -(probabilities * log_softmax(logits, 1))", "return (probabilities * log_softmax(logits, 1))"),
        ("(logits.softmax(1) - probabilities), None", "(logits.softmax(1) - 0.5 * probabilities), None"),
    ),
    *room(
        "methods/l2sp/penalty.py",
        "tests/methods/l2sp/test_penalty.py",
        ("2.0 * strength)", "strength)"),
        ("1.0 - 1.0 / (1.0 + 2.0 * lr * strength)", "1.0 - 1.0 / (1.0 + lr * strength)"),
    ),
    *room(
        "methods/tgd/kernel_sparsity_entropy.py",
        "tests/methods/tgd/test_kernel_sparsity_entropy.py",
        ("min(k + 1, count)", "min(k, count)"),
        ("torch.where(total > 0, density / total, 1 / count)", "torch.where(total > 0, density / total, 0.0)"),
    ),
    *room(
        "methods/meta/inner_loop.py",
        "tests/methods/meta/test_meta_gradient.py",
        ("create_graph=order == 2)", "create_graph=False)"),
    ),
    *room(
        "methods/meta/meta_gradient.py",
        "tests/methods/meta/test_meta_gradient.py",
        ('if reduction == "mean" else total', 'if reduction != "mean" else total'),
    ),
    *room(
        "methods/rehearsal/coverage.py",
        f"{REHEARSAL}test_coverage.py",
        ("coverage = similarity.amin(1).double()", "coverage = 0 * similarity.amin(1).double()"),
    ),
    *room(
        "methods/rehearsal/selection/herding.py",
        f"{REHEARSAL}test_herding.py",
        ("+ unit) / step)", "+ unit) / (step + 1))"),
    ),
    *room(
        "methods/rehearsal/selection/mc_dropout.py",
        f"{REHEARSAL}test_mc_uncertainty.py",
        ("correction=0", "correction=1"),
    ),
    *room(
        "metrics/continual_scores.py",
        "tests/metrics/test_continual_scores.py",
        ("torch.fmax, gain[:-1],", "torch.fmax, gain,"),
        ("(gain.diagonal(1) - chance[1:])", "(gain.diagonal()[1:] - chance[1:])"),
    ),
    *room(
        "metrics/surface_distance.py",
        "tests/metrics/test_surface_distance.py",
        ("torch.cat([there, back]).mean()", "(there.mean() + back.mean()) / 2"),
        ("torch.maximum(there.quantile(0.95), back.quantile(0.95))", "torch.cat([there, back]).quantile(0.95)"),
    ),
    *room(
        "denoising/region_statistics.py",
        "tests/denoising/test_region_statistics.py",
        ("values.std(1, correction=0)", "values.std(1, correction=1)"),
        ("100 * (mean / true - 1))", "100 * (mean / true - 1).abs())"),
    ),
    *room(
        "denoising/study_scores.py",
        "tests/denoising/test_denoiser.py",
        ('MeanMetric(nan_strategy="ignore")', "MeanMetric(nan_strategy=0.0)"),
        ("ensemble_rmse(denoised, target, mask)", "ensemble_bias(denoised, target, mask)"),
    ),
    # Segmentation
    *room(
        "segmentation/class_ratio_cross_entropy.py",
        "tests/segmentation/test_class_ratio_cross_entropy.py",
        (", self.of(head).to(logits))", ")"),
    ),
    *room("segmentation/loss_of_heads.py", "tests/segmentation/test_segmenter.py", ("len(rows) / len(logits) * ", "")),
    *room(
        "segmentation/label_map.py",
        "tests/segmentation/test_label_map.py",
        ("set(inner) < set(outer)", "set(inner) > set(outer)"),
        ("(background - logits[:, head[:1]])", "(logits[:, head[:1]] - background)"),
    ),
    *room(
        "runs/schedule.py",
        "tests/runs/test_schedule.py",
        ('"total_steps", 1', '"total_steps", 0'),
        ("epochs > total", "epochs > total + 1"),
    ),
    *room(
        "segmentation/growing_heads.py",
        "tests/segmentation/test_growing_heads.py tests/segmentation/test_region_segmenter.py",
        ("softmax(1)[:, 1:]", "softmax(1)[:, :-1]"),
    ),
    *room(
        "segmentation/hydra_net.py",
        "tests/segmentation/test_hydra_net.py",
        ("__init__(network, features, heads, roi_size, loss,", "__init__(network, features, heads, roi_size, None,"),
        ("(self.decoders[head](features))", "(sum(decoder(features) for decoder in self.decoders))"),
        ("losses.values())).mean()", "losses.values())).sum()"),
    ),
    *room(
        "segmentation/region_segmenter.py",
        "tests/segmentation/test_region_segmenter.py",
        ("known.issuperset(parts)", "known & set(parts)"),
        ("torch.isin(label,", "torch.isin(label.clamp(max=2),"),
    ),
    # Callbacks
    *room(
        "methods/distillation/callback.py",
        "tests/methods/distillation/test_callback.py",
        ("1.0 if o == ", "1 - self.alpha if o == "),
        ('== {"exemplar"} else self.alpha', '== {"exemplar"} else 1.0'),
    ),
    *room(
        "methods/taught_term.py",
        "tests/methods/distillation/test_callback.py",
        ("lambda network: logits(network, batch)", "answers.of_images(batch)"),
        ('elif self.teacher == "start" or self._fitted:', 'elif self.teacher == "start":'),
    ),
    *room(
        "methods/frozen_copy.py",
        "tests/methods/distillation/test_callback.py",
        ("copied.eval().requires_grad_(False)", "copied.requires_grad_(False)"),
    ),
    *room(
        "methods/loss_term.py",
        "tests/methods/test_loss_term.py",
        ("_Terms.remove(pl_module, self)  # Lightning calls no", "pass  # Lightning calls no"),
    ),
    *room("methods/anchor.py", "tests/methods/l2sp/test_callback.py", ("p.detach().clone() for", "p.detach() for")),
    *room(
        "methods/l2sp/callback.py",
        "tests/methods/l2sp/test_callback.py",
        ('return {"anchor": self._anchor} if self._anchor else {}', "return {}"),
    ),
    *room(
        "methods/frozen_entries.py",
        "tests/methods/tgd/test_callback.py",
        ("gradient.index_fill_(one.axis, one.rows, 0.0)", "pass"),
        ("one.live.index_copy_(one.axis, one.rows, one.kept)", "pass"),
    ),
    *room(
        "methods/tgd/callback.py",
        "tests/methods/tgd/test_callback.py",
        ("score < self.phi for", "score > self.phi for"),
    ),
    *room(
        "methods/train_only/callback.py",
        "tests/methods/train_only/test_callback.py",
        ('f"{name}.".startswith(f"{part}.")', "name.startswith(part)"),
    ),
    # Resumption
    *room(
        "stream/resumption.py",
        f"tests/stream/test_resuming.py {KILLS}",
        ("if batch_idx == 0:", "if batch_idx == 0 and trainer.current_epoch == 0:"),
        ("trainer.current_epoch + 1 >= epochs", "trainer.current_epoch >= epochs"),
        ("            torch.save(checkpoint, temporary)", "            torch.save(checkpoint, path)"),
    ),
    *room(
        "stream/stream_loop.py",
        KILLS,
        ("elif not self.folder.learnt(i):", "elif False:"),
        ("for k, v in checkpoint.get(", "for k, v in {}.get("),
    ),
    *room(
        "runs/run_folder.py",
        KILLS,
        ('if r["after"] != str(after)', "if True"),
        ("for part in self.path.glob(", "for part in self.path.joinpath('none').glob("),
    ),
    *room(
        "methods/rehearsal/exemplar_memory.py",
        f"{REHEARSAL}test_exemplar_memory.py",
        ("if exemplar.experience != experience]", "]"),
        ("if not same or checksum(content) != exemplar.sha256:", "if not same:"),
        ("is_file_of_exemplar(whole) and path.name not in files:", "False:"),
    ),
    # The door to checkpoints, and the registry
    *room(
        "runs/checkpoint.py",
        "tests/runs/test_checkpoint.py tests/runs/test_registry.py",
        ("if written is not None and written != self._digest():", "if False:"),
        ('map_location="cpu", weights_only=True)', 'map_location="cpu", weights_only=False)'),
        ("not bool(value.isfinite().all())", "False"),
    ),
    *room(
        "runs/parameters.py",
        "tests/runs/test_checkpoint.py tests/runs/test_registry.py",
        ("    if _describes(value):", "    if False:"),
    ),
    *room(
        "runs/seal.py",
        "tests/runs/test_checkpoint.py tests/runs/test_registry.py",
        ('"hyper_parameters": checkpoint.get("hyper_parameters")}', '"hyper_parameters": None}'),
    ),
    *room(
        "runs/registry.py",
        "tests/runs/test_registry.py",
        ("fetches = FETCHES.search(argument) and", "fetches = False and"),
        (" and not LEADS_AWAY.search(value)", ""),
        ("self._is_kind(c) and self.allows(c)", "self._is_kind(c)"),
        ('if found is not None and not _names("lit_continual", place):', "if False:"),
    ),
    # Samplers and splits
    *room(
        "data/samplers.py",
        "tests/data/test_patches.py tests/data/test_segmentation_data_module.py",
        ("self.order()[self.rank :: self.num_replicas]", "self.order()"),
        ("np.random.default_rng([self.seed, self.epoch])", "np.random.default_rng([self.seed])"),
        ("iter(range(self.rank, len(", "iter(range(0, len("),
    ),
    *room(
        "data/patches.py",
        "tests/data/test_patches.py tests/data/test_segmentation_data_module.py",
        ("np.random.default_rng([self.seed, self.epoch.value, k])", "np.random.default_rng([self.seed, k])"),
    ),
    *room(
        "methods/rehearsal/replay.py",
        f"{REHEARSAL}test_replay.py",
        ("batch[self.rank :: self.num_replicas]", "batch"),
        ("round(self.share / (1 - self.share) *", "round(self.share *"),
    ),
    *room(
        "data/splits.py",
        "tests/data/test_splits.py",
        ('groups["train"][i::n]', 'groups["train"][i:]'),
        ("if len(found) > 1:", "if len(found) > 2:"),
    ),
]
