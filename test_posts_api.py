"""Tests of the posts API.

To test your own API, copy the first part: fixtures that give each test a file of its
own and Flask's test client, and helpers that assert on a response and on the file.
"""

import errno
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
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import ModuleType

import pytest
from werkzeug.serving import make_server
from werkzeug.test import encode_multipart

import posts_api

pytestmark = pytest.mark.filterwarnings("error")


def post(post_id=1, title="One", content="first"):
    """Return a post as the API does; only here does another field need a line."""
    return {"id": post_id, "title": title, "content": content}


ONE = post()
TWO = post(2, title="Two", content="größer")
NEW = {"title": "New", "content": ""}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "data" / "posts.json"


@pytest.fixture
def client(path, monkeypatch):
    """A client of an API that has no file yet."""
    monkeypatch.setattr(posts_api, "store", posts_api.PostStore(path))
    return posts_api.app.test_client()


@pytest.fixture
def posts(client, path):
    """A client of an API with two posts, ONE and TWO."""
    path.parent.mkdir(parents=True)
    path.write_text(file_of(ONE, TWO), "utf-8")
    return client


def file_of(*posts, next_id=3):
    """Return the text of a file of these posts."""
    lines = [json.dumps(each, ensure_ascii=False) for each in posts]
    return f'{{"next_id": {next_id}, "posts": [\n' + ",\n".join(lines) + "\n]}\n"


def saved(path):
    """Return the posts in the file, after asserting its layout and that it is alone."""
    text = path.read_text("utf-8")
    document = json.loads(text)
    if document["posts"]:
        assert text == file_of(*document["posts"], next_id=document["next_id"])
    assert os.listdir(path.parent) == [path.name]
    return document["posts"]


def error(response, status):
    """Return the message of an error, after asserting that it is one."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/json"
    assert list(response.json) == ["error"]
    challenge = "Bearer" if status == 401 else None
    assert response.headers.get("WWW-Authenticate") == challenge
    return response.json["error"]


def refused(response, status, path):
    """Return the message of an error, after asserting that the file is as it was."""
    assert path.read_text("utf-8") == file_of(ONE, TWO)
    return error(response, status)


def configure(monkeypatch, **settings):
    for name, value in settings.items():
        monkeypatch.setitem(posts_api.app.config, name, value)


NO_FIELD = "you must pass title or content as parameter"
NO_CONTENT = "content is required and must be a string"
CALLS = ["open 1", "open 2", "chmod 1", "utime 1", "fsync 1", "replace 1"]
JSON = "application/json"
NO_FORM = "the body must be JSON or an HTML form without files"
MEANINGLESS = "nope=1 _sort=nope _order=up _start=x _end=-1 _limit=1.5 _page=0 id=x"
UNTRUSTED = "evil.example localhost.evil.example evillocalhost 192.168.0.1 [::1] a|b"
ORIGINS = [f"http://{host}" for host in UNTRUSTED.split()]
ORIGINS += ["", "null", "http://localhost@evil.example", "http://a://localhost"]
TRUSTED = ["http://localhost:5173", "https://127.0.0.1", "http://app.localhost"]
HEADERS = ["", "{}", "Basic {}", "Bearer ", "Bearer ö", "Bearer {}x"]
OTHER = [{"SECRET_KEY": 1}, {"TOKEN_MAX_AGE": -1}, {"USERS": {"bob": "s3cret"}}]
WRONG = [(), ("ann",), ("ann", None), ("ann", "wrong"), ("eve", "None"), (None, None)]
WRONG += [("nobody", "None"), ("nobody", None), (["ann"], ["s3cret"]), ("bob", 12345)]
WRONG += [("ann", "\ud800"), ("\ud800", "s3cret")]
WRITER = """
import sys, posts_api
store = posts_api.PostStore(sys.argv[1])
for _ in range(int(sys.argv[2])):
    print(store.add({"title": "by a process", "content": "x" * 2000}).id)
