from pathlib import Path

from milepost.config import Settings
from milepost.resources.forecasts import Speed
from milepost.store import speeds

HERE = Speed(machine="here", dtype="bfloat16", gflops={1: 200.0, 2: 400.0})


def settings(folder: Path) -> Settings:
    return Settings(bases_dir=folder / "bases")


def test_what_was_measured_is_kept_beside_the_bases(tmp_path):
    assert speeds.get(settings(tmp_path)) is None
    assert speeds.put(settings(tmp_path), HERE) == HERE
    assert speeds.get(settings(tmp_path)) == HERE
    assert (tmp_path / "speed.json").exists()


def test_a_slower_measurement_does_not_replace_a_faster_one(tmp_path):
    speeds.put(settings(tmp_path), HERE)
    kept = speeds.put(settings(tmp_path), HERE.model_copy(update={"gflops": {1: 90.0, 2: 410.0}}))
    assert kept.gflops == {1: 200.0, 2: 410.0}


def test_a_file_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "speed.json").write_text('{"machine": 1')
    assert speeds.get(settings(tmp_path)) is None


def test_where_nothing_can_be_written_nothing_fails(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    assert speeds.put(settings(tmp_path / "file" / "below"), HERE) == HERE
    assert "could not be kept" in caplog.text
