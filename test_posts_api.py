"""Tests of the posts API, to be run with pytest.

Each test has a file of its own in a temporary folder, named by the setting POSTS_FILE.

The first part tests the API as its clients see it, in the order of its routes.  The
second part, under a comment of its own, tests how the store keeps the file.  Whoever
puts another store behind the views keeps the first part, with other versions of the
fixtures path, client, posts and many and of the helper saved().
"""

import errno
import hashlib
import io
import json
import os
import pkgutil
import random
import runpy
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from urllib.parse import urlencode

import pytest
from flask import g, jsonify
from flask.cli import ScriptInfo
from werkzeug.exceptions import NotFound, PreconditionFailed
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.serving import make_server
from werkzeug.test import encode_multipart

import posts_api

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def path(tmp_path):
    """Return the path of the posts' file, which does not exist yet."""
    return tmp_path / "posts.json"


@pytest.fixture
def client(path, monkeypatch):
    """Return a client of an API without posts."""
    monkeypatch.setitem(posts_api.app.config, "POSTS_FILE", path)
    return posts_api.app.test_client()


@pytest.fixture
def posts(client, path):
    """Return a client of an API with two posts, post(1) and post(2)."""
    path.write_text(file_of(post(1), post(2)), "utf-8")
    return client


@pytest.fixture
def many(client, path):
    """Return a client of an API with posts 1 to 25, titled from Y down to A."""
    titles = {n: chr(ord("Z") - n) for n in range(1, 26)}
    items = [post(n, title=titles[n], content=f"Größe {n % 3}") for n in titles]
    path.write_text(file_of(*items, next_id=26), "utf-8")
    return client


@pytest.fixture
def users(posts, monkeypatch):
    """Return a client of an API with two posts and a user, ann (password: s3cret)."""
    monkeypatch.setitem(posts_api.app.config, "USERS", {"ann": ann_hash()})
    monkeypatch.setitem(posts_api.app.config, "SECRET_KEY", "key")
    return posts


@pytest.fixture
def fork(path):
    """Return a copy of the module in which a post has one more field, mood."""
    field = "    content: str\n"
    module = load(field, field + '    mood: str = "calm"\n')
    module.app.config["POSTS_FILE"] = path
    return module


@pytest.fixture
def slow_disk(monkeypatch):
    """Make each flush to disk take 10 ms, and return the list of flushes."""
    fsync, flushes = os.fsync, []

    def slow_fsync(descriptor):
        time.sleep(0.01)
        flushes.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    return flushes


def texts(post_id=3, **changes):
    """Return a text for each field that a client sends: {"title": "title 3", ...}.

    If a rule of yours limits a field, or the server sets it, give it a valid text here,
    such as | {"category": "news"}.
    """
    return {name: f"{name} {post_id}" for name in posts_api.TEXT_FIELDS} | changes


def post(post_id=1, **changes):
    """Return a post as the API does: {"id": 1, "title": "title 1", ...}."""
    return {"id": post_id} | texts(post_id, **changes)


def file_of(*posts, next_id=3):
    """Return the text of a file that holds these posts."""
    lines = [json.dumps(each, ensure_ascii=False) for each in posts]
    return f'{{"next_id": {next_id}, "posts": [\n' + ",\n".join(lines) + "\n]}\n"


def saved(client):
    """Return the posts in the client's file.

    Assert that the file has the right layout, and that no other file is beside it.
    """
    path = Path(client.application.config["POSTS_FILE"])
    text = path.read_text("utf-8")
    document = json.loads(text)
    assert text == file_of(*document["posts"], next_id=document["next_id"])
    assert os.listdir(path.parent) == [path.name]
    return document["posts"]


def ann_hash():
    """Return a hash of ann's password, s3cret, that is quickly computed."""
    return generate_password_hash("s3cret", method="pbkdf2:sha256:1")


def log_in(client, host="localhost"):
    """Return the header with a token for ann."""
    credentials = {"user": "ann", "password": "s3cret"}
    response = client.post("/login", json=credentials, headers={"Host": host})
    return {"Authorization": f"Bearer {response.json['token']}"}


