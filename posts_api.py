"""A REST API for posts, kept in one JSON file: no database, one module to read.

method  path         what it does                              statuses
GET     /            lists these routes                        200
GET     /posts/all   all posts, as do /posts/ and /posts       200 304 400
POST    /posts/      makes a post of a title and a content     201 400 413 415
GET     /posts/<id>  one post                                  200 304 404
PUT     /posts/<id>  replaces all of a post                    200 400 404 412 413 415
PATCH   /posts/<id>  changes the fields that it names          200 400 404 412 413 415
DELETE  /posts/<id>  removes a post                            200 404 412
any     any          refuses strangers; or can't use the file  400 401 403 405 503

    $ curl -X PATCH 'http://localhost:5000/posts/1?title=New'
    {"success":"Successfully updated","id":1,"title":"New","content":"..."}

Stateless: a request brings all that it takes to answer it; nothing about a client is
kept between two of them, so that any worker, even one just started, can answer.
A write is answered when the file has it, on the disk, whole. That costs two syncs and
a new copy of the file, shared by all who wait at the time.
"""

import json
import os
import re
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import cached_property, lru_cache, partial
from hmac import compare_digest
from pathlib import Path
from threading import Lock

from flask import Flask, Response, abort, jsonify, request, url_for
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException, default_exceptions
from werkzeug.http import generate_etag
from werkzeug.routing import BaseConverter

fcntl = None  # stays so on Windows: only one process at a time
with suppress(ImportError):
    import fcntl

FIELDS = ("title", "content")
QUERY = re.compile(  # of a list: json-server's names, with what each can be
    rb"(title|content|q)=.*|(_start|_end)=\d{1,18}|(id|_page|_limit)=[1-9]\d{,17}"
    rb"|_sort=(id|title|content)|_order=(?i:asc|desc)|"
)
LOCAL = re.compile(r"(\d+(\.\d+){3}|\[[\da-f:.]+]|([\w.-]+\.)?localhost)(:\d+)?")
ALLOW_HEADERS = ("Authorization", "Content-Type", "If-Match", "If-None-Match")
EXPOSE_HEADERS = ("ETag", "Link", "Location", "X-Total-Count")
JSON = ("Content-Type", "application/json")
list_once = lru_cache(1)(lambda lines: json.loads(b"[%b]" % lines))  # all posts
etag_once = lru_cache(1)(generate_etag)  # their tag: both once a version of the file
made_once = lru_cache(10_000)(lambda line: jsonify(json.loads(line)).data)  # one post
app = Flask(__name__, static_folder=None)
app.json.sort_keys = app.json.ensure_ascii = False
app.url_map.strict_slashes = app.url_map.merge_slashes = False  # no redirects
app.url_map.converters["default"] = type("Id", (BaseConverter,), {"regex": "[0-9]+"})
app.config.update(ALLOWED_HOSTS=[], CORS_ORIGINS=[], API_TOKEN="")
app.config.update(MAX_CONTENT_LENGTH=1024 * 1024, MAX_FORM_MEMORY_SIZE=None)
app.config.from_prefixed_env(loads=partial(json.loads, parse_float=str))


@app.get("/")
def list_routes():
    """List the routes: method and path to one line on what it does."""
    routes = re.findall(r"^([A-Z]+) +(/\S*) +(.+?)  ", __doc__, re.MULTILINE)
    response = jsonify({f"{method} {path}": what for method, path, what in routes})
    return response, {"ETag": f'"{generate_etag(response.data)}"'}


@app.get("/posts/all")
@app.get("/posts")
def get_posts():
    """Answer all posts, or those that the query picks."""
    posts = store.read()
    if request.args:
        return pick_posts(list_once(posts.lines))
    headers = {"X-Total-Count": len(posts), "ETag": f'"{etag_once(posts.lines)}"'}
    return Response([b"[", posts.lines, b"\n]\n"], 200, headers, "application/json")


