"""The site: what each page shows, that it shows hostile text as text, and that it follows what is written."""

import json
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
import trio

from pipeline_engine.journal import journal_place
from pipeline_engine.live.http import Events, Reply, Request
from pipeline_engine.live.site import Site
from tests.live.conftest import HOSTILE, fill

PAGES = [
    ("/", {}),
    ("/batch", {}),
    ("/batch", {"status": "partial"}),
    ("/batch", {"part": "b"}),
    ("/document", {"key": "KEY"}),
    ("/step", {"key": "KEY", "step": "title"}),
    ("/step", {"key": "KEY", "step": "note"}),
    ("/step", {"key": "KEY", "step": "note", "item": "0"}),
]


def site_of(path):
    return Site(journal_place(str(path)))


async def filled(path, **texts):
    await trio.to_thread.run_sync(lambda: fill(path, **texts))


async def get(site, path, **query):
    reply = await site.answer(Request(path, query))
    assert isinstance(reply, Reply)
    return reply


async def data(site, path, **query):
    reply = await get(site, f"/api{path}", **query)
    return json.loads(reply.body)


class Elements(HTMLParser):
    """Count the elements of a page, and keep what could act."""

    def __init__(self):
        super().__init__()
        self.tags = []
        self.acting = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.acting += [name for name, _ in attrs if name.startswith("on")]
        self.acting += [value for name, value in attrs if name in ("href", "src") and value.lower().startswith("java")]


def elements(html):
    parser = Elements()
    parser.feed(html)
    return parser


async def test_the_first_page_lists_the_batches(journal):
    """Where somebody begins who does not know the id."""
    reply = await get(site_of(journal), "/")
    told = await data(site_of(journal), "/")

    assert reply.status == 200
    [batch] = told["batches"]
    assert (batch["pipeline"], batch["state"], batch["documents"]) == ("notes", "done", {"completed": 2, "partial": 1})
    assert f'href="/batch?batch={batch["batch"]}"' in reply.body.decode()


async def test_a_batch_shows_its_moment_and_its_documents(journal):
    """How far it is, what it has spent, what went wrong, and which documents to look at."""
    told = await data(site_of(journal), "/batch")
    html = (await get(site_of(journal), "/batch")).body.decode()

    assert (told["moment"]["state"], told["moment"]["finished"]) == ("done", 3)
    assert told["moment"]["now"]["errors"] == [["not_found", 1, "model 'scripted:model' no such thing"]]
    assert [document["document"] for document in told["shown"]] == ["a.md", "b.md", "c.md"]
    assert "2 completed · 1 partial" in html
    assert "no such thing" in html


async def test_documents_are_found_by_status_and_by_a_part_of_their_key(journal):
    """Among a hundred thousand one looks for the failed ones, or for one by name."""
    site = site_of(journal)

    assert [one["document"] for one in (await data(site, "/batch", status="partial"))["shown"]] == ["c.md"]
    assert [one["document"] for one in (await data(site, "/batch", part="b."))["shown"]] == ["b.md"]
    assert (await data(site, "/batch", part="%"))["shown"] == []
    assert (await get(site, "/api/batch", status="broken")).status == 404


async def test_documents_come_a_page_at_a_time(tmp_path):
    """A page of a hundred thousand rows would open in nobody's browser."""
    await filled(tmp_path / "runs.db", text="one", keys=[f"{number:03}.md" for number in range(230)])
    site = site_of(tmp_path / "runs.db")
    seen, after = [], None
    while True:
        page = await data(site, "/batch", **({"after": after} if after else {}))
        seen.append([one["document"] for one in page["shown"]])
        after = page["next"]
        if after is None:
            break

    assert [len(page) for page in seen] == [100, 100, 30]
    assert [key for page in seen for key in page] == [f"{number:03}.md" for number in range(230)]


async def test_a_document_shows_how_each_step_has_ended(journal):
    """From a failed document to the attempt that failed is one look."""
    told = await data(site_of(journal), "/document", key="c.md")

    outcomes = {step["step"]: step["outcome"] for step in told["steps"]}
    assert outcomes == {"title": "completed", "summary": "failed", "words": "completed", "note": "completed"}
    assert told["inputs"] == {"document": "Some text. FAILS"}
    [failed] = [attempt for attempt in told["attempts"] if attempt["state"] == "failed"]
    assert (failed["step"], failed["kind"], failed["status"]) == ("summary", "not_found", 404)