def error(response, status):
    """Return the message of an error response, after asserting that it is one."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/json"
    assert list(response.json) == ["error"]
    challenge = "Bearer" if status == 401 else None
    assert response.headers.get("WWW-Authenticate") == challenge
    return response.json["error"]


def load(old="", new=""):
    """Execute the module afresh, as a new process does, with a change in its source."""
    source = Path(posts_api.__file__).read_text("utf-8")
    assert old in source
    module = ModuleType("posts_api")
    code = compile(source.replace(old, new), posts_api.__file__, "exec")
    exec(code, vars(module))  # noqa: S102, as it is our own source
    return module


def restart(client):
    """Return a client of a server that has been started afresh, with the same file."""
    app = load().app
    app.config["POSTS_FILE"] = client.application.config["POSTS_FILE"]
    return app.test_client()


def start(*arguments, **settings):
    """Start Python in a process of its own, with settings in its environment."""
    environment = {f"FLASK_{name}": value for name, value in settings.items()}
    environment["PYTHONPATH"] = os.path.dirname(posts_api.__file__)
    return subprocess.Popen(
        [sys.executable, "-u", "-W", "error", *arguments],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, stdin="", **settings):
    """Run Python in a process of its own; return its output, errors and exit status."""
    process = start(*arguments, **settings)
    output, errors = process.communicate(stdin, timeout=30)
    return output, errors, process.returncode


def in_parallel(function, arguments):
    """Call a function with each argument, each in a thread; return the results.

    The threads are daemons, so that one that hangs fails the test and nothing else.
    """
    results = [None] * len(arguments)

    def call(index):
        results[index] = function(arguments[index])

    indexes = range(len(arguments))
    threads = [threading.Thread(target=call, args=[i], daemon=True) for i in indexes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not [thread for thread in threads if thread.is_alive()]
    return results


@contextmanager
def serving(app):
    """Serve an application over HTTP, on a free port, which is handed over."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetch(port, method, url, headers=None):
    """Send a request over HTTP; return the status code and the body of the response."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, url, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


# The API, route by route.


@pytest.mark.parametrize("url", ["/posts/all", "/posts/", "/posts"])
def test_list_of_all_posts(posts, url):
    response = posts.get(url)

    assert (response.status_code, response.json) == (200, [post(1), post(2)])
    assert response.mimetype == "application/json"
    assert response.headers["X-Total-Count"] == "2"


@pytest.mark.parametrize("url", ["/posts/all", "/posts/", "/posts"])
def test_list_without_posts_is_empty(client, path, url):
    response = client.get(url)

    assert (response.status_code, response.json) == (200, [])
    assert response.headers["X-Total-Count"] == "0"
    assert not path.exists()


def test_posts_have_their_fields_in_order(posts):
    assert list(posts.get("/posts").json[0]) == posts_api.FIELDS
    assert list(posts.get("/posts?id=1").json[0]) == posts_api.FIELDS
    assert list(posts.get("/posts/1").json) == posts_api.FIELDS


@pytest.mark.parametrize("url", ["/posts", "/posts?id=1", "/posts/1"])
def test_letters_are_sent_as_themselves(posts, url):
    posts.patch("/posts/1", json={"content": "größer"})

    assert '"größer"' in posts.get(url).text


@pytest.mark.parametrize(
    ("query", "ids", "total"),
    [
        pytest.param("_sort=title&_limit=3", [25, 24, 23], 25, id="sorted by title"),
        pytest.param("_sort=title&_order=desc&_limit=2", [1, 2], 25, id="descending"),
        pytest.param("_sort=id&_order=DESC&_limit=2", [25, 24], 25, id="in capitals"),
        pytest.param("_sort=id&_order=asc&_limit=2", [1, 2], 25, id="ascending"),
        pytest.param("_sort=content&_limit=3", [3, 6, 9], 25, id="equals in order"),
        pytest.param("_sort=content&_order=desc&_end=2", [2, 5], 25, id="reversed"),
        pytest.param("_start=10&_end=12", [11, 12], 25, id="start and end"),
        pytest.param("_start=10&_limit=2", [11, 12], 25, id="start and limit"),
        pytest.param("_end=2", [1, 2], 25, id="end"),
        pytest.param("_start=23", [24, 25], 25, id="start"),
        pytest.param("_start=25", [], 25, id="start at the end"),
        pytest.param("_start=10&_end=5", [], 25, id="end before start"),
        pytest.param("_start=999999999999999999", [], 25, id="start of 18 digits"),
        pytest.param("_start=24&_end=999999999999999999", [25], 25, id="far end"),
        pytest.param("_limit=0", [], 25, id="limit of zero"),
        pytest.param("_page=3", [21, 22, 23, 24, 25], 25, id="page"),
        pytest.param("_page=2&_limit=2", [3, 4], 25, id="page and limit"),
        pytest.param("_page=9", [], 25, id="page past the end"),
        pytest.param("_page=99&_limit=999999999999999999", [], 25, id="far page"),
        pytest.param("id=3&id=1&id=99", [1, 3], 2, id="any of three ids"),
        pytest.param("title=Y", [1], 1, id="title"),
        pytest.param("title=y", [], 0, id="title, exactly"),
        pytest.param("title=Y&title=A", [1, 25], 2, id="any of two titles"),
        pytest.param("title=", [], 0, id="no title is empty"),
        pytest.param("content=Größe 1&_limit=2", [1, 4], 9, id="content, sliced"),
        pytest.param("title=Y&content=Größe 1", [1], 1, id="title and content"),
        pytest.param("title=Y&content=Größe 2", [], 0, id="title, but not content"),
        pytest.param("title_like=y", [1], 1, id="title contains"),
        pytest.param("title_like=y&title_like=a", [1, 25], 2, id="contains any of two"),
        pytest.param("title_like=.", [], 0, id="no regular expression"),
        pytest.param("title_like=", range(1, 26), 25, id="contains nothing"),
        pytest.param("content_like=GRÖẞE 2&_limit=1", [2], 8, id="content contains"),
        pytest.param("content_like=grösse", [], 0, id="ss is not ß"),
        pytest.param("q=RÖ&q=nope&_start=1&_limit=1", [2], 25, id="any text contains"),
        pytest.param("q=b&_sort=title", [24], 1, id="any field contains"),
        pytest.param("q=y&content_like=0", [], 0, id="both must be true"),
        pytest.param("id=7&title_like=s&q=ö", [7], 1, id="all at once"),
    ],
)
def test_list_is_filtered_then_sorted_then_sliced(many, query, ids, total):
    response = many.get(f"/posts?{query}")

    assert response.status_code == 200, response.text
    assert [each["id"] for each in response.json] == list(ids)
    assert response.headers["X-Total-Count"] == str(total)


def test_list_sorted_by_id_differs_from_the_order_of_the_file(client, path):
    path.write_text(file_of(post(2), post(1)), "utf-8")

    assert client.get("/posts").json == [post(2), post(1)]
    assert client.get("/posts?_sort=id").json == [post(1), post(2)]


def test_list_finds_an_empty_content(posts):
    posts.patch("/posts/2", json={"content": ""})

    assert [each["id"] for each in posts.get("/posts?content=").json] == [2]


@pytest.mark.parametrize("name", ["nope", "_nope", "id_like", "title_", "Title", ""])
def test_list_with_an_unknown_parameter_is_400_and_names_the_known_ones(posts, name):
    message = error(posts.get(f"/posts?_limit=1&{name}=1"), 400)

    known = [
        *posts_api.FIELDS,
        "q",
        *(f"{each}_like" for each in posts_api.TEXT_FIELDS),
    ]
    known += ["_sort", "_order", "_start", "_end", "_limit", "_page"]
    assert message.startswith(f"unknown query parameter: {name} ")
    assert f"{', '.join(known)})" in message


@pytest.mark.parametrize("name", ["_start", "_end", "_limit", "_page", "id"])
def test_list_with_text_in_place_of_a_number_is_400(posts, name):
    response = posts.get(f"/posts?{name}=x")

    assert error(response, 400).startswith(f"{name} must be ")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="nothing"),
        pytest.param("-1", id="negative"),
        pytest.param("1.5", id="fraction"),
        pytest.param("+1", id="sign"),
        pytest.param(" 1", id="space"),
        pytest.param("٣", id="Arabic digit"),
        pytest.param("²", id="superscript"),
        pytest.param("1" * 19, id="19 digits"),
        pytest.param("1" * 10_000, id="10,000 digits"),
    ],
)
def test_list_with_a_number_of_another_form_is_400(posts, value):
    response = posts.get("/posts", query_string={"_limit": value})

    assert error(response, 400).startswith("_limit must be ")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("_page=0", "_page must be "),
        ("_sort=nope", "_sort must be one of {fields}, not nope"),
        ("_sort=", "_sort must be one of {fields}, not "),
        ("_order=up", "_order must be asc or desc, not up"),
        ("_order=", "_order must be asc or desc, not "),
        ("_sort=id&_sort=title", "_sort is given more than once"),
        ("_limit=1&_limit=2", "_limit is given more than once"),
    ],
)
def test_list_with_a_value_that_makes_no_sense_is_400(posts, query, message):
    response = posts.get(f"/posts?{query}")

    fields = ", ".join(posts_api.FIELDS)
    assert error(response, 400).startswith(message.format(fields=fields))


@pytest.mark.parametrize("query", ["title=%FF", "title=\xff", "title=\xc3%B6"])
def test_list_with_a_query_that_is_not_utf8_is_400(posts, query):
    response = posts.get("/posts", environ_overrides={"QUERY_STRING": query})

    assert error(response, 400).startswith("line 1 is not UTF-8: ")


def test_list_filtered_by_7000_ids_takes_one_pass_over_the_posts(many):
    query = "&".join(f"id={number}" for number in range(2, 7002))
    before = time.perf_counter()

    response = many.get(f"/posts?{query}")

    assert len(response.json) == 24
    assert time.perf_counter() - before < 2


def test_a_store_gets_the_query_as_data(client, monkeypatch):
    queries = []

    class Store:
        def select(self, query):
            queries.append(query)
            return posts_api.Posts({}), 0

    monkeypatch.setattr(posts_api, "get_store", Store)
    client.get("/posts?id=1&title=A&title=B&q=x&content_like=y&_sort=id&_page=2")
    client.get("/posts?_page=99&_limit=999999999999999999")

    assert queries[0] == posts_api.Query(
        filters={"id": {1}, "title": {"A", "B"}},
        searches=[
            posts_api.Search(posts_api.TEXT_FIELDS, ["x"]),
            posts_api.Search(["content"], ["y"]),
        ],
        sort="id",
        start=10,
        end=20,
    )
    assert (queries[1].start, queries[1].end) == (2**53 - 1, 2**53 - 1)


@pytest.mark.parametrize("url", ["/posts/", "/posts"])
def test_create(posts, url):
    response = posts.post(url, json=texts(content="größer"))

    assert response.status_code == 201
    assert response.location == "/posts/3"
    assert response.json == {
        "success": "Successfully added.",
        **post(3, content="größer"),
    }
    assert list(response.json) == ["success", *posts_api.FIELDS]
    assert saved(posts) == [post(1), post(2), post(3, content="größer")]


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "application/vnd.api+json"],
)
def test_create_accepts_json(client, content_type):
    body = json.dumps(texts(1))

    response = client.post("/posts", data=body, content_type=content_type)

    assert response.status_code == 201
    assert saved(client) == [post(1)]


def test_create_accepts_json_with_a_byte_order_mark(client):
    body = "\ufeff" + json.dumps(texts(1))

    response = client.post("/posts", data=body, content_type="application/json")

    assert response.status_code == 201
    assert saved(client) == [post(1)]


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_create_accepts_a_form(client, content_type):
    response = client.post("/posts", data=texts(1), content_type=content_type)

    assert response.status_code == 201
    assert saved(client) == [post(1)]


def test_create_accepts_the_query_string(client):
    response = client.post("/posts", query_string=texts(1))

    assert response.status_code == 201
    assert saved(client) == [post(1)]


def test_create_prefers_the_body_to_the_query_string(client):
    client.post("/posts?title=Query", json=texts(1, title="Body"))

    assert saved(client) == [post(1, title="Body")]


@pytest.mark.parametrize("success", ["Successfully added.", "", 1, None])
def test_create_ignores_success(client, success):
    response = client.post("/posts", json=texts(1) | {"success": success})

    assert response.status_code == 201
    assert saved(client) == [post(1)]


def test_create_accepts_an_empty_content_and_any_letters(client):
    strange = texts(1, title=" \u2028\x00🐍", content="")

    response = client.post("/posts", json=strange)

    assert response.status_code == 201
    assert client.get("/posts/1").json == post(1, **strange)
    assert saved(client) == [post(1, **strange)]


@pytest.mark.parametrize("post_id", [3, "3", "", None])
def test_create_with_an_id_is_400(posts, post_id):
    response = posts.post("/posts", json=texts() | {"id": post_id})

    message = "id is assigned by the server and cannot be changed"
    assert error(response, 400) == message
    assert saved(posts) == [post(1), post(2)]


def test_create_with_an_empty_id_in_the_query_string_is_400(posts):
    response = posts.post("/posts?id=", json=texts())

    message = "id is assigned by the server and cannot be changed"
    assert error(response, 400) == message
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize("name", ["title", "content"])
@pytest.mark.parametrize(("method", "url"), [("POST", "/posts"), ("PUT", "/posts/1")])
def test_create_and_replace_need_every_field_without_a_default(
    posts, method, url, name
):
    incomplete = texts()
    del incomplete[name]

    response = posts.open(url, method=method, json=incomplete)

    assert error(response, 400) == f"{name} is required and must be a string"
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    ("method", "url"), [("POST", "/posts"), ("PUT", "/posts/1"), ("PATCH", "/posts/1")]
)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"title": 5}, "title must be a string", id="number"),
        pytest.param({"content": None}, "content must be a string", id="null"),
        pytest.param({"content": ["A"]}, "content must be a string", id="array"),
        pytest.param({"title": ""}, "title must not be blank", id="empty title"),
        pytest.param({"title": " \n"}, "title must not be blank", id="blank title"),
        pytest.param({"nope": ""}, "unknown field: 'nope'", id="unknown field"),
        pytest.param({"Title": "A"}, "unknown field: 'Title'", id="capital letter"),
    ],
)
def test_a_post_with_a_wrong_field_is_400(posts, method, url, changes, message):
    response = posts.open(url, method=method, json=texts() | changes)

    if message.startswith("unknown"):
        message += f" (a post has {', '.join(posts_api.FIELDS)})"
    assert error(response, 400) == message
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"{", "Expecting property name", id="cut"),
        pytest.param(b"[1, 2]", "the JSON must be an object", id="array"),
        pytest.param(b"null", "the JSON must be an object", id="null"),
        pytest.param(b"[" * 100_000, "it is nested too deeply", id="arrays"),
        pytest.param(b'{"a":' * 100_000, "it is nested too deeply", id="objects"),
        pytest.param(b"9" * 10_000, "Exceeds the limit", id="10,000 digits"),
        pytest.param(b'\n"\xff"', "line 2 is not UTF-8: ", id="not UTF-8"),
        pytest.param(b'{"title": "\\ud800"}', "title contains half a", id="surrogate"),
        pytest.param(
            b'{"\\udfff": ""}', "unknown field: '\\udfff'", id="surrogate name"
        ),
        pytest.param(b'{"a": 1, "a": 1}', "the key 'a' occurs twice", id="twice"),
        pytest.param(b'[{"a": 1, "a": 2}]', "the key 'a' occurs", id="inside"),
        pytest.param(b'{"\\udfff": 1, "\\udfff": 2}', "the key '\\udfff'", id="both"),
    ],
)
def test_invalid_json_is_400_and_says_why(posts, body, reason):
    response = posts.patch("/posts/1", data=body, content_type="application/json")

    assert reason in error(response, 400)
    assert saved(posts) == [post(1), post(2)]


def test_json_with_both_halves_of_a_surrogate_pair_is_accepted(posts):
    body = b'{"title": "\\ud83d\\udc0d"}'

    response = posts.patch("/posts/1", data=body, content_type="application/json")

    assert response.status_code == 200
    assert saved(posts) == [post(1, title="🐍"), post(2)]


def test_one_key_of_100000_given_twice_is_refused_at_once(posts):
    pairs = [f'"{number}":0' for number in [*range(100_000), 99_999]]
    body = "{" + ",".join(pairs) + "}"
    before = time.perf_counter()

    response = posts.patch("/posts/1", data=body, content_type="application/json")

    assert "the key '99999' occurs twice" in error(response, 400)
    assert time.perf_counter() - before < 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"title=A&title=B", "title is given more than once", id="twice"),
        pytest.param(b"title=A&title=", "title is given more than once", id="once, no"),
        pytest.param(b"title=%FF", "line 1 is not UTF-8: ", id="escape not UTF-8"),
        pytest.param(b"title=\xff", "line 1 is not UTF-8: ", id="byte not UTF-8"),
        pytest.param(b"%FF=A", "line 1 is not UTF-8: ", id="name not UTF-8"),
        pytest.param(b"title=%ED%A0%80", "line 1 is not UTF-8: ", id="surrogate"),
        pytest.param(b"title=\xc3%B6", "line 1 is not UTF-8: ", id="byte and escape"),
    ],
)
@pytest.mark.parametrize("place", ["body", "query string"])
def test_an_invalid_form_or_query_string_is_400(posts, place, body, message):
    if place == "body":
        form = {"data": body, "content_type": "application/x-www-form-urlencoded"}
        response = posts.patch("/posts/1", **form)
    else:
        raw = {"QUERY_STRING": body.decode("latin-1")}
        response = posts.patch("/posts/1", environ_overrides=raw)

    assert error(response, 400).startswith(message)
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    ("title", "message"),
    [
        pytest.param(["A", "B"], "title is given more than once", id="twice"),
        pytest.param(b"\xff", "line 4 is not UTF-8: ", id="not UTF-8"),
    ],
)
def test_an_invalid_multipart_form_is_400(posts, title, message):
    if isinstance(title, bytes):
        part = b'--b\r\nContent-Disposition: form-data; name="title"\r\n\r\n%s\r\n--b--'
        form = {"data": part % title}
    else:
        form = {"data": {"title": title}}
    content_type = "multipart/form-data; boundary=b"

    response = posts.patch("/posts/1", **form, content_type=content_type)

    assert error(response, 400).startswith(message)
    assert saved(posts) == [post(1), post(2)]


def test_percent_signs_in_a_multipart_form_are_text(posts):
    form = {"data": {"title": "100%ff"}, "content_type": "multipart/form-data"}

    response = posts.patch("/posts/1", **form)

    assert response.status_code == 200
    assert saved(posts) == [post(1, title="100%ff"), post(2)]


@pytest.mark.parametrize("body", ['{"title": "A"}', ' [{"title": "A"}]'])
def test_json_sent_as_a_form_is_415_and_says_what_to_add(posts, body):
    curl = "application/x-www-form-urlencoded"  # what curl -d sends unless told

    response = posts.patch("/posts/1", data=body, content_type=curl)

    assert "Content-Type: application/json" in error(response, 415)
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        pytest.param("text/plain", b"title=A", id="text"),
        pytest.param(None, b'{"title": "A"}', id="no type"),
    ],
)
def test_a_body_that_is_neither_json_nor_a_form_is_415(posts, content_type, body):
    response = posts.patch("/posts/1", data=body, content_type=content_type)

    assert "Content-Type: application/json" in error(response, 415)
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        pytest.param("multipart/form-data", b"title=A", id="no boundary"),
        pytest.param("multipart/form-data; boundary=B", b"title=A", id="no fields"),
        pytest.param("application/x-www-form-urlencoded", b"&", id="nothing but &"),
    ],
)
def test_a_broken_form_is_400_even_if_a_field_is_in_the_query_string(
    posts, content_type, body
):
    response = posts.patch("/posts/1?title=A", data=body, content_type=content_type)

    assert error(response, 400) == "the form is empty or broken"
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize("fields", [{}, {"title": "A"}])
def test_a_form_with_a_file_is_415(posts, fields):
    form = fields | {"content": (io.BytesIO(b"A"), "a.txt")}

    response = posts.patch("/posts/1", data=form)

    assert "without files" in error(response, 415)
    assert saved(posts) == [post(1), post(2)]


def send_form(client, body, announced):
    """Send a form; without an announced length, it goes in chunks."""
    environ = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}
    environ["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
    if announced is not None:
        environ["CONTENT_LENGTH"] = str(announced)
    return client.patch("/posts/1", environ_overrides=environ)


@pytest.mark.parametrize(
    ("size", "chunked", "status"),
    [
        pytest.param(2**20, False, 200, id="largest"),
        pytest.param(2**20 + 1, False, 413, id="too large"),
        pytest.param(2**20 - 1, True, 200, id="largest in chunks"),
        pytest.param(2**20 + 1, True, 413, id="too large in chunks"),
        pytest.param(2**20 + 9999, True, 413, id="much too large in chunks"),
    ],
)
def test_a_body_of_more_than_1_mib_is_413(posts, size, chunked, status):
    body = b"title=".ljust(size, b"x")

    response = send_form(posts, body, None if chunked else size)

    title = saved(posts)[0]["title"]
    if status == 200:
        assert title == "x" * (size - len("title="))
    else:
        assert "exceeds the capacity limit" in error(response, 413)
        assert title == "title 1"


def test_a_field_of_a_multipart_form_may_be_as_large_as_any_body(posts):
    boundary, body = encode_multipart({"title": "x" * 1_000_000})
    content_type = f"multipart/form-data; boundary={boundary}"

    response = posts.patch("/posts/1", data=body, content_type=content_type)

    assert response.status_code == 200
    assert saved(posts) == [post(1, title="x" * 1_000_000), post(2)]


def test_the_largest_body_can_be_set(posts, monkeypatch):
    body = b"title=1234"
    monkeypatch.setitem(posts_api.app.config, "MAX_CONTENT_LENGTH", len(body))

    assert send_form(posts, body, len(body)).status_code == 200
    assert send_form(posts, body + b"5", len(body) + 1).status_code == 413
    assert saved(posts) == [post(1, title="1234"), post(2)]


def test_a_body_shorter_than_its_content_length_is_400(posts):
    body = b"title=A"

    response = send_form(posts, body, len(body) + 1)

    assert error(response, 400) == "the body is shorter than its Content-Length"
    assert saved(posts) == [post(1), post(2)]


def test_get_one(posts):
    response = posts.get("/posts/2")

    assert (response.status_code, response.json) == (200, post(2))
    assert response.mimetype == "application/json"


@pytest.mark.parametrize("post_id", [0, 3, 2**53, 10**1000])
def test_get_of_a_missing_post_is_404(posts, post_id):
    response = posts.get(f"/posts/{post_id}")

    assert error(response, 404) == f"not found id {post_id}"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_write_to_a_missing_post_is_404(posts, method):
    response = posts.open("/posts/3", method=method, json=texts())

    assert error(response, 404) == "not found id 3"
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    "url", ["/nope", "/posts//1", "/posts/1/", "/posts/-1", "/posts/" + "9" * 5000]
)
def test_a_missing_route_is_404(posts, url):
    message = error(posts.get(url), 404)

    assert message.startswith("The requested URL was not found on the server.")
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("/posts", "{}"),
        ("/posts/all?q=2", "{}"),
        ("/posts/1", "{}"),
        ("/posts/1", '"x", {}'),
        ("/posts/1", '"x",{} , "y"'),
        ("/posts/1", "W/{}"),
        ("/posts/1", '"x", W/{}'),
        ("/posts/1", "*"),
    ],
)
def test_if_none_match_of_the_current_etag_is_304(posts, url, header):
    etag = posts.get(url).headers["ETag"]

    response = posts.get(url, headers={"If-None-Match": header.format(etag)})

    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == etag


@pytest.mark.parametrize("url", ["/posts", "/posts?title_like=t", "/posts/1"])
def test_if_none_match_of_another_etag_is_200(posts, url):
    etag = posts.get(url).headers["ETag"]
    posts.patch("/posts/1", json={"title": "Other"})

    for header in (etag, '"x"', etag.strip('"'), ""):
        response = posts.get(url, headers={"If-None-Match": header})

        assert response.status_code == 200
        assert "Other" in response.text
        assert response.headers["ETag"] != etag


def test_an_etag_is_strong(posts):
    for url in ("/posts", "/posts?id=1", "/posts/1"):
        etag, weak = posts.get(url).get_etag()

        assert etag
        assert not weak


@pytest.mark.parametrize("kind", ["json", "data", "query_string"])
def test_put_replaces_all_fields(posts, kind):
    response = posts.put("/posts/2", **{kind: texts(9)})

    assert response.status_code == 200
    assert response.json == {"success": "Successfully updated", **post(2, **texts(9))}
    assert list(response.json) == ["success", *posts_api.FIELDS]
    assert saved(posts) == [post(1), post(2, **texts(9))]


@pytest.mark.parametrize("kind", ["json", "data", "query_string"])
def test_patch_changes_only_the_fields_that_it_names(posts, kind):
    response = posts.patch("/posts/2", **{kind: {"title": "New"}})

    assert response.status_code == 200
    assert response.json == {"success": "Successfully updated", **post(2, title="New")}
    assert list(response.json) == ["success", *posts_api.FIELDS]
    assert saved(posts) == [post(1), post(2, title="New")]


@pytest.mark.parametrize("post_id", [2, "2"])
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_put_and_patch_accept_the_id_in_the_url(posts, method, post_id):
    body = texts(9) | {"id": post_id, "success": "Successfully updated"}

    response = posts.open("/posts/2", method=method, json=body)

    assert response.status_code == 200
    assert saved(posts) == [post(1), post(2, **texts(9))]


@pytest.mark.parametrize(
    ("method", "post_id"),
    [("PUT", 1), ("PUT", ""), ("PATCH", 3), ("PATCH", None), ("PATCH", 2.0)],
)
def test_put_and_patch_with_another_id_are_400(posts, method, post_id):
    body = texts(9) | {"id": post_id}

    response = posts.open("/posts/2", method=method, json=body)

    message = "id is assigned by the server and cannot be changed"
    assert error(response, 400) == message
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize("body", [{}, {"id": 1}, {"success": "yes"}])
def test_patch_that_names_no_field_is_400(posts, body):
    response = posts.patch("/posts/1", json=body)

    names = " or ".join(posts_api.TEXT_FIELDS)
    assert error(response, 400) == f"you must pass {names} as parameter"
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="no type"),
        pytest.param({"content_type": "application/json"}, id="JSON"),
    ],
)
def test_patch_without_a_body_is_400(posts, options):
    response = posts.patch("/posts/1", **options)

    assert error(response, 400).startswith("you must pass title or content")
    assert saved(posts) == [post(1), post(2)]


def test_delete(posts):
    response = posts.delete("/posts/1")

    assert response.status_code == 200
    assert response.json == {"success": "successfully deleted", **post(1)}
    assert list(response.json) == ["success", *posts_api.FIELDS]
    assert saved(posts) == [post(2)]
    assert error(posts.get("/posts/1"), 404) == "not found id 1"


def test_delete_ignores_a_body(posts):
    response = posts.delete("/posts/1", data="{", content_type="application/json")

    assert response.status_code == 200
    assert saved(posts) == [post(2)]


@pytest.mark.parametrize(
    ("method", "url"), [("POST", "/posts"), ("PUT", "/posts/1"), ("PATCH", "/posts/1")]
)
def test_a_write_returns_the_etag_of_the_next_get(posts, method, url):
    response = posts.open(url, method=method, json=texts(content="größer"))

    following = posts.get(response.location or url)
    assert response.headers["ETag"] == following.headers["ETag"]


@pytest.mark.parametrize("header", ["nonsense, {}", '"a, {} ,b"', "{} {}"])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_if_match_with_nonsense_beside_the_current_etag_is_412(posts, method, header):
    etag = posts.get("/posts/1").headers["ETag"]
    headers = {"If-Match": header.format(etag, etag)}

    response = posts.open("/posts/1", method=method, headers=headers, json=texts())

    assert error(response, 412) == "id 1 has changed since"
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize("header", ["{}", "*", '"x", {}', '{},"x"', ",{} ,"])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_if_match_of_the_current_etag_writes(posts, method, header):
    etag = posts.get("/posts/1").headers["ETag"]
    headers = {"If-Match": header.format(etag)}

    response = posts.open("/posts/1", method=method, headers=headers, json=texts())

    assert response.status_code == 200
    assert post(1) not in saved(posts)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_if_match_of_a_post_that_has_changed_is_412(posts, method):
    headers = {"If-Match": posts.get("/posts/1").headers["ETag"]}
    posts.patch("/posts/1", json={"title": "Faster"}, headers=headers)

    response = posts.open("/posts/1", method=method, headers=headers, json=texts())

    assert error(response, 412) == "id 1 has changed since"
    assert saved(posts) == [post(1, title="Faster"), post(2)]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="empty"),
        pytest.param(",", id="comma"),
        pytest.param("{tag}", id="no quotes"),
        pytest.param('"{tag}', id="half of the quotes"),
        pytest.param('W/"{tag}"', id="weak"),
        pytest.param('"*"', id="star in quotes"),
        pytest.param("**", id="two stars"),
        pytest.param('"x"', id="other"),
        pytest.param('"x"; "{tag}"', id="semicolon"),
    ],
)
def test_if_match_of_no_current_etag_is_412(posts, header):
    tag = posts.get("/posts/1").headers["ETag"].strip('"')
    headers = {"If-Match": header.format(tag=tag)}

    response = posts.patch("/posts/1", headers=headers, json={"title": "New"})

    assert error(response, 412) == "id 1 has changed since"
    assert saved(posts) == [post(1), post(2)]


def test_another_post_leaves_an_etag_alone(posts):
    etag = posts.get("/posts/1").headers["ETag"]
    posts.patch("/posts/2", json={"title": "Other"})

    response = posts.delete("/posts/1", headers={"If-Match": etag})

    assert response.status_code == 200
    assert saved(posts) == [post(2, title="Other")]


def test_an_etag_survives_a_restart(posts):
    for url in ("/posts", "/posts/1"):
        etag = posts.get(url).headers["ETag"]

        assert restart(posts).get(url).headers["ETag"] == etag


@pytest.mark.parametrize("kind", ["json", "data"])
def test_login_returns_a_token_with_which_to_write(users, kind):
    credentials = {"user": "ann", "password": "s3cret"}

    response = users.post("/login", **{kind: credentials})

    assert (response.status_code, list(response.json)) == (200, ["token"])
    headers = {"Authorization": f"Bearer {response.json['token']}"}
    assert users.post("/posts", json=texts(3), headers=headers).status_code == 201
    assert [each["id"] for each in saved(users)] == [1, 2, 3]


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param({"user": "ann", "password": "wrong"}, id="wrong password"),
        pytest.param({"user": "ann", "password": ""}, id="empty password"),
        pytest.param({"user": "eve", "password": "s3cret"}, id="unknown user"),
        pytest.param({"user": "", "password": ""}, id="nobody"),
    ],
)
def test_login_with_a_wrong_user_or_password_is_401(users, credentials):
    response = users.post("/login", json=credentials)

    assert error(response, 401) == "wrong user or password"


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"user": "ann"}, id="no password"),
        pytest.param({"password": "s3cret"}, id="no user"),
        pytest.param({"user": "ann", "password": None}, id="null"),
        pytest.param({"user": "ann", "password": 5}, id="number"),
        pytest.param({"user": ["ann"], "password": "s3cret"}, id="array"),
    ],
)
def test_login_without_a_user_or_a_password_is_401(users, credentials):
    response = users.post("/login", json=credentials)

    message = "user and password are required and must be strings"
    assert error(response, 401) == message


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        pytest.param(
            b'{"user": "ann", "password": "\\ud800"}',
            400,
            "password contains half a character",
            id="password",
        ),
        pytest.param(
            b'{"user": "\\ud800", "password": "s3cret"}',
            401,
            "wrong user or password",
            id="user",
        ),
    ],
)
def test_login_with_half_a_surrogate_pair_is_an_error(users, body, status, message):
    response = users.post("/login", data=body, content_type="application/json")

    assert error(response, status).startswith(message)


def test_login_without_users_is_401(posts):
    response = posts.post("/login", json={"user": "ann", "password": "s3cret"})

    assert error(response, 401) == "wrong user or password"


def test_login_of_an_unknown_user_costs_as_much_as_a_wrong_password(users, monkeypatch):
    posts_api.app.config["USERS"]["bob"] = generate_password_hash("s3cret")
    scrypt, costs = hashlib.scrypt, []

    def count(password, *, salt, **cost):
        costs.append(cost)
        return scrypt(password, salt=salt, **cost)

    monkeypatch.setattr(hashlib, "scrypt", count)
    for user in ("bob", "eve"):
        response = users.post("/login", json={"user": user, "password": "wrong"})
        assert error(response, 401) == "wrong user or password"

    assert len(costs) == 2
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="empty"),
        pytest.param("{token}", id="no scheme"),
        pytest.param("Basic {token}", id="other scheme"),
        pytest.param("Token {token}", id="unknown scheme"),
        pytest.param("Basic YW5uOnMzY3JldA==", id="basic"),
        pytest.param("Bearer", id="no token"),
        pytest.param("Bearer ", id="empty token"),
        pytest.param("Bearer ö", id="no ASCII"),
        pytest.param("Bearer a=b", id="parameter"),
        pytest.param("Bearer {token}x", id="changed token"),
        pytest.param("Bearer x{token}", id="other user"),
    ],
)
def test_a_write_without_a_valid_token_is_401(users, header):
    token = log_in(users)["Authorization"].removeprefix("Bearer ")
    headers = {"Authorization": header.format(token=token)}

    response = users.delete("/posts/1", headers=headers)

    assert error(response, 401) == "a write needs a valid token from /login"
    assert saved(users) == [post(1), post(2)]


@pytest.mark.parametrize(
    ("method", "url"), [("POST", "/posts"), ("PUT", "/posts/1"), ("PATCH", "/posts/1")]
)
def test_a_write_of_any_kind_needs_a_token(users, method, url):
    response = users.open(url, method=method, json=texts())

    assert error(response, 401) == "a write needs a valid token from /login"
    assert saved(users) == [post(1), post(2)]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param("SECRET_KEY", "other", id="another server's token"),
        pytest.param("USERS", {"bob": "scrypt$a$b"}, id="former user's token"),
    ],
)
def test_a_token_that_is_no_longer_valid_is_401(users, monkeypatch, setting, value):
    headers = log_in(users)
    monkeypatch.setitem(posts_api.app.config, setting, value)

    response = users.delete("/posts/1", headers=headers)

    assert error(response, 401) == "a write needs a valid token from /login"
    assert saved(users) == [post(1), post(2)]


def test_a_token_expires_after_an_hour(users, monkeypatch):
    now = int(time.time())
    monkeypatch.setattr(time, "time", lambda: now)
    headers = log_in(users)

    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert users.post("/posts", json=texts(3), headers=headers).status_code == 201
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    error(users.post("/posts", json=texts(4), headers=headers), 401)
    assert [each["id"] for each in saved(users)] == [1, 2, 3]


def test_the_age_of_tokens_can_be_set(users, monkeypatch):
    monkeypatch.setitem(posts_api.app.config, "TOKEN_MAX_AGE", 10)
    headers = log_in(users)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 12)

    error(users.delete("/posts/2", headers=headers), 401)

    assert saved(users) == [post(1), post(2)]


def test_a_session_cookie_is_no_token(users):
    app = posts_api.app
    serializer = app.session_interface.get_signing_serializer(app)
    headers = {"Authorization": f"Bearer {serializer.dumps('ann')}"}

    error(users.delete("/posts/1", headers=headers), 401)

    assert saved(users) == [post(1), post(2)]


@pytest.mark.parametrize("url", ["/", "/posts", "/posts/1"])
def test_reading_needs_no_token(users, url):
    assert users.get(url).status_code == 200
    assert users.head(url).status_code == 200
    assert users.options(url).status_code == 200


@pytest.mark.parametrize("header", ["Bearer x", "Bearer", "Basic YW5uOnMzY3JldA=="])
def test_without_users_everyone_may_write(posts, header):
    response = posts.delete("/posts/1", headers={"Authorization": header})

    assert response.status_code == 200
    assert saved(posts) == [post(2)]


def test_root_lists_the_routes_and_what_they_do(client):
    routes = client.get("/").json

    assert sorted(routes) == [
        "DELETE /posts/<int:post_id>",
        "GET /",
        "GET /posts",
        "GET /posts/",
        "GET /posts/<int:post_id>",
        "GET /posts/all",
        "PATCH /posts/<int:post_id>",
        "POST /login",
        "POST /posts",
        "POST /posts/",
        "PUT /posts/<int:post_id>",
    ]
    assert routes["DELETE /posts/<int:post_id>"] == "Delete a post."
    assert all(routes.values())


def test_root_works_without_docstrings(path):
    script = "import posts_api; print(posts_api.app.test_client().get('/').text)"

    output, errors, _ = run("-OO", "-c", script, POSTS_FILE=str(path))

    assert errors == ""
    assert json.loads(output)["GET /posts/<int:post_id>"] == ""


# The API, all routes.


@pytest.mark.parametrize("url", ["/", "/posts", "/posts/", "/posts/all", "/posts/1"])
def test_head_is_a_get_without_a_body(posts, url):
    head, get = posts.head(url), posts.get(url)

    assert (head.status_code, head.data) == (200, b"")
    assert head.headers == get.headers


@pytest.mark.parametrize(
    ("url", "methods"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("/posts", "GET, HEAD, OPTIONS, POST"),
        ("/posts/", "GET, HEAD, OPTIONS, POST"),
        ("/posts/all", "GET, HEAD, OPTIONS"),
        ("/posts/1", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/login", "OPTIONS, POST"),
    ],
)
def test_options_and_405_name_the_allowed_methods(posts, url, methods):
    options, refused = posts.options(url), posts.open(url, method="TRACE")

    assert options.status_code == 200
    assert ", ".join(sorted(options.allow)) == methods
    assert error(refused, 405) == "The method is not allowed for the requested URL."
    assert ", ".join(sorted(refused.allow)) == methods


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("evil.example", id="other"),
        pytest.param("localhost.evil.example", id="subdomain of another"),
        pytest.param("evillocalhost", id="no subdomain"),
        pytest.param("192.168.0.1", id="address"),
        pytest.param("localhost@evil.example", id="user"),
        pytest.param("a|b", id="no name"),
    ],
)
def test_an_untrusted_host_is_400(posts, host):
    headers = {"Host": host, "Origin": f"http://{host}"}

    reading = posts.get("/posts/1", headers=headers)
    writing = posts.delete("/posts/1", headers=headers)

    assert error(reading, 400) == f"Host {host!r} is not trusted."
    assert error(writing, 400) == f"Host {host!r} is not trusted."
    assert "Access-Control-Allow-Origin" not in reading.headers
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5000", "127.0.0.1:80", "api.localhost"]
)
def test_a_trusted_host_is_served(posts, host):
    assert posts.get("/posts/1", headers={"Host": host}).json == post(1)


@pytest.mark.parametrize(
    "origin",
    [
        pytest.param("http://evil.example", id="other"),
        pytest.param("http://localhost.evil.example", id="subdomain of another"),
        pytest.param("http://evillocalhost:5000", id="no subdomain"),
        pytest.param("http://localhost@evil.example", id="user"),
        pytest.param("http://evil.example://localhost", id="two schemes"),
        pytest.param("http://evil.example/localhost", id="path"),
        pytest.param("null", id="null"),
        pytest.param("", id="empty"),
        pytest.param("localhost", id="no scheme"),
    ],
)
def test_a_page_of_an_untrusted_host_can_neither_read_nor_write(posts, origin):
    headers = {"Origin": origin}

    reading = posts.get("/posts/1", headers=headers)
    preflight = posts.options("/posts/1", headers=headers)
    writing = posts.delete("/posts/1", headers=headers)

    message = f"the origin {origin} is not in TRUSTED_HOSTS"
    assert error(writing, 403) == message
    assert saved(posts) == [post(1), post(2)]
    for response in (reading, preflight, writing):
        assert not [name for name, _ in response.headers if "Access-Control" in name]
        assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", "/posts"),
        ("PUT", "/posts/1"),
        ("PATCH", "/posts/1"),
        ("POST", "/login"),
    ],
)
def test_no_write_of_any_kind_is_accepted_from_an_untrusted_origin(posts, method, url):
    headers = {"Origin": "http://evil.example"}

    response = posts.open(url, method=method, headers=headers, json=texts())

    message = "the origin http://evil.example is not in TRUSTED_HOSTS"
    assert error(response, 403) == message
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:5173", "https://127.0.0.1", "http://app.localhost:80"],
)
def test_a_page_of_a_trusted_host_can_read_and_write(posts, origin):
    headers = {"Origin": origin}

    preflight = posts.options("/posts/1", headers=headers)
    writing = posts.delete("/posts/1", headers=headers)
    failing = posts.get("/posts/1", headers=headers)

    assert (preflight.status_code, writing.status_code) == (200, 200)
    assert error(failing, 404) == "not found id 1"
    assert saved(posts) == [post(2)]
    for response in (preflight, writing, failing):
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert response.headers["Vary"] == "Origin"
        exposed = "ETag, Location, X-Total-Count, WWW-Authenticate"
        assert response.headers["Access-Control-Expose-Headers"] == exposed
        methods = "GET, POST, PUT, PATCH, DELETE"
        assert response.headers["Access-Control-Allow-Methods"] == methods
        allowed = "Authorization, Content-Type, If-Match, If-None-Match"
        assert response.headers["Access-Control-Allow-Headers"] == allowed


def test_trusted_hosts_can_be_set(posts, monkeypatch):
    monkeypatch.setitem(posts_api.app.config, "TRUSTED_HOSTS", ["api.demo"])
    headers = {"Host": "api.demo:80", "Origin": "https://api.demo:81"}

    response = posts.delete("/posts/1", headers=headers)

    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "https://api.demo:81"
    assert error(posts.get("/posts"), 400) == "Host 'localhost' is not trusted."
    assert saved(posts) == [post(2)]


def test_a_page_of_a_trusted_host_can_read_why_it_must_log_in(users):
    headers = {"Origin": "http://localhost:5173"}

    response = users.delete("/posts/1", headers=headers)

    assert error(response, 401) == "a write needs a valid token from /login"
    assert response.headers["Access-Control-Allow-Origin"] == headers["Origin"]


def test_vary_keeps_what_a_view_adds():
    fork = load()

    @fork.app.get("/languages")
    def languages():
        return "", 200, {"Vary": "Accept-Language"}

    response = fork.app.test_client().get("/languages")

    assert response.vary.as_set() == {"accept-language", "origin"}


@pytest.mark.parametrize(
    ("bug", "line"),
    [
        pytest.param(lambda: int("x"), "ValueError: invalid literal", id="ValueError"),
        pytest.param(lambda: b"\xff".decode(), "UnicodeDecodeError: ", id="decode"),
        pytest.param(lambda: {}["x"], "KeyError: 'x'", id="KeyError"),
        pytest.param(lambda: os.stat("/nope"), "FileNotFoundError: ", id="OSError"),
    ],
)
def test_a_bug_is_500_with_its_traceback_in_the_log(
    posts, monkeypatch, caplog, bug, line
):
    monkeypatch.setattr(posts_api, "get_store", bug)

    message = error(posts.get("/posts/1"), 500)

    assert message.startswith("The server encountered an internal error")
    assert "Traceback (most recent call last)" in caplog.text
    assert line in caplog.text


# Settings and commands.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("USERS", "", id="USERS empty"),
        pytest.param("USERS", "null", id="USERS null"),
        pytest.param("USERS", "{}", id="USERS without users"),
        pytest.param("USERS", '["ann"]', id="USERS an array"),
        pytest.param("USERS", '{"ann": 5}', id="USERS with a number"),
        pytest.param("USERS", '{"ann": "s3cret"}', id="USERS with a password"),
        pytest.param("USERS", '{"ann": "a$b$c"}', id="USERS with an unknown hash"),
        pytest.param("USERS", '{"ann": "scrypt$a$b$c"}', id="USERS with four parts"),
        pytest.param(
            "USERS", f'{{"ann": "pbkdf2:sha1:{"9" * 20}$a$b"}}', id="USERS, slow"
        ),
        pytest.param(
            "USERS", r'{"\ud800": "pbkdf2:sha256:1$a$b"}', id="USERS, half a character"
        ),
        pytest.param("TRUSTED_HOSTS", "[]", id="TRUSTED_HOSTS empty"),
        pytest.param("TRUSTED_HOSTS", "null", id="TRUSTED_HOSTS null"),
        pytest.param("TRUSTED_HOSTS", "localhost", id="TRUSTED_HOSTS a name"),
        pytest.param("TRUSTED_HOSTS", '[""]', id="TRUSTED_HOSTS with an empty name"),
        pytest.param("TRUSTED_HOSTS", "[5]", id="TRUSTED_HOSTS with a number"),
        pytest.param("TRUSTED_HOSTS", '{"a": 1}', id="TRUSTED_HOSTS an object"),
        pytest.param("POSTS_FILE", "", id="POSTS_FILE empty"),
        pytest.param("POSTS_FILE", "5", id="POSTS_FILE a number"),
        pytest.param("POSTS_FILE", "null", id="POSTS_FILE null"),
        pytest.param("POSTS_FILE", '["a"]', id="POSTS_FILE an array"),
        pytest.param("POSTS_FILE", r'"a\u0000b"', id="POSTS_FILE with a NUL"),
        pytest.param("POSTS_FILE", r'"\ud800"', id="POSTS_FILE half a character"),
        pytest.param("TOKEN_MAX_AGE", "", id="TOKEN_MAX_AGE empty"),
        pytest.param("TOKEN_MAX_AGE", "0", id="TOKEN_MAX_AGE zero"),
        pytest.param("TOKEN_MAX_AGE", "-5", id="TOKEN_MAX_AGE negative"),
        pytest.param("TOKEN_MAX_AGE", "1.5", id="TOKEN_MAX_AGE a fraction"),
        pytest.param("TOKEN_MAX_AGE", "1h", id="TOKEN_MAX_AGE text"),
        pytest.param("TOKEN_MAX_AGE", "true", id="TOKEN_MAX_AGE true"),
        pytest.param("TOKEN_MAX_AGE", "null", id="TOKEN_MAX_AGE null"),
        pytest.param("MAX_CONTENT_LENGTH", "0", id="MAX_CONTENT_LENGTH zero"),
        pytest.param("MAX_CONTENT_LENGTH", "1e6", id="MAX_CONTENT_LENGTH a float"),
        pytest.param("MAX_CONTENT_LENGTH", "null", id="MAX_CONTENT_LENGTH null"),
    ],
)
def test_a_wrong_setting_stops_the_start(monkeypatch, name, value):
    monkeypatch.setenv(f"FLASK_{name}", value)

    with pytest.raises(RuntimeError, match=f"^{name} must be "):
        load()


@pytest.mark.parametrize("key", [None, ""])
def test_users_without_a_secret_key_stop_the_start(monkeypatch, key):
    monkeypatch.setenv("FLASK_USERS", '{"ann": "pbkdf2:sha256:1$a$b"}')
    if key is not None:
        monkeypatch.setenv("FLASK_SECRET_KEY", key)

    with pytest.raises(RuntimeError, match="^SECRET_KEY must be "):
        load()


def test_a_wrong_setting_stops_the_program_with_a_sentence():
    _, errors, status = run(posts_api.__file__, TRUSTED_HOSTS="[]")

    last_line = errors.splitlines()[-1]
    assert last_line.startswith("RuntimeError: TRUSTED_HOSTS must be ")
    assert status == 1


@pytest.mark.parametrize("value", ["1", "5000"])
@pytest.mark.parametrize("name", ["TOKEN_MAX_AGE", "MAX_CONTENT_LENGTH"])
def test_a_number_in_the_environment_is_a_setting(monkeypatch, name, value):
    monkeypatch.setenv(f"FLASK_{name}", value)

    assert load().app.config[name] == int(value)


def test_settings_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASK_USERS", json.dumps({"ann": ann_hash()}))
    monkeypatch.setenv("FLASK_SECRET_KEY", "key")
    monkeypatch.setenv("FLASK_TRUSTED_HOSTS", '["api.demo"]')
    monkeypatch.setenv("FLASK_POSTS_FILE", "mine.json")
    client = load().app.test_client()

    headers = {"Host": "api.demo"} | log_in(client, "api.demo")
    response = client.post("/posts", headers=headers, json=texts())

    assert response.status_code == 201
    assert os.listdir(tmp_path) == ["mine.json"]


def test_the_default_file_is_beside_the_module_and_the_import_does_not_make_it(
    tmp_path,
):
    copy = tmp_path / "posts_api.py"
    copy.write_bytes(Path(posts_api.__file__).read_bytes())
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import posts_api
print(posts_api.app.config["POSTS_FILE"])
"""

    output, _, _ = run("-B", "-c", script, str(tmp_path))

    assert output == f"{tmp_path / 'data' / 'posts.json'}\n"
    assert os.listdir(tmp_path) == ["posts_api.py"]


