"""A folder of photos is enough: ``secondlook start PHOTOS``, as a person types it, and what comes after."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import until
from tests.e2e.starting import READY, command, label, report, started
from tests.images_for_tests import make_folder, make_image, picture, striped


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", per_class=12)


def test_photos_are_learned_reported_and_served_and_what_is_taught_stays(
    photos: Path, backbone: Path, home: dict[str, str]
) -> None:
    with started(home, photos, "--network", backbone) as client:
        said = (Path(home["XDG_DATA_HOME"]).parent / "start.log").read_text()
        assert "photos: 36 photos of 3 classes" in said
        assert "what to do next:\n- nothing stands out" in said
        assert label(client, make_image("green", (64, 48), "JPEG", seed=7)) == "green"
        first = client.get("/v1/model").json()
        assert (first["head"], first["classes"]) == ("linear", ["blue", "green", "red"])
        for seed in range(3):
            taught = client.post("/v1/entries", files={"file": striped(seed)}, data={"label": "striped"})
            assert taught.status_code == 201, taught.text
        assert label(client, striped(9)) == "striped"

    again = report(home, photos)
    assert again["generation"] == first["generation"], "nothing has changed"
    assert again["taught"] == 3

    with started(home, photos) as client:
        assert label(client, striped(9)) == "striped"
        picture("red", seed=77).save(photos / "red" / "new.png")
        job = client.post("/v1/admin/rebuild").json()
        until(lambda: client.get(f"/v1/admin/jobs/{job['id']}").json()["state"] != "running", 240)
        job = client.get(f"/v1/admin/jobs/{job['id']}").json()
        assert job["state"] == "succeeded", job
        rebuilt = client.get("/v1/model").json()
        assert rebuilt["dataset"]["images"] == 40, "36, a new one, and three that were taught"
        assert rebuilt["classes"] == ["blue", "green", "red", "striped"]
        assert label(client, striped(9)) == "striped"


@pytest.mark.slow
def test_photos_that_came_went_and_moved_are_seen(photos: Path, backbone: Path, home: dict[str, str]) -> None:
    def counts(found: Any) -> dict[str, int]:
        return {one["label"]: one["photos"] for one in found["classes"]}

    first = report(home, photos, "--network", backbone)
    assert counts(first) == {"blue": 12, "green": 12, "red": 12}
    assert report(home, photos)["generation"] == first["generation"]
    picture("red", seed=77).save(photos / "red" / "new.png")
    (photos / "blue" / "000.png").unlink()
    (photos / "green" / "000.png").rename(photos / "blue" / "moved.png")
    second = report(home, photos)
    assert second["generation"] > first["generation"]
    assert counts(second) == {"blue": 12, "green": 11, "red": 13}
    assert second["network"] == "backbone.onnx", "what it was started with stays"
    (photos / "white").mkdir()
    for i in range(12):
        picture("red", (40, 36), seed=200 + i).point(lambda level: 255 - level // 8).save(photos / "white" / f"{i}.png")
    third = report(home, photos)
    assert counts(third) == {"blue": 12, "green": 11, "red": 13, "white": 12}
    shutil.rmtree(photos / "green")
    assert counts(report(home, photos)) == {"blue": 12, "red": 13, "white": 12}


@pytest.mark.slow
def test_another_network_is_another_index(photos: Path, backbone: Path, home: dict[str, str], tmp_path: Path) -> None:
    first = report(home, photos, "--network", backbone)
    other = shutil.copyfile(backbone, tmp_path / "other.onnx")
    second = report(home, photos, "--network", other)
    assert (first["network"], second["network"]) == ("backbone.onnx", "other.onnx")
    assert report(home, photos)["generation"] == second["generation"]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["absent.onnx", pytest.param("no-such-name", marks=pytest.mark.slow)])
def test_a_network_that_is_not_there_leaves_what_is(
    network: str, photos: Path, backbone: Path, home: dict[str, str]
) -> None:
    first = report(home, photos, "--network", backbone)
    ended = subprocess.run(
        command(photos, "--network", network, "--no-serve"), env=home, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert report(home, photos)["generation"] == first["generation"]


@pytest.mark.slow
@pytest.mark.parametrize("after", ["measure", "embed", "head", "verify"])
def test_ctrl_c_leaves_nothing_half_made_and_the_next_run_goes_on(
    after: str, photos: Path, backbone: Path, home: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "bundles"
    with subprocess.Popen(
        command(photos, "--network", backbone, "--bundles", root, "--no-serve"),
        env=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        while f"\n{after}: " not in f"\n{said}" and (line := process.stderr.readline()):
            said += line
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=120)
    if process.returncode != 0:  # verified and over where it was late
        assert process.returncode == 1
        assert (said + rest).endswith("stopped\n")
        assert "Traceback" not in rest
    assert not list(root.glob(".*.draft"))
    assert report(home, photos, "--bundles", root)["images"] == 36


@pytest.mark.slow
def test_a_full_disk_is_said_with_what_to_do(
    photos: Path, backbone: Path, home: dict[str, str], small_disk: Callable[[str], Path]
) -> None:
    outcomes = set()
    for size in ("40k", "72k", "88k", "104k", "8m"):
        root = small_disk(f"size={size}") / "bundles"
        ended = subprocess.run(
            command(photos, "--network", backbone, "--bundles", root, "--no-serve"),
            env=home,
            capture_output=True,
            text=True,
            timeout=300,
        )
        outcomes.add(ended.returncode)
        if ended.returncode:
            last = ended.stderr.splitlines()[-1]
            assert "Traceback" not in ended.stderr
            assert last.endswith("free some space there, or name a folder on another disk with --bundles"), last
            assert not list(root.glob("2*")), "nothing half made"
    assert outcomes == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/proc/nothing", pytest.param("/dev/null", marks=pytest.mark.slow)])
def test_without_a_home_to_write_to_another_folder_is_asked_for(
    place: str, photos: Path, backbone: Path, home: dict[str, str], tmp_path: Path
) -> None:
    without = home | {"XDG_DATA_HOME": place}
    ended = subprocess.run(
        command(photos, "--network", backbone, "--no-serve"), env=without, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith("with --bundles")
    assert "Traceback" not in ended.stderr
    assert report(without, photos, "--network", backbone, "--bundles", tmp_path / "named")["images"] == 36


def test_a_port_that_is_taken_is_said_before_the_work(photos: Path, backbone: Path, home: dict[str, str]) -> None:
    with started(home, photos, "--network", backbone) as client:
        ended = subprocess.run(
            command(photos, "--port", client.base_url.port), env=home, capture_output=True, text=True, timeout=300
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: 127.0.0.1:")
    assert ended.stderr.endswith("is taken by another program: end that, or choose another port with --port\n")


@pytest.mark.slow
def test_no_command_line_has_the_key_while_a_browser_is_opened(
    photos: Path, backbone: Path, home: dict[str, str], tmp_path: Path
) -> None:
    opener = tmp_path / "opener"
    lines = tmp_path / "lines"
    opener.write_text(
        f"#!/bin/sh\nprintf '%s' \"$1\" > {tmp_path}/told\n"
        f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' > {lines}.new\nmv {lines}.new {lines}\n"
    )
    opener.chmod(0o755)
    remote = {"SSH_CONNECTION", "SSH_TTY"}
    environment = {name: value for name, value in home.items() if name not in remote}
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        command(photos, "--network", backbone, "--port", 0),
        env=environment | {"BROWSER": str(opener), "DISPLAY": ":9"},
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        said = b""
        while not READY.search(said.decode(errors="replace")) and (more := os.read(terminal, 4096)):
            said += more
        ready = READY.search(said.decode(errors="replace"))
        assert ready is not None
        until(lines.exists, 60)
        key = re.sub(r"\W.*", "", ready[2])
        assert str(opener) in lines.read_text(errors="replace")
        assert key not in lines.read_text(errors="replace")
        told = Path((tmp_path / "told").read_text().removeprefix("file://"))
        assert told.parent == Path(home["XDG_DATA_HOME"]) / "secondlook"
        assert told.stat().st_mode & 0o777 == 0o600
        assert f"{ready[1]}/#key={key}" in told.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(terminal)
    assert not told.exists()


@pytest.mark.slow
def test_start_serves_with_as_many_workers_as_are_set(photos: Path, backbone: Path, home: dict[str, str]) -> None:
    with started(home | {"SECONDLOOK_WORKERS": "2"}, photos, "--network", backbone) as client:
        assert "(2 workers; stop it with Ctrl-C)" in (Path(home["XDG_DATA_HOME"]).parent / "start.log").read_text()
        taught = client.post("/v1/entries", files={"file": striped(1)}, data={"label": "striped"})
        assert taught.status_code == 201, taught.text
        assert label(client, striped(9)) == "striped"


def test_val_that_repeats_train_is_said_as_one_who_starts_can_mend_it(
    photos: Path, backbone: Path, home: dict[str, str], tmp_path: Path
) -> None:
    for split in ("train", "val"):
        shutil.copytree(photos, tmp_path / "split" / split)
    ended = subprocess.run(
        command(tmp_path / "split", "--network", backbone, "--no-serve"),
        env=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.endswith(f"put others into {tmp_path}/split/val, or remove that folder"), last
    assert "--holdout" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["-photos", "a\nb", "a\\b", b"\xff".decode(errors="surrogateescape")])
def test_a_name_that_a_rebuild_would_not_take_is_said_before_the_work(
    name: str, photos: Path, backbone: Path, home: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / name).symlink_to(photos)
    assert report(home, tmp_path / name, "--network", backbone)["images"] == 36, "a link's name is not the folder's"
    (tmp_path / name).unlink()
    photos.rename(tmp_path / name)
    ended = subprocess.run(
        command("--network", backbone, "--no-serve", "--", tmp_path / name),
        env=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1
    assert ended.stderr.endswith("a server could not index it again: rename that folder\n")


def test_bundles_in_a_folder_whose_name_is_no_utf_8_are_refused_in_a_sentence(
    photos: Path, backbone: Path, home: dict[str, str], tmp_path: Path
) -> None:
    root = os.fsencode(tmp_path) + b"/\xff"
    for arguments in (["start", photos, "--no-serve"], ["serve", "--port", "0"], ["classify", photos / "red"]):
        ended = subprocess.run(
            [sys.executable, "-m", "secondlook", *map(str, arguments)],
            env={os.fsencode(name): os.fsencode(value) for name, value in home.items()} | {b"SECONDLOOK_BUNDLES": root},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode in (1, 2)
        assert "Traceback" not in ended.stderr
        assert f"the name of {tmp_path}/\\xff is not UTF-8" in ended.stderr.replace("\n", " ")


def test_all_photos_alike_are_refused_and_one_photo_a_class_is_kept(
    backbone: Path, home: dict[str, str], tmp_path: Path
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "alike" / name).mkdir(parents=True)
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "alike" / name / f"{i}.png").write_bytes(make_image("red"))
    (tmp_path / "few" / "cat" / "1.png").write_bytes(make_image("red"))
    (tmp_path / "few" / "dog" / "1.png").write_bytes(make_image("blue"))
    ended = subprocess.run(
        command(tmp_path / "alike", "--network", backbone, "--no-serve"),
        env=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (ended.returncode, ended.stderr.count("Traceback")) == (1, 0)
    assert "all 10 images of alike show the same picture: add different ones" in ended.stderr
    few = report(home, tmp_path / "few", "--network", backbone)
    assert {one["label"]: one["photos"] for one in few["classes"]} == {"cat": 1, "dog": 1}
    assert few["next"][0] == "cat needs more photos: it has one photo only, 20 are a good start"
