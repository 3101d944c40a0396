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
        ("teacher.detach().to(student.dtype) / temperature", "teacher.to(student.dtype)"),
        ("(s.square().sum(2) + t.square().sum(2) + smooth)", "(s.sum(2) + t.sum(2) + smooth)"),
        ("softmax(1)[:, 1:] for head", "softmax(1) for head"),
        ("(len(pixels), -1).mean(1)", "(len(pixels), -1).sum(1)"),
    ),
    *room(
        "methods/bases/old_network/soft_cross_entropy.py",
        "tests/methods/distillation/test_loss.py",
        ("return -(probabilities * log_softmax(logits, 1))", "return (probabilities * log_softmax(logits, 1))"),
        ("(logits.softmax(1) - probabilities), None", "(logits.softmax(1) - 0.5 * probabilities), None"),
    ),
    *room(
        "methods/ewc/fisher.py",
        "tests/methods/ewc/test_fisher.py",
        ("value=1 / len(logits)", "value=1.0"),
        ("signs[:, None] * log_p", "log_p"),
    ),
    *room("methods/mas/importance.py", "tests/methods/mas/test_mas.py", ("torch._foreach_abs(gradient)", "gradient")),
    *room(
        "methods/agem/projection.py",
        "tests/methods/agem/test_agem.py",
        ("torch.where(product < 0", "torch.where(product > 0"),
    ),
    *room(
        "methods/agem/callback.py",
        "tests/methods/agem/test_agem.py",
        ("loss * count_rows(batch)", "-loss * count_rows(batch)"),
    ),
    *room("methods/si/importance.py", "tests/methods/si/test_si.py", ("torch.relu(work)", "work.abs()")),
    *room(
        "methods/rwalk/callback.py", "tests/methods/rwalk/test_rwalk.py", ("(old[name] + one) / 2", "old[name] + one")
    ),
    *room(
        "methods/bases/importance/path_importance.py",
        "tests/methods/si/test_si.py",
        ("torch._foreach_copy_(before, list(mine.values()))", "pass"),
    ),
    *room(
        "methods/bases/importance/quadratic_penalty.py",
        "tests/methods/bases/test_quadratic_penalty.py",
        ("(differences, [*weights])", "(differences, [*anchors])"),
    ),
    *room(
        "methods/bases/importance/held_weights.py",
        "tests/methods/bases/test_held_weights.py",
        ("mul(difference, importance, ", "mul(difference, anchor, "),
        ("            if id(p) in mine:\n", "            if mine:\n"),
    ),
    *room(
        "methods/bases/importance/importance_penalty.py",
        "tests/methods/ewc/test_callback.py",
        ("self.factor * self.strength", "self.strength"),
    ),
    *room(
        "methods/bases/importance/sample_mean.py",
        "tests/methods/ewc/test_callback.py",
        ("with isolate_rng(), torch", "with torch"),
        ("copied = silent_copy(pl_module, trainer)", "copied = silent_copy(pl_module, trainer).train()"),
    ),
    *room(
        "methods/bases/importance/single_samples.py",
        "tests/methods/bases/test_single_samples.py",
        ("range(rank, size, world)", "range(rank, size)"),
    ),
    *room(
        "methods/l2sp/penalty.py",
        "tests/methods/l2sp/test_penalty.py",
        ("2.0 * strength)", "strength)"),
        ("1.0 - 1.0 / (1.0 + 2.0 * lr * strength)", "1.0 - 1.0 / (1.0 + lr * strength)"),
    ),
    *room(
        "methods/fusion/fuse.py",
        "tests/methods/fusion/test_fuse.py",
        ("part, share))", "part, 1 - share))"),
        ("if part.is_floating_point():", "if True:"),
    ),
    *room(
        "methods/der/loss.py",
        "tests/methods/der/test_loss.py",
        ("(len(difference), -1).mean(1)", "(len(difference), -1).sum(1)"),
        ("full_precision(stored_logits.detach())", "full_precision(stored_logits)"),
    ),
    *room(
        "methods/lora/low_rank_update.py",
        "tests/methods/lora/test_low_rank_update.py",
        ("alpha / len(down)", "alpha"),
        ("full_precision(up).flatten(1) @ full_precision(down).flatten(1)", "up.flatten(1) @ down.flatten(1)"),
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
        ("torch.maximum(_percentile(there), _percentile(back))", "_percentile(torch.cat([there, back]))"),
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
        (", self.of(head).to(exact))", ")"),
    ),
    *room("segmentation/loss_of_heads.py", "tests/segmentation/test_segmenter.py", ("len(rows) / len(logits) * ", "")),
    *room(
        "segmentation/label_map.py",
        "tests/segmentation/test_label_map.py",
        ("set(inner) < set(outer)", "set(inner) > set(outer)"),
        ("background - logits[:, head[0]]", "logits[:, head[0]] - background"),
        ("best = torch.maximum(best, channel)", "best = channel"),
    ),
    *room(
        "segmentation/masks.py",
        "tests/segmentation/test_whole_volumes.py",
        ("masks[:, k].to(torch.uint8) << (k % BITS)", "masks[:, k].to(torch.uint8) << (k // BITS)"),
    ),
    *room(
        "segmentation/source_grid.py",
        "tests/segmentation/test_whole_volumes.py",
        ("lower = (upper - 1)", "lower = upper"),
        ("turned.flip(self.turned)", "turned"),
    ),
    *room(
        "windows/window_sums.py",
        "tests/windows/test_stitching.py",
        ("a + edge - b + halo", "a + edge - b"),
        ("inner[-1] += self.weight", "inner[-1] += 1"),
        ("axis.stops[place[a]] - axis.halo - first[a]", "axis.stops[place[a]] - first[a]"),
    ),
    *room(
        "segmentation/folded_layer.py",
        "tests/segmentation/test_label_map.py",
        ("(first - head[:1])", "(head[:1] - first)"),
    ),
    *room(
        "runs/schedule.py",
        "tests/runs/test_schedule.py",
        ('"total_steps", 1', '"total_steps", 0'),
        ("epochs > total", "epochs > total + 1"),
        ('"frequency": measured or 1', '"frequency": 1'),
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
    *room(
        "segmentation/shared_head.py",
        "tests/segmentation/test_shared_head.py",
        ("sum(log1p(len(group))", "sum(log1p(0 * len(group))"),
        ("first.bias[:1] - self.offset", "first.bias[:1]"),
        ("self.layers[:kept]", "self.layers[: kept + 1]"),
        ("enumerate(self.names, start=1) if name not in names", "enumerate(self.names, start=1) if name in names"),
        ("logits.softmax(1)[:, 1:]", "logits.softmax(1)[:, :-1]"),
    ),
    *room(
        "methods/mib/loss.py",
        "tests/methods/mib/test_loss.py",
        ("range(1, old_channels)", "range(old_channels, z.shape[1])"),
        ("range(old, student_logits.shape[1])", "[]"),
        (".mean() / old", ".mean()"),
    ),
    *room(
        "methods/plop/local_pod.py",
        "tests/methods/plop/test_local_pod.py",
        ("full_precision(x).square()", "full_precision(x)"),
        ("if other not in (axis, begun):", "if other > begun:"),
        ("vectors if other == axis else", "vectors if other >= axis else"),
        ("for i in range(scale)]", "for i in range(scale - 1)]"),
    ),
    *room(
        "methods/plop/pseudo_labels.py",
        "tests/methods/plop/test_pseudo_labels.py",
        ("background & ~valid,", "~valid,"),
        ("(2 * running < total)", "(running < total)"),
        ("torch.where(count > 0, certain, 1.0)", "certain"),
    ),
    # Callbacks
    *room(
        "methods/mib/callback.py",
        "tests/methods/mib/test_callback.py",
        ("1.0 if self._teacher is None else 0.0", "1.0"),
        ("head.unbiased_terms", "head.terms"),
    ),
    *room(
        "methods/plop/callback.py",
        "tests/methods/plop/test_callback.py",
        ("1.0 if self._teacher is None else 0.0", "1.0"),
        ("/ (len(pairs) + 1)", ""),
        ("labels.certain[group].sum() * loss", "len(group) * loss"),
        ("len(rows) and _over_batches(loss)", "False"),
    ),
    *room(
        "methods/bases/old_network/teacher.py",
        "tests/methods/mib/test_callback.py",
        ("head.shrink(channels)", "pass"),
    ),
    *room(
        "methods/distillation/callback.py",
        "tests/methods/distillation/test_callback.py",
        ("1.0 if o == ", "1 - self.alpha if o == "),
        ('== {"exemplar"} else self.alpha', '== {"exemplar"} else 1.0'),
    ),
    *room(
        "methods/bases/old_network/taught_term.py",
        "tests/methods/distillation/test_callback.py",
        ("lambda network: logits(network, batch)", "answers.of_images(batch)"),
        ('elif self.teacher == "start" or self._fitted:', 'elif self.teacher == "start":'),
    ),
    *room(
        "methods/bases/old_network/frozen_copy.py",
        "tests/methods/distillation/test_callback.py",
        ("copied.eval().requires_grad_(False)", "copied.requires_grad_(False)"),
    ),
    *room(
        "methods/bases/releasing.py",
        "tests/methods/bases/test_loss_term.py",
        ("BaseException) -> None:\n        self.release(pl_module)", "BaseException) -> None:\n        pass"),
    ),
    *room(
        "methods/bases/anchor.py", "tests/methods/l2sp/test_callback.py", ("p.detach().clone() for", "p.detach() for")
    ),
    *room(
        "methods/l2sp/callback.py",
        "tests/methods/l2sp/test_callback.py",
        ('return {"anchor": self._anchor} if self._anchor else {}', "return {}"),
    ),
    *room(
        "methods/fusion/callback.py",
        "tests/methods/fusion/test_callback.py",
        ("(count - before) / count)", "(count - before) / max(before, 1))"),
        ("value.detach().cpu().clone() for", "value.detach() for"),
        ("            values[name].copy_(value)\n        self._old = {}", "            values[name].copy_(value)"),
    ),
    *room(
        "methods/fusion/statistics.py",
        "tests/methods/fusion/test_statistics.py",
        ("layer.momentum = None", "layer.momentum = 0.1"),
        ("            layer.train()\n", ""),
    ),
    *room(
        "methods/der/callback.py",
        "tests/methods/der/test_callback.py",
        ("return self.beta if", "return 1.0 if"),
        ("(losses * losses.new_tensor(exemplars)).mean()", "losses.mean()"),
    ),
    *room(
        "methods/bases/fit/after_training.py",
        "tests/methods/test_contract.py",
        ("        pl_module.to(trainer.strategy.root_device)\n", ""),
        ("            pl_module.to(before)", "            pass"),
    ),
    *room(
        "metrics/exact.py",
        "tests/metrics/test_exact.py",
        ('if device.type == "mps" else device', "if False else device"),
    ),
    *room(
        "methods/lora/adapters.py",
        "tests/methods/lora/test_callback.py",
        ('torch.zeros_like(value) if name.startswith("lora_B") else value', "value"),
        ("layer.weight.copy_(_merged(adapter))", "pass"),
        ("if not isinstance(layer, nn.Linear):", "if False:"),
        ("p.requires_grad_(adapter.flags[name])", "pass"),
        ("value.copy_(parts[part])", "pass"),
    ),
    *room(
        "methods/lora/callback.py",
        "tests/methods/lora/test_callback.py",
        ("| (fresh - mine)", ""),
        ("self._adapt(pl_module, list(state))", "pass"),
    ),
    *room(
        "methods/train_only/callback.py",
        "tests/methods/train_only/",
        ("trained = fresh.union(self._named(network))", "trained = self._named(network)"),
    ),
    *room(
        "networks/small_maps.py",
        "tests/networks/test_small_maps.py",
        ("min(args[0].shape[2:]) > 2", "min(args[0].shape[2:]) > 1"),
        ("exact = [value.float() if isinstance(value, Tensor) else value for value in args]", "exact = list(args)"),
        ("func(*exact, **kwargs).to(precision)", "func(*exact, **kwargs)"),
        ('if torch.is_autocast_enabled("cpu") else tensor.dtype', 'if torch.is_autocast_enabled("cpu") else None'),
    ),
    *room(
        "stream/signals.py",
        "tests/cli/test_signals.py",
        ("if signal.getsignal(n) != signal.SIG_IGN]  # nohup ignores", "]"),
        ("else 128 + received()", "else 0"),
        ('"Ctrl-C" if received() == signal.SIGINT else', '"Ctrl-C" if True else'),
    ),
    *room(
        "stream/stream_loop.py",
        "tests/methods/fusion/test_callback.py",
        ('checkpoint.pop("current_model_state", checkpoint["state_dict"])', 'checkpoint["state_dict"]'),
    ),
    *room(
        "methods/bases/fit/frozen_entries.py",
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
        "methods/tgd/channel_importance.py",
        "tests/methods/tgd/test_scores.py",
        ("gradient.square().sum(others)", "gradient.abs().sum(others)"),
        ("(weight * gradient).sum(others).abs()", "(weight * gradient).abs().sum(others)"),
        ("(0 if transposed else 1)", "1"),
    ),
    *room(
        "methods/patient_tuning/callback.py",
        "tests/methods/patient_tuning/test_callback.py",
        ("            module.load_state_dict(before)\n", "            pass\n"),
        ("annotated[..., shown] = True", "annotated[..., shown] = False"),
    ),
    *room(
        "methods/bases/names.py",
        "tests/methods/train_only/test_callback.py",
        ('f"{name}.".startswith(f"{part}.")', "name.startswith(part)"),
    ),
    # Resumption
    *room(
        "stream/resumption.py",
        f"tests/stream/test_resuming.py {KILLS}",
        ("if batch_idx == 0:", "if batch_idx == 0 and trainer.current_epoch == 0:"),
        ("trainer.current_epoch + 1 >= epochs", "trainer.current_epoch >= epochs"),
        ("not checkpoint.is_finite(value)", "False"),
        ("            torch.save(checkpoint, temporary)", "            torch.save(checkpoint, path)"),
    ),
    *room(
        "stream/stream_loop.py",
        KILLS,
        ("elif not self.folder.learnt(i):", "elif False:"),
    ),
    *room(
        "stream/stream_loop.py",
        "tests/stream/test_stream.py",
        ("for k, v in checkpoint.get(", "for k, v in {}.get("),
        ('"test" else validated(self.data[on])', '"test" else self.data[on]'),
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
        ("is_file_of_exemplar(part_of(path.name) or path.name) and path.name not in files:", "False:"),
        ("FolderLock(self.folder.parent).require_free()", "pass"),
        ('_remove(self.folder / "exemplars" / file)', "pass"),
    ),
    # The door to checkpoints, and the registry
    *room(
        "runs/checkpoints/checkpoint.py",
        "tests/runs/test_checkpoint.py tests/runs/test_registry.py",
        ("if written is not None and written != self._digest():", "if False:"),
        ("not asked or bool(value.isfinite().all())", "True"),
        ("BoundedBuilding(self.state_dict) if kind in MODULES.own.values() else nullcontext()", "nullcontext()"),
        ("with self._named(), trusting(self.trust), BoundedBuilding(self.state_dict):", "with self._named():"),
    ),
    *room(
        "runs/checkpoints/load_checkpoint.py",
        "tests/runs/test_checkpoint.py tests/runs/test_registry.py",
        ('map_location="cpu", weights_only=True)', 'map_location="cpu", weights_only=False)'),
        ("_require_stored(path)", "pass"),
        ("_require_bounded(checkpoint)", "pass"),
    ),
    *room("runs/checkpoints/trust.py", "tests/runs/test_registry.py", ("_TRUSTED.reset(token)", "pass")),
    *room(
        "runs/checkpoints/parameters.py",
        "tests/runs/test_checkpoint.py tests/runs/test_registry.py",
        ("    if _describes(value):", "    if False:"),
    ),
    *room(
        "runs/checkpoints/seal.py",
        "tests/runs/test_checkpoint.py tests/runs/test_registry.py",
        ('"hyper_parameters": checkpoint.get("hyper_parameters")}', '"hyper_parameters": None}'),
    ),
    *room(
        "runs/checkpoints/arguments_of_files.py",
        "tests/runs/test_registry.py",
        ("fetches = FETCHES.search(argument) and", "fetches = False and"),
        (" and not LEADS_AWAY.search(value)", ""),
        ("low <= abs(number) <= high", "low <= abs(number)"),
    ),
    *room(
        "runs/checkpoints/registry.py",
        "tests/runs/test_registry.py",
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
        "data/case_lists/headers.py",
        "tests/stream/test_rehearsal.py",
        ("    require_numbers(path)\n", ""),
        ("require_one_grid(known[0][0], *known[0][1], path, *grid)", "pass"),
    ),
    *room(
        "data/label_values.py",
        "tests/data/test_label_values.py tests/stream/test_rehearsal.py",
        ('found[: len(cases["train"])]', "found"),
        ("if torch.equal(whole.to(label.dtype), label.flatten()):", "if True:"),
        ("*_state(path))", ")"),
        ("require_declared(path, found, classes, listed)\n        return found", "return found"),
    ),
    *room("files/bounded_yaml.py", "tests/cli/test_configs.py", ('if text == "None":', "if False:")),
    *room("cli/configs.py", "tests/cli/test_configs.py", ("register_type(torch.device, str, torch.device)", "pass")),
    *room(
        "data/cache/cached_files.py",
        "tests/data/test_volume_cache.py",
        ("            if path.name in used_names(self.folder):", "            if False:"),
        ("process.is_gone if process.is_here", "False if process.is_here"),
        ("return sorted(found)", "return sorted(found)[::-1]"),
    ),
    *room(
        "data/cache/volume_cache.py",
        "tests/data/test_volume_cache.py",
        ("value.movedim(-1, 0).contiguous().movedim(0, -1)", "value.contiguous()"),
        ("(k - rank) % ranks != 0", "0"),
    ),
    *room(
        "methods/speed/channels_last.py",
        "tests/methods/speed/test_speed.py",
        ("            weight.data = weight.data.contiguous()\n", "            pass\n"),
        ("value.contiguous() if isinstance(value, Tensor) else value", "value"),
    ),
    *room(
        "data/patches.py",
        "tests/data/test_patches.py tests/data/test_segmentation_data_module.py",
        ("np.random.default_rng([self.seed, self.epoch.value, k])", "np.random.default_rng([self.seed, k])"),
    ),
    *room("data/random_changes.py", "tests/data/test_segmentation_data_module.py", ("transform.prob = 1.0", "pass")),
    *room(
        "runs/checkpoints/checkpointed_module.py",
        "tests/runs/test_registry.py",
        ('state |= loss.state_dict(prefix="loss.")', "pass"),
    ),
    *room(
        "methods/rehearsal/replay.py",
        f"{REHEARSAL}test_replay.py",
        ("batch[self.rank :: self.num_replicas]", "batch"),
        ("round(self.share / (1 - self.share) *", "round(self.share *"),
    ),
    *room(
        "data/case_lists/fold_file.py",
        "tests/data/test_nnunet_raw.py",
        ("if both := sorted", "if False and sorted"),
    ),
    *room(
        "data/case_lists/dataset_json.py",
        "tests/data/test_nnunet_raw.py",
        ("sorted(named, key=int)", "sorted(named)"),
        ("v != (0,) and name != IGNORE", "name != IGNORE"),
    ),
    *room(
        "interop/deep_supervision.py",
        "tests/interop/nnunet/test_deep_supervision.py",
        ("[2.0**-i for i", "[1.0 for i"),
        ("range(max(1, outputs - 1))", "range(outputs - 2)"),
        ('mode="nearest-exact"', 'mode="nearest"'),
        ("parameter.zero_()", "pass"),
    ),
    *room(
        "interop/nnunet/piecewise.py",
        "tests/interop/nnunet/test_piecewise.py",
        ("(place - lower)).view", "(lower + 1 - place)).view"),
        ("if nearest else places", "if False else places"),
        ("places.flip(0) if turned else places", "places"),
        ("torch.half, torch.half)", "torch.float32, torch.half)"),
    ),
    *room(
        "windows/stitching.py",
        "tests/windows/test_stitching.py",
        ("else own - halo", "else own"),
    ),
    *room(
        "interop/nnunet/nnunet_patches.py",
        "tests/interop/nnunet/test_augmentation.py",
        ("label.masked_fill(outside, -1)", "label"),
        ("place.start - (cut - place.stop + place.start) // 2", "place.start"),
        ("np.random.set_state(state)", "pass"),
    ),
    *room(
        "images/dicom_geometry.py",
        "tests/images/test_dicom.py",
        ("rows * spacing[1], columns * spacing[0]", "rows * spacing[0], columns * spacing[1]"),
        ("np.diag([-1.0, -1.0, 1.0, 1.0])", "np.diag([1.0, 1.0, 1.0, 1.0])"),
        ("np.argsort(positions @ normal", "np.argsort(-positions @ normal"),
        ("> TOLERANCE * spacing.min():", "> 1e9:"),
        ("> TOLERANCE * usual)", "> 1e9)"),
    ),
    *room(
        "images/dicom.py",
        "tests/images/test_dicom.py",
        ("apply_modality_lut(part.pixel_array, part)", "part.pixel_array"),
    ),
    *room(
        "tools/failures.py",
        "tests/tools/test_predict.py",
        ("if self.count == 1:", "if self.count > 1:"),
        ("if not self.found:", "if True:"),
    ),
    *room(
        "tools/prediction_names.py",
        "tests/tools/test_predict.py",
        ("parts[len(parts) - depth :]", "parts[:depth]"),
        ("if value}", "}"),
    ),
    *room(
        "tools/segmentation_writer.py",
        "tests/tools/test_predict.py",
        ("self.values[labels[..., k]]", "self.values[labels[..., 0]]"),
    ),
    *room(
        "tools/dicom_segmentation.py",
        "tests/tools/test_predict.py",
        ("labels.transpose(2, 1, 0)", "labels.transpose(2, 1, 0)[::-1]"),
    ),
    *room(
        "tools/init/intensities.py",
        "tests/tools/init/test_choices.py",
        ('"b_min": round((low - mean) / std, 4)', '"b_min": round(low / std, 4)'),
        ("if kinds == {True} and", "if True in kinds and"),
    ),
    *room(
        "tools/init/geometry.py",
        "tests/tools/init/test_choices.py",
        ("[axis for axis in range(3) if axis != across] + [across]", "[0, 1, 2]"),
    ),
    *room(
        "tools/init/experiences.py",
        "tests/tools/init/test_choices.py",
        ("            count += tested", "            count += 0"),
        ("if not head <= one.classes.keys()", "if False"),
    ),
    *room(
        "data/case_lists/splits.py",
        "tests/data/test_splits.py",
        ('groups["train"][i::n]', 'groups["train"][i:]'),
        ("if len(found) > 1:", "if len(found) > 2:"),
    ),
]
