"""What a run shows in trackers: to modules of the same calls as the real ones, and, where these are
installed, to the real ones without a network (slow)."""

import inspect
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from small_systems import TOKENIZER, mistake
from smalti.cli.main import main
from smalti.config import read_json
from smalti.train.log import Log
from smalti.train.trackers import TRACKERS, Kind, Tracked, Trackers, chosen, installed


class Notes:
    """A tracker that remembers what it is told, and fails from a step on."""

    def __init__(self, run, fails=10**9):
        self.run, self.fails, self.ended = run, fails, ""
        self.recipe, self.told, self.shown = run.recipe, [], []

    def metrics(self, step, numbers):
        if step >= self.fails:
            raise ConnectionError("the line is\ndead")
        self.told.append((step, dict(numbers)))

    def pictures(self, step, files):
        self.shown.append((step, {name: Image.open(path).size for name, path in files.items()}))

    def finish(self, end):
        self.ended = end


@pytest.fixture
def notes(monkeypatch):
    """All trackers that are opened, by name, in place of the real ones; mlflow's line dies at step
    2."""
    opened = {}
    for name, fails in (("wandb", 10**9), ("mlflow", 2)):

        def open_it(run, name=name, fails=fails):
            return opened.setdefault(name, Notes(run, fails))

        monkeypatch.setitem(TRACKERS, name, Kind(open_it, "json", name))
    return opened


# -- which


def test_names_are_known_and_stand_for_themselves(monkeypatch):
    assert chosen("none") == [] and chosen("trackio") == ["trackio"]
    assert chosen("wandb, MLflow,wandb") == ["wandb", "mlflow"]
    for package, found in (("json", ["tensorboard"]), ("smalti_has_none", [])):
        kind = TRACKERS["tensorboard"]._replace(package=package)
        monkeypatch.setitem(TRACKERS, "tensorboard", kind)
        assert chosen("auto") == found
    with pytest.raises(ValueError, match="one of tensorboard, .*, got 'wandv'; did you .* 'wandb'"):
        chosen("trackio,wandv")
    with pytest.raises(ValueError, match="alone, or names of trackers, got 'auto,wandb'"):
        chosen("auto,wandb")


def test_a_folder_of_its_name_is_no_tracker(tmp_path, monkeypatch):
    """`wandb` leaves one where it has run, and Python takes it for a package."""
    (tmp_path / "tracks").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "wandb", TRACKERS["wandb"]._replace(package="tracks"))
    assert not installed("wandb")
    (tmp_path / "tracks" / "__init__.py").touch()
    assert installed("wandb")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("tensorbord", "did you mean 'tensorboard'?"),
        ("none,trackio", "got 'none,trackio'"),
        ("wandb", 'log wandb needs `pip install "smalti[wandb]"`'),
    ],
)
def test_mistakes_are_told_before_anything_is_made(given, line, tmp_path, capsys, monkeypatch):
    kind = TRACKERS["wandb"]._replace(package="smalti_has_none")
    monkeypatch.setitem(TRACKERS, "wandb", kind)
    out = tmp_path / "t"
    said = mistake(capsys, "train", "emoji_vqgan", *TOKENIZER, "--out", out, f"--log={given}")
    assert said.startswith("smalti train: ") and said.endswith(line) and not out.exists()


# -- what they are told


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "first"
    folder.mkdir()
    recipe = {"model": {"dim": 8, "size": [4, 4]}, "train": {"steps": 2}, "init": ""}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(folder / "look.png")
    return folder


