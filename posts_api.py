"""A REST API for posts, kept in one JSON file.

method  path         codes (+ 401, 403, 503)  description
GET     /            200                      List the routes.
GET     /posts/all   200,304,400              Return all posts, like /posts and /posts/.
POST    /posts/      201,400,413,415          Create a post, like /posts.
GET     /posts/<id>  200,304,404              Return a post.
PUT     /posts/<id>  200,400,404,412,413,415  Replace all fields of a post.
PATCH   /posts/<id>  200,400,404,412,413,415  Change some fields of a post.
DELETE  /posts/<id>  200,404,412              Delete a post.
POST    /login       200,400,401,413,415      Return a token for a user's password.

    $ curl -X PATCH 'http://127.0.0.1:5000/posts/1?title=New'
    {"success":"Successfully updated","id":1,"title":"New","content":"..."}

A stateful server remembers in a session who has logged in.  This one is stateless:
login returns a signed token, which the client sends with each write and any process
that knows the SECRET_KEY can verify.  A write is on disk before it is acknowledged;
this costs a copy of the file and two fsync() calls, which concurrent writes share.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cached_property, partial
from hmac import compare_digest
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

from flask import Flask, abort, jsonify, request, url_for
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.exceptions import BadRequest, HTTPException, ServiceUnavailable
from werkzeug.http import generate_etag
from werkzeug.wsgi import host_is_trusted

try:
    import fcntl
except ImportError:  # Windows: one process only
    fcntl = None  # type: ignore[assignment]

app = Flask(__name__, static_folder=None)
app.url_map.strict_slashes = False
app.json.sort_keys = False  # type: ignore
app.json.ensure_ascii = False  # type: ignore
app.config.update(
    POSTS_FILE=f"{app.root_path}/data/posts.json",
    TRUSTED_HOSTS=["127.0.0.1", "localhost", ".localhost"],
    USERS={},  # name to password; if empty, anyone may write
    TOKEN_MAX_AGE=3600,  # seconds
    MAX_CONTENT_LENGTH=1024 * 1024,  # bytes
    MAX_FORM_MEMORY_SIZE=None,  # only the limit above applies
)
app.config.from_prefixed_env()


class BadPost(ValueError):
    """The data does not describe a post; the message says why."""


class StoreError(OSError):
    """The file cannot be read or saved; the message says which file and why."""


@dataclass(frozen=True)
class Post:
    """A post.  To add a text field, add one line below, e.g.: author: str = "" """

    id: int
    title: str
    content: str

    def __post_init__(self) -> None:
        """Validate the values; reject lone surrogates, which UTF-8 cannot encode."""
        if type(self.id) is not int or self.id < 1:
            raise BadPost("id must be a positive integer")
        for name in TEXT_FIELDS:
            text = getattr(self, name)
            if not isinstance(text, str):
                raise BadPost(f"{name} is required and must be a string")
            if text.encode(errors="ignore").decode() != text:
                raise BadPost(f"{name} contains text that UTF-8 cannot encode")
        if not self.title.strip():
            raise BadPost("title must not be blank")

    def to_dict(self) -> dict:
        """Return the values by field name, the id first."""
        return {name: getattr(self, name) for name in FIELDS}

    def contains(self, text: str) -> bool:
        """Tell whether a field other than the id contains the text, ignoring case."""
        text = text.casefold()
        return any(text in getattr(self, name).casefold() for name in TEXT_FIELDS)

    @cached_property
    def line(self) -> bytes:
        """A line break and the post as JSON in UTF-8; computed once, then cached."""
        return f"\n{json.dumps(self.to_dict(), ensure_ascii=False)}".encode()


FIELDS = [field.name for field in fields(Post)]
TEXT_FIELDS = FIELDS[1:]
DEFAULTS = {name: getattr(Post, name, None) for name in FIELDS}
QUERY_PATTERNS = {  # parameter to regular expression
    **dict.fromkeys([*TEXT_FIELDS, "q"], "(?s).*"),
    **dict.fromkeys(["id", "_start", "_end", "_limit"], "[0-9]+"),
    "_page": "0*[1-9][0-9]*",
    "_sort": "|".join(FIELDS),
    "_order": "(?i)asc|desc",
}


@app.get("/")
def list_routes():
    """List the routes, as the docstring of this module does."""
    rows = [line.split(maxsplit=3) for line in __doc__.splitlines()[3:11]]
    return jsonify({f"{method} {path}": text for method, path, _, text in rows})


@app.get("/posts/all")
@app.get("/posts")
def get_all():
    """Return all posts, or those that the query string selects."""
    posts, total = select_posts(store.read())
    body = [b"[", posts.lines, b"\n]\n"]
    response = app.response_class(body, mimetype="application/json")
    response.headers["X-Total-Count"] = total
    return add_etag(response, posts.lines)


@app.post("/posts")
def create_post():
    """Create a post."""
    post = store.add(read_texts())
    response = jsonify(success="Successfully added.", **post.to_dict())
    return response, 201, {"Location": url_for("get_post", post_id=post.id)}


@app.get("/posts/<int:post_id>")
def get_post(post_id):
    """Return a post."""
    post = store.read().find(post_id)
    return add_etag(jsonify(post.to_dict()), post.line)


@app.put("/posts/<int:post_id>")
def update_all(post_id):
    """Replace all fields of a post; a missing one becomes None and is rejected."""
    texts = dict.fromkeys(TEXT_FIELDS) | read_texts(post_id)
    post = store.change(post_id, texts, request.if_match)
    return jsonify(success="Successfully updated", **post.to_dict())


@app.patch("/posts/<int:post_id>")
def update_some(post_id):
    """Change some fields of a post."""
    post = store.change(post_id, read_texts(post_id), request.if_match)
    return jsonify(success="Successfully updated", **post.to_dict())


@app.delete("/posts/<int:post_id>")
def delete_post(post_id):
    """Delete a post."""
    post = store.remove(post_id, request.if_match)
    return jsonify(success="successfully deleted", **post.to_dict())


@app.post("/login")
def login():
    """Return a token if user and password match; ascii() is for compare_digest()."""
    values = read_body()
    user = str(values.get("user"))
    expected = app.config["USERS"].get(user)
    matches = compare_digest(ascii(values.get("password")), ascii(str(expected)))
    if expected is None or not matches:
        abort(401, "wrong user or password")
    return jsonify(token=token_serializer().dumps(user))


def read_texts(post_id="") -> dict:
    """Return the fields of a post given in the request, not yet validated."""
    texts = request.args.to_dict() | read_body()
    texts.pop("success", None)  # some clients send it back
    if str(texts.pop("id", post_id)) != str(post_id):
        abort(400, "id is assigned by the server and cannot be changed")
    if not texts:
        abort(400, f"you must pass {' or '.join(TEXT_FIELDS)} as parameter")
    return texts


def read_body() -> dict:
    """Return the values in the request body, a JSON object or an HTML form, if any."""
    request.max_content_length = app.config["MAX_CONTENT_LENGTH"] + 1
    data = request.get_data()  # a chunked body is cut at that limit
    if len(data) == request.max_content_length:
        abort(413)
    if len(data) < (request.content_length or 0):
        abort(400, "the body is shorter than its Content-Length")
    text = data.decode("utf-8-sig")
    if text and request.is_json:
        return parse_object(text)
    if text and (request.files or not request.form):
        abort(415, "the body must be JSON or an HTML form without files")
    return request.form.to_dict()


def select_posts(posts: "Posts") -> tuple:
    """Return the posts that the query string selects, and how many match in all."""
    query = request.args
    if not query:
        return posts, len(posts)
    for name, value in query.items(multi=True):
        pattern = QUERY_PATTERNS.get(name)
        if pattern is None or not re.fullmatch(pattern, value):
            abort(400, f"invalid query parameter: {name}={value}")
    found = list(posts.values())
    for name in FIELDS:
        values = query.getlist(name)
        if values:
            found = [post for post in found if str(getattr(post, name)) in values]
    if "q" in query:
        found = [post for post in found if post.contains(query["q"])]
    if "_sort" in query:
        descending = query.get("_order", "asc").lower() == "desc"
        found.sort(key=attrgetter(query["_sort"]), reverse=descending)
    start, end = read_slice(len(found))
    return Posts({post.id: post for post in found[start:end]}), len(found)


def read_slice(total: int) -> tuple:
    """Return the start and the end of the slice that the query string asks for."""
    page = read_number("_page", 1)
    limit = read_number("_limit", 10 if "_page" in request.args else total)
    start = read_number("_start", (page - 1) * limit)
    return start, read_number("_end", start + limit)


def read_number(name: str, default: int) -> int:
    """Return a query number, cut to 2000 digits so a product fits Python's 4300."""
    return int(request.args.get(name, str(default))[:2000])