@pytest.mark.parametrize("key", ["987", "1e999", "null", '"quoted"'])
@pytest.mark.parametrize("with_users", [False, True])
def test_a_secret_key_that_looks_like_json_is_text(path, monkeypatch, key, with_users):
    monkeypatch.setenv("FLASK_SECRET_KEY", key)
    monkeypatch.setenv("FLASK_POSTS_FILE", str(path))
    if with_users:
        monkeypatch.setenv("FLASK_USERS", json.dumps({"ann": ann_hash()}))
    app = load().app

    # Werkzeug's test client would drop a cookie that it has not been given.
    with serving(app) as port:
        of_another_application = {"Cookie": "session=eyJhIjoxfQ.Z0RrYQ.c2lnbmF0dXJl"}
        status, body = fetch(port, "GET", "/posts", of_another_application)

    assert (status, json.loads(body)) == (200, [])
    assert app.secret_key == key
    if with_users:
        assert log_in(app.test_client())


def test_a_token_is_valid_in_another_process_with_the_same_key(users, path):
    settings = {"SECRET_KEY": "key", "USERS": json.dumps({"ann": ann_hash()})}
    script = """
import json, sys, posts_api
client = posts_api.app.test_client()
headers, texts = json.loads(sys.argv[1])
print(client.post("/posts", json=texts, headers=headers).status_code)
"""

    sent = json.dumps([log_in(users), texts()])
    output, _, _ = run("-c", script, sent, POSTS_FILE=str(path), **settings)

    assert output == "201\n"
    assert [each["id"] for each in saved(users)] == [1, 2, 3]