"""
FORM = 'it must have the form {"next_id": 1, "posts": []}'
ID = "post 2: id must be a positive integer"
BAD_IDS = ["0", "-1", "2.0", "true", '"2"', "null", "[]", "{}"]


def test_root_lists_the_routes(client):
    routes = client.get("/").json
    assert routes["GET /posts/all"] == "Return all posts, like /posts and /posts/."
    assert (len(routes), routes["DELETE /posts/<id>"]) == (8, "Delete a post.")


@pytest.mark.parametrize("url", ["/posts/all", "/posts/", "/posts"])
def test_get_all(posts, url):
    response = posts.get(url)
    assert (response.status_code, response.json) == (200, [ONE, TWO])
    assert "größer" in response.text
    assert response.headers["X-Total-Count"] == "2"


@pytest.mark.parametrize("url", ["/posts/", "/posts"])
def test_create_makes_file_and_folder(client, path, url):
    assert client.get(url).json == []
    assert not path.parent.exists()

    response = client.post(url, json={"content": "größer", "title": "New"})

    assert (response.status_code, response.location) == (201, "/posts/1")
    assert response.text == (
        '{"success":"Successfully added.","id":1,"title":"New","content":"größer"}\n'
    )
    assert saved(path) == [post(title="New", content="größer")]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", '{"title": "New", "content": ""}'),
        ("application/json; charset=utf-8", '\ufeff{"title": "New", "content": ""}'),
        ("application/vnd.api+json", '{"title": "New", "content": "", "success": 1}'),
        ("application/x-www-form-urlencoded", "title=New&content="),
        ("multipart/form-data", NEW),
    ],
)
def test_create_takes_json_and_forms(client, path, content_type, body):
    response = client.post("/posts", data=body, content_type=content_type)
    assert (response.status_code, saved(path)) == (201, [post(**NEW)])


def test_get_one(posts):
    response = posts.get("/posts/2")
    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert response.text == '{"id":2,"title":"Two","content":"größer"}\n'


@pytest.mark.parametrize(
    "body",
    [{"json": NEW}, {"data": NEW}, {"query_string": NEW}]
    + [{"json": NEW | {"id": given, "success": "sent back"}} for given in (2, "2")],
)
def test_put_replaces_all_fields(posts, path, body):
    response = posts.put("/posts/2", **body)
    assert response.json == {"success": "Successfully updated", **post(2, **NEW)}
    assert saved(path) == [ONE, post(2, **NEW)]


@pytest.mark.parametrize("kind", ["json", "data", "query_string"])
def test_patch_changes_only_the_fields_named(posts, path, kind):
    response = posts.patch("/posts/2", **{kind: {"title": "New"}})
    new = TWO | {"title": "New"}
    assert response.json == {"success": "Successfully updated", **new}
    assert saved(path) == [ONE, new]


def test_delete(posts, path):
    response = posts.delete("/posts/1")
    result = {"success": "successfully deleted", **ONE}
    assert (response.status_code, response.json) == (200, result)
    assert saved(path) == [TWO]


def test_an_id_is_never_given_twice(posts, path, monkeypatch):
    posts.delete("/posts/2")
    posts.delete("/posts/1")
    assert json.loads(path.read_text()) == {"next_id": 3, "posts": []}
    monkeypatch.setattr(posts_api, "store", posts_api.PostStore(path))
    assert posts.post("/posts", json=NEW).json["id"] == 3
    path.write_text('{"posts": []}')
    assert posts_api.PostStore(path).read().next_id == 1
    assert posts.post("/posts", json=NEW).json["id"] == 4


@pytest.mark.parametrize("to", ["POST /posts", "PUT /posts/2", "PATCH /posts/2"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"title": 5, "content": ""}, "title is required and must be a string"),
        ({"title": " \n", "content": ""}, "title must not be blank"),
        (NEW | {"\ud800": ""}, r"unknown field: '\ud800'"),
        (
            NEW | {"title": "\ud800\uffff"},
            "title contains text that UTF-8 cannot encode",
        ),
        (NEW | {"content": None}, NO_CONTENT),
        (NEW | {"id": None}, "id is assigned by the server and cannot be changed"),
        ({"success": ""}, NO_FIELD),
        ([ONE], "the JSON must be an object"),
    ],
)
def test_an_invalid_post_is_400(posts, path, to, body, message):
    verb, url = to.split()
    json_body = {"data": json.dumps(body), "content_type": "application/json"}
    assert refused(posts.open(url, method=verb, **json_body), 400, path) == message


@pytest.mark.parametrize("url", ["/posts", "/posts/1"])
def test_create_and_put_need_every_field(posts, path, url):
    verb = posts.post if url == "/posts" else posts.put
    assert refused(verb(url, json={"title": "New"}), 400, path) == NO_CONTENT


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        (JSON, b"{", 400, "invalid JSON: Expecting property name enclosed in double"),
        (JSON, b"[" * 100_000, 400, "invalid JSON: maximum recursion depth exceeded"),
        (JSON, b"9" * 10_000, 400, "invalid JSON: Exceeds the limit"),
        (JSON, b'"\xff"', 400, "can't decode byte 0xff in position 1"),
        (JSON, b"", 400, NO_FIELD),
        ("text/plain", b"title=A&content=", 415, NO_FORM),
        ("multipart/form-data", {"a": (io.BytesIO(b""), "b")} | NEW, 415, NO_FORM),
    ],
)
def test_an_invalid_body(posts, path, kind, body, status, message):
    response = posts.patch("/posts/1", data=body, content_type=kind)
    assert message in refused(response, status, path)


@pytest.mark.parametrize(
    ("verb", "url", "status", "message"),
    [
        ("GET", "/posts/3", 404, "not found id 3"),
        ("PATCH", "/posts/0", 404, "not found id 0"),
        ("GET", "/posts/" + "9" * 5000, 404, "no such route: GET /posts/" + "9" * 5000),
        ("PUT", "/posts/all", 405, "no such route: PUT /posts/all"),
    ],
)
def test_a_missing_post_or_route(posts, path, verb, url, status, message):
    response = posts.open(url, method=verb, json=NEW)
    assert refused(response, status, path) == message


@pytest.mark.parametrize("url", ["/posts", "/posts/"])
def test_allowed_methods(client, url):
    for response in (client.delete(url), client.options(url)):
        assert sorted(response.allow) == ["GET", "HEAD", "OPTIONS", "POST"]


@pytest.mark.parametrize(("verb", "url"), [("get", "/posts"), ("patch", "/posts/1")])
def test_a_query_string_that_is_not_utf8_is_400(posts, verb, url):
    raw = {"QUERY_STRING": "title=\xff"}
    message = error(getattr(posts, verb)(url, environ_overrides=raw), 400)
    assert "'utf-8' codec can't decode byte 0xff" in message


def send(client, body, length=None, content_type="application/x-www-form-urlencoded"):
    """Send a body whose length is announced or, without a length, in chunks."""
    environ = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}
    environ |= {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(length or "")}
    return client.post("/posts", environ_overrides=environ)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(("length", "status"), [(2**20, 201), (2**20 + 1, 413)])
def test_a_body_may_have_1_mib(client, path, announced, length, status):
    boundary, body = encode_multipart(NEW | {"content": "x" * 1_048_000}, boundary="b")
    content_type = f"multipart/form-data; boundary={boundary}"
    body = body.ljust(length, b"\n")
    response = send(client, body, length if announced else None, content_type)
    assert (response.status_code, path.exists()) == (status, status == 201)


def test_the_length_of_a_body_can_be_set(posts, monkeypatch):
    configure(monkeypatch, MAX_CONTENT_LENGTH=17)
    assert send(posts, b"title=AB&content=", 17).status_code == 201


def test_a_body_shorter_than_its_length_is_400(posts, path):
    message = refused(send(posts, b"title=A&content=", 99), 400, path)
    assert message == "the body is shorter than its Content-Length"


def test_a_bug_is_500_and_logged(posts, monkeypatch, caplog):
    monkeypatch.setattr(posts_api.Posts, "find", lambda *_: int("not a number"))
    assert "internal error" in error(posts.get("/posts/1"), 500)
    assert "ValueError: invalid literal" in caplog.text
    with pytest.raises(AttributeError):
        posts_api.store.read()[1].title = "a post never changes"


@pytest.fixture
def many(client, path):
    """A client of an API with posts 1 to 25, whose titles count down from Y to A."""
    ids = range(1, 26)
    posts = [post(n, title=chr(ord("Z") - n), content=f"Größe {n % 3}") for n in ids]
    path.parent.mkdir(parents=True)
    path.write_text(file_of(*posts, next_id=26), "utf-8")
    return client


@pytest.mark.parametrize(
    ("query", "ids", "total"),
    [
        ("_sort=title&_limit=3", [25, 24, 23], 25),
        ("_sort=id&_order=DESC&_start=0&_end=2", [25, 24], 25),
        ("_sort=content&_order=desc&_limit=2", [2, 5], 25),
        ("_start=10&_end=12", [11, 12], 25),
        ("_start=" + "9" * 10_000, [], 25),
        ("_start=24&_limit=" + "9" * 10_000, [25], 25),
        ("_limit=0", [], 25),
        ("_page=2&_limit=2", [3, 4], 25),
        ("_limit={0}&_page={0}".format("9" * 10_000), [], 25),
        ("id=3&id=1&id=99", [1, 3], 2),
        ("content=Größe 1&_limit=2", [1, 4], 9),
        ("q=GRÖSSE 2&_start=1&_limit=1", [5], 8),
    ],
)
def test_query(many, query, ids, total):
    response = many.get("/posts/all?" + query)
    assert response.status_code == 200, response.text
    assert [each["id"] for each in response.json] == ids
    assert response.headers["X-Total-Count"] == str(total)


@pytest.mark.parametrize("parameter", MEANINGLESS.split())
def test_a_parameter_without_a_meaning_is_400(many, parameter):
    message = error(many.get("/posts?id=1&_limit=1&q=a&" + parameter), 400)
    assert message == f"invalid query parameter: {parameter}"


@pytest.mark.parametrize("url", ["/posts/all", "/posts/1", "/posts?q=o&_page=1"])
@pytest.mark.parametrize("header", ['"x", {}', "W/{}", "*"])
def test_if_none_match(posts, url, header):
    tag = posts.get(url).headers["ETag"]

    same = posts.get(url, headers={"If-None-Match": header.format(tag)})
    other = posts.get(url, headers={"If-None-Match": '"x"', "If-Match": '"x"'})
    posts.patch("/posts/1", json={"content": "other"})
    changed = posts.get(url, headers={"If-None-Match": tag})

    assert (same.status_code, same.data) == (304, b"")
    assert same.headers["ETag"] == tag
    assert (other.status_code, changed.status_code) == (200, 200)


@pytest.mark.parametrize("verb", ["put", "patch", "delete"])
def test_if_match_of_a_changed_post_is_412(posts, path, verb):
    headers = {"If-Match": posts.get("/posts/1").headers["ETag"]}
    posts.patch("/posts/1", json={"title": "Faster"}, headers=headers)
    response = getattr(posts, verb)("/posts/1", headers=headers, json=NEW)
    assert error(response, 412) == "id 1 has changed since"
    assert saved(path) == [post(title="Faster"), TWO]


@pytest.mark.parametrize("tags", ["*", '"x", {}'])
def test_if_match_ignores_changes_of_other_posts(posts, path, tags):
    tag = posts.get("/posts/1").headers["ETag"]
    posts.patch("/posts/2", json={"title": "another post"})
    response = posts.delete("/posts/1", headers={"If-Match": tags.format(tag)})
    assert (response.status_code, len(saved(path))) == (200, 1)


@pytest.mark.parametrize("host", UNTRUSTED.split())
@pytest.mark.parametrize("verb", ["get", "delete"])
def test_an_untrusted_host_is_400(posts, path, host, verb):
    headers = {"Host": host, "Origin": f"http://{host}"}
    response = getattr(posts, verb)("/posts/1", headers=headers)
    assert refused(response, 400, path) == f"Host {host!r} is not trusted."


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_page_of_an_untrusted_host_can_neither_read_nor_write(posts, path, origin):
    reading = posts.get("/posts/1", headers={"Origin": origin})
    writing = posts.delete("/posts/1", headers={"Origin": origin})
    message = f"the origin {origin!r} is not in TRUSTED_HOSTS"
    assert refused(writing, 403, path) == message
    for response in (reading, writing):
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", TRUSTED)
@pytest.mark.parametrize("url", ["/posts/all", "/posts/1", "/posts/7"])
def test_a_page_of_a_trusted_host_can_read(posts, origin, url):
    host = origin.partition("://")[2]
    headers = posts.get(url, headers={"Origin": origin, "Host": host}).headers
    assert headers["Access-Control-Allow-Origin"] == origin
    assert headers["Access-Control-Expose-Headers"] == "ETag, Location, X-Total-Count"


def test_a_page_of_a_trusted_host_can_write(posts, path, monkeypatch):
    configure(monkeypatch, TRUSTED_HOSTS=["api.demo"])
    headers = {"Origin": "https://api.demo:81", "Host": "api.demo"}

    preflight = posts.options("/posts/1", headers=headers).headers
    response = posts.delete("/posts/1", headers=headers)

    assert response.status_code == 200
    assert saved(path) == [TWO]
    assert preflight["Access-Control-Allow-Methods"] == "GET, POST, PUT, PATCH, DELETE"
    allowed = "Authorization, Content-Type, If-Match, If-None-Match"
    assert preflight["Access-Control-Allow-Headers"] == allowed


@pytest.fixture
def users(posts, monkeypatch):
    """A client of an API with users; one password and the key are made of digits."""
    names = {"ann": "s3cret", "bob": 12345, "nobody": None}
    configure(monkeypatch, USERS=names, SECRET_KEY=987)
    return posts


def bearer(token):
    return {"Authorization": f"Bearer {token}", "Cookie": "session=x"}


@pytest.mark.parametrize("kind", ["json", "data"])
@pytest.mark.parametrize(("user", "password"), [("ann", "s3cret"), ("bob", "12345")])
def test_a_token_lets_a_user_write(users, path, kind, user, password):
    response = users.post("/login", **{kind: {"user": user, "password": password}})
    assert (response.status_code, list(response.json)) == (200, ["token"])
    writing = users.delete("/posts/1", headers=bearer(response.json["token"]))
    assert (writing.status_code, saved(path)) == (200, [TWO])


def log_in(client):
    body = {"user": "ann", "password": "s3cret"}
    return client.post("/login", json=body).json["token"]


@pytest.mark.parametrize("header", HEADERS)
def test_a_write_without_a_token_is_401(users, path, header):
    headers = {"Authorization": header.format(log_in(users))}
    response = users.patch("/posts/1?title=A", headers=headers)
    assert refused(response, 401, path) == "a write needs a valid token from /login"
    assert users.get("/posts/1").status_code == 200


@pytest.mark.parametrize("other", OTHER, ids=["foreign", "expired", "former user"])
def test_a_token_that_is_not_valid_is_401(users, path, monkeypatch, other):
    headers = bearer(log_in(users))
    configure(monkeypatch, **other)
    assert refused(users.delete("/posts/1", headers=headers), 401, path)


@pytest.mark.parametrize("values", WRONG)
def test_a_wrong_login_is_401(users, values):
    body = json.dumps(dict(zip(("user", "password"), values)))
    response = users.post("/login", data=body, content_type="application/json")
    assert error(response, 401) == "wrong user or password"


def run(tmp_path, script, **settings):
    """Run a script in a process of its own, with settings in its environment."""
    env = {f"FLASK_{name}": value for name, value in settings.items()}
    env["PYTHONPATH"] = str(Path(posts_api.__file__).parent)
    command = [sys.executable, "-W", "error", "-c", "import posts_api\n" + script]
    process = subprocess.run(
        command, cwd=tmp_path, env=os.environ | env, capture_output=True, check=False
    )
    return process.stdout.decode() + process.stderr.decode()


def test_settings_come_from_the_environment(tmp_path, monkeypatch):
    script = "print(posts_api.store.path, posts_api.app.config['TRUSTED_HOSTS'])"
    output = run(tmp_path, script, POSTS_FILE="mine", TRUSTED_HOSTS='["api.demo"]')
    assert output == f"{tmp_path / 'mine'} ['api.demo']\n"
    default = Path(posts_api.__file__).parent / "data" / "posts.json"
    assert run(tmp_path, script).startswith(f"{default} ['127.0.0.1', ")
    assert os.listdir(tmp_path) == []
    monkeypatch.setenv("FLASK_USERS", '{"ann": "s3cret"}')
    with pytest.raises(RuntimeError, match="USERS is set, but not SECRET_KEY"):
        load("without_a_secret_key")


def test_a_token_is_valid_in_another_process(tmp_path):
    settings = {"USERS": '{"ann": 12345}', "SECRET_KEY": "987", "POSTS_FILE": "no.json"}
    client = "client = posts_api.app.test_client()\n"
    login = 'client.post("/login", data={"user": "ann", "password": "12345"})'

    token = run(tmp_path, f'{client}print({login}.json["token"])', **settings).strip()

    delete = f'client.delete("/posts/1", headers={bearer(token)})'
    script = f"{client}print({delete}.status_code)"
    assert run(tmp_path, script, **settings) == "404\n"
    assert run(tmp_path, script, **settings | {"SECRET_KEY": "988"}) == "401\n"


def test_the_program_serves_this_machine_only_without_the_debugger(monkeypatch):
    calls = []
    monkeypatch.setattr("flask.Flask.run", lambda app, **options: calls.append(options))
    runpy.run_path(posts_api.__file__, run_name="__main__")
    assert calls == [{"debug": False}]
    assert posts_api.app.config["TOKEN_MAX_AGE"] == 3600


def load(name, replace=("", "")):
    """Return a copy of the module, with a replacement in its source."""
    module = ModuleType(name)
    source = Path(posts_api.__file__).read_text("utf-8")
    code = compile(source.replace(*replace), posts_api.__file__, "exec")
    exec(code, module.__dict__)  # noqa: S102
    return module


def test_another_field_takes_one_line(posts, path):
    line = "    content: str\n"
    module = load("with_author", (line, line + '    author: str = ""\n'))
    module.store = module.PostStore(path)
    client = module.app.test_client()

    assert client.get("/posts/1").json == ONE | {"author": ""}
    assert client.patch("/posts/2?author=Bob").json["author"] == "Bob"
    assert client.post("/posts", json=NEW | {"author": "Al"}).status_code == 201
    assert client.post("/posts", json=NEW).json["author"] == ""
    message = error(client.put("/posts/1", json=NEW), 400)
    assert message == "author is required and must be a string"
    assert len(client.get("/posts?author=Bob").json) == 1
    assert len(client.get("/posts?q=bob").json) == 1
    assert [each["id"] for each in client.get("/posts?_sort=author").json] == [
        1,
        4,
        3,
        2,
    ]
    assert [each["author"] for each in saved(path)] == ["", "Bob", "Al", ""]


@pytest.fixture
def slow_disk(monkeypatch):
    """Make each flush to disk take 10 ms, and return the list of them."""
    fsync, calls = os.fsync, []

    def slow(descriptor):
        time.sleep(0.01)
        calls.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    return calls


def in_parallel(function, arguments):
    """Return the results of calls that run at once, each in a thread of its own."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(function, arguments))


