"""The page as text: well-formed, usable without a mouse or eyes, and with nothing to fetch."""

from __future__ import annotations

import base64
import csv
import html
import io
import itertools
import json
import re
from html.parser import HTMLParser

import pytest
from studies import METHODS, trial, write

from capaboost_vit.study.page.page import write_report

VOID = {"meta", "link", "img", "br", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes and ancestors; text by id."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.found, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.found.append((tag, values, tuple(name for name, _ in self.open)))
        if tag not in VOID:
            self.open.append((tag, values.get("id")))

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes), tuple(name for name, _ in self.open)))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> ends <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, data):
        for _, key in self.open:
            if key:
                self.texts[key] = self.texts.get(key, "") + data

    def all(self, *tags):
        return [values for tag, values, _ in self.found if tag in tags]


@pytest.fixture(scope="module")
def text(real_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (path,) = write_report(real_study, folder, formats=["html"])
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_is_fetched(text, page):
    assert "<script" not in text
    assert "http" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    for tag, values, _ in page.found:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "background"):
            if name in values and not (tag == "a" and values[name].startswith("#")):
                assert values[name].startswith(("data:", "#")), (tag, values)


def test_ids_are_unique_and_whatever_refers_to_one_finds_it(text, page):
    ids = [values["id"] for _, values, _ in page.found if "id" in values]
    assert len(ids) == len(set(ids))
    known = set(ids)
    for _, values, _ in page.found:
        for name in ("href", "aria-labelledby"):
            target = values.get(name, "").removeprefix("#")
            if name == "aria-labelledby" or values.get(name, "").startswith("#"):
                assert not target or target in known, values
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= known


def test_headings_make_an_outline(page):
    levels = [int(tag[1]) for tag, _, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))


def test_tables_have_scopes_and_scroll_in_a_region_that_keys_can_reach(page):
    assert all(values.get("scope") in ("col", "row", "colgroup") for values in page.all("th"))
    regions = [values for values in page.all("div") if "scroll" in values.get("class", "")]
    assert len(regions) == len(page.all("table")) > 8
    for values in regions:
        assert (values["role"], values["tabindex"]) == ("region", "0")
        assert values.get("aria-label") or page.texts[values["aria-labelledby"]].strip()


def test_pictures_have_words_and_numbers(page):
    for values in page.all("svg"):
        assert values.get("aria-hidden") == "true" or (values["role"] == "img" and len(values["aria-label"]) > 30)
    assert all("alt" in values for values in page.all("img"))
    figures = len(page.all("figure"))
    assert figures == len(page.all("figcaption")) > 9
    labels = " ".join(values.get("aria-label", "") for values in page.all("svg"))
    for word in (
        "Accuracy and multiply-adds",
        "Difference to lora",
        "loss in training",
        "Spectrum of dW",
        "Effective rank",
    ):
        assert word in labels


def test_the_page_can_be_used_with_keys_and_says_its_language(text, page):
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta")[1]["content"] == "width=device-width, initial-scale=1"
    (first, *_) = page.all("a")
    assert (first["class"], first["href"]) == ("skip", "#content")
    assert page.all("main")[0]["id"] == "content"
    for tag, _, above in page.found:
        assert tag != "summary" or above[-1] == "details"
    for rule in (":focus-visible", "prefers-color-scheme: dark", "@media print", "prefers-reduced-motion"):
        assert rule in text


def test_what_is_missing_is_seen_with_its_count(text):
    table = text[text.index('id="part1-accuracy"') : text.index('id="part1-paired"')]
    assert table.count('class="missing"') == 4  # of `random`: the groups and both averages
    assert table.count('class="partial"') == 2
    assert "1 of 2 seeds" in html.unescape(table)
    assert "6 of 7 final trials are finished, 1 missing." in text


def test_notes_of_tasks_stand_with_their_numbers_and_are_escaped(text):
    assert "<sup>a</sup>" in text
    assert "a: not VTAB-exact: &lt;b&gt;a test&lt;/b&gt;" in text
    assert "<b>a test" not in text


