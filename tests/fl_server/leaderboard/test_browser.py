"""The pages in a real browser, served by a real process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import pytest

from fl_server.leaderboard.store import Store
from tests.contracts.store_contract import make_info, make_record

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars"),
)
SERVE = (
    "import sys; from fl_server.leaderboard.web import serve; "
    "serve(sys.argv[1], '127.0.0.1', 0, announce=print)"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine"),
]


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/board.sqlite") as store:
        yield store


@pytest.fixture
def address(store, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", SERVE, f"sqlite:///{tmp_path}/board.sqlite"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


@pytest.fixture
def run_id(store):
    run_id = store.open_run(make_info(team="<script>document.title='hacked'</script>"))
    for number, score in enumerate((0.5, 0.75)):
        store.record_round(run_id, make_record(number, score))
    return run_id


def browse(tmp_path, *arguments):
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path}/profile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def test_dom_shows_the_ranking_and_runs_no_foreign_script(address, run_id, tmp_path):
    done = browse(tmp_path, "--enable-logging=stderr", "--dump-dom", f"{address}/usecases/heart")
    assert "hacked</title>" not in done.stdout
    assert "+0.2500" in done.stdout
    assert "Content Security Policy" not in done.stderr


@pytest.mark.parametrize("size", ["1440,1200", "500,1200"])
def test_screenshot_is_drawn(address, run_id, tmp_path, size):
    picture = tmp_path / "page.png"
    browse(tmp_path, f"--window-size={size}", f"--screenshot={picture}", f"{address}/runs/{run_id}")
    assert picture.stat().st_size > 20_000


def test_page_follows_a_running_run(address, store, run_id, tmp_path):
    """A round recorded after the page was loaded appears without a reload."""
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    command += ["--virtual-time-budget=30000", f"{address}/runs/{run_id}"]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    # The browser's clock jumps from poll to poll, so the record must move all the time.
    while page.poll() is None:
        store.record_round(run_id, make_record(2, 0.9))
        time.sleep(0.005)
    text, _ = page.communicate(timeout=60)
    assert "Updated " in text
    assert "0.9000" in text