def patch(post_id, title, **options):
    client = posts_api.app.test_client()
    return client.patch(f"/posts/{post_id}", json={"title": title}, **options)


def test_parallel_requests_to_a_server_lose_no_write(client, path):
    server = make_server("127.0.0.1", 0, posts_api.app, threaded=True)
    threading.Thread(target=server.serve_forever).start()

    def create(number):
        url = f"http://127.0.0.1:{server.server_port}/posts?title={number}&content="
        with urllib.request.urlopen(url, b"") as response:
            return json.load(response)

    try:
        created = in_parallel(create, range(40))
    finally:
        server.shutdown()
        server.server_close()

    titles = {each["id"]: each["title"] for each in created}
    assert sorted(titles) == list(range(1, 41))
    assert {each["id"]: each["title"] for each in saved(path)} == titles


def test_of_many_clients_with_one_version_one_wins(posts, path, slow_disk):
    headers = {"If-Match": posts.get("/posts/1").headers["ETag"]}
    responses = in_parallel(lambda n: patch(1, f"{n}", headers=headers), range(8))
    statuses = [response.status_code for response in responses]
    assert sorted(statuses) == [200] + [412] * 7
    assert saved(path) == [post(title=f"{statuses.index(200)}"), TWO]


def test_writes_that_wait_are_saved_together(posts, path, slow_disk):
    responses = in_parallel(lambda n: patch(n % 2 + 1, "New"), range(8))
    assert [response.status_code for response in responses] == [200] * 8
    assert len(slow_disk) <= 8  # one by one, it would be 16