def test_a_training_tells_all_and_survives_them(notes, tmp_path, capsys):
    """Recipe, numbers, held-out numbers and pictures reach a tracker; one that fails is named in
    one line, and what is printed by it is not taken for the report."""
    out = tmp_path / "t"
    few = "--train.steps 4 --train.log-every 1 --train.eval-every 2 --train.preview-every 2"
    more = [*few.split(), "--log", "wandb,mlflow", "--json", "--out", str(out)]
    main(["train", "emoji_vqgan", *TOKENIZER, *more])
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"] == 4
    told, failed = notes["wandb"], notes["mlflow"]
    assert told.recipe == read_json(out / "recipe.json") == failed.recipe
    written = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    shown = [{"step": step} | numbers for step, numbers in told.told]
    assert [sorted(record) for record in shown] == [sorted(record) for record in written]
    for name in ("loss", "held_out_psnr"):
        mine, theirs = ([r[name] for r in rows if name in r] for rows in (shown, written))
        assert mine == pytest.approx(theirs) and len(mine) == (4 if name == "loss" else 2)
    with Image.open(out / "previews" / "step-00000004.png") as picture:
        assert told.shown == [(2, {"preview": picture.size}), (4, {"preview": picture.size})]
    assert (
        told.ended == "finished" and not failed.ended and {step for step, _ in failed.told} == {1}
    )
    (line,) = [line for line in said.err.splitlines() if "mlflow" in line]
    assert line.startswith("mlflow failed") and "ConnectionError: the line is dead" in line


@pytest.mark.parametrize(
    ("error", "end"), [(KeyboardInterrupt(), "stopped"), (ValueError("NaN"), "failed")]
)
def test_a_training_that_ends_early_is_not_finished(notes, run, error, end):
    with pytest.raises(type(error)), Log(run, "training", 0, 4, trackers="wandb"):
        raise error
    assert notes["wandb"].ended == end


def test_other_processes_are_silent(notes, run):
    with Log(run, "training", 0, 4, main=False, trackers="wandb") as log:
        log.record(1, {"loss": 1.0}, [])
        log.picture(1, run / "look.png")
    assert not notes


def test_what_trackers_print_is_for_people(run, capsys, monkeypatch):
    class Loud(Notes):
        def finish(self, end):
            print("* synced")

    monkeypatch.setitem(TRACKERS, "wandb", Kind(Loud, "json", "wandb"))
    Trackers("wandb", Tracked(run, 0), print).finish()
    assert capsys.readouterr() == ("", "* synced\n")


# -- in their own calls


def told_twice(name, run, end="finished"):
    """Two steps with a picture, then the same run with more steps, which goes on for one and ends
    in some way."""
    said = []
    for start, steps in ((0, (1, 2)), (2, (3,))):
        recipe = read_json(run / "recipe.json")
        recipe["train"]["steps"] = start + 2
        (run / "recipe.json").write_text(json.dumps(recipe))
        tracker = Trackers(name, Tracked(run, start), said.append)
        for step in steps:
            tracker.metrics(step, {"loss": 1 / step, "held_out_bits": float(step)})
        tracker.pictures(start + 1, {"preview": run / "look.png"})
        tracker.finish(end if start else "finished")
    assert not said
    return read_json(run / "tracked.json")["id"] if (run / "tracked.json").exists() else ""


class FakeRun:
    def __init__(self, **given):
        self.given, self.logged, self.ended = given, [], []

    def log(self, data, step):
        self.logged.append((step, data))

    def finish(self, **how):
        self.ended.append(how)


def as_wandb(*, project, name, id, config, resume, allow_val_change, dir, settings):
    """The arguments of `wandb.init` that are given."""


def as_trackio(*, project, name, config, resume):
    """The arguments of `trackio.init`, which has no more of wandb's than these."""


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_by_their_calls(name, run, monkeypatch):
    module, runs = ModuleType(name), []

    def init(**given):
        inspect.signature(as_wandb if name == "wandb" else as_trackio).bind(**given)
        runs.append(FakeRun(**given))
        return runs[-1]

    module.init, module.Image, module.Settings = init, lambda path: Image.open(path).size, dict
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "mosaics")
    id = told_twice(name, run, "failed")
    first, then = runs
    assert first.given["name"] == then.given["name"] == f"first-{id[:4]}"
    assert {r.given["project"] for r in runs} == {"mosaics"}
    assert {r.given["resume"] for r in runs} == {"allow"} and first.ended == [{}]
    assert then.ended == [{"exit_code": 1} if name == "wandb" else {}]  # trackio knows no other
    assert [r.given["config"]["train"]["steps"] for r in runs] == [2, 4]
    assert first.logged[0] == (1, {"loss": 1.0, "held_out_bits": 1.0})
    assert first.logged[-1] == (1, {"preview": (6, 4)}) and then.logged[0][0] == 3
    if name == "wandb":
        assert {r.given["id"] for r in runs} == {id} and {r.given["dir"] for r in runs} == {run}


