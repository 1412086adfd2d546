"""Tests of the posts API, each on a file of its own; where a promise is about real
processes, a kill, a socket or a failing disk, the test uses just these."""

import errno
import importlib.util
import io
import json
import os
import runpy
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pytest
from werkzeug.serving import make_server
from werkzeug.test import encode_multipart

import posts_api

pytestmark = pytest.mark.filterwarnings("error")

ONE = {"id": 1, "title": "One", "content": "first"}
TWO = {"id": 2, "title": "Two", "content": "zweite, größer"}
FILE = (
    '{"next_id": 3, "posts": [\n'
    '{"id": 1, "title": "One", "content": "first"},\n'
    '{"id": 2, "title": "Two", "content": "zweite, größer"}\n'
    "]}\n"
)
WRITER = """
import sys, posts_api
store = posts_api.PostStore(sys.argv[1])
for _ in range(int(sys.argv[2])):
    post = {"title": "by a process", "content": "x" * 2000}
    print(store.commit(lambda posts: posts.put({"id": posts.next_id, **post}))["id"])
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "posts.json"


@pytest.fixture
def client(path, monkeypatch):
    """A client of an API that has no file yet, and whose settings are the defaults."""
    monkeypatch.setattr(posts_api, "store", posts_api.PostStore(path))
    defaults = {"ALLOWED_HOSTS": [], "CORS_ORIGINS": [], "API_TOKEN": ""}
    for name, value in defaults.items():
        monkeypatch.setitem(posts_api.app.config, name, value)
    return posts_api.app.test_client()


@pytest.fixture
def posts(client, path):
    """A client of an API with two posts."""
    path.parent.mkdir()
    path.write_text(FILE, "utf-8")
    return client


def saved(path):
    """Return the posts in the file, whose layout and neighbours must be right."""
    text = path.read_text("utf-8")
    whole = json.loads(text)
    lines = [json.dumps(post, ensure_ascii=False) for post in whole["posts"]]
    head = f'{{"next_id": {whole["next_id"]}, "posts": ['
    assert text == head + ",".join(f"\n{line}" for line in lines) + "\n]}\n"
    assert os.listdir(path.parent) == [path.name]
    return whole["posts"]


def error(response, status):
    assert response.status_code == status
    assert response.mimetype == "application/json"
    assert list(response.json) == ["error"]
    return response.json["error"]


def start_writer(path, count):
    command = [sys.executable, "-u", "-c", WRITER, str(path), str(count)]
    env = {**os.environ, "PYTHONPATH": str(Path(posts_api.__file__).parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def fail(monkeypatch, module, name, at=1):
    """Let the at-th call of a function fail as a broken disk does."""
    function, calls = getattr(module, name), []

    def broken(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, broken)


# Routes, in their order


def test_root_lists_the_routes(client):
    response = client.get("/")

    assert response.status_code == 200
    assert response.json == {
        "GET /": "lists these routes",
        "GET /posts/all": "all posts, as do /posts/ and /posts",
        "POST /posts/": "makes a post of a title and a content",
        "GET /posts/<id>": "one post",
        "PUT /posts/<id>": "replaces all of a post",
        "PATCH /posts/<id>": "changes the fields that it names",
        "DELETE /posts/<id>": "removes a post",
    }
    assert response.headers["ETag"]


@pytest.mark.parametrize("url", ["/posts/all", "/posts/", "/posts"])
def test_get_all(posts, url):
    response = posts.get(url)

    assert response.status_code == 200
    assert response.mimetype == "application/json"
    assert response.json == [ONE, TWO]
    assert "größer" in response.text
    assert response.headers["X-Total-Count"] == "2"


def test_what_has_not_changed_is_neither_read_nor_made_again(posts, monkeypatch):
    urls = ("/posts", "/posts/1", "/posts?q=o")
    answers = [posts.get(url).data for url in urls]
    caches = (posts_api.etag_once, posts_api.made_once, posts_api.list_once)
    misses = [cache.cache_info().misses for cache in caches]
    fail(monkeypatch, Path, "read_text")

    assert [posts.get(url).data for url in urls] == answers
    assert [cache.cache_info().misses for cache in caches] == misses


def test_get_all_without_a_file_is_empty_and_makes_none(client, path):
    response = client.get("/posts")

    assert (response.status_code, response.json) == (200, [])
    assert not path.parent.exists()


@pytest.mark.parametrize("url", ["/posts/", "/posts"])
def test_create_makes_file_and_folder(client, path, url):
    response = client.post(url, json={"content": "größer", "title": "New"})

    assert response.status_code == 201
    assert response.headers["Location"] == "/posts/1"
    assert response.text == (
        '{"success":"Successfully added.","id":1,"title":"New","content":"größer"}\n'
    )
    assert saved(path) == [{"id": 1, "title": "New", "content": "größer"}]
    assert list(saved(path)[0]) == ["id", "title", "content"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", '{"title": "A", "content": ""}'),
        ("application/json; charset=utf-8", '\ufeff{"title": "A", "content": ""}'),
        ("application/vnd.api+json", '{"title": "A", "content": ""}'),
        ("application/x-www-form-urlencoded", "title=A&content="),
        ("multipart/form-data", {"title": "A", "content": ""}),
    ],
)
def test_create_takes_json_and_forms(client, path, content_type, body):
    response = client.post("/posts", data=body, content_type=content_type)

    assert response.status_code == 201
    assert saved(path) == [{"id": 1, "title": "A", "content": ""}]


def test_a_form_may_be_as_long_as_any_body(client, path):
    form = {"title": "A", "content": "x" * (2**20 - 200)}
    boundary, body = encode_multipart(form, boundary="x")
    body = body.ljust(2**20, b"\n")
    content_type = f"multipart/form-data; boundary={boundary}"

    response = client.post("/posts", data=body, content_type=content_type)

    assert response.status_code == 201
    assert saved(path) == [{"id": 1, **form}]


def test_get_one(posts):
    response = posts.get("/posts/2")

    assert response.status_code == 200
    assert response.text == '{"id":2,"title":"Two","content":"zweite, größer"}\n'
    assert response.mimetype == "application/json"


@pytest.mark.parametrize("kind", ["json", "data"])
def test_put_replaces_all(posts, path, kind):
    response = posts.put("/posts/1", **{kind: {"title": "New", "content": "all"}})

    new = {"id": 1, "title": "New", "content": "all"}
    assert response.status_code == 200
    assert response.json == {"success": "Successfully updated", **new}
    assert saved(path) == [new, TWO]


def test_put_needs_every_field(posts, path):
    response = posts.put("/posts/1", json={"title": "New"})

    assert error(response, 400) == "missing or unknown fields: ['content']"
    assert saved(path) == [ONE, TWO]


@pytest.mark.parametrize("given", [2, "2"])
def test_the_id_in_the_url_may_be_repeated(posts, path, given):
    fields = {"id": given, "title": "Two again", "content": ""}

    assert posts.put("/posts/2", json=fields).status_code == 200
    assert saved(path) == [ONE, {"id": 2, "title": "Two again", "content": ""}]


@pytest.mark.parametrize(
    "request_",
    [
        {"query_string": {"title": "New"}},
        {"query_string": {"title": "New"}, "content_type": "application/json"},
        {"json": {"title": "New"}},
        {"data": {"title": "New"}},
    ],
)
def test_patch_changes_only_what_it_names(posts, path, request_):
    response = posts.patch("/posts/1", **request_)

    new = {**ONE, "title": "New"}
    assert response.status_code == 200
    assert response.json == {"success": "Successfully updated", **new}
    assert saved(path) == [new, TWO]


@pytest.mark.parametrize("request_", [{}, {"json": {}}, {"json": {"id": 1}}])
def test_patch_of_no_field_is_400(posts, request_):
    message = error(posts.patch("/posts/1", **request_), 400)

    assert message == "you must pass title or content as parameter"


def test_delete(posts, path):
    response = posts.delete("/posts/1")

    assert response.status_code == 200
    assert response.json == {"success": "successfully deleted", **ONE}
    assert saved(path) == [TWO]
    assert posts.get("/posts/1").status_code == 404


def test_ids_never_return(posts, path, monkeypatch):
    posts.delete("/posts/2")
    monkeypatch.setattr(posts_api, "store", posts_api.PostStore(path))

    response = posts.post("/posts", json={"title": "New", "content": ""})

    assert response.json["id"] == 3


def test_an_id_is_not_given_again_when_the_file_forgets_it(posts, path):
    posts.post("/posts", json={"title": "Three", "content": ""})
    path.write_text(FILE.replace('"next_id": 3, ', ""), "utf-8")

    response = posts.post("/posts", json={"title": "Four", "content": ""})

    assert response.json["id"] == 4


@pytest.mark.parametrize("verb", ["get", "put", "patch", "delete"])
@pytest.mark.parametrize("post_id", ["7", "0", "01", "9" * 5000])
def test_a_missing_post_is_404(posts, path, verb, post_id):
    body = {"json": {"title": "A", "content": ""}} if verb in ("put", "patch") else {}

    response = getattr(posts, verb)(f"/posts/{post_id}", **body)

    assert error(response, 404) == f"not found id {post_id}"
    assert path.read_text("utf-8") == FILE


@pytest.mark.parametrize("post_id", ["-1", "abc", "1.5", "%D9%A1"])
def test_what_is_no_id_has_no_route(posts, post_id):
    response = posts.delete(f"/posts/{post_id}")

    path = unquote(f"/posts/{post_id}")
    assert error(response, 404) == f"no such route: DELETE {path}"


def test_head_and_options(posts):
    head = posts.head("/posts/all")
    options = posts.options("/posts/1")

    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["X-Total-Count"] == "2"
    assert options.status_code == 200
    assert options.allow.as_set() == {
        "delete",
        "get",
        "head",
        "options",
        "patch",
        "put",
    }


# Bad input


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "you must pass title or content as parameter"),
        (b"[]", "you must pass title or content as parameter"),
        (b"null", "you must pass title or content as parameter"),
        (b'"x"', "you must pass title or content as parameter"),
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2"),
        (b"[" * 100_000, "maximum recursion depth exceeded"),
        (b'{"title": ' + b"9" * 10_000 + b"}", "Exceeds the limit"),
        (b'{"title": "\xff", "content": ""}', "'utf-8' codec can't decode byte 0xff"),
        (b'{"title": "\\ud800", "content": ""}', "'utf-8' codec can't encode"),
        (b'{"content": ""}', "missing or unknown fields: ['title']"),
        (b'{"title": "A"}', "missing or unknown fields: ['content']"),
        (
            b'{"title": "A", "content": "", "\\ud800": 1}',
            "missing or unknown fields: ['",
        ),
        (b'{"title": null, "content": ""}', "title and content must be text"),
        (b'{"title": 5, "content": ""}', "title and content must be text"),
        (b'{"title": "A", "content": ["x"]}', "title and content must be text"),
        (b'{"title": 5, "content": 5}', "title and content must be text"),
        (
            b'{"title": " \\n", "content": ""}',
            "title and content must be text, and the",
        ),
        (b'{"id": 3, "title": "A", "content": ""}', "id is given by the server, and"),
        (b'{"id": "", "title": "A", "content": ""}', "id is given by the server, and"),
        (b'{"id": null, "title": "A", "content": ""}', "id is given by the server"),
    ],
)
def test_a_bad_body_is_400(posts, path, body, message):
    response = posts.post("/posts", data=body, content_type="application/json")

    assert error(response, 400).startswith(message)
    assert path.read_text("utf-8") == FILE


def test_an_uploaded_file_is_no_text(posts, path):
    form = {"title": "A", "content": (io.BytesIO(b"text"), "upload.txt")}

    message = error(posts.post("/posts", data=form), 400)

    assert message == "title and content must be text, and the title not blank"
    assert saved(path) == [ONE, TWO]


def test_an_answer_may_be_sent_back(client, path):
    made = client.post("/posts", json={"title": "A", "content": ""}).json

    response = client.put("/posts/1", json={**made, "title": "B"})

    assert response.status_code == 200
    assert saved(path) == [{"id": 1, "title": "B", "content": ""}]


@pytest.mark.parametrize("given", [1, 3, "2.0", True])
def test_another_id_than_the_urls_is_400(posts, path, given):
    message = error(posts.patch("/posts/2", json={"id": given, "title": "New"}), 400)

    assert message == "id is given by the server, and stays"
    assert saved(path) == [ONE, TWO]


@pytest.mark.parametrize(
    ("verb", "request_"),
    [
        ("patch", {"json": {"title": "New"}}),
        ("put", {"json": {"title": "New", "content": ""}}),
        ("put", {}),
    ],
)
def test_fields_in_a_query_are_a_patchs_alone(posts, path, verb, request_):
    response = getattr(posts, verb)("/posts/1?content=x", **request_)

    message = "fields come in the body or, for PATCH, in the query"
    assert error(response, 400) == message
    assert saved(path) == [ONE, TWO]


def test_another_type_is_415(posts):
    response = posts.post("/posts", data="title=A", content_type="text/plain")

    assert error(response, 415) == "the body must be application/json or an HTML form"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_long_body_is_413(posts, path, chunked):
    body = b"title=A&content=".ljust(2**20 + 1, b"x")
    environ = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}
    if not chunked:
        environ["CONTENT_LENGTH"] = str(len(body))

    kind = "application/x-www-form-urlencoded"
    response = posts.post("/posts", environ_overrides=environ, content_type=kind)

    assert error(response, 413)
    assert saved(path) == [ONE, TWO]


def test_a_body_that_breaks_off_is_400(posts, path):
    body = {"data": "title=A", "content_type": "application/x-www-form-urlencoded"}
    environ = {"CONTENT_LENGTH": "99", "wsgi.input_terminated": True}

    response = posts.patch("/posts/1", environ_overrides=environ, **body)

    assert error(response, 400) == "the body is shorter than its Content-Length"
    assert saved(path) == [ONE, TWO]


def test_a_part_without_a_name_is_400(posts, path):
    part = b"--x\r\nContent-Disposition: form-data\r\n\r\ntext\r\n--x--\r\n"
    kind = "multipart/form-data; boundary=x"

    message = error(posts.post("/posts", data=part, content_type=kind), 400)

    assert message == "missing or unknown fields: ['None', 'content', 'title']"
    assert saved(path) == [ONE, TWO]


def test_no_such_route(client):
    assert error(client.get("/nope"), 404) == "no such route: GET /nope"
    assert error(client.get("/posts//1"), 404) == "no such route: GET /posts//1"


@pytest.mark.parametrize(
    ("verb", "url", "allowed"),
    [
        ("POST", "/posts/1", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("DELETE", "/posts", "GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/posts/", "GET, HEAD, OPTIONS, POST"),
        ("PUT", "/posts/all", "GET, HEAD, OPTIONS"),
    ],
)
def test_no_such_method(client, verb, url, allowed):
    response = client.open(url, method=verb)
    options = client.options(url)

    assert error(response, 405) == f"no such route: {verb} {url}"
    for answer in (response, options):
        assert ", ".join(sorted(answer.headers["Allow"].split(", "))) == allowed


# The list's query


@pytest.fixture
def many(client, path):
    """A client of an API with posts 1 to 25; their titles count down from Y to A."""
    posts = [
        {
            "id": number,
            "title": chr(ord("Z") - number),
            "content": f"Größe {number % 3}",
        }
        for number in range(1, 26)
    ]
    path.parent.mkdir()
    path.write_text(json.dumps({"posts": posts}), "utf-8")
    return client


def ids(response):
    assert response.status_code == 200, response.text
    return [post["id"] for post in response.json]


@pytest.mark.parametrize(
    ("query", "expected", "total"),
    [
        ("_sort=title&_limit=3", [25, 24, 23], 25),
        ("_sort=id&_order=DESC&_start=0&_end=2", [25, 24], 25),
        ("_sort=content&_order=desc&_limit=2", [2, 5], 25),
        ("_start=10&_end=12", [11, 12], 25),
        ("_start=10&_limit=2", [11, 12], 25),
        ("_start=23", [24, 25], 25),
        ("_start=99", [], 25),
        ("_page=3", [21, 22, 23, 24, 25], 25),
        ("_page=2&_limit=2", [3, 4], 25),
        ("_page=99", [], 25),
        ("id=3&id=1&id=99", [1, 3], 2),
        ("title=A&title=Y", [1, 25], 2),
        ("content=Größe 1&_limit=2", [1, 4], 9),
        ("q=GRÖSSE 2&_start=1&_limit=1", [5], 8),
        ("q=b", [24], 1),
        ("q=%0A", [], 0),
        ("q=", list(range(1, 26)), 25),
        ("title=a", [], 0),
    ],
)
def test_query(many, query, expected, total):
    response = many.get("/posts/all?" + query)

    assert ids(response) == expected
    assert response.headers["X-Total-Count"] == str(total)


@pytest.mark.parametrize(
    ("page", "limit", "links"),
    [
        (1, 4, {"first": 1, "next": 2, "last": 7}),
        (4, 4, {"first": 1, "prev": 3, "next": 5, "last": 7}),
        (7, 4, {"first": 1, "prev": 6, "last": 7}),
        (5, 5, {"first": 1, "prev": 4, "last": 5}),
    ],
)
def test_a_page_links_to_others(many, page, limit, links):
    response = many.get(f"/posts?_page={page}&_limit={limit}&q=g&q=ö")

    url = f"http://localhost/posts?_page={{}}&_limit={limit}&q=g&q=%C3%B6"
    expected = [f'<{url.format(n)}>; rel="{rel}"' for rel, n in links.items()]
    assert response.headers["Link"] == ", ".join(expected)


def test_a_page_of_nothing_is_the_first_and_the_last(client):
    response = client.get("/posts?_page=1")

    url = "http://localhost/posts?_page=1"
    assert response.headers["Link"] == f'<{url}>; rel="first", <{url}>; rel="last"'


def test_only_pages_have_links(many):
    assert "Link" not in many.get("/posts?_start=0&_limit=2").headers


@pytest.mark.parametrize(
    "query",
    [
        *("nope=1", "_sort=nope", "_order=up", "_start=x", "_end=-1", "_limit=0"),
        *("_limit=1.5", "_page=0", "id=0", "id=x", "_embed=comments", "q%3Dq=1"),
    ],
)
def test_a_query_that_means_nothing_is_400(many, query):
    message = error(many.get("/posts?q=a&" + query), 400)

    assert message == f"a list can't be asked for {query}"


# Two people at once


@pytest.mark.parametrize("url", ["/", "/posts/all", "/posts/1", "/posts?q=o&_page=1"])
def test_revalidation(posts, url):
    tag = posts.get(url).headers["ETag"]

    again = posts.get(url, headers={"If-None-Match": f'"x", {tag}'})
    other = posts.get(url, headers={"If-None-Match": '"x"'})

    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == tag
    assert other.status_code == 200


@pytest.mark.parametrize("if_match", ["*", '"x"'])
def test_if_match_is_for_writes(posts, if_match):
    headers = {"If-None-Match": '"x"', "If-Match": if_match}

    response = posts.get("/posts/1", headers=headers)

    assert (response.status_code, response.json) == (200, ONE)


@pytest.mark.parametrize("url", ["/posts/all", "/posts/1", "/posts?q=o"])
def test_a_change_changes_the_tag(posts, url):
    tag = posts.get(url).headers["ETag"]

    posts.patch("/posts/1", json={"content": "other"})

    assert posts.get(url).headers["ETag"] not in (tag, f"W/{tag}")


@pytest.mark.parametrize("verb", ["put", "patch", "delete"])
def test_if_match_lets_one_of_two_win(posts, path, verb):
    headers = {"If-Match": posts.get("/posts/1").headers["ETag"]}
    posts.patch("/posts/1", json={"title": "Faster"}, headers=headers)
    body = {} if verb == "delete" else {"json": {"title": "Later", "content": ""}}

    response = getattr(posts, verb)("/posts/1", headers=headers, **body)

    assert error(response, 412) == "id 1 has changed since"
    assert saved(path) == [{**ONE, "title": "Faster"}, TWO]


@pytest.mark.parametrize("tags", ["*", '"x", {}'])
def test_if_match_of_what_is_there(posts, path, tags):
    tag = posts.get("/posts/1").headers["ETag"]
    posts.patch("/posts/2", json={"title": "another post"})

    response = posts.delete("/posts/1", headers={"If-Match": tags.format(tag)})

    assert response.status_code == 200
    assert saved(path) == [{**TWO, "title": "another post"}]


# Who may call


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:5000", 200),
        ("LOCALHOST", 200),
        ("my_api.localhost", 200),
        ("API.demo", 200),
        ("demo.localhost", 200),
        ("127.0.0.1:5000", 200),
        ("[::1]:5000", 200),
        ("api.demo:80", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("notlocalhost", 400),
        ("a b", 400),
    ],
)
def test_host_names(posts, host, status):
    posts_api.app.config["ALLOWED_HOSTS"] = ["api.demo"]

    response = posts.get("/posts/1", headers={"Host": host})

    assert response.status_code == status
    if status == 400:
        assert error(response, 400) == f"host {host!r} is not in ALLOWED_HOSTS"


def test_a_setting_that_is_no_list_opens_nothing(posts):
    posts_api.app.config.update(ALLOWED_HOSTS="api.demo", CORS_ORIGINS="http://a.demo")

    assert posts.get("/posts", headers={"Host": "demo"}).status_code == 400
    assert posts.delete("/posts/1", headers={"Origin": "http://a"}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"}, 200),
        ({"Origin": "http://localhost:5000"}, 200),
        ({"Origin": "http://localhost:5001"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://evil.example/://localhost:5000"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://friend.example"}, 200),
        ({"Origin": "http://friend.example", "Sec-Fetch-Site": "cross-site"}, 200),
    ],
)
def test_a_page_of_another_site_cannot_write(posts, path, headers, status):
    posts_api.app.config["CORS_ORIGINS"] = ["http://friend.example"]

    response = posts.delete("/posts/1", headers={"Host": "localhost:5000", **headers})
    reading = posts.get("/posts/2", headers={"Host": "localhost:5000", **headers})

    assert (response.status_code, reading.status_code) == (status, 200)
    assert saved(path) == ([TWO] if status == 200 else [ONE, TWO])
    if status == 403:
        who = headers.get("Origin") or "another site"
        assert error(response, 403) == f"a page of {who} is not in CORS_ORIGINS"


def test_cors_is_off_by_default(posts):
    response = posts.options("/posts/1", headers={"Origin": "http://friend.example"})

    assert not [name for name, _ in response.headers if name.startswith("Access-")]
    assert "Vary" not in response.headers


@pytest.mark.parametrize("url", ["/posts/all", "/posts/1", "/posts/7"])
def test_cors_lets_the_listed_origin_read(posts, url):
    posts_api.app.config["CORS_ORIGINS"] = ["http://friend.example"]

    friend = posts.get(url, headers={"Origin": "http://friend.example"}).headers
    stranger = posts.get(url, headers={"Origin": "http://friend"}).headers

    assert friend["Access-Control-Allow-Origin"] == "http://friend.example"
    exposed = set(friend["Access-Control-Expose-Headers"].split(", "))
    assert exposed == {"ETag", "Link", "Location", "X-Total-Count"}
    assert "Access-Control-Allow-Origin" not in stranger
    assert friend["Vary"] == stranger["Vary"] == "Origin"


def test_cors_preflight(posts):
    posts_api.app.config.update(CORS_ORIGINS=["http://friend.example"], API_TOKEN="x")
    asked = {"Origin": "http://friend.example", "Access-Control-Request-Method": "PUT"}

    response = posts.options("/posts/1", headers=asked)

    assert response.status_code == 200
    methods = set(response.headers["Access-Control-Allow-Methods"].split(", "))
    assert methods >= {"GET", "PUT", "PATCH", "DELETE"}
    headers = set(response.headers["Access-Control-Allow-Headers"].split(", "))
    assert headers == {"Authorization", "Content-Type", "If-Match", "If-None-Match"}


@pytest.mark.parametrize("token", ["secret", 12345, 0, "größe="])
def test_token(posts, path, token):
    posts_api.app.config["API_TOKEN"] = token
    raw = str(token).encode().decode("latin-1")

    for wrong in ({}, {"Authorization": raw}, {"Authorization": f"Bearer {raw}x"}):
        response = posts.delete("/posts/1", headers=wrong)
        assert error(response, 401) == "writes need API_TOKEN"
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert posts.get("/posts/1").status_code == 200
    assert saved(path) == [ONE, TWO]

    right = posts.delete("/posts/1", headers={"Authorization": f"bearer {raw}"})
    assert right.status_code == 200


def test_configuration_by_the_environment(tmp_path):
    names = "ALLOWED_HOSTS", "CORS_ORIGINS", "API_TOKEN", "MAX_CONTENT_LENGTH"
    script = f"""
