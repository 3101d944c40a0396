from functools import partial

from lit_continual.data import BrainDataModule
from lit_continual.data.case_lists.splits import Split
from lit_continual.phantoms.brain import brain_data_module


def test_two_tumours_share_classes_and_nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path))
    small = partial(brain_data_module.write_brain_phantom, size=(40, 48, 10), spacing=(4.5, 4.5, 12.0))
    monkeypatch.setattr(brain_data_module, "write_brain_phantom", small)
    options = {"subjects": 2, "patch_size": [40, 48], "split": Split((1, 0, 0))}
    glioma, metastasis = (BrainDataModule(kind, **options) for kind in ("glioma", "metastasis"))
    assert glioma.values == metastasis.values == {"necrosis": 1, "oedema": 2, "enhancing": 3}
    people = [{case.patient for case in module.cases["train"]} for module in (glioma, metastasis)]
    assert len(people[0] | people[1]) == 4
    glioma.setup("fit")
    assert glioma.train_dataset[0]["image"].shape == (4, 40, 48)