def add_etag(response, data):
    """Add an ETag, a hash of data; send 304 if the client has it (RFC 9110, 13.1.2)."""
    etag = generate_etag(data)
    response.set_etag(etag)
    if request.if_none_match.contains_weak(etag):
        response.status_code = 304
    return response


@app.before_request
def check_client():
    """Reject a write from an untrusted page or, if USERS is set, without a token."""
    if request.method in ("GET", "HEAD", "OPTIONS") or request.routing_exception:
        return
    if request.origin is not None and not is_origin_trusted():
        abort(403, f"the origin {request.origin!r} is not in TRUSTED_HOSTS")
    if not app.config["USERS"] or request.endpoint == "login":
        return
    header = request.headers.get("Authorization", "")
    token = header[7:] if header.lower().startswith("bearer ") else ""
    try:
        user = token_serializer().loads(token, max_age=app.config["TOKEN_MAX_AGE"])
        app.config["USERS"][user]  # KeyError if unknown
    except (BadData, KeyError):
        abort(401, "a write needs a valid token from /login")


def token_serializer():
    """Return the serializer that signs and verifies tokens; it needs SECRET_KEY."""
    if app.secret_key in (None, ""):
        raise RuntimeError("USERS is set, but not SECRET_KEY, which signs the tokens")
    app.secret_key = str(app.secret_key)  # it may be a number
    return URLSafeTimedSerializer(app.secret_key, salt="login")