def test_each_write_gets_its_own_outcome(posts, path, slow_disk, monkeypatch, caplog):
    put = posts_api.Posts.put

    def put_with_a_bug(posts, values):
        if values["title"] == "bug":
            raise KeyError("bug")
        return put(posts, values)

    monkeypatch.setattr(posts_api.Posts, "put", put_with_a_bug)
    stale = {"If-Match": '"stale"'}
    requests = [(1, "Good", {}), (3, "A", {}), (1, " ", {}), (1, "Stale", stale)]
    requests += [(2, "bug", {}), (2, "Good", {}), (4, "A", {}), (2, "Stale", stale)]

    responses = in_parallel(lambda r: patch(r[0], r[1], headers=r[2]), requests)

    statuses = [response.status_code for response in responses]
    assert statuses == [200, 404, 400, 412, 500, 200, 404, 412]
    assert "KeyError: 'bug'" in caplog.text
    assert saved(path) == [post(title="Good"), TWO | {"title": "Good"}]


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "broken"), MemoryError("full")])
def test_a_failed_save_fails_its_writes(posts, path, slow_disk, monkeypatch, failure):
    replace, failures = os.replace, [failure]

    def fail_once(*paths):
        if failures:
            raise failures.pop()
        replace(*paths)

    monkeypatch.setattr(os, "replace", fail_once)
    responses = in_parallel(lambda n: patch(n % 3 + 1, f"{n}"), range(9))

    statuses = [response.status_code for response in responses]
    assert failures == []
    assert statuses.count(500) == isinstance(failure, MemoryError)
    assert set(statuses) <= {200, 404, 500, 503}
    failed = {f"{n}" for n, status in enumerate(statuses) if status >= 500}
    assert failed
    assert not failed & {each["title"] for each in saved(path)}
    assert patch(1, "Next").status_code == 200


