"""What `memory forget` removes beside exemplars."""

from lit_continual.cli import main
from lit_continual.data.cache.cached_volumes import cached_volumes
from lit_continual.methods.rehearsal.exemplar_memory import ExemplarMemory


def test_a_forgotten_patient_is_gone_from_the_cache_too(stream, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    memory = {"policy": "Random", "budget": {"samples": 2}}
    main(["fit", "--config", stream(memory=memory), "--data.cache=disk", "--trainer.max_epochs=1"])
    patient = ExemplarMemory(tmp_path / "run/memory").exemplars[0].patient
    before = [volume.patient for volume in cached_volumes()]
    assert patient in before
    capsys.readouterr()
    main(["memory", "forget", str(tmp_path / "run/memory"), "--patient", patient])
    count = before.count(patient)
    assert f"Of the cached volumes of {patient}, {count} are gone and 0 in use." in capsys.readouterr().out
    assert [volume.patient for volume in cached_volumes()] == [name for name in before if name != patient]