async def test_a_step_shows_the_exact_prompt_and_the_raw_reply(journal):
    """They are read where somebody has asked for them, and nowhere else."""
    site = site_of(journal)
    told = await data(site, "/step", key="a.md", step="title")
    document = (await get(site, "/document", key="a.md")).body.decode()

    assert told["calls"][0]["prompt"] == [{"role": "user", "parts": ["Title?\n\nSome text. 0"]}]
    assert told["calls"][0]["reply"]["text"] == "A reply."
    assert told["outputs"][0]["output"] == "A reply."
    assert "Title?" not in document


async def test_a_mapped_step_shows_one_item_at_a_time(journal):
    """The prompts of a thousand items are megabytes."""
    site = site_of(journal)

    whole = await data(site, "/step", key="a.md", step="note")
    item = await data(site, "/step", key="a.md", step="note", item="1")

    assert (whole["items"], whole["calls"]) == ([0, 1, 2], [])
    assert item["calls"][0]["prompt"][0]["parts"] == ["Note on text.?"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/nothing", {}),
        ("/../etc/passwd", {}),
        ("/site.css/../site.py", {}),
        ("/%2e%2e/site.py", {}),
        ("/api/", {"batch": "x"}),
        ("/batch", {"batch": "nope"}),
        ("/document", {"key": "nope"}),
        ("/document", {}),
        ("/step", {"key": "a.md", "step": "nope"}),
        ("/step", {"key": "a.md", "step": "note", "item": "9"}),
        ("/step", {"key": "a.md", "step": "note", "item": "x"}),
        ("/report", {"batch": "nope"}),
        ("/report", {"key": "nope"}),
    ],
)
async def test_what_is_not_there_is_said_to_be_not_there(journal, path, query):
    """Nothing but the known pages exists, whatever path somebody makes up."""
    reply = await get(site_of(journal), path, **query)

    assert reply.status == (200 if path == "/api/" else 404)
    assert b"Traceback" not in reply.body


async def test_a_journal_that_has_gone_is_told_and_ends_nothing(journal):
    """Somebody moves the file away while it is shown: pages say so, and events end."""
    site = site_of(journal)
    events = await site.answer(Request("/live/", {}))
    journal.unlink()

    for path in ("/", "/batch", "/report", "/api/"):
        reply = await get(site, path)
        assert reply.status == 503
        assert "does not exist" in reply.body.decode()
    assert [piece async for piece in events.pieces] == []


async def test_documents_are_linked_whatever_their_keys_are(tmp_path):
    """One file whose name is not UTF-8 must not take away the page of all the others."""
    key = "not-text-\udcff.md"
    await filled(tmp_path / "runs.db", keys=(key, "b.md"))
    site = site_of(tmp_path / "runs.db")

    assert (await get(site, "/batch")).status == 200
    assert (await get(site, "/document", key=key)).status == 200
    assert (await get(site, "/step", key=key, step="title")).status == 200


async def test_reports_are_pages_that_are_nobody_here(journal):
    """A report has script in it: it may draw, but reads no other page and asks for nothing."""
    site = site_of(journal)
    whole, one = await get(site, "/report"), await get(site, "/report", key="a.md")

    for reply in (whole, one):
        assert reply.status == 200
        assert reply.policy.startswith("sandbox allow-scripts; default-src 'none';")
        assert "allow-same-origin" not in reply.policy