@app.post("/posts")
def create_post():
    """Make a post of a title and a content."""
    fields = read_fields()
    post = store.commit(lambda posts: posts.put({"id": posts.next_id, **fields}))
    location = {"Location": url_for("get_post", post_id=post["id"])}
    return jsonify({"success": "Successfully added.", **post}), 201, location


@app.get("/posts/<post_id>")
def get_post(post_id):
    """Answer one post."""
    body = made_once(store.read().get(post_id) or abort(404, f"not found id {post_id}"))
    return Response(body, 200, [("ETag", f'"{generate_etag(body)}"'), JSON])


@app.put("/posts/<post_id>")
def update_all(post_id):
    """Replace all of a post."""
    return change_post(post_id, lambda post, fields: {"id": post["id"], **fields})


@app.patch("/posts/<post_id>")
def update_some(post_id):
    """Change the fields of a post that are named."""
    return change_post(post_id, lambda post, fields: {**post, **fields})


@app.delete("/posts/<post_id>")
def delete_post(post_id):
    """Remove a post."""
    return change_post(post_id, None, success="successfully deleted")


def change_post(post_id, edit, success="Successfully updated") -> Response:
    """Save what edit makes of a post and the fields, or its removal, and answer it."""
    fields, tags = edit and read_fields(post_id), request.if_match

    def change(posts: Posts) -> dict:  # maybe in another thread, with its own request
        post = json.loads(posts.get(post_id) or abort(404, f"not found id {post_id}"))
        if tags and generate_etag(jsonify(post).data) not in tags:
            abort(412, f"id {post_id} has changed since")
        return posts.put(edit(post, fields)) if edit else json.loads(posts.pop(post_id))

    return jsonify({"success": success, **store.commit(change)})


def read_fields(post_id: str | None = None) -> dict:
    """Return the fields that came in a JSON body, a form or, for PATCH, the query."""
    body = request.get_data().decode("utf-8-sig")
    if len(request.data) < (request.content_length or len(request.stream.read(1))):
        raise ValueError("the body is shorter than its Content-Length")
    if request.args and (body or request.method != "PATCH"):
        raise ValueError("fields come in the body or, for PATCH, in the query")
    if body and request.is_json:
        fields = json.loads(body)
    elif body and not request.form and not request.files:
        abort(415, "the body must be application/json or an HTML form")
    else:
        fields = request.values.to_dict() | request.files.to_dict()
    if not isinstance(fields, dict) or not fields.keys() - {"id", "success"}:
        raise ValueError("you must pass title or content as parameter")
    if "id" in fields and str(fields.pop("id")) != post_id:
        raise ValueError("id is given by the server, and stays")
    return {name: text for name, text in fields.items() if name != "success"}  # ours