def test_hash_password_reads_a_pipe_and_its_hash_logs_in(users):
    command = ["-m", "flask", "--app", "posts_api", "hash-password"]

    output, errors, status = run(*command, stdin="pass word \n")
    posts_api.app.config["USERS"]["ann"] = output.strip()
    response = users.post("/login", json={"user": "ann", "password": "pass word "})

    assert (errors, status) == ("", 0)
    assert response.status_code == 200


def test_hash_password_asks_at_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: "s3cret")
    info = ScriptInfo(create_app=lambda: posts_api.app)

    posts_api.app.cli.main(["hash-password"], obj=info, standalone_mode=False)

    output = capsys.readouterr().out
    assert check_password_hash(output.strip(), "s3cret")


@pytest.mark.parametrize("stdin", ["", "\n"])
def test_hash_password_rejects_an_empty_password(stdin):
    result = posts_api.app.test_cli_runner().invoke(args=["hash-password"], input=stdin)

    assert result.output == "Error: the password is empty\n"
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        ([], ("127.0.0.1", 5000)),
        (["--port", "8000"], ("127.0.0.1", 8000)),
        (["--host", "0.0.0.0"], ("0.0.0.0", 5000)),
    ],
)
def test_the_program_serves_without_the_debugger(monkeypatch, arguments, address):
    calls = []

    def serve(app, host, port, debug, **options):
        calls.append((host, port, debug))

    monkeypatch.setattr("flask.Flask.run", serve)
    monkeypatch.setattr(sys, "argv", ["posts_api.py", *arguments])
    runpy.run_path(posts_api.__file__, run_name="__main__")

    assert calls == [(*address, False)]