@app.after_request
def add_cors_headers(response):
    """Let web pages from trusted hosts read the response (CORS)."""
    headers = response.headers
    headers["Vary"] = "Origin"
    if is_origin_trusted():
        allowed = "Authorization, Content-Type, If-Match, If-None-Match"
        headers["Access-Control-Allow-Origin"] = request.origin
        headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE"
        headers["Access-Control-Allow-Headers"] = allowed
        headers["Access-Control-Expose-Headers"] = "ETag, Location, X-Total-Count"
    return response


def is_origin_trusted():
    """Tell whether the request comes from a web page of a trusted host, on any port."""
    host = request.environ.get("HTTP_ORIGIN", "").partition("://")[2]
    return host_is_trusted(host, app.config["TRUSTED_HOSTS"])


@app.errorhandler(BadPost)
@app.errorhandler(StoreError)
@app.errorhandler(UnicodeDecodeError)  # in the body or the query string
@app.errorhandler(HTTPException)
def handle_error(error):
    """Return an error as JSON, with its status code and the headers it requires."""
    if isinstance(error, StoreError):
        app.logger.error(error)
        error = ServiceUnavailable(str(error))
    elif isinstance(error, ValueError):
        error = BadRequest(str(error))
    elif error is request.routing_exception and error.code != 400:
        error.description = f"no such route: {request.method} {request.path}"
    headers = error.get_headers()[1:]  # all but the Content-Type
    if error.code == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    return jsonify(error=error.description), error.code, headers


class Posts(dict):
    """Posts by id, a snapshot of the file.  Threads share it, so writes use a copy."""

    next_id = 1
    stamp: tuple = ()  # see read_stamp()

    @cached_property
    def lines(self) -> bytes:
        """The lines of the posts, joined by commas; computed once, then cached."""
        return b",".join([post.line for post in self.values()])

    def find(self, post_id: int, if_match: Container = ()) -> Post:
        """Return a post; abort with 404 if absent, 412 if If-Match lacks its ETag."""
        post = self.get(post_id)
        if post is None:
            abort(404, f"not found id {post_id}")
        if if_match and generate_etag(post.line) not in if_match:
            abort(412, f"id {post_id} has changed since")
        return post

    def put(self, values: dict) -> Post:
        """Add or replace a post with these values and return it, or raise BadPost."""
        if not isinstance(values, dict):
            raise BadPost("it must be a JSON object")
        for name in values:
            if name not in FIELDS:
                raise BadPost(f"unknown field: {name!r}")
        post = Post(**(DEFAULTS | values))
        self[post.id] = post
        self.next_id = max(self.next_id, post.id + 1)
        return post


def parse_posts(data: bytes, known: Posts) -> Posts:
    """Return the posts in the file, reusing known ones; Post rejects invalid bytes."""
    document = parse_object(data.decode("utf-8-sig", "surrogateescape"))
    next_id = document.pop("next_id", 1)
    items = document.pop("posts", None)
    if document or type(next_id) is not int or not isinstance(items, list):
        raise BadPost('it must have the form {"next_id": 1, "posts": []}')
    posts = Posts()
    posts.next_id = max(next_id, known.next_id)
    for position, values in enumerate(items, 1):
        try:
            post = posts.put(values)
        except BadPost as error:
            raise BadPost(f"post {position}: {error}") from error
        if len(posts) < position:
            raise BadPost(f"post {position}: the id {post.id} occurs twice")
        if known.get(post.id) == post:
            posts[post.id] = known[post.id]
    return posts