class FakeClient:
    """MLflow's client, with its rule that a parameter never changes."""

    def __init__(self, store):
        self.store = store

    def get_experiment_by_name(self, name):
        return next((e for e in self.store["experiments"] if e.name == name), None)

    def create_experiment(self, name):
        self.store["experiments"].append(SimpleNamespace(name=name, experiment_id="7"))
        return "7"

    def search_runs(self, experiment_ids, filter_string, max_results):
        assert experiment_ids == ["7"] and max_results == 1
        return [r for r in self.store["runs"] if filter_string == f"tags.smalti = '{r.tag}'"]

    def create_run(self, experiment_id, tags, run_name):
        id = f"r{len(self.store['runs'])}"
        info = SimpleNamespace(run_id=id, name=run_name, status="RUNNING")
        data = SimpleNamespace(params={}, metrics=[], images=[])
        self.store["runs"].append(SimpleNamespace(info=info, data=data, tag=tags["smalti"]))
        return self.store["runs"][-1]

    def of(self, run_id):
        return next(r for r in self.store["runs"] if r.info.run_id == run_id)

    def update_run(self, run_id, status):
        self.of(run_id).info.status = status

    def log_param(self, run_id, key, value):
        assert self.of(run_id).data.params.setdefault(key, value) == value

    def log_batch(self, run_id, metrics):
        self.of(run_id).data.metrics += [(m.key, m.value, m.step) for m in metrics]

    def log_image(self, run_id, image, key, step):
        self.of(run_id).data.images.append((key, step, image.shape))

    def set_terminated(self, run_id, status):
        self.of(run_id).info.status = status


@pytest.mark.parametrize(
    ("end", "status"), [("finished", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")]
)
def test_mlflow_by_its_calls(run, monkeypatch, end, status):
    store = {"experiments": [], "runs": []}
    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient = lambda: FakeClient(store)
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(
        key=key, value=value, step=step
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for name in ("MAX_RETRIES", "TIMEOUT"):  # which opening it sets
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "1")
    id = told_twice("mlflow", run, end)
    (only,) = store["runs"]
    assert only.tag == id and (only.info.name, only.info.status) == ("first", status)
    assert only.data.params["model.dim"] == 8 and only.data.params["train.steps"] == 2
    losses = [(value, step) for key, value, step in only.data.metrics if key == "loss"]
    assert losses == [(1.0, 1), (1 / 2, 2), (1 / 3, 3)]
    assert only.data.images == [("preview", 1, (4, 6, 3)), ("preview", 3, (4, 6, 3))]


# -- the real ones


@pytest.mark.slow
def test_tensorboard(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Trackers("tensorboard", Tracked(run, 0), print)
    tracker.metrics(3, {"loss": 9.0})  # behind the checkpoint that the run goes on from
    tracker.finish()
    told_twice("tensorboard", run)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss") if e.value < 9] == [1, 2, 3]
    assert [(e.step, e.width, e.height) for e in events.Images("preview")] == [(1, 6, 4), (3, 6, 4)]
    (recipe, *_) = events.Tensors("recipe/text_summary")
    assert '"dim": 8' in recipe.tensor_proto.string_val[0].decode()


@pytest.mark.slow
def test_trackio(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    id = told_twice("trackio", run)
    (only,) = trackio.Api().runs("smalti")
    assert only.name == f"first-{id[:4]}"
    (picture, _) = (tmp_path / "trackio" / "media").rglob("*.png")
    assert Image.open(picture).size == (6, 4)


@pytest.mark.slow
def test_mlflow(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    told_twice("mlflow", run)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("smalti").experiment_id
    (only,) = client.search_runs([experiment])
    assert only.info.status == "FINISHED" and only.data.params["model.dim"] == "8"
    history = client.get_metric_history(only.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
    pictures = client.list_artifacts(only.info.run_id, "images")
    assert sum(file.path.endswith(".png") for file in pictures) == 2


@pytest.mark.slow
def test_wandb(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    id = told_twice("wandb", run)
    parts = sorted((run / "wandb").glob(f"offline-run-*-{id}"))
    assert len(parts) == 2 and all(any(part.glob("*.wandb")) for part in parts)
    assert all(len([*part.rglob("media/images/*.png")]) == 1 for part in parts)