@pytest.mark.parametrize("argument", ["--prot=8000", "8000", "--port=http"])
def test_the_program_rejects_an_unknown_argument(monkeypatch, capsys, argument):
    monkeypatch.setattr(sys, "argv", ["posts_api.py", argument])

    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(posts_api.__file__, run_name="__main__")

    assert argument.removeprefix("--port=") in capsys.readouterr().err


def test_the_program_listens_on_the_port_that_it_is_told(posts, path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = posts_api.__file__
    process = start(program, "--port", str(port), POSTS_FILE=str(path))

    try:
        for line in process.stderr:
            if "Running on" in line:
                break
        status, body = fetch(port, "GET", "/posts/1")
    finally:
        process.terminate()
        process.communicate(timeout=30)

    assert (status, json.loads(body)) == (200, post(1))
    assert f"http://127.0.0.1:{port}\n" in line


# What a fork of this project changes first.


def test_a_field_more_takes_one_line(posts, fork):
    client = fork.app.test_client()

    old = client.get("/posts/1")
    added = client.post("/posts", json=texts(mood="merry"))
    changed = client.patch("/posts/1?mood=moody")
    replaced = client.put("/posts/2", json=texts(2, content="New"))

    assert old.json == post(1, mood="calm")
    assert list(old.json) == fork.FIELDS
    assert (added.status_code, added.json["mood"]) == (201, "merry")
    assert (changed.status_code, changed.json["mood"]) == (200, "moody")
    assert (replaced.status_code, replaced.json["mood"]) == (200, "calm")
    assert [each["mood"] for each in saved(client)] == ["moody", "calm", "merry"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("mood=merry", [3]),
        ("mood_like=M", [1, 2, 3]),
        ("q=err", [3]),
        ("_sort=mood&_order=desc", [3, 1, 2]),
    ],
)
def test_a_field_more_is_filtered_searched_and_sorted(fork, path, query, ids):
    path.write_text(file_of(post(1), post(2), post(3, mood="merry")), "utf-8")

    found = fork.app.test_client().get(f"/posts?{query}").json

    assert sorted(each["id"] for each in found) == sorted(ids)
    assert found[0]["id"] == ids[0]


def test_put_resets_a_field_to_its_default(fork, path):
    path.write_text(file_of(post(1, mood="merry")), "utf-8")
    client = fork.app.test_client()

    response = client.put("/posts/1", json=texts(1))

    assert response.json == {"success": "Successfully updated", **post(1, mood="calm")}
    assert saved(client) == [post(1, mood="calm")]


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("tags", "list", "must be a str"),
        ("draft", "bool = False", "must be a str"),
        ("mood", "str = None", "must be a str"),
        ("q", "str", "must have another name"),
        ("title_like", "str", "must have another name"),
        ("success", "str", "must have another name"),
        ("etag", "str", "must have another name"),
        ("_sort", "str", "must have another name"),
    ],
)
def test_a_field_that_cannot_work_stops_the_start(name, kind, reason):
    with pytest.raises(TypeError, match=rf"^Post\.{name} .*{reason}"):
        load("    content: str\n", f"    content: str; {name}: {kind}\n")