import posts_api
print(posts_api.store.path, [posts_api.app.config[name] for name in {names}])
"""
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(posts_api.__file__).parent),
        "FLASK_POSTS_FILE": "mine.json",
        "FLASK_ALLOWED_HOSTS": '["api.demo"]',
        "FLASK_CORS_ORIGINS": '["http://localhost:5173"]',
        "FLASK_API_TOKEN": "1e5",
        "FLASK_MAX_CONTENT_LENGTH": "10",
    }

    command = [sys.executable, "-W", "error", "-c", script]
    output = subprocess.check_output(command, cwd=tmp_path, env=env, text=True)

    settings = "[['api.demo'], ['http://localhost:5173'], '1e5', 10]"
    assert output == f"{tmp_path / 'mine.json'} {settings}\n"
    assert os.listdir(tmp_path) == []


def test_run_as_a_program_it_serves_this_machine_only(monkeypatch):
    runs = []
    monkeypatch.setattr("flask.Flask.run", lambda app, **options: runs.append(options))

    runpy.run_path(posts_api.__file__, run_name="__main__")

    assert runs == [{"debug": False}]


# The file


def test_a_real_server_loses_no_parallel_write(client, path):
    server = make_server("127.0.0.1", 0, posts_api.app, threaded=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()

    def create(number):
        body = json.dumps({"title": f"{number}", "content": ""}).encode()
        url = f"http://127.0.0.1:{server.server_port}/posts"
        request = urllib.request.Request(
            url, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(create, range(40)))
    finally:
        server.shutdown()
        serving.join()
        server.server_close()

    posts = {post["id"]: post["title"] for post in saved(path)}
    assert posts == {answer["id"]: answer["title"] for answer in answers}
    assert sorted(posts) == list(range(1, 41))


def test_parallel_processes_lose_no_write(posts, path):
    writers = [start_writer(path, 25) for _ in range(3)]
    given = [
        int(line) for writer in writers for line in writer.communicate()[0].split()
    ]

    assert len(given) == 75
    assert sorted(given) == list(range(3, 78))
    assert [post["id"] for post in saved(path)] == list(range(1, 78))


def test_a_kill_loses_no_answered_write(posts, path):
    answered = []
    for enough in (1, 7, 20):
        writer = start_writer(path, 100_000)
        for _ in range(enough):
            answered.append(int(writer.stdout.readline()))
        writer.kill()
        answered += [int(line) for line in writer.communicate()[0].split()]

    new = posts.post("/posts", json={"title": "after the kill", "content": ""})

    assert new.status_code == 201
    assert set(answered) < {post["id"] for post in saved(path)}


def test_what_a_killed_write_left_is_swept(posts, path):
    for suffix in (".~new", ".~old"):
        path.with_name(path.name + suffix).write_text("half")

    assert posts.delete("/posts/1").status_code == 200
    assert saved(path) == [TWO]


def test_those_who_wait_share_one_save(posts, path, monkeypatch):
    saves, replace, fsync = [], os.replace, os.fsync

    def wait_for_all(descriptor):
        while len(posts_api.store._waiting) < 7 and not saves:
            time.sleep(0.001)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait_for_all)
    monkeypatch.setattr(os, "replace", lambda *paths: saves.append(replace(*paths)))

    def patch(post_id):
        client = posts_api.app.test_client()
        return client.patch(f"/posts/{post_id}", json={"content": f"{post_id}"})

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(patch, 1)
        while not posts_api.store._lock.locked():
            time.sleep(0.001)
        others = list(pool.map(patch, [2, 7, 2, 7, 2, 2, 7]))

    assert first.result().status_code == 200
    assert [answer.status_code for answer in others] == [
        200,
        404,
        200,
        404,
        200,
        200,
        404,
    ]
    assert len(saves) == 2
    assert saved(path) == [{**ONE, "content": "1"}, {**TWO, "content": "2"}]


@pytest.mark.parametrize(
    ("module", "name", "at"),
    [
        *((os, "open", 1), (os, "utime", 1), (os, "fsync", 1), (os, "replace", 1)),
        *((os, "fsync", 2), (Path, "unlink", 1), (Path, "unlink", 3)),
    ],
)
def test_a_write_that_fails_changes_nothing(posts, path, monkeypatch, module, name, at):
    path.write_text(FILE.replace("\n", ""), "utf-8")
    before = posts.get("/posts").json, path.read_bytes(), path.stat().st_ino

    with monkeypatch.context() as patch:
        fail(patch, module, name, at)
        message = error(posts.delete("/posts/1"), 503)

    assert message == f"cannot save {path}: [Errno 5] {os.strerror(errno.EIO)}"
    assert os.listdir(path.parent) == [path.name]
    assert (posts.get("/posts").json, path.read_bytes(), path.stat().st_ino) == before
    assert posts.delete("/posts/1").status_code == 200
    assert saved(path) == [TWO]


@pytest.mark.parametrize(("name", "at"), [("fsync", 1), ("fsync", 2), ("replace", 1)])
def test_a_first_write_that_fails_leaves_no_file(client, path, monkeypatch, name, at):
    with monkeypatch.context() as patch:
        fail(patch, os, name, at)
        error(client.post("/posts", json={"title": "A", "content": ""}), 503)

    assert os.listdir(path.parent) == []
    response = client.post("/posts", json={"title": "A", "content": ""})
    assert response.json["id"] == 1
    assert len(saved(path)) == 1


def test_changes_are_saved_in_their_order(posts, path):
    for title in ("first", "last"):
        new = {**ONE, "title": title}
        change = (lambda posts, new=new: posts.put(new)), Future()
        posts_api.store._waiting.append(change)

    assert posts.delete("/posts/2").status_code == 200
    assert saved(path) == [{**ONE, "title": "last"}]


def test_a_save_that_fails_fails_all_who_share_it(posts, path, monkeypatch):
    with monkeypatch.context() as patch:
        fail(patch, os, "fsync")
        outcomes = [Future(), Future()]
        for outcome, post in zip(outcomes, (ONE, {**TWO, "title": 5}), strict=True):
            change = (lambda posts, post=post: posts.put(post)), outcome
            posts_api.store._waiting.append(change)
        error(posts.delete("/posts/1"), 503)

    assert [type(outcome.exception()) for outcome in outcomes] == [OSError, OSError]
    assert path.read_text("utf-8") == FILE


def test_a_full_disk_is_503(posts, path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        response = posts.patch("/posts/1", json={"content": "x" * 20_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    message = f"cannot save {path}: [Errno 27] {os.strerror(errno.EFBIG)}"
    assert error(response, 503) == message
    assert saved(path) == [ONE, TWO]
    assert posts.delete("/posts/1").status_code == 200


@pytest.mark.parametrize("rename", [False, True])
def test_an_edit_by_hand_is_seen_at_once(posts, path, rename):
    assert posts.get("/posts/1").json == ONE

    for title in ("Two", "Six", "Ten"):
        edited = path.with_name("edited") if rename else path
        edited.write_text(FILE.replace("One", title), "utf-8")
        edited.replace(path)

        assert posts.get("/posts/1").json["title"] == title
        assert posts.get("/posts").json[0]["title"] == title


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_edit_during_a_write_is_kept(posts, path, monkeypatch, call):
    function, edits = getattr(os, call), [FILE.replace("One", "By hand")]

    def edit_just_before(*args):
        if edits:
            path.write_text(edits.pop(), "utf-8")
        return function(*args)

    monkeypatch.setattr(os, call, edit_just_before)
    response = posts.patch("/posts/2", json={"title": "By a client"})

    assert response.status_code == 200
    assert saved(path) == [{**ONE, "title": "By hand"}, {**TWO, "title": "By a client"}]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        (FILE[:-4], "Expecting ',' delimiter: line 3 column 55 (char 127)"),
        (
            FILE.replace("One", '"'),
            "Expecting ',' delimiter: line 2 column 22 (char 47)",
        ),
        ("[" * 100_000, "maximum recursion depth exceeded"),
        ("[]", 'it must be {"next_id": 1, "posts": []}'),
        ("null", 'it must be {"next_id": 1, "posts": []}'),
        ('{"posts": {}}', 'it must be {"next_id": 1, "posts": []}'),
        ('{"next_id": 3}', 'it must be {"next_id": 1, "posts": []}'),
        ('{"next_id": 3.5, "posts": []}', 'it must be {"next_id": 1, "posts": []}'),
        ('{"posts": [], "note": ""}', 'it must be {"next_id": 1, "posts": []}'),
        ('{"posts": [5]}', "post 1: 'int' object is not iterable"),
        (FILE.replace("2,", "1,"), "post 2: its id comes twice"),
        (FILE.replace("2,", "0,"), "post 2: id must be a whole number from 1 up"),
        (FILE.replace("2,", "2.0,"), "post 2: id must be a whole number from 1 up"),
        (FILE.replace("2,", "true,"), "post 2: id must be a whole number from 1 up"),
        (FILE.replace("2,", '"2",'), "post 2: id must be a whole number from 1 up"),
        (FILE.replace("title", "titel"), "post 1: missing or unknown fields: ['titel'"),
        (FILE.replace('"Two"', "2"), "post 2: title and content must be text, and the"),
        (
            FILE.replace("Two", "\\ud800"),
            "post 2: 'utf-8' codec can't encode character",
        ),
    ],
)
def test_a_broken_edit_is_told_and_kept(posts, path, text, why):
    assert posts.get("/posts/1").status_code == 200
    path.write_text(text, "utf-8")

    answers = [posts.get("/posts"), posts.get("/posts/1"), posts.delete("/posts/1")]

    for answer in answers:
        assert f"{path} is no posts file: {why}" in error(answer, 503)
    assert path.read_text("utf-8") == text
    path.write_text(FILE, "utf-8")
    assert posts.get("/posts/1").json == ONE


@pytest.mark.parametrize(
    ("good", "bad", "why"),
    [
        (b"Two", b"\xff", "post 2: 'utf-8' codec can't encode character '\\udcff'"),
        (b'{"next', b'\xff{"next', "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_bytes_that_are_no_utf8(posts, path, good, bad, why):
    path.write_bytes(FILE.encode().replace(good, bad))

    assert f"{path} is no posts file: {why}" in error(posts.get("/posts"), 503)


def test_a_file_that_vanishes_is_missed(posts, path):
    posts.get("/posts")
    path.rename(path.with_name("away"))

    assert "No such file" in error(posts.get("/posts"), 503)
    assert "No such file" in error(posts.delete("/posts/1"), 503)
    path.with_name("away").rename(path)
    assert posts.delete("/posts/1").status_code == 200


@pytest.mark.parametrize(
    "text",
    ["\ufeff" + FILE, FILE.replace("3, ", "1, "), FILE.replace('"next_id": 3, ', "")],
)
def test_what_an_editor_may_leave(posts, path, text):
    path.write_text(text, "utf-8")

    assert posts.get("/posts").json == [ONE, TWO]
    assert posts.post("/posts", json={"title": "A", "content": ""}).json["id"] == 3
    assert saved(path)[:2] == [ONE, TWO]


def test_a_file_without_posts_begins_with_id_1(posts, path):
    path.write_text('{"posts": []}')

    assert posts.post("/posts", json={"title": "A", "content": ""}).json["id"] == 1


def test_a_thousand_posts(posts, path):
    many = [{**ONE, "id": number} for number in range(1, 1001)]
    path.write_text(json.dumps({"posts": many}))

    assert posts.get("/posts?_sort=id&_start=999").json == [many[-1]]
    assert posts.delete("/posts/1000").status_code == 200
    assert saved(path) == many[:-1]


def test_each_save_is_later_than_the_one_before(posts, path):
    future = path.stat().st_mtime_ns + 10**15
    os.utime(path, ns=(future, future))

    for number in (1, 2, 3):
        posts.patch("/posts/1", json={"title": f"{number}"})
        assert path.stat().st_mtime_ns == future + number


@pytest.mark.skipif(os.name == "nt", reason="needs the modes and links of POSIX")
def test_permissions_and_symbolic_links_stay(posts, path, tmp_path, monkeypatch):
    link = tmp_path / "link.json"
    link.symlink_to(path)
    path.chmod(0o640)
    monkeypatch.setattr(posts_api, "store", posts_api.PostStore(link))

    assert posts.delete("/posts/1").status_code == 200

    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert saved(path) == [TWO]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="needs root")
def test_a_file_keeps_its_owner(posts, path):
    os.chown(path, 1234, 2345)

    posts.delete("/posts/1")

    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_a_file_system_without_links_will_do(posts, path, monkeypatch):
    fail(monkeypatch, os, "link")

    assert posts.delete("/posts/1").status_code == 200
    assert saved(path) == [TWO]


def test_without_flock_it_works_in_one_process(posts, path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("windows", posts_api.__file__)
    windows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(windows)
    windows.store = windows.PostStore(path)

    def create(_):
        body = {"json": {"title": "A", "content": ""}}
        return windows.app.test_client().post("/posts", **body).json["id"]

    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(create, range(20)))

    assert sorted(given) == list(range(3, 23))
    assert len(saved(path)) == 22