def start_writer(path, count):
    """Start a process that adds posts, and prints the id of each as soon as it can."""
    command = [sys.executable, "-u", "-c", WRITER, str(path), str(count)]
    env = {**os.environ, "PYTHONPATH": str(Path(posts_api.__file__).parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def test_parallel_processes_lose_no_write(posts, path):
    writers = [start_writer(path, 15) for _ in range(3)]
    outputs = [writer.communicate()[0] for writer in writers]
    ids = sorted(int(line) for output in outputs for line in output.split())
    assert ids == list(range(3, 48))
    assert [each["id"] for each in saved(path)] == list(range(1, 48))


def test_a_write_waits_for_that_of_another_process(posts, path):
    fcntl = pytest.importorskip("fcntl")
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(patch, 1, "Ours")
        waiting = not wait([writing], timeout=0.3).done
        path.write_text(file_of(ONE, TWO | {"title": "Theirs"}), "utf-8")
        os.close(folder)

    assert waiting
    assert writing.result().status_code == 200
    assert saved(path) == [post(title="Ours"), TWO | {"title": "Theirs"}]


def test_a_kill_loses_no_acknowledged_write(posts, path):
    acknowledged = []
    for enough in (1, 7, 20):
        writer = start_writer(path, 100_000)
        for _ in range(enough):
            acknowledged.append(int(writer.stdout.readline()))
        writer.kill()
        acknowledged += [int(line) for line in writer.communicate()[0].split()]

    assert posts.post("/posts", json=NEW).status_code == 201
    assert set(acknowledged) < {each["id"] for each in saved(path)}


def test_without_flock_threads_lose_no_write(posts, path, monkeypatch, slow_disk):
    monkeypatch.setattr(posts_api, "fcntl", None)
    created = in_parallel(lambda _: posts_api.store.add(NEW), range(8))
    assert sorted(each.id for each in created) == list(range(3, 11))
    assert len(saved(path)) == 10


def test_without_fcntl_it_can_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert load("on_windows").fcntl is None


def fail(monkeypatch, name, at=1):
    """Let one call of a function of the operating system fail as on a broken disk."""
    function, calls = getattr(os, name), []

    def broken(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return function(*args, **kwargs)

    monkeypatch.setattr(os, name, broken)


@pytest.mark.parametrize("call", CALLS)
def test_a_write_that_fails_changes_nothing(posts, path, monkeypatch, caplog, call):
    name, at = call.split()
    before = posts.get("/posts").json, path.read_bytes(), path.stat().st_ino

    with monkeypatch.context() as context:
        fail(context, name, int(at))
        message = error(posts.delete("/posts/1"), 503)

    assert message == f"cannot save {path}: [Errno 5] {os.strerror(errno.EIO)}"
    assert message in caplog.text
    assert os.listdir(path.parent) == [path.name]
    assert (posts.get("/posts").json, path.read_bytes(), path.stat().st_ino) == before
    assert posts.delete("/posts/1").status_code == 200
    assert saved(path) == [TWO]


def test_a_folder_that_cannot_be_flushed_is_503(posts, path, monkeypatch):
    with monkeypatch.context() as context:
        fail(context, "fsync", at=2)
        error(posts.delete("/posts/1"), 503)
    assert saved(path) == posts.get("/posts").json == [TWO]
    assert posts.patch("/posts/2?title=New").status_code == 200


def test_a_temporary_file_left_by_a_killed_process_is_replaced(posts, path):
    left = path.with_name(f".{path.name}.tmp")
    left.write_text("half a file")
    left.chmod(0o400)
    assert posts.delete("/posts/1").status_code == 200
    assert saved(path) == [TWO]


def test_who_has_the_file_open_keeps_the_whole_old_one(posts, path):
    with path.open(encoding="utf-8") as file:
        posts.delete("/posts/1")
        assert file.read() == file_of(ONE, TWO)


@pytest.mark.parametrize("rename", [False, True])
def test_an_edit_is_seen_at_once(posts, path, rename):
    assert posts.get("/posts/1").json == ONE
    for title in ("Two", "Six", "Ten"):
        edited = path.with_name("edited") if rename else path
        edited.write_text(file_of(post(title=title), TWO), "utf-8")
        edited.replace(path)
        assert posts.get("/posts/1").json["title"] == title
        assert posts.get("/posts").json[0]["title"] == title


def test_a_slow_reader_does_not_bring_back_an_old_version(posts, monkeypatch):
    read_bytes, writes = Path.read_bytes, ["New"]

    def write_meanwhile(path):
        data = read_bytes(path)
        while writes:
            assert patch(1, writes.pop()).status_code == 200
        return data

    monkeypatch.setattr(Path, "read_bytes", write_meanwhile)
    assert posts.get("/posts/1").json == ONE
    monkeypatch.setattr(Path, "read_bytes", None)  # nothing is read again
    assert posts.get("/posts/1").json == post(title="New")


@pytest.mark.parametrize("mtime", [1, 2**32])
def test_an_edit_during_a_save_is_kept(posts, path, monkeypatch, mtime):
    fsync, edits = os.fsync, [file_of(post(title="Edited"), TWO)]

    def edit_before(descriptor):
        if edits:
            path.write_text(edits.pop(), "utf-8")
            os.utime(path, (mtime, mtime))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", edit_before)
    message = error(posts.patch("/posts/2?title=New"), 503)

    assert message == f"cannot save {path}: it was edited in the meantime; try again"
    assert saved(path) == [post(title="Edited"), TWO]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (None, "", "invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        ("]}", "", "invalid JSON: Expecting ',' delimiter: line 5 column 1"),
        ("One", '"', "invalid JSON: Expecting ',' delimiter: line 2 column 22"),
        (None, "[" * 100_000, "invalid JSON: maximum recursion depth exceeded"),
        ("{", "\udcff{", "invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        (None, "[]", "the JSON must be an object"),
        (None, '{"posts": {}}', FORM),
        (None, '{"posts": [], "note": ""}', FORM),
        *(("3", number, FORM) for number in ("3.5", "1e999", "true", '"3"')),
        *((" 2,", f" {bad},", ID) for bad in BAD_IDS),
        (" 2,", " 1,", "post 2: the id 1 occurs twice"),
        (None, '{"posts": [5]}', "post 1: it must be a JSON object"),
        ("title", "titel", "post 1: unknown field: 'titel'"),
        ("title", "\\ud800", r"post 1: unknown field: '\ud800'"),
        ('"title": "One", ', "", "post 1: title is required and must be a string"),
        ("Two", "\\ud800", "post 2: title contains text that UTF-8 cannot encode"),
        ("Two", "\udcff", "post 2: title contains text that UTF-8 cannot encode"),
    ],
)
def test_an_invalid_file_is_503_and_kept(posts, path, caplog, old, new, why):
    assert posts.get("/posts/1").status_code == 200
    text = file_of(ONE, TWO).replace(old, new) if old else new
    path.write_text(text, "utf-8", "surrogateescape")

    responses = posts.get("/posts"), posts.get("/posts/1"), posts.delete("/posts/1")

    for response in responses:
        assert f"cannot read {path}: {why}" in error(response, 503)
    assert f"cannot read {path}: {why}" in caplog.text
    assert path.read_text("utf-8", "surrogateescape") == text
    path.write_text(file_of(ONE, TWO), "utf-8")
    assert posts.get("/posts/1").json == ONE
    assert posts.delete("/posts/1").status_code == 200


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_vanishes_is_503_until_it_is_back(posts, path, what):
    posts.get("/posts")
    gone = path if what == "file" else path.parent
    gone.rename(gone.with_name("away"))

    assert "No such file" in error(posts.get("/posts"), 503)
    assert "No such file" in error(posts.delete("/posts/1"), 503)
    assert not gone.exists()
    gone.with_name("away").rename(gone)
    assert posts.delete("/posts/1").status_code == 200


@pytest.mark.parametrize("head", ['\ufeff{"next_id": 3,', '{"next_id": -1,', "{"])
def test_a_byte_order_mark_or_a_low_next_id_is_accepted(posts, path, head):
    path.write_text(file_of(ONE, TWO).replace('{"next_id": 3,', head), "utf-8")
    assert posts.get("/posts").json == [ONE, TWO]
    assert posts.post("/posts", json=NEW).json["id"] == 3
    assert saved(path) == [ONE, TWO, post(3, **NEW)]


def test_each_save_is_later_than_the_one_before(posts, path):
    future = path.stat().st_mtime_ns + 10**15
    os.utime(path, ns=(future, future))
    for number in (1, 2, 3):
        posts.patch("/posts/1", json={"title": f"{number}"})
        assert path.stat().st_mtime_ns == future + number


@pytest.mark.skipif(os.name == "nt", reason="needs the modes and links of POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_permissions_and_symbolic_links_stay(posts, path, tmp_path, monkeypatch, mode):
    link, chmod, modes = tmp_path / "link.json", os.chmod, []
    link.symlink_to(path)
    path.chmod(mode)

    def look_before(*args, **kwargs):
        modes.extend(each.stat().st_mode & 0o777 for each in path.parent.iterdir())
        chmod(*args, **kwargs)

    monkeypatch.setattr(posts_api, "store", posts_api.PostStore(link))
    monkeypatch.setattr(os, "chmod", look_before)
    umask = os.umask(0o022)
    try:
        assert posts.delete("/posts/1").status_code == 200
    finally:
        os.umask(umask)

    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert not [each for each in modes if each & ~mode]
    assert saved(path) == [TWO]