def test_a_rule_more_leaves_older_posts_readable_and_changeable(posts, monkeypatch):
    def check_rules(texts):
        if len(texts.get("title", "")) > 5:
            raise posts_api.BadPost("title must have at most 5 characters")

    monkeypatch.setattr(posts_api, "check_rules", check_rules)
    changed = posts.patch("/posts/1", json={"content": "New"})
    refused = posts.patch("/posts/1", json={"title": "title 1"})

    assert changed.status_code == 200
    assert error(refused, 400) == "title must have at most 5 characters"
    assert posts.get("/posts").json == [post(1, content="New"), post(2)]
    assert saved(posts) == [post(1, content="New"), post(2)]


def test_a_rule_is_not_applied_to_a_default(posts, fork):
    def check_rules(texts):
        if texts.get("mood") == "calm":
            raise fork.BadPost("mood must not be calm")

    fork.check_rules = check_rules
    client = fork.app.test_client()
    created = client.post("/posts", json=texts())
    replaced = client.put("/posts/1", json=texts())
    refused = client.patch("/posts/1?mood=calm")

    assert (created.status_code, replaced.status_code) == (201, 200)
    assert error(refused, 400) == "mood must not be calm"


def test_a_blank_title_in_the_file_is_served_and_its_content_can_be_changed(
    client, path
):
    path.write_text(file_of(post(1, title=" "), next_id=2), "utf-8")

    assert client.get("/posts/1").json == post(1, title=" ")
    assert client.patch("/posts/1", json={"content": "New"}).status_code == 200
    refused = client.patch("/posts/1", json={"title": " "})
    assert error(refused, 400) == "title must not be blank"
    assert saved(client) == [post(1, title=" ", content="New")]


def test_a_view_more_is_listed_by_root():
    fork = load()

    @fork.app.get("/posts/count")
    def count():
        """
        Return the number of posts.

        A second paragraph.
        """

    @fork.app.route("/posts/undocumented", methods=["PUT", "DELETE"])
    def undocumented():
        pass

    routes = fork.app.test_client().get("/").json

    assert routes["GET /posts/count"] == "Return the number of posts."
    assert routes["PUT /posts/undocumented"] == ""
    assert routes["DELETE /posts/undocumented"] == ""


def test_the_user_is_known_on_every_request(monkeypatch):
    monkeypatch.setenv("FLASK_USERS", json.dumps({"ann": ann_hash()}))
    monkeypatch.setenv("FLASK_SECRET_KEY", "key")
    fork = load()

    @fork.app.route("/me", methods=["GET", "POST"])
    def me():
        return jsonify(g.user)

    client = fork.app.test_client()
    headers = log_in(client)

    assert client.get("/me", headers=headers).json == "ann"
    assert client.post("/me", headers=headers).json == "ann"
    assert client.get("/me").json is None
    assert client.get("/me", headers={"Authorization": "Bearer x"}).json is None


def test_without_users_the_user_is_none():
    fork = load()

    @fork.app.post("/me")
    def me():
        return jsonify(g.user)

    response = fork.app.test_client().post("/me", headers={"Authorization": "Bearer x"})

    assert (response.status_code, response.json) == (200, None)


def test_a_program_may_use_two_files_in_turn(client, tmp_path, monkeypatch):
    files = tmp_path / "a" / "posts.json", tmp_path / "b" / "posts.json"
    for number, file in enumerate([*files, *files]):
        file.parent.mkdir(exist_ok=True)
        monkeypatch.setitem(posts_api.app.config, "POSTS_FILE", file)
        client.post("/posts", json=texts(title=f"{number}"))

    assert [each["title"] for each in saved(client)] == ["1", "3"]
    assert client.get("/posts").json == saved(client)
    monkeypatch.setitem(posts_api.app.config, "POSTS_FILE", str(files[0]))
    assert [each["title"] for each in saved(client)] == ["0", "2"]
    assert client.get("/posts").json == saved(client)


def test_a_file_has_one_store_whatever_its_path_looks_like(client, path, monkeypatch):
    store = posts_api.get_store()
    monkeypatch.chdir(path.parent)
    for same in (str(path), path.name, f"./x/../{path.name}"):
        monkeypatch.setitem(posts_api.app.config, "POSTS_FILE", same)

        assert posts_api.get_store() is store


def test_a_store_does_not_follow_the_working_folder(client, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    store = posts_api.PostStore(path.name)
    monkeypatch.chdir("/")

    store.add(texts(1))

    assert saved(client) == [post(1)]


# The file and the processes: what the store in posts_api.py promises.  Another store,
# such as one in a database, needs other tests from here on.


class OutOfMemory(MemoryError):
    """There is not even memory for the message."""

    def __str__(self):
        raise MemoryError


def fail(monkeypatch, name, nth=1, failure=None):
    """Make the nth call of a function, such as os.fsync, fail as on a broken disk.

    Return a list, which is empty until that call.
    """
    function, calls, failures = pkgutil.resolve_name(name), [], []

    def fail_once(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth:
            failures.append(failure or OSError(errno.EIO, os.strerror(errno.EIO)))
            raise failures[0]
        return function(*args, **kwargs)

    monkeypatch.setattr(name, fail_once)
    return failures


def patch(post_id, title, headers=None):
    """Send a PATCH with a client of its own, as each thread needs one."""
    client = posts_api.app.test_client()
    return client.patch(f"/posts/{post_id}", json={"title": title}, headers=headers)


def attempt(function, *args):
    """Return what a function returns, or the exception that it raises."""
    try:
        return function(*args)
    except BaseException as error:  # noqa: BLE001
        return error


WRITER = """
import sys, posts_api
store = posts_api.PostStore(sys.argv[1])
for _ in range(int(sys.argv[2])):
    print(store.add({name: "by a process" * 99 for name in posts_api.TEXT_FIELDS}).id)
"""


def test_the_first_write_creates_the_file_and_warns(client, path, caplog):
    umask = os.umask(0o027)
    try:
        client.post("/posts", json=texts(1))
    finally:
        os.umask(umask)

    assert path.read_text("utf-8") == file_of(post(1), next_id=2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages == [f"created {path}, which did not exist"]


def test_later_writes_log_nothing(posts, caplog):
    posts.delete("/posts/1")

    assert caplog.messages == []


@pytest.mark.parametrize(
    "method, reason",
    [("GET", "there is no folder"), ("POST", "[Errno 2] No such file or directory:")],
)
def test_a_missing_folder_is_503_and_is_not_made(
    client, path, monkeypatch, method, reason
):
    missing = path.parent / "missing" / "posts.json"
    monkeypatch.setitem(posts_api.app.config, "POSTS_FILE", missing)

    message = error(client.open("/posts", method=method, json=texts()), 503)

    assert f"{missing}: {reason}" in message
    assert str(missing.parent) in message.partition(reason)[2]
    assert os.listdir(path.parent) == []


def test_the_file_may_be_emptied_of_posts(posts, path):
    posts.delete("/posts/1")
    posts.delete("/posts/2")

    assert path.read_text("utf-8") == '{"next_id": 3, "posts": [\n\n]}\n'
    assert restart(posts).get("/posts").json == []


def test_an_id_is_not_given_again_after_the_newest_post_is_deleted(posts):
    posts.delete("/posts/2")

    assert posts.post("/posts", json=texts()).json["id"] == 3
    assert saved(posts) == [post(1), post(3)]


def test_an_id_is_not_given_again_after_a_restart(posts):
    posts.delete("/posts/2")

    assert restart(posts).post("/posts", json=texts()).json["id"] == 3
    assert saved(posts) == [post(1), post(3)]


@pytest.mark.parametrize("next_id", [-1, 0, 1, 2])
def test_a_next_id_that_is_too_low_is_raised(client, path, next_id):
    path.write_text(file_of(post(1), post(2), next_id=next_id), "utf-8")

    assert client.post("/posts", json=texts()).json["id"] == 3
    assert saved(client) == [post(1), post(2), post(3)]


def test_a_next_id_that_is_lowered_while_it_is_served_is_raised(posts, path):
    posts.get("/posts")
    path.write_text(file_of(post(1), next_id=2), "utf-8")

    assert posts.post("/posts", json=texts()).json["id"] == 3
    assert saved(posts) == [post(1), post(3)]


def test_a_next_id_may_be_higher_than_needed(client, path):
    path.write_text(file_of(post(1), next_id=9), "utf-8")

    assert client.post("/posts", json=texts(9)).json["id"] == 9
    assert saved(client) == [post(1), post(9)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + file_of(post(1), post(2)), id="byte order mark"),
        pytest.param(json.dumps({"posts": [post(1), post(2)]}), id="no next_id"),
        pytest.param(json.dumps({"posts": [post(1), post(2)]}, indent=4), id="pretty"),
    ],
)
def test_an_edited_file_may_look_otherwise(client, path, text):
    path.write_text(text, "utf-8")

    assert client.get("/posts").json == [post(1), post(2)]
    assert client.post("/posts", json=texts()).json["id"] == 3
    assert path.read_text("utf-8") == file_of(post(1), post(2), post(3), next_id=4)


def test_the_first_id_in_a_file_without_posts_is_1(client, path):
    path.write_text('{"posts": []}', "utf-8")

    assert client.post("/posts", json=texts(1)).json["id"] == 1
    assert saved(client) == [post(1)]


def test_the_largest_id_is_the_last(client, path, caplog):
    largest = 2**53 - 1
    path.write_text(file_of(post(1), next_id=largest), "utf-8")

    last = client.post("/posts", json=texts(largest))
    none = client.post("/posts", json=texts())

    assert last.json["id"] == largest
    message = f"cannot add a post: all ids up to {largest} are used"
    assert error(none, 503) == message
    assert restart(client).get("/posts").json == [post(1), post(largest)]
    assert restart(client).delete(f"/posts/{largest}").status_code == 200
    assert error(restart(client).post("/posts", json=texts()), 503) == message


def test_parallel_requests_to_a_server_lose_no_write(client):
    with serving(posts_api.app) as port:

        def create(number):
            query = urlencode(texts(title=f"{number}"))
            status, body = fetch(port, "POST", f"/posts?{query}")
            assert status == 201
            return json.loads(body)

        created = in_parallel(create, range(40))

    assert sorted(each["id"] for each in created) == list(range(1, 41))
    in_file = {each["id"]: each["title"] for each in saved(client)}
    assert in_file == {each["id"]: each["title"] for each in created}


def test_parallel_processes_lose_no_write(posts, path):
    writers = [start("-c", WRITER, str(path), "15") for _ in range(3)]

    outputs = [writer.communicate(timeout=30)[0] for writer in writers]

    ids = sorted(int(line) for output in outputs for line in output.split())
    assert ids == list(range(3, 48))
    assert [each["id"] for each in saved(posts)] == list(range(1, 48))
    assert len(posts.get("/posts").json) == 47


def test_of_eight_writes_to_one_version_one_wins_in_any_process(posts, slow_disk):
    headers = {"If-Match": posts.get("/posts/1").headers["ETag"]}
    servers = [restart(posts).application, posts_api.app]

    def change(number):
        client = servers[number % 2].test_client()
        return client.patch(
            "/posts/1", json={"title": f"{number}"}, headers=headers
        ).status_code

    statuses = in_parallel(change, range(8))

    assert sorted(statuses) == [200] + [412] * 7
    assert saved(posts) == [post(1, title=f"{statuses.index(200)}"), post(2)]


def test_a_write_of_another_process_is_seen_at_once(posts):
    other = restart(posts)
    for title in ("A", "B", "C"):
        assert other.patch("/posts/1", json={"title": title}).status_code == 200
        assert posts.get("/posts/1").json == post(1, title=title)


@pytest.mark.parametrize("enough", [1, 30])
def test_a_kill_loses_no_acknowledged_write(posts, path, enough):
    writer = start("-c", WRITER, str(path), "100000")
    acknowledged = [writer.stdout.readline() for _ in range(enough)]
    writer.kill()
    acknowledged += writer.communicate()[0].splitlines()

    assert posts.post("/posts", json=texts()).status_code == 201
    assert {int(line) for line in acknowledged} < {each["id"] for each in saved(posts)}


def test_a_temporary_file_left_by_a_killed_process_is_used_up(posts, path):
    killer = """
import os, signal, sys, posts_api
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
posts_api.PostStore(sys.argv[1]).remove(1)
"""
    _, _, status = run("-c", killer, str(path))
    left = [each for each in path.parent.iterdir() if each != path]

    assert status == -signal.SIGKILL
    assert path.read_text("utf-8") == file_of(post(1), post(2))
    assert len(left) == 1
    left[0].chmod(0o400)
    assert posts.delete("/posts/2").status_code == 200
    assert saved(posts) == [post(1)]


def test_the_lock_is_released_although_a_forked_process_has_it_open(posts, path):
    forker = """
import os, sys, posts_api

def fork_first(*paths):
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    replace(*paths)

replace, os.replace = os.replace, fork_first
posts_api.PostStore(sys.argv[1]).remove(1)
print("saved")
os.replace = replace
posts_api.PostStore(sys.argv[1]).remove(2)
"""
    process = start("-c", forker, str(path))

    try:
        assert process.stdout.readline() == "saved\n"
        assert process.wait(10) == 0  # the forked process still waits for its input
    finally:
        process.kill()
        process.communicate()
    assert saved(posts) == []


def test_a_write_waits_for_that_of_another_process_but_a_read_does_not(posts, path):
    fcntl = pytest.importorskip("fcntl")
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    writing = threading.Thread(target=patch, args=[1, "Ours"], daemon=True)
    writing.start()
    writing.join(0.1)

    assert writing.is_alive()
    assert posts.get("/posts").json == [post(1), post(2)]
    path.write_text(file_of(post(1), post(2, title="Theirs")), "utf-8")
    os.close(folder)
    writing.join(10)
    assert saved(posts) == [post(1, title="Ours"), post(2, title="Theirs")]


def test_reads_go_on_while_a_write_is_being_saved(posts, monkeypatch):
    fsync, seen = os.fsync, []

    def read_meanwhile(descriptor):
        seen.append(posts_api.app.test_client().get("/posts").json)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", read_meanwhile)
    in_parallel(posts.delete, ["/posts/1"])

    assert seen == [[post(1), post(2)], [post(2)]]


def test_a_program_that_has_the_file_open_keeps_the_whole_old_one(posts, path):
    with path.open(encoding="utf-8") as file:
        posts.delete("/posts/1")

        assert file.read() == file_of(post(1), post(2))


def test_writes_that_wait_are_saved_together(posts, slow_disk):
    responses = in_parallel(lambda n: patch(n % 2 + 1, f"{n}"), range(8))

    assert [response.status_code for response in responses] == [200] * 8
    assert len(slow_disk) <= 8  # rather than two for each write


@pytest.mark.parametrize(
    ("method", "arguments", "failure"),
    [
        pytest.param(
            "add", [texts(title="\ud800")], posts_api.BadPost, id="half a pair"
        ),
        pytest.param("add", [texts(title=5)], posts_api.BadPost, id="wrong type"),
        pytest.param("add", [None], TypeError, id="bug"),
        pytest.param("remove", [9], NotFound, id="missing post"),
        pytest.param("change", [1, {}, ['"x"']], PreconditionFailed, id="other ETag"),
    ],
)
def test_of_eight_writes_that_are_saved_together_one_fails_alone(
    posts, slow_disk, method, arguments, failure
):
    store = posts_api.get_store()

    def write(number):
        if number == 4:
            return attempt(getattr(store, method), *arguments)
        return attempt(store.add, texts(title=f"{number}"))

    outcomes = in_parallel(write, range(8))

    assert isinstance(outcomes.pop(4), failure)
    added = sorted([each.id, each.title] for each in outcomes)
    assert [number for number, _ in added] == list(range(3, 10))
    assert [[each["id"], each["title"]] for each in saved(posts)[2:]] == added


def test_a_save_that_fails_leaves_the_other_errors_alone(posts, slow_disk, monkeypatch):
    def broken(*paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(os, "replace", broken)
        responses = in_parallel(lambda n: patch(n % 2 + 2, f"{n}"), range(10))

    assert [each.status_code for each in responses] == [503, 404] * 5
    assert error(responses[1], 404) == "not found id 3"
    assert saved(posts) == [post(1), post(2)]


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(OSError(errno.EIO, "broken"), id="disk"),
        pytest.param(OutOfMemory(), id="memory"),
        pytest.param(SystemExit(), id="killed thread"),
    ],
)
def test_a_save_that_fails_is_acknowledged_by_none_of_its_writes(
    posts, slow_disk, monkeypatch, failure
):
    store = posts_api.get_store()
    with monkeypatch.context() as context:
        fail(context, "os.replace", nth=2, failure=failure)
        titles = [f"{number}" for number in range(8)]
        outcomes = in_parallel(
            lambda title: attempt(store.add, texts(title=title)), titles
        )

    added = {each.title for each in outcomes if isinstance(each, posts_api.Post)}
    failures = [each for each in outcomes if not isinstance(each, posts_api.Post)]
    assert {each["title"] for each in saved(posts)[2:]} == added
    assert {each["title"] for each in posts.get("/posts").json[2:]} == added
    assert {type(each) for each in failures} <= {posts_api.StoreError, type(failure)}
    assert posts.post("/posts", json=texts()).status_code == 201