def parse_object(text: str) -> dict:
    """Return the object that a JSON text holds, or raise BadPost."""
    try:
        value = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise BadPost(f"invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadPost("the JSON must be an object")
    return value


def read_stamp(path: Path) -> tuple:
    """Return a tuple that changes when the file does, or () if there is no file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def replace_file(path: Path, posts: Posts, expected: tuple) -> None:
    """Write and flush a new file, as private as the old one, then rename it to path."""
    temp = path.with_name(f".{path.name}.tmp")
    temp.unlink(missing_ok=True)  # left by a process that was killed
    mode = path.stat().st_mode if expected else 0o666
    try:
        with open(temp, "xb", opener=partial(os.open, mode=mode)) as file:
            file.write(b'{"next_id": %d, "posts": [' % posts.next_id)
            file.writelines([posts.lines, b"\n]}\n"])
            file.flush()
            if expected:
                os.chmod(temp, mode)  # as open() has applied the umask
                later = max(time.time_ns(), expected[1] + 1)  # so that stamps differ
                os.utime(temp, ns=(later, later))
            os.fsync(file.fileno())
        posts.stamp = read_stamp(temp)
        if read_stamp(path) != expected:
            raise StoreError("it was edited in the meantime; try again")
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


@contextmanager
def lock_folder(folder: Path) -> Iterator:
    """Lock the folder, since the file itself is replaced; flush it on success."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)  # which releases the lock


class PostStore:
    """The posts in a JSON file, which many threads and processes may share."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._latest = Posts()
        self._queue: list = []
        self._lock = threading.Lock()

    def read(self) -> Posts:
        """Return the posts in the file, parsing it only if its stamp has changed."""
        latest = self._latest
        try:
            stamp = read_stamp(self.path)
            if stamp == latest.stamp:
                return latest
            posts = parse_posts(self.path.read_bytes(), latest)
        except (OSError, BadPost) as error:
            raise StoreError(f"cannot read {self.path}: {error}") from error
        posts.stamp = stamp
        if self._latest is latest:
            self._latest = posts
        return posts

    def add(self, texts: dict) -> Post:
        """Add a post with the next id and return it, or raise BadPost."""
        return self._commit(lambda draft: draft.put(texts | {"id": draft.next_id}))

    def change(self, post_id: int, texts: dict, if_match: Container = ()) -> Post:
        """Change a post and return it; raise BadPost, or abort as find() does."""
        return self._commit(
            lambda draft: draft.put(draft.find(post_id, if_match).to_dict() | texts)
        )

    def remove(self, post_id: int, if_match: Container = ()) -> Post:
        """Remove a post and return it, or abort as find() does."""
        return self._commit(lambda draft: draft.pop(draft.find(post_id, if_match).id))

    def _commit(self, operation: Callable) -> Post:
        """Apply an operation to a copy of the posts, save the copy, return the result.

        While one thread saves, others queue their operations and wait for the lock.
        The next to get it takes and saves the whole queue; the others find theirs done.
        """
        write = SimpleNamespace(operation=operation, result=None)
        self._queue.append(write)
        with self._lock:
            if write in self._queue:
                self._save_queue()
        if isinstance(write.result, Exception):
            raise write.result
        return write.result

    def _save_queue(self) -> None:
        """Save the queue; if that fails, so do its writes; re-raise all but OSError."""
        batch = [self._queue.pop(0) for _ in list(self._queue)]
        try:
            self._save(batch)
        except BaseException as error:
            for write in batch:
                write.result = StoreError(f"cannot save {self.path}: {error}")
            if not isinstance(error, OSError):
                raise

    def _save(self, batch: list) -> None:
        """Apply each write to a copy of the posts, save it, and make it the latest."""
        path = Path(os.path.realpath(self.path))  # so a symlink survives
        if not self._latest.stamp:
            path.parent.mkdir(parents=True, exist_ok=True)
        with lock_folder(path.parent) if fcntl else nullcontext():
            posts = self.read()
            draft = Posts(posts)
            draft.next_id = posts.next_id
            for write in batch:
                try:
                    write.result = write.operation(draft)
                except Exception as error:  # noqa: BLE001
                    write.result = error
            if any(isinstance(write.result, Post) for write in batch):
                replace_file(path, draft, posts.stamp)
                self._latest = draft


if app.config["USERS"]:
    token_serializer()  # raises RuntimeError
store = PostStore(app.config["POSTS_FILE"])

if __name__ == "__main__":
    app.run(debug=False)