def test_mistakes_confusions_masks_and_ranks_are_there(page, text):
    images = [values["src"] for values in page.all("img")]
    assert len(images) > 20
    assert all(source.startswith("data:image/png;base64,") for source in images)  # of 8 x 8 pixels
    for words in ("Worst mistakes", "Most frequent confusions", "taken for", "used by any branch", "effective rank"):
        assert words in text
    assert text.count('class="confusion"') == 6


def test_files_to_download_hold_the_numbers_of_their_pictures(page):
    links = {values["download"]: values["href"] for values in page.all("a") if "download" in values}
    assert links.keys() == {"part1-learning-curves.csv", "part1-updates.csv"}
    content = base64.b64decode(links["part1-learning-curves.csv"].partition(",")[2]).decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    assert len(rows) == 3 * 2 * 2
    assert {row["method"] for row in rows} == {"lora", "random", "sign"}


def test_the_page_is_small_and_the_same_again(real_study, text, tmp_path):
    assert len(text) < 2_000_000
    (path,) = write_report(real_study, tmp_path, formats=["html"])
    assert path.read_text("utf-8") == text


def test_thumbnails_can_be_left_out(real_study, tmp_path):
    (path,) = write_report(real_study, tmp_path, formats=["html"], thumbnails=False)
    assert "<img" not in path.read_text()


def test_names_that_look_like_markup_stay_text(tmp_path, monkeypatch):
    evil = '"><script>alert(1)</script> $x_{'
    monkeypatch.setitem(METHODS, evil, METHODS["lora"])
    monkeypatch.setattr("capaboost_vit.study.page.costs.count_model", lambda options: (1, 2, 3))
    done = [(trial(m, t, s, notes=[evil]), 50.0 + s) for m in (evil, "lora") for t in ("0-4", "5-9") for s in (0, 1)]
    study = write(tmp_path, done)
    for one in study.trials().values():
        (study.run_folder(one) / "summary.csv").write_text("epoch,train_loss\n1,2.0\n2,1.0\n")
    study.give_up(one, evil, 1)
    (study.run_folder(one) / "result.json").unlink()
    (path,) = write_report(study.path, formats=["html"])
    text = path.read_text()
    assert "<script" not in text
    assert html.escape(evil, quote=False) in text or html.escape(evil) in text or "&#34;" in text
    Page(text)


def test_a_study_of_which_nothing_is_finished_has_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr("capaboost_vit.study.page.costs.count_model", lambda options: (1, 2, 3))
    study = write(tmp_path, [], missing=[trial(m, t, 0) for m in ("lora", "sign") for t in ("0-4", "5-9")])
    (path,) = write_report(study.path, formats=["html"])
    text = path.read_text()
    assert "0 of 4 final trials are finished, 4 missing." in text
    assert "No trial is finished yet." in text
    Page(text)


def test_two_backbones_are_two_sections(tmp_path, monkeypatch):
    monkeypatch.setattr("capaboost_vit.study.page.costs.count_model", lambda options: (1, 2, 3))
    done = [(trial("lora", "0-4", 0, backbone=b), score) for b, score in (("first", 31.5), ("second", 62.25))]
    (path,) = write_report(write(tmp_path, done).path, formats=["html"])
    page = Page(path.read_text())
    assert page.texts["part1"].strip() == "digits, first"
    assert page.texts["part2"].strip() == "digits, second"
    one, two = path.read_text().split('id="part2"')
    assert ("31.50" in one, "62.25" in one.split('id="part1"')[1], "31.50" in two) == (True, False, False)


def test_choices_and_machines_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("capaboost_vit.study.page.costs.count_model", lambda options: (1, 2, 3))
    study = write(tmp_path, [(trial("lora", "0-4", 0), 50.0)])
    choice = {"options": {"lr": 0.003}, "score": 71.5, "tried": [[{}, 1], [{}, 2]], "at_the_edge": ["lr"]}
    study.choices.write_text(json.dumps({"0-4 | lora | tiny": choice}))
    (path,) = write_report(study.path, formats=["html"])
    text = path.read_text()
    assert "lr 0.003" in text
    assert "71.50" in text
    assert "1 results: cpu: a test, threads 1, processes 1, capaboost_vit 0, torch 2" in text