def test_a_save_that_runs_out_of_memory_is_500_and_the_next_write_works(
    posts, monkeypatch, caplog
):
    with monkeypatch.context() as context:
        fail(context, "os.replace", failure=OutOfMemory())
        message = error(posts.delete("/posts/1"), 500)

    assert message.startswith("The server encountered an internal error")
    assert "OutOfMemory" in caplog.text
    assert saved(posts) == posts.get("/posts").json == [post(1), post(2)]
    assert posts.delete("/posts/1").status_code == 200


def test_saves_that_fail_at_random_lose_no_acknowledged_write(client, monkeypatch):
    chance, acknowledged, failed = random.Random(), [], []

    def unreliable(function):
        def call(*args):
            if chance.random() < 0.05:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if chance.random() < 0.05:
                raise OutOfMemory
            return function(*args)

        return call

    def add_for_a_second(_):
        client = posts_api.app.test_client()
        while time.monotonic() < end:
            response = client.post("/posts", json=texts())
            if response.status_code == 201:
                acknowledged.append(response.json["id"])
            else:
                failed.append(response.status_code)

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", unreliable(os.fsync))
        context.setattr(os, "replace", unreliable(os.replace))
        end = time.monotonic() + 1
        in_parallel(add_for_a_second, range(8))

    assert set(failed) == {500, 503}
    assert len(acknowledged) == len(set(acknowledged)) > 0
    assert set(acknowledged) <= {each["id"] for each in saved(client)}
    assert client.post("/posts", json=texts()).status_code == 201


@pytest.mark.parametrize(
    "function",
    ["os.open", "os.stat", "os.fstat", "os.fchmod", "os.utime", "os.replace"],
)
def test_a_write_changes_nothing_if_any_call_of_this_function_fails(
    posts, path, monkeypatch, caplog, function
):
    before = path.read_bytes(), path.stat().st_ino
    reason = f"{path}: [Errno {errno.EIO}] {os.strerror(errno.EIO)}"

    for nth in range(1, 10):
        with monkeypatch.context() as context:
            failures = fail(context, function, nth)
            response = posts.delete("/posts/1")
        if not failures:
            break
        assert reason in error(response, 503)
        assert reason in caplog.text
        assert (path.read_bytes(), path.stat().st_ino) == before
        assert saved(posts) == posts.get("/posts").json == [post(1), post(2)]

    assert nth > 1
    assert response.status_code == 200
    assert saved(posts) == [post(2)]


@pytest.mark.parametrize("function", ["os.fsync", "fcntl.flock"])
def test_a_write_that_cannot_be_locked_or_flushed_changes_nothing(
    posts, path, monkeypatch, function
):
    descriptors = os.listdir("/dev/fd")
    with monkeypatch.context() as context:
        fail(context, function)
        message = error(posts.delete("/posts/1"), 503)

    reason = f"[Errno {errno.EIO}] {os.strerror(errno.EIO)}"
    assert message == f"cannot save {path}: {reason}"
    assert saved(posts) == posts.get("/posts").json == [post(1), post(2)]
    assert os.listdir("/dev/fd") == descriptors
    assert posts.delete("/posts/1").status_code == 200


def test_a_write_to_a_full_disk_changes_nothing(posts, path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        response = posts.delete("/posts/1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    reason = f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}"
    assert error(response, 503) == f"cannot save {path}: {reason}"
    assert saved(posts) == posts.get("/posts").json == [post(1), post(2)]
    assert posts.delete("/posts/1").status_code == 200


def test_a_write_whose_folder_cannot_be_flushed_is_503_and_in_the_file(
    posts, path, monkeypatch
):
    with monkeypatch.context() as context:
        fail(context, "os.fsync", nth=2)
        message = error(posts.delete("/posts/1"), 503)

    reason = f"[Errno {errno.EIO}] {os.strerror(errno.EIO)}"
    assert message == f"{path} is replaced, but not known to be on disk: {reason}"
    assert saved(posts) == posts.get("/posts").json == [post(2)]
    assert posts.delete("/posts/2").status_code == 200


def test_a_write_that_cannot_be_unlocked_is_503_and_the_next_one_works(
    posts, path, monkeypatch
):
    with monkeypatch.context() as context:
        fail(context, "fcntl.flock", nth=2)
        error(posts.delete("/posts/1"), 503)

    assert saved(posts) == posts.get("/posts").json == [post(2)]
    assert posts.delete("/posts/2").status_code == 200


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("POST", "/posts", 400),
        ("PATCH", "/posts/1", 400),
        ("DELETE", "/posts/9", 404),
        ("DELETE", "/posts/1", 412),
    ],
)
def test_a_rejected_write_flushes_nothing(posts, path, slow_disk, method, url, status):
    before = path.stat().st_ino

    response = posts.open(url, method=method, headers={"If-Match": '"x"'})

    error(response, status)
    assert slow_disk == []
    assert path.stat().st_ino == before
    assert saved(posts) == [post(1), post(2)]


def test_the_store_gives_no_post_the_id_of_another(posts):
    store = posts_api.get_store()

    for write in (
        lambda: store.change(1, {"id": 2, "title": "New"}),
        lambda: store.add(texts() | {"id": 2}),
    ):
        with pytest.raises(posts_api.BadPost, match="id is assigned by the store"):
            write()

    assert saved(posts) == [post(1), post(2)]


def test_a_post_cannot_be_changed_by_mistake(posts):
    with pytest.raises(FrozenInstanceError):
        posts_api.get_store().find(1).title = "New"


@pytest.mark.parametrize("how", ["in place", "by renaming"])
def test_an_edit_is_seen_at_once(posts, path, how):
    posts.get("/posts")
    for title in ("New", "Newer", "Newest"):
        edited = path if how == "in place" else path.with_name("edited")
        edited.write_text(file_of(post(1, title=title), post(2)), "utf-8")
        edited.replace(path)

        assert posts.get("/posts/1").json == post(1, title=title)
        assert posts.get("/posts").json == [post(1, title=title), post(2)]


@pytest.mark.parametrize("difference", ["inode", "time", "size"])
def test_an_edit_is_seen_by_its_inode_its_time_or_its_size(posts, path, difference):
    time_before = posts.get("/posts") and path.stat().st_mtime_ns
    title = "longer title" if difference == "size" else "TITLE 1"
    edited = path.with_name("edited") if difference == "inode" else path
    edited.write_text(file_of(post(1, title=title), post(2)), "utf-8")
    time_after = time_before + (difference == "time")
    os.utime(edited, ns=(time_after, time_after))
    edited.replace(path)

    assert posts.get("/posts/1").json == post(1, title=title)


def test_an_edit_is_part_of_the_next_write(posts, path):
    posts.get("/posts")
    path.write_text(file_of(post(1, title="Edited"), post(2)), "utf-8")

    assert posts.patch("/posts/2", json={"title": "New"}).status_code == 200
    assert saved(posts) == [post(1, title="Edited"), post(2, title="New")]