def pick_posts(posts: list[dict]) -> tuple[Response, dict]:
    """Answer the posts that the query picks: filter, then sort, then slice."""
    query = request.args
    if bad := [t for t in request.query_string.split(b"&") if not QUERY.fullmatch(t)]:
        raise ValueError(f"a list can't be asked for {b'&'.join(bad).decode()}")
    for name in query.keys() & {"id", *FIELDS}:
        posts = [post for post in posts if str(post[name]) in query.getlist(name)]
    for q in map(str.casefold, query.getlist("q")):
        posts = [p for p in posts if any(q in p[name].casefold() for name in FIELDS)]
    if "_sort" in query:
        down = query.get("_order", "asc").lower() == "desc"
        posts = sorted(posts, key=lambda post: post[query["_sort"]], reverse=down)
    page, count = query.get("_page", 1, int), len(posts)
    limit = query.get("_limit", 10 if "_page" in query else count, int)
    start = query.get("_start", (page - 1) * limit, int)
    response = jsonify(posts[start : query.get("_end", start + limit, int)])
    headers = {"X-Total-Count": count, "ETag": f'"{generate_etag(response.data)}"'}
    if "_page" in query:
        last, links, terms = max(1, -(-count // limit)), [], query.to_dict(flat=False)
        pages = {"first": 1, "prev": page - 1, "next": page + 1, "last": last}
        for rel, n in pages.items():
            if 1 <= n <= last:
                url = url_for("get_posts", _external=True, **terms | {"_page": n})
                links.append(f'<{url}>; rel="{rel}"')
        headers["Link"] = ", ".join(links)
    return response, headers


@app.before_request
def check_caller():
    """Refuse strange host names, writes of other sites and writes without the token."""
    host, config = request.environ.get("HTTP_HOST", request.host).lower(), app.config
    if not (LOCAL.fullmatch(host) or host.split(":")[0] in [*config["ALLOWED_HOSTS"]]):
        abort(400, f"host {host!r} is not in ALLOWED_HOSTS")
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    own = (origin := request.origin) is None or origin.partition("://")[2] == host
    site = request.headers.get("Sec-Fetch-Site", "none" if own else "cross-site")
    if site not in ("none", "same-origin") and origin not in [*config["CORS_ORIGINS"]]:
        abort(403, f"a page of {origin or 'another site'} is not in CORS_ORIGINS")
    token = str(config["API_TOKEN"]).encode()
    given = request.headers.get("Authorization", "").encode("latin-1")
    if token and not compare_digest(given[:7].title() + given[7:], b"Bearer " + token):
        abort(401, "writes need API_TOKEN", www_authenticate=WWWAuthenticate("bearer"))


@app.after_request
def add_headers(response):
    """Revalidate what a GET answers, and let the pages of CORS_ORIGINS read it."""
    if "HTTP_IF_NONE_MATCH" in request.environ:
        response.make_conditional(request.environ | {"HTTP_IF_MATCH": ""})
    if app.config["CORS_ORIGINS"]:
        response.vary.add("Origin")
        if request.origin in [*app.config["CORS_ORIGINS"]]:
            response.access_control_allow_origin = request.origin
            response.access_control_allow_methods = response.allow
            response.access_control_allow_headers = ALLOW_HEADERS
            response.access_control_expose_headers = EXPOSE_HEADERS
    return response


@app.errorhandler(HTTPException)
@app.errorhandler(OSError)
@app.errorhandler(RecursionError)
@app.errorhandler(ValueError)
def answer_error(e):
    """Answer an error in JSON, with the status and the headers that are its own."""
    if not isinstance(e, HTTPException):  # the store's, or of what came in
        e = default_exceptions[503 if isinstance(e, OSError) else 400](str(e))
    if e is request.routing_exception:
        e.description = f"no such route: {request.method} {request.path}"
    return jsonify(error=e.description), e.code, e.get_headers()[1:]  # not text/html


class Posts(dict[str, bytes]):
    """One version of the posts: by id, each as its line of the file, made but once."""

    next_id, stamp = 1, None
    lines = cached_property(lambda self: b",".join(self.values()))

    def put(self, post: dict) -> dict:
        """Add or replace a post, and return it; ValueError names what is wrong."""
        if wrong := {"id", *FIELDS}.symmetric_difference(post):
            raise ValueError(f"missing or unknown fields: {sorted(map(str, wrong))}")
        if type(post["id"]) is not int or post["id"] < 1:
            raise ValueError("id must be a whole number from 1 up")
        if {type(post[name]) for name in FIELDS} != {str} or not post["title"].strip():
            raise ValueError("title and content must be text, and the title not blank")
        post = {name: post[name] for name in ("id", *FIELDS)}
        self[str(post["id"])] = f"\n{json.dumps(post, ensure_ascii=False)}".encode()
        self.next_id = max(self.next_id, post["id"] + 1)
        return post


class PostStore:
    """The posts of a JSON file; an OSError says why it can't be read or saved."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._posts, self._waiting, self._lock = Posts(), [], Lock()

    def read(self) -> Posts:
        """Return the posts as the file has them now."""
        stamp = read_stamp(self.path)
        if stamp == self._posts.stamp:
            return self._posts
        posts, posts.stamp, place = Posts(), stamp, 0
        try:
            whole = json.loads(self.path.read_text("utf-8-sig", "surrogateescape"))
            shape = isinstance(whole, dict) and {key: type(whole[key]) for key in whole}
            if shape not in ({"posts": list}, {"next_id": int, "posts": list}):
                raise ValueError('it must be {"next_id": 1, "posts": []}')
            posts.next_id = max(self._posts.next_id, whole.get("next_id", 1))
            for place, post in enumerate(whole["posts"], 1):
                posts.put(post)
                if len(posts) < place:
                    raise ValueError("its id comes twice")
        except (RecursionError, TypeError, ValueError) as error:
            where = f"post {place}: " if place else ""
            raise OSError(f"{self.path} is no posts file: {where}{error}") from error
        self._posts = posts
        return posts

    def commit(self, change) -> dict:
        """Return what change(posts) returns once that is saved, or raise its error."""
        outcome: Future[dict] = Future()
        self._waiting.append((change, outcome))
        with self._lock:  # those who wait here are saved together, by the first of them
            if not outcome.done():
                waiting = [self._waiting.pop(0) for _ in list(self._waiting)]
                try:
                    told = self._save_all(waiting)
                except Exception as error:  # noqa: BLE001
                    failure = OSError(f"cannot save {self.path}: {error}")
                    told = [(each.set_exception, failure) for _, each in waiting]
                for tell, result in told:
                    tell(result)
        return outcome.result()

    def _save_all(self, waiting: list[tuple]) -> list[tuple]:
        """Save all changes as one version; return how to tell each what came of it."""
        target, told = os.path.realpath(self.path), []
        if not self._posts.stamp:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        with ExitStack() as stack, ExitStack() as undo:
            folder = fcntl and os.open(os.path.dirname(target), os.O_RDONLY)
            if fcntl:  # a lock on the folder needs no file of its own
                stack.callback(os.close, folder)
                fcntl.flock(folder, fcntl.LOCK_EX)
            posts = Posts(base := self.read())
            posts.next_id, posts.stamp = base.next_id, base.stamp
            for change, outcome in waiting:
                try:
                    told.append((outcome.set_result, change(posts)))
                except Exception as error:  # noqa: BLE001
                    told.append((outcome.set_exception, error))
            if any(isinstance(result, dict) for _, result in told):
                told = self._save(posts, target, folder, undo) and told
        return told or self._save_all(waiting)  # edited by hand just now: begin again

    def _save(self, posts: Posts, target: str, folder: int, undo: ExitStack) -> bool:
        """Write, sync, rename, sync the folder, or undo all; False if just edited."""
        new, old, before = Path(f"{target}.~new"), Path(f"{target}.~old"), posts.stamp
        for path in (new, old):  # now, too: a process that was killed may have left it
            undo.callback(path.unlink, missing_ok=True)(missing_ok=True)
        with new.open("xb") as file:
            file.write(b'{"next_id": %d, "posts": [' % posts.next_id)
            file.writelines((posts.lines, b"\n]}\n"))
            file.flush()
            if before:
                if fcntl and os.geteuid() == 0:  # only root can give a file away
                    os.chown(new, *os.stat(target)[4:6])
                new.chmod(os.stat(target).st_mode)
                os.utime(new, ns=(max(os.stat(new).st_mtime_ns, before[1] + 1),) * 2)
            os.fsync(file.fileno())
        posts.stamp = read_stamp(new)
        with suppress(OSError):  # without a file, or links on its disk, no way back
            os.link(target, old)
        if read_stamp(target) != before:
            return False
        os.replace(new, target)
        undo.callback(os.replace, *((old, target) if before else (target, new)))
        fcntl and os.fsync(folder)
        if read_stamp(old) not in (before, None):
            return False
        old.unlink(missing_ok=True)
        undo.pop_all()
        self._posts = posts
        return True


def read_stamp(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """Return what tells two versions of a file apart, None where there is none."""
    with suppress(FileNotFoundError):
        found = os.stat(path)
        return found.st_ino, found.st_mtime_ns, found.st_size


store = PostStore(app.config.get("POSTS_FILE", f"{app.root_path}/data/posts.json"))

if __name__ == "__main__":
    app.run(debug=False)
