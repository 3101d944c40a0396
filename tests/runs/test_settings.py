import pytest
import yaml

from lit_continual.runs.settings import differences, digest, in_words, settings

CONFIG = {
    "seed_everything": 0,
    "model": {"class_path": "Segmenter", "init_args": {"features": 4}},
    "data": {"class_path": "D", "init_args": {"patch_size": [16, 16], "num_workers": 0}},
    "stream": {"name": "a", "experiences": [{"name": "x", "max_epochs": None, "data": {"num_workers": 1}}]},
    "trainer": {"devices": "auto", "logger": True, "default_root_dir": "runs", "callbacks": [{"class_path": "TGD"}]},
}


def changed(place, value):
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    *path, last = place.split(".")
    section = config
    for key in path:
        section = section[int(key) if key.isdigit() else key]
    section[last] = value
    return yaml.safe_dump(config)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("trainer.logger", [{"class_path": "WandbLogger", "init_args": {"name": "x"}}]),
        ("trainer.default_root_dir", "elsewhere"),
        ("trainer.enable_progress_bar", False),
        ("data.init_args.num_workers", 4),
        ("stream.experiences.0.data.num_workers", 4),
        ("seed_everything", 1),  # which is held against that of the run by itself
    ],
)
def test_what_changes_no_result_may_differ(place, value):
    assert digest(settings(changed(place, value))) == digest(settings(yaml.safe_dump(CONFIG)))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("trainer.devices", 2),
        ("trainer.strategy", "ddp"),
        ("trainer.accelerator", "gpu"),
        ("trainer.callbacks", []),
        ("trainer.loggers", 1),
        ("data.init_args.patch_size", [16, 32]),
        ("stream.experiences.0.max_epochs", 3),
        ("stream.memory", {"policy": "Random"}),
    ],
)
def test_what_changes_results_is_named_with_both_values(place, value):
    old, new = settings(yaml.safe_dump(CONFIG)), settings(changed(place, value))
    assert digest(old) != digest(new)
    found = differences(old, new)
    assert all(name.startswith(place) for name in found)
    assert place in in_words(found)


def test_many_differences_are_counted():
    words = in_words({f"model.a{i}": [i, [i] * 100] for i in range(9)})
    assert words.count(" and was ") == 6
    assert words.endswith(", and 3 more")
    assert len(words) < 600