async def test_hostile_text_is_shown_as_text(tmp_path):
    """Keys, prompts, replies and errors come from strangers: each page has the elements of a harmless one."""
    harmless, hostile = tmp_path / "harmless.db", tmp_path / "hostile.db"
    await filled(harmless, text="x", reply="x", error="x", keys=("a", "b", "z"))
    keys = (f"a{HOSTILE}", "b", f"z{HOSTILE}")
    await filled(hostile, text=HOSTILE.replace(" ", "_"), reply=HOSTILE, error=HOSTILE, keys=keys)

    for path, query in PAGES:
        for key in ("a", "z"):
            plain = {name: value.replace("KEY", key) for name, value in query.items()}
            shown = {name: value.replace("KEY", f"{key}{HOSTILE}") for name, value in query.items()}
            expected = elements((await get(site_of(harmless), path, **plain)).body.decode())
            found = elements((await get(site_of(hostile), path, **shown)).body.decode())

            assert found.tags == expected.tags, (path, query)
            assert found.acting == []


async def test_what_somebody_puts_into_an_address_is_shown_as_text(journal):
    """A link that a stranger sends must not act either."""
    for path in ("/batch", "/document", "/step"):
        for name in ("batch", "part", "status", "after", "key", "step", "item"):
            reply = await get(site_of(journal), path, **{name: HOSTILE})
            found = elements(reply.body.decode())

            assert "img" not in found.tags
            assert found.tags.count("script") == 1
            assert found.acting == []


async def test_nothing_is_written(journal):
    """Whoever looks on must not hold up, or change, what is looked at."""
    before = journal.read_bytes()
    site = site_of(journal)
    for path, query in PAGES:
        plain = {name: value.replace("KEY", "a.md") for name, value in query.items()}
        await get(site, path, **plain)
        await get(site, f"/api{path}", **plain)
    await get(site, "/report")

    assert journal.read_bytes() == before


async def test_an_open_page_follows_what_is_written(tmp_path, monkeypatch):
    """Nobody presses "reload" for an hour."""
    monkeypatch.setattr("pipeline_engine.live.site._EVENT_SECONDS", 0.01)
    path = tmp_path / "runs.db"
    await filled(path, keys=("a.md", "b.md"))
    events = await site_of(path).answer(Request("/live/", {}))
    assert isinstance(events, Events)
    first = json.loads((await anext(events.pieces)).removeprefix(b"data: "))
    await filled(path, keys=("c.md", "d.md"))
    with trio.fail_after(10):
        async for piece in events.pieces:
            if piece.startswith(b"data: "):
                break
    await events.pieces.aclose()

    assert first["batches"].count("/batch?") == 1
    assert json.loads(piece.removeprefix(b"data: "))["batches"].count("/batch?") == 2


async def test_a_form_that_somebody_fills_in_is_never_replaced(journal):
    """Half a word typed into a search field would be gone a second later."""
    events = await site_of(journal).answer(Request("/live/batch", {}))
    first = json.loads((await anext(events.pieces)).removeprefix(b"data: "))
    await events.pieces.aclose()

    assert sorted(first) == ["documents", "now"]


async def test_there_is_an_end_to_the_pages_that_are_followed(journal, monkeypatch):
    """Each open page reads the journal once a second."""
    monkeypatch.setattr("pipeline_engine.live.site._MAX_EVENTS", 1)
    site = site_of(journal)
    first = await site.answer(Request("/live/", {}))
    await anext(first.pieces)

    refused = await site.answer(Request("/live/", {}))
    await first.pieces.aclose()
    again = await site.answer(Request("/live/", {}))

    assert (refused.status, type(again)) == (503, Events)
    await again.pieces.aclose()


@pytest.mark.parametrize("name", ["site.css", "site.js"])
async def test_what_pages_need_is_served_from_here(journal, name):
    """No page loads anything from anywhere else."""
    reply = await get(site_of(journal), f"/{name}")

    assert reply.status == 200
    assert b"http" not in reply.body
    assert quote(name) in (await get(site_of(journal), "/")).body.decode()


async def test_a_journal_in_postgresql_is_shown_alike(postgres):
    """Batches that several machines work on are the ones that are watched for longest."""
    await filled(postgres)
    site = Site(journal_place(postgres))

    told = await data(site, "/batch", part="a.")
    step = await data(site, "/step", key="a.md", step="title")

    assert (told["moment"]["state"], told["moment"]["finished"]) == ("done", 3)
    assert [document["document"] for document in told["shown"]] == ["a.md"]
    assert step["calls"][0]["reply"]["text"] == "A reply."
    assert (await get(site, "/report")).status == 200
