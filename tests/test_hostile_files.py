"""What other people's files may do: nothing but be read, or be refused in one sentence, at once."""

import csv
import hashlib
import io
import json
import os
import time
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from lit_continual.cli.dispatch import main
from lit_continual.cli.show_memory import show_memory
from lit_continual.data import Preprocessing, read_cases
from lit_continual.data.volumes import load_case
from lit_continual.denoising.noisy_pair import read_noisy_pair
from lit_continual.files.csv_text import csv_rows, csv_text
from lit_continual.files.printing import show
from lit_continual.files.whole_files import read_yaml
from lit_continual.images.nifti import nifti_affine, write_nifti
from lit_continual.methods.rehearsal.budget import Budget
from lit_continual.methods.rehearsal.exemplar import Exemplar
from lit_continual.methods.rehearsal.exemplar_memory import ExemplarMemory
from lit_continual.reports.overlay import Overlay
from lit_continual.reports.terminal import matrix_table
from lit_continual.runs.case_scores import CaseScores
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.seal import seal
from lit_continual.runs.run import Run
from lit_continual.runs.run_folder import RunFolder
from lit_continual.studies.layout import read_layout

DEEP = "[" * 100_000
ESCAPES = "\x1b[31m\x1b]0;title\x07\r\n\u202e[/b]:smile:[red]"


