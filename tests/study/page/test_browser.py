"""The page in a browser: it asks for nothing, and nothing is wider than the window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from capaboost_vit.study.page.page import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")]
# opens everything, and says how wide the page is, and what stands out of the window
PROBE = """<script>
for (const part of document.querySelectorAll("details")) part.open = true;
const wide = [...document.querySelectorAll("body *")].filter(
  part => part.getBoundingClientRect().right > innerWidth + 1 && !part.closest(".scroll, svg, .unseen, pre"));
const root = document.documentElement, seen = {page: root.scrollWidth, window: innerWidth,
  ground: getComputedStyle(document.body).backgroundColor,
  wide: wide.map(part => part.tagName + "." + part.className + "#" + part.id)};
parent.postMessage(JSON.stringify(seen), "*");
</script></body>"""
# a window is 500 pixels wide at least, a frame need not be
FRAME = """<!doctype html><html style="color-scheme: light dark"><body style="margin: 0">
<script>addEventListener("message", event => { document.title = event.data; });</script>
<iframe src="probed.html" style="border: 0; width: WIDTHpx; height: 900px"></iframe></body></html>"""


@pytest.fixture(scope="module")
def page(real_study, tmp_path_factory):
    (path,) = write_report(real_study, tmp_path_factory.mktemp("browser"), formats=["html"])
    return path


def look(path, folder, *options, width=390):
    """What the probe says of the page, and the addresses that the browser asked for."""
    probed = folder / "probed.html"
    probed.write_text(path.read_text("utf-8").replace("</body>", PROBE), "utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)), "utf-8")
    log = folder / "net.json"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", f"--log-net-log={log}", *options]
    done = subprocess.run([*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"<title>(.*?)</title>", done.stdout)[1]
    requests = set(re.findall(r'"url":"((?!data:|chrome|about:)[^"]*)"', log.read_text("utf-8", "replace")))
    return json.loads(html.unescape(found)), requests - set(filter(_own, requests)), {probed.as_uri(), frame.as_uri()}


def _own(address):
    """Whether the browser asks this for itself: updates and the like, which are no part of a page."""
    return re.match(r"https?://([\w.-]+\.)?(google|googleapis|gstatic|gvt1)\.com/", address) is not None


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window_with_everything_open(page, tmp_path, width):
    found, _, _ = look(page, tmp_path, width=width)
    assert found["window"] == width
    assert found["wide"] == []
    assert found["page"] <= width


def test_the_browser_asks_for_the_page_and_nothing_else(page, tmp_path):
    _, requests, own = look(page, tmp_path)
    assert requests <= own


def test_the_probe_notices_what_is_too_wide_and_what_is_asked_for(page, tmp_path):
    text = page.read_text("utf-8").replace(
        "<main", '<p style="width:900px">wide</p><img src="http://localhost:9/x.png" alt=""><main'
    )
    bad = tmp_path / "bad.html"
    bad.write_text(text, "utf-8")
    found, requests, _ = look(bad, tmp_path)
    assert any(name.startswith("P.") for name in found["wide"])
    assert found["page"] > 390
    assert "http://localhost:9/x.png" in requests


def test_the_page_is_dark_where_that_is_preferred(page, tmp_path):
    grounds = []
    for i, scheme in enumerate(("0", "1")):
        (tmp_path / str(i)).mkdir()
        found, _, _ = look(page, tmp_path / str(i), f"--blink-settings=preferredColorScheme={scheme}")
        grounds.append(sum(map(int, re.findall(r"\d+", found["ground"])[:3])))
    assert grounds[0] < 150 < 600 < grounds[1]