def test_an_edit_during_a_save_is_kept(posts, path, monkeypatch):
    fsync, edit = os.fsync, file_of(post(1, title="Edited"), post(2))

    def edit_first(descriptor):
        path.write_text(edit, "utf-8")
        fsync(descriptor)

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", edit_first)
        message = error(posts.patch("/posts/2", json={"title": "New"}), 503)

    assert message == f"cannot save {path}: it was edited in the meantime; try again"
    assert path.read_text("utf-8") == edit
    assert (
        saved(posts) == posts.get("/posts").json == [post(1, title="Edited"), post(2)]
    )
    assert posts.patch("/posts/2", json={"title": "New"}).status_code == 200


def test_a_file_that_appears_during_the_first_save_is_kept(client, path, monkeypatch):
    fsync = os.fsync

    def create_first(descriptor):
        path.write_text(file_of(post(2)), "utf-8")
        fsync(descriptor)

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", create_first)
        message = error(client.post("/posts", json=texts(1)), 503)

    assert message == f"cannot save {path}: it was edited in the meantime; try again"
    assert saved(client) == [post(2)]


def test_an_edit_while_the_file_is_being_read_is_seen_next(posts, path, monkeypatch):
    loads = json.loads

    def edit_meanwhile(text, **options):
        path.write_text(file_of(post(1, title="Edited"), post(2)), "utf-8")
        return loads(text, **options)

    with monkeypatch.context() as context:
        context.setattr(json, "loads", edit_meanwhile)
        posts.get("/posts/1")

    assert posts.get("/posts/1").json == post(1, title="Edited")


def test_a_slow_reader_does_not_bring_back_an_old_version(posts, monkeypatch):
    loads, titles = json.loads, ["New"]

    def write_meanwhile(text, **options):
        if titles:
            assert patch(1, titles.pop()).status_code == 200
        return loads(text, **options)

    with monkeypatch.context() as context:
        context.setattr(json, "loads", write_meanwhile)
        slow = posts.get("/posts/1")
        context.setattr(json, "loads", None)  # from here on, the file is not read again
        next_one = posts.get("/posts/1")

    assert slow.json == post(1)
    assert next_one.json == post(1, title="New")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        pytest.param("]}", "", "Expecting ',' delimiter: line 5 column 1", id="cut"),
        pytest.param("title 2", 'title "2', "delimiter: line 3 column ", id="quote"),
        pytest.param(
            'd": 2', 'd": 2, "id": 2', "the key 'id' occurs twice", id="twice"
        ),
        pytest.param(
            "title 2", "\\ud800", "post 2: title contains half a", id="surrogate"
        ),
        pytest.param('"id": 2', '"id": 1', "post 2: the id 1 occurs twice", id="same"),
        pytest.param('"id": 2, ', "", "post 2: id must be a whole number", id="no id"),
        pytest.param('"title 2"', "5", "post 2: title must be a string", id="number"),
        pytest.param('"title 2"', "null", "post 2: title must be a string", id="null"),
        pytest.param('"title": "title 2", ', "", "title is required", id="missing"),
        pytest.param(
            'd": 2', 'd": 2, "titel": ""', "unknown field: 'titel'", id="more"
        ),
    ],
)
def test_an_invalid_edit_is_503_and_kept_until_it_is_mended(
    posts, path, caplog, old, new, why
):
    assert posts.get("/posts/1").json == post(1)
    edited = file_of(post(1), post(2)).replace(old, new)
    path.write_text(edited, "utf-8")

    responses = posts.get("/posts"), posts.get("/posts/1"), posts.delete("/posts/1")

    for response in responses:
        assert error(response, 503).startswith(f"cannot read {path}: ")
        assert why in error(response, 503)
    assert why in caplog.text
    assert path.read_text("utf-8") == edited
    path.write_text(file_of(post(1), post(2)), "utf-8")
    assert posts.get("/posts").json == [post(1), post(2)]
    assert posts.delete("/posts/1").status_code == 200


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "Expecting value: line 1 column 1", id="empty"),
        pytest.param("[" * 100_000, "it is nested too deeply", id="nested deeply"),
        pytest.param(file_of(next_id="9" * 10_000), "Exceeds the limit", id="digits"),
        pytest.param("[]", "the JSON must be an object", id="array"),
        pytest.param("{}", "it must have the form ", id="no posts"),
        pytest.param('{"posts": {}}', "it must have the form ", id="object of posts"),
        pytest.param('{"posts": [], "a": 1}', "it must have the form ", id="key"),
        pytest.param('{"posts": [5]}', "post 1: it must be a JSON object", id="number"),
    ],
)
def test_a_file_that_holds_no_posts_is_503_and_kept(client, path, text, why):
    path.write_text(text, "utf-8")

    reading = error(client.get("/posts"), 503)
    writing = error(client.post("/posts", json=texts()), 503)

    assert reading.startswith(f"cannot read {path}: ")
    assert why in reading
    assert writing == reading
    assert path.read_text("utf-8") == text


@pytest.mark.parametrize("post_id", [0, -1, 2**53, 1.0, True, "1", None, [], {}])
def test_an_id_in_the_file_that_is_no_whole_number_in_range_is_503(
    posts, path, post_id
):
    assert posts.get("/posts/1").json == post(1)
    path.write_text(file_of(post(2), post(post_id)), "utf-8")

    why = f"post 2: id must be a whole number from 1 to {2**53 - 1}"
    assert error(posts.get("/posts"), 503) == f"cannot read {path}: {why}"
    assert error(posts.delete("/posts/2"), 503) == f"cannot read {path}: {why}"


@pytest.mark.parametrize("next_id", [2**53 + 1, "1e999", 3.0, "true", '"3"', "null"])
def test_a_next_id_in_the_file_that_is_no_whole_number_in_range_is_503(
    client, path, next_id
):
    path.write_text(file_of(post(1), next_id=next_id), "utf-8")

    why = f"next_id must be a whole number up to {2**53}"
    assert error(client.get("/posts"), 503) == f"cannot read {path}: {why}"
    assert error(client.delete("/posts/1"), 503) == f"cannot read {path}: {why}"


def test_a_file_that_is_not_utf8_is_503_and_kept(posts, path):
    text = file_of(post(1), post(2, title="größer")).encode("latin-1")
    path.write_bytes(text)

    message = error(posts.get("/posts"), 503)

    assert message.startswith(f"cannot read {path}: line 3 is not UTF-8: ")
    assert error(posts.delete("/posts/1"), 503) == message
    assert path.read_bytes() == text


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_vanishes_while_it_is_served_is_503_until_it_is_back(
    client, tmp_path, monkeypatch, what
):
    path = tmp_path / "folder" / "posts.json"
    path.parent.mkdir()
    monkeypatch.setitem(posts_api.app.config, "POSTS_FILE", path)
    client.post("/posts", json=texts(1))
    gone = path if what == "file" else path.parent
    gone.rename(tmp_path / "away")

    assert str(gone) in error(client.get("/posts"), 503)
    assert str(gone) in error(client.delete("/posts/1"), 503)
    assert not path.exists()
    (tmp_path / "away").rename(gone)
    assert client.get("/posts").json == [post(1)]
    assert client.delete("/posts/1").status_code == 200


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes of this kind")
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_in_place_of_the_file_is_503_at_once(client, path, make):
    make(path)

    def send(method):
        return posts_api.app.test_client().open("/posts", method=method, json=texts())

    for response in in_parallel(send, ["GET", "POST"]):
        message = f"cannot read {path}: it is not a regular file"
        assert error(response, 503) == message


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes of this kind")
def test_a_pipe_that_takes_the_place_of_the_file_during_a_read_is_503_at_once(
    posts, path, monkeypatch
):
    read_stamp = posts_api.read_stamp

    def read_stamp_then_replace(file):
        stamp = read_stamp(file)
        path.unlink()
        os.mkfifo(path)
        return stamp

    monkeypatch.setattr(posts_api, "read_stamp", read_stamp_then_replace)
    (response,) = in_parallel(posts.get, ["/posts"])

    message = f"cannot read {path}: it is not a regular file"
    assert error(response, 503) == message


def test_a_link_into_a_missing_folder_is_503(client, path):
    missing = path.parent / "missing"
    path.symlink_to(missing / "posts.json")

    message = error(client.get("/posts"), 503)

    assert message == f"cannot read {path}: there is no folder {missing}"


def test_a_save_is_later_than_the_one_before(posts, path):
    future = path.stat().st_mtime_ns + 10**15
    os.utime(path, ns=(future, future))
    times = [future]
    for title in "AAAA":
        posts.patch("/posts/1", json={"title": title})
        times.append(path.stat().st_mtime_ns)

    assert times == sorted(set(times))


def test_a_save_has_the_time_of_day(posts, path):
    os.utime(path, (5, 5))

    posts.delete("/posts/1")

    assert abs(path.stat().st_mtime - time.time()) < 60


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
def test_the_file_keeps_its_mode(posts, path, mode):
    path.chmod(mode)

    posts.delete("/posts/1")

    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert saved(posts) == [post(2)]


def test_the_temporary_file_is_never_more_readable_than_the_file(
    posts, path, monkeypatch
):
    path.chmod(0o600)
    modes = []

    def look_first(function):
        def call(*args, **kwargs):
            files = list(path.parent.iterdir())
            modes.extend(stat.S_IMODE(each.stat().st_mode) for each in files)
            return function(*args, **kwargs)

        return call

    for name in ("fstat", "fchown", "fchmod", "utime", "fsync", "replace"):
        monkeypatch.setattr(os, name, look_first(getattr(os, name)))
    posts.delete("/posts/1")

    assert len(modes) > 6
    assert set(modes) == {0o600}


def only_root(function):
    """Skip a test unless root runs it, who may give files away."""
    is_root = hasattr(os, "getuid") and os.getuid() == 0
    return pytest.mark.skipif(not is_root, reason="only root may give files away")(
        function
    )


@only_root
@pytest.mark.parametrize(("owner", "group"), [(12345, 54321), (12345, -1), (-1, 54321)])
def test_the_file_keeps_its_owner_and_group(posts, path, owner, group):
    os.chown(path, owner, group)
    path.chmod(0o640)
    before = path.stat()

    assert posts.delete("/posts/1").status_code == 200

    after = path.stat()
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert saved(posts) == [post(2)]


@only_root
def test_a_file_that_cannot_be_given_back_to_its_owner_is_503(posts, path, monkeypatch):
    os.chown(path, 12345, 54321)
    denied = PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    with monkeypatch.context() as context:
        fail(context, "os.fchown", failure=denied)
        message = error(posts.delete("/posts/1"), 503)

    assert message == f"cannot save {path}: its owner and group cannot be kept"
    assert saved(posts) == posts.get("/posts").json == [post(1), post(2)]
    assert posts.delete("/posts/1").status_code == 200


def test_a_symbolic_link_stays_one_and_its_target_is_written(client, path):
    target = path.parent / "folder" / "target.json"
    target.parent.mkdir()
    target.write_text(file_of(post(1), post(2)), "utf-8")
    path.symlink_to(target)

    assert client.delete("/posts/1").status_code == 200

    assert path.is_symlink()
    assert target.read_text("utf-8") == file_of(post(2))
    assert sorted(os.listdir(path.parent)) == ["folder", "posts.json"]
    assert os.listdir(target.parent) == ["target.json"]


def test_without_flock_threads_lose_no_write(posts, monkeypatch, slow_disk):
    monkeypatch.setattr(posts_api, "fcntl", None)
    store = posts_api.get_store()

    added = in_parallel(lambda _: store.add(texts()), range(8))

    assert sorted(each.id for each in added) == list(range(3, 11))
    assert len(saved(posts)) == 10


def test_without_fcntl_the_module_can_be_imported(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    app = load().app
    app.config["POSTS_FILE"] = path
    client = app.test_client()

    assert client.post("/posts", json=texts(1)).status_code == 201
    assert client.patch("/posts/1", json={"title": "New"}).status_code == 200
    assert saved(client) == [post(1, title="New")]