def tree(folder):
    return {p: p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@pytest.fixture
def refused(tmp_path):
    """Assert that an action ends in one sentence, with little work, and leaves everything as it was."""

    def check(action, message="."):
        before, begin = tree(tmp_path), time.process_time()
        with pytest.raises(ValueError, match=message) as caught:
            action()
        said = str(caught.value)
        assert time.process_time() - begin < 20  # of this process, however many there are: a bomb takes minutes
        assert said.isprintable()
        assert len(said) < 2000
        assert tree(tmp_path) == before

    return check


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


RUN = {
    "a list": lambda run: run.clear() or run.update(format=[]),
    "names no string": lambda run: run["experiences"][0].update(name=3),
    "classes a string": lambda run: run["experiences"][0].update(classes="humerus"),
    "classes of numbers": lambda run: run["experiences"][0].update(classes=[1]),
    "experience a list": lambda run: run["experiences"].__setitem__(0, []),
    "seconds a string": lambda run: run["experiences"][0].update(seconds="1"),
    "seconds infinite": lambda run: run["experiences"][0].update(seconds=float("inf")),
    "bytes huge": lambda run: run["experiences"][0].update(checkpoint_bytes=10**400),
    "epochs true": lambda run: run["experiences"][0].update(epochs=True),
    "score of another type": lambda run: run["scores"].update(dice=[]),
    "score with a string for a truth": lambda run: run["scores"]["dice"].update(higher_is_better="no"),
    "baseline huge": lambda run: run["scores"]["dice"].update(baseline=10**400),
    "unit a list": lambda run: run["scores"]["dice"].update(unit=["mm"]),
    "score that is a path": lambda run: run["scores"].update({"../../../x": run["scores"]["dice"]}),
    "too many experiences": lambda run: run.update(
        experiences=[{"name": f"{i}", "classes": []} for i in range(30_000)]
    ),
    "mode a list": lambda run: run.update(mode=["continual"]),
    "seed a dict": lambda run: run.update(seed={}),
    "versions a list": lambda run: run.update(versions=[]),
    "name none": lambda run: run.update(name=None),
    "tracking a path": lambda run: run.update(tracking_id="../x"),
    "escapes": lambda run: run.update(mode=ESCAPES),
}


@pytest.mark.parametrize("change", RUN)
def test_run_json(make_run, refused, change):
    folder = make_run()
    changed(folder / "run.json", RUN[change])
    refused(lambda: Run.load(folder), r"run\.json")


TEXTS = ["[]", "3", "", "{", DEEP, '{"a":' * 100_000, "\x00", '{"format": 1}', "9" * 10_000, "null"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("name", ["run.json", "matrix.json"])
def test_json_that_is_damaged(make_run, refused, name, text):
    folder = make_run()
    (folder / name).write_text(text)
    refused(lambda: Run.load(folder), name.replace(".", r"\."))


@pytest.mark.parametrize(
    "rows", [[["0.5", None], [0.5, 0.5]], [[True, None], [0, 0]], [[10**400, 0], [0, 0]], {"0": []}, [[{}]], [0.5, 0.5]]
)
def test_matrix_of_other_things_than_numbers(make_run, refused, rows):
    folder = make_run()
    changed(folder / "matrix.json", lambda found: found.update(dice=rows))
    refused(lambda: Run.load(folder), r"matrix\.json")


HEAD = "after,on,patient,class,dice,hd95\n"
CASES = [HEAD + "0,0,a\n", HEAD + "x,0,a,b,1,1\n", HEAD + "0,0,a,b,x,1\n", HEAD + "0," + "9" * 5000 + ",a,b,1,1\n"]
CASES += ["\x00\n1\n", HEAD + "0,0," + "a" * 200_000 + ",b,1,1\n", "after\n0\n", HEAD + '0,0,"a']


@pytest.mark.parametrize("text", CASES, ids=range(len(CASES)))
def test_cases_csv(make_run, refused, text):
    folder = make_run()
    (folder / "cases.csv").write_text(text)
    refused(lambda: Run.load(folder), r"cases\.csv")


def test_files_that_are_no_files_or_too_large(make_run, refused, tmp_path):
    folder = make_run()
    (folder / "run.json").unlink()
    os.mkfifo(folder / "run.json")  # reading it would wait for ever
    with pytest.raises(ValueError, match="it is no file"):
        Run.load(folder)
    (folder / "run.json").unlink()
    with (folder / "run.json").open("w") as file:
        file.truncate(10**9)
    with pytest.raises(ValueError, match="1000 MB"):
        Run.load(folder)


def test_the_name_of_an_experience_in_a_file_leads_nowhere(make_run):
    folder = make_run()
    changed(folder / "run.json", lambda run: run["experiences"][0].update(name="/../../../x"))
    with pytest.raises(ValueError, match="its name is that of a folder"):
        Run.load(folder).checkpoint(0)


# Overlays, exemplars and acquisitions


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


SLICE = {
    "image": np.zeros((4, 4), np.float32),
    "truth": np.zeros((1, 4, 4), np.uint8),
    "prediction": np.zeros((1, 4, 4), np.uint8),
    "classes": np.array(["a"]),
    "patient": np.array("p"),
    "spacing": np.ones(2),
    "slice": np.array(1),
}


def bomb(path, shape="(50000, 50000)", dtype="'<f4'", name="image.npy", size=None):
    """A header that promises more than there is, or 3 GB of nothing."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(size or 0))
    return path


NPZ = {
    "not there": lambda p: npz(p, image=SLICE["image"]),
    "pickled": lambda p: npz(p, **{**SLICE, "patient": np.array([{}], object)}),
    "image with three axes": lambda p: npz(p, **{**SLICE, "image": np.zeros((1, 4, 4))}),
    "image of text": lambda p: npz(p, **{**SLICE, "image": np.full((4, 4), "a")}),
    "image complex": lambda p: npz(p, **{**SLICE, "image": np.zeros((4, 4), complex)}),
    "three spacings": lambda p: npz(p, **{**SLICE, "spacing": np.ones(3)}),
    "spacing nan": lambda p: npz(p, **{**SLICE, "spacing": np.full(2, np.nan)}),
    "patient a list": lambda p: npz(p, **{**SLICE, "patient": np.array(["p"])}),
    "nothing in it": lambda p: npz(p, **{**SLICE, "image": np.zeros((0, 4), np.float32)}),
    "shapes that differ": lambda p: npz(p, **{**SLICE, "truth": np.zeros((2, 4, 4), np.uint8)}),
    "promises": bomb,
    "shape negative": lambda p: bomb(p, "(-1, 4)"),
    "shape deep": lambda p: bomb(p, "(" * 40 + "4" + ")" * 40),
    "dtype unknown": lambda p: bomb(p, dtype="'nonsense'"),
    "name that leads away": lambda p: bomb(p, "(0,)", name="../../image"),
    "text": lambda p: p.write_text("no archive"),
    "empty": lambda p: p.write_bytes(b""),
    "cut off": lambda p: p.write_bytes(npz(p, **SLICE).read_bytes()[:-30]),
    "flipped": lambda p: p.write_bytes(bytes(b ^ (i == 100) for i, b in enumerate(npz(p, **SLICE).read_bytes()))),
}


@pytest.mark.parametrize("kind", NPZ)
def test_npz(tmp_path, refused, kind):
    path = tmp_path / "x.npz"
    NPZ[kind](path)
    refused(lambda: Overlay.load_all(path), r"x\.npz` (cannot be read|has an image)")
    refused(lambda: read_noisy_pair(path), r"x\.npz is no acquisition")


def test_a_bomb_is_not_unpacked(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(11):
            archive.writestr(f"image{n}.npy", bytes(100))
            archive.filelist[-1].file_size = 200_000_000  # as the directory at the end of a bomb says
    refused(lambda: Overlay.load_all(tmp_path / "x.npz"), "unpacks to more than")


@pytest.fixture
def memory(tmp_path):
    found = ExemplarMemory(tmp_path / "run" / "memory")
    picks = [(Exemplar("first", i, {"bone": i}, "list", f"p{i}"), {"image": torch.full((1, 4, 4), i)}) for i in (0, 1)]
    found.add("first", ["bone"], picks, Budget())
    return found


def entry(**changes):
    return lambda manifest: manifest["exemplars"][0].update(changes)


MANIFESTS = {
    "file outside": entry(file="../../../sitecustomize.py"),
    "file absolute": entry(file="/x.npz"),
    "file with end of line": entry(file="0" * 32 + ".npz\n"),
    "file in capitals": entry(file="A" * 32 + ".npz"),
    "file of another checksum": entry(file="0" * 32 + ".npz"),
    "file a list": entry(file=["x"]),
    "checksum short": entry(sha256="abc"),
    "bytes a string": entry(bytes="4"),
    "rank a string": entry(rank="0"),
    "picked for a list": entry(picked_for=["bone"]),
    "picked for names": entry(picked_for={"bone": "first"}),
    "classes a string": entry(classes="bone"),
    "score of text": entry(score={"bone": "high"}),
    "slice a float": entry(slice=0.5),
    "patient none": entry(patient=None),
    "values a list": entry(values=[]),
    "values nested": entry(values={"a": {"b": {}}}),
    "entry a list": lambda m: m.update(exemplars=[[]]),
    "exemplars a mapping": lambda m: m.update(exemplars={}),
    "experiences a list": lambda m: m.update(experiences=[]),
    "experience without classes": lambda m: m.update(experiences={"first": {}}),
    "classes of numbers": lambda m: m.update(experiences={"first": {"classes": [1]}}),
    "format true": lambda m: m.update(format=True),
    "another format": lambda m: m.update(format=2),
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_manifest(memory, refused, tmp_path, change):
    changed(memory.path, MANIFESTS[change])
    new = ExemplarMemory(tmp_path / "new" / "memory")
    for action in (memory.require, lambda: memory.forget("p1"), lambda: new.begin(memory.folder)):
        refused(action, r"manifest\.json")
    refused(lambda: show_memory(memory))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_manifest_that_is_damaged(memory, refused, text):
    memory.path.write_text(text)
    refused(memory.require, r"manifest\.json")
    refused(lambda: memory.forget("p1"))


def test_an_exemplar_whose_value_hides_an_array(memory, refused):
    changed(memory.path, entry(values={"image": "x"}))
    refused(lambda: memory.load(memory.exemplars[0]), "'image' is an array and a value")


def test_an_exemplar_that_unpacks_to_more_than_it_is(memory, refused):
    content = npz(memory.folder / "x", image=np.zeros(10**6)).with_suffix(".npz").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    (memory.folder / "exemplars" / f"{digest[:32]}.npz").write_bytes(content)
    changed(memory.path, entry(file=f"{digest[:32]}.npz", sha256=digest, bytes=len(content)))
    refused(lambda: memory.load(memory.exemplars[0]), "unpacks to more")


@pytest.mark.parametrize("part", ["", "exemplars", "manifest.json"])
def test_a_memory_is_no_link(memory, refused, tmp_path, part):
    elsewhere = tmp_path / "elsewhere"
    place = memory.folder / part if part else memory.folder
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    new = ExemplarMemory(tmp_path / "new" / "memory")
    actions = [memory.require, lambda: memory.forget("p1"), lambda: new.begin(memory.folder)]
    for action in [*actions, lambda: memory.add("second", [], [], Budget())]:
        refused(action, "is a symbolic link")


def test_what_is_forgotten_is_exemplars_and_nothing_else(memory):
    mine = memory.folder / "exemplars" / "notes.txt"
    mine.write_text("mine")
    assert memory.forget("p1") == 1
    assert mine.read_text() == "mine"
    assert len(list(mine.parent.iterdir())) == 2


# Lists


LISTS = [*TEXTS[:7], {"training": 3}, {"training": {}}, {"training": "a.nii"}, {"training": [[]]}, {"training": [None]}]
LISTS += [{"labels": [], "training": [{"image": "a.nii"}]}, {"labels": {"1": [1]}, "training": []}]
LISTS += [{"labels": {"a": 1e400}, "training": []}, {"training": [{"image": "a.nii", "label": ["a.nii"]}]}]
LISTS += [{"training": [{"image": name}]} for name in ("a" * 5000, "a\x00.nii", ESCAPES, "$HOME/a.nii", "~/a.nii", {})]
LISTS += [{"training": [{"image": "a.nii", "patient": "\ud800"}]}, {"training": [{"image": "."}]}]


@pytest.mark.parametrize("content", LISTS, ids=range(len(LISTS)))
def test_dataset_json(tmp_path, refused, monkeypatch, content):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.nii").touch()
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "dataset.json").write_text(text)
    refused(lambda: read_cases(tmp_path))


TABLES = ["image\n$SECRET/a.nii\n", "image\n~/a.nii\n", "image\n" + "a" * 200_000, "image\na,b\n", 'image\n"a', "\x00"]


@pytest.mark.parametrize("text", TABLES, ids=range(len(TABLES)))
def test_csv_table(tmp_path, refused, monkeypatch, text):
    monkeypatch.setenv("SECRET", "s3cr3t")
    (tmp_path / "t.csv").write_text(text)
    refused(lambda: read_cases(tmp_path / "t.csv"), r"^(?!.*s3cr3t)")
    refused(lambda: read_cases("$SECRET/t.csv"), r"no data set at \$SECRET/t.csv")


# YAML

LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'ha'] * 9)}]\n" for i in range(12))
YAMLS = {
    "billion laughs": LAUGHS,
    "merged laughs": "".join(
        f"a{i}: &a{i} {{b: 1{''.join(f', k{j}: *a{i - 1}' for j in range(9 * bool(i)))}}}\n" for i in range(12)
    ),
    "holds itself": "a: &a [*a]",
    "key twice": "a: 1\nb: {c: 1,\n c: 2}",
    "key twice in quotes": "a: 1\n'a': 2",
    "deep": f"a: {DEEP}",
    "deep and closed": f"a: {'[' * 900}{']' * 900}",
    "deep blocks": "\n".join("  " * i + "a:" for i in range(200)),
    "long": "a: [" + "1, " * 100_000 + "]",
    "huge": "a: " + "x" * 10_000_000,
    "a number without end": "a: 1" + ":59" * 300_000,
    "code": "a: !!python/object/apply:os.system [touch ran]",
    "a month without end": "a: 2024-13-45",
    "control characters": "a: \x01",
    "two texts": "a: 1\n---\nb: 2",
    "escapes": f'"{ESCAPES}": 1'.replace("\x1b", "\\e")
    .replace("\x07", "\\a")
    .replace("\n", "\\n")
    .replace("\r", "\\r"),
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yaml(tmp_path, refused, kind):
    path = tmp_path / "x.yaml"
    path.write_text(YAMLS[kind])
    if kind != "escapes":
        refused(lambda: read_yaml(path), r"x\.yaml cannot be read as YAML")
    refused(lambda: read_layout(path), r"x\.yaml")


@pytest.mark.parametrize("kind", sorted(YAMLS.keys() - {"a month without end"}))
def test_yaml_of_a_fit(tmp_path, kind, monkeypatch, capsys):
    path = tmp_path / "x.yaml"
    path.write_text(YAMLS[kind])
    monkeypatch.setattr("sys.argv", ["lit-continual", "fit", "--config", str(path)])
    begin = time.process_time()
    with pytest.raises(SystemExit) as ended:
        main()
    assert time.process_time() - begin < 20  # most of it to make the parser
    assert ended.value.code
    said = capsys.readouterr().err
    assert said.startswith("lit-continual: error: ")
    assert said[:-1].isprintable()
    if "twice" in kind:
        assert "stands in line" in said


# Names


def test_csv_gives_back_exactly_what_was_written():
    names = [
        "=1+1",
        "+a",
        "-a",
        "@a",
        "\ta",
        "\ra",
        "'=a",
        "''",
        "'",
        "-5",
        "'-5",
        "a\rb",
        'a"b',
        "a,b\n",
        "\uff1da",
        "",
    ]
    text = csv_text(["name", "x"], [[name, -1.5] for name in names])
    assert [row["name"] for row in csv_rows(text)] == names
    fields = [row[0] for row in csv.reader(io.StringIO(text, newline=""))]
    assert not [field for field in fields if field[:1] in tuple("=+@\t\r") or field.startswith("-a")]


def test_cases_csv_gives_back_exactly_what_was_written(tmp_path):
    folder = RunFolder(tmp_path)
    folder.run = {"experiences": [{}, {}], "scores": {"dice": {}}}
    folder.matrices = {"dice": [[None] * 2 for _ in range(2)]}
    names = ["=cmd|' /C calc'!A0", "'a", "a\rb", ESCAPES]
    for after in (0, 1, 1):
        cases = [CaseScores(after, 0, name, name, {"dice": 0.5}, name) for name in names]
        folder.write_row(after, {"dice": {0: 0.5}}, cases)
    text = (tmp_path / "cases.csv").read_text()
    found = [CaseScores.read(row, ["dice"], 2) for row in csv_rows((tmp_path / "cases.csv").read_bytes().decode())]
    assert [(case.after, case.patient, case.label, case.volume) for case in found] == [
        (after, name, name, name) for after in (0, 1) for name in names
    ]
    assert ",=" not in text
    assert "\n=" not in text


def test_names_neither_style_nor_steer_a_terminal(make_run, capsys, memory):
    folder = make_run(name=ESCAPES)
    changed(folder / "run.json", lambda run: run["experiences"][0].update(name=ESCAPES, classes=[ESCAPES]))
    show(matrix_table([folder]), soft_wrap=False)
    show(f"1/2 {ESCAPES}: learning")
    changed(memory.path, entry(patient=ESCAPES, why=ESCAPES, source=ESCAPES))
    show_memory(memory, exemplars=True)
    said = capsys.readouterr().out
    assert "[/b]:smile:[red]: learning" in said
    assert all(line.isprintable() for line in said.split("\n"))


# Checkpoints

CONTENTS = {
    "arguments within arguments": {
        "network": {"class_path": "EfficientNetBN", "init_args": {
            "class_path": "a", "init_args": {"model_name": "efficientnet-b0", "pretrained": True}}},
    },
    "transforms a number": {"post": 3},
    "many transforms": {"post": [{"_target_": "FillHoles"}] * 201},
    "deep": {"network": __import__("functools").reduce(lambda inner, _: [inner], range(200), [])},
    "network none": {"network": None},
    "escapes": {"network": ESCAPES},
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTENTS)
def test_checkpoint(tmp_path, refused, kind):
    from lit_continual.modules import Segmenter

    content = {"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": {"heads": [["a"]], "features": 1}}
    seal(content, Segmenter)
    content["hyper_parameters"].update(CONTENTS[kind])
    content["lit_continual"].pop("sha256")
    torch.save(content, tmp_path / "x.ckpt")
    refused(lambda: Checkpoint(tmp_path / "x.ckpt").module(Segmenter))


@pytest.mark.parametrize("state", [3, [], {"a": 3}, {3: torch.zeros(1)}, {"a": torch.zeros(1).to_sparse()}, None])
def test_checkpoint_without_weights(tmp_path, refused, state):
    content = {"state_dict": state, "lit_continual": {"module": "Segmenter", "sha256": "0"}}
    torch.save(content, tmp_path / "x.ckpt")
    refused(lambda: Checkpoint(tmp_path / "x.ckpt"), "damaged")
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    refused(lambda: Checkpoint(tmp_path / "x.ckpt").state_dict)


def test_trust_is_no_part_of_a_name(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    assert Checkpoint(tmp_path / "x.ckpt", "my_package").trust == ["my_package"]


# Images


def scan(path, unit="mm", qform=None, **fields):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([2.0, 2.0, 5.0, 1.0]))
    image.header.set_xyzt_units(unit)
    if qform is not None:
        image.set_sform(image.affine, 2)
        image.set_qform(qform, 1)
        image.header["pixdim"][1:4] = np.abs(np.diag(qform))[:3]
    for name, value in fields.items():
        image.header[name] = value
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PatientName: Jane Doe"))
    path.write_bytes(image.to_bytes())
    return path


def case_of(path):
    return load_case(read_cases(path.parent).cases[0], Preprocessing(orientation=None, normalise=()))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("meter", 1000), ("micron", 1e-3), ("unknown", 1)])
def test_units_are_honoured(tmp_path, unit, factor):
    if unit == "meter":
        path = tmp_path / "a.nii"
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([0.002, 0.002, 0.005, 1])), path)
        image = nib.load(path)
        image.header.set_xyzt_units("meter")
        path.write_bytes(image.to_bytes())
        factor = 1
    else:
        path = scan(tmp_path / "a.nii", unit)
    np.testing.assert_allclose(case_of(path)["spacing"], np.multiply([2, 2, 5], factor), rtol=1e-6)
    np.testing.assert_allclose(np.diag(case_of(path)["source_affine"])[:3], np.multiply([2, 2, 5], factor), rtol=1e-6)


def test_voxels_of_metres(tmp_path, refused):
    path = scan(tmp_path / "a.nii", "meter")
    refused(lambda: case_of(path), "`xyzt_units` are metres")


def test_of_two_affines_the_one_of_nibabel_is_taken_and_named(tmp_path):
    path = scan(tmp_path / "a.nii", qform=np.eye(4))
    with pytest.warns(
        UserWarning, match=r"sform \(voxels of 2 x 2 x 5\) and its qform \(1 x 1 x 1\) disagree"
    ) as given:
        found = case_of(path)
    assert [str(one.message).isprintable() for one in given] == [True]
    np.testing.assert_array_equal(found["source_affine"], nib.load(path).affine)


def test_shears_which_a_qform_cannot_say_are_no_reason_to_warn(tmp_path):
    sheared = np.array([[2, 0.3, 0, 0], [0, 2, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), sheared)
    image.set_qform(sheared, 1)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(nifti_affine(tmp_path / "a.nii"), sheared, rtol=1e-6)


def test_headers_take_nothing_over(tmp_path):
    source = scan(tmp_path / "a.nii", descrip=b"Jane Doe", aux_file=b"Jane", db_name=b"Jane", intent_name=b"Jane")
    found = case_of(source)
    write_nifti(tmp_path / "out.nii.gz", np.ones((4, 5, 6), np.uint8), np.array(found["source_affine"]))
    image = nib.load(tmp_path / "out.nii.gz")
    assert b"Jane" not in image.to_bytes()
    assert not image.header.extensions
    assert float(image.header["cal_max"]) == int(image.header["intent_code"]) == 0
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(image.affine, nib.load(source).affine)
    assert isinstance(MetaTensor(found["image"]), torch.Tensor)


def test_a_stream_whose_names_are_markup(stream, tmp_path, capsys, reports):
    experiences = [{"name": "[red]=1", "classes": {"[red]\x1b[31m": "ball"}, "data": {"split": {"part": [0, 2]}}}]
    main(["fit", "--config", stream(experiences=experiences), "--trainer.max_epochs=1", "--stream.name=[/x]\x1b[31m"])
    said = capsys.readouterr().out
    assert "1/1 [red]=1: 1 epoch in" in said
    assert "\x1b[31m" not in said
    run = Run.load(tmp_path / "run")
    assert {case.label for case in run.cases} == {"[red]\x1b[31m"}
    assert (tmp_path / "run" / "report" / "report.html").is_file()
