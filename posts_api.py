r"""A REST API for posts, kept in one JSON file.

An API lets one application request data from another, or change it.  This one does so
over HTTP, in the style called REST: the method of a request says what to do, and its
URL names the resource to do it to.

    method  path                  what it does
    GET     /posts/all            Return all posts, also at /posts and /posts/.
    POST    /posts/               Create a post, also at /posts.
    GET     /posts/<int:post_id>  Return a post.
    PUT     /posts/<int:post_id>  Replace all fields of a post.
    PATCH   /posts/<int:post_id>  Change some fields of a post.
    DELETE  /posts/<int:post_id>  Delete a post.
    POST    /login                Return a token for a user's name and password.
    GET     /                     List the routes.

Start the server with "python posts_api.py".  In another terminal, send requests to it,
with curl, a program that does just that.  (-d sends data, by default with POST; -X sets
another method; -H adds a header; a line that ends in \ goes on in the next line.)

    $ curl http://127.0.0.1:5000/posts/ -d title=Hello -d content=World
    {"success":"Successfully added.","id":4,"title":"Hello","content":"World"}
    $ curl -X PATCH http://127.0.0.1:5000/posts/4 \
        -H 'Content-Type: application/json' -d '{"title": "New"}'
    {"success":"Successfully updated","id":4,"title":"New","content":"World"}

This is the second request, and its response (curl -v shows them in full):

    PATCH /posts/4 HTTP/1.1               method and path
    Host: 127.0.0.1:5000                  a header
    Content-Type: application/json        a header
    Content-Length: 16                    a header

    {"title": "New"}                      the body


    HTTP/1.1 200 OK                       the status code
    Content-Type: application/json        a header
    ETag: "5f3a..."                       a header

    {"success":"Successfully updated",    the body
    "id":4,"title":"New","content":"..."}

The fields of a post can be sent as JSON, as an HTML form (like those of the first
request), or in the query string, the part of a URL after "?": /posts/4?title=New.

The module has four parts.  You can stop reading after any of them:

    1. Posts        the settings, the class Post, and the rules for what clients send
    2. Routes       one function for each method and path
    3. Requests     how a request is read, who may write, how errors are sent
    4. The store    how posts are read from the file and saved, so that none is lost

The last lines check the settings and start the server.
"""

# These names are explained where they are used.
import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from stat import S_IMODE, S_ISREG
from types import MappingProxyType
from typing import Any, get_type_hints
from urllib.parse import unquote_to_bytes

import click
from flask import Flask, Response, abort, g, jsonify, request, url_for
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.http import generate_etag, quote_etag
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.wsgi import host_is_trusted

try:
    import fcntl  # has flock(), with which processes exclude each other
except ImportError:  # on Windows, where only one process may serve the file
    fcntl = None  # type: ignore[assignment]


# --- Part 1: posts --------------------------------------------------------------------

# Type hints such as "-> dict[str, Any]" (a dict with str keys and any values) are for
# the reader and the type checker; Python itself ignores them in functions.  The comment
# "type: ignore" silences the type checker.

# There is no folder "static", whose files Flask would serve.
app = Flask(__name__, static_folder=None)
# /posts//1 is a 404, not a redirect to /posts/1.
app.url_map.merge_slashes = False
# In responses, keep the order of Post's fields, and write ö rather than \u00f6.
app.json.sort_keys = False  # type: ignore[attr-defined]
app.json.ensure_ascii = False  # type: ignore[attr-defined]

app.config.update(
    POSTS_FILE=os.path.join(app.root_path, "data", "posts.json"),
    # Host names under which clients may reach the server; web pages from these hosts
    # may write to it.  .localhost means all names that end in .localhost.
    TRUSTED_HOSTS=["127.0.0.1", "localhost", ".localhost"],
    # User names and hashes of their passwords.  If empty, anyone may write.
    USERS={},
    # How long a token is valid, in seconds.
    TOKEN_MAX_AGE=3600,
    # The maximum size of a request body, in bytes.
    MAX_CONTENT_LENGTH=1024 * 1024,
    # Disable Flask's separate, smaller limit for the fields of a form.
    MAX_FORM_MEMORY_SIZE=None,
)
# Environment variables, which a shell sets with "export NAME=value", override the
# settings: FLASK_POSTS_FILE sets POSTS_FILE.
# FLASK_SECRET_KEY sets SECRET_KEY, a random text that only the server knows, with which
# it signs tokens (see login).
app.config.from_prefixed_env()
if "FLASK_SECRET_KEY" in os.environ:
    # from_prefixed_env() parses values as JSON, so it turns "987" into a number.
    app.secret_key = os.environ["FLASK_SECRET_KEY"]

# The largest id: JavaScript cannot represent all larger integers exactly.
MAX_ID = 2**53 - 1


class BadPost(ValueError):
    """The values do not describe a post, or cannot be read.  The message says why."""


class StoreError(Exception):
    """The posts cannot be read or saved.  The message says which file and why."""


# The server handles several requests at once, each in a thread of its own.  A thread is
# one run through the code.  It may be paused between any two steps, while others run,
# so several threads may be in the same function at the same time.  Each has its own
# local variables; what is global, and every object that a global variable leads to,
# they share.  A server may also run the whole program several times, as processes,
# which share nothing but the file.


@dataclass(frozen=True)
class Post:
    """A post, such as Post(1, "Hello", "World").

    @dataclass writes __init__() and == for the fields below.  A post is frozen: its
    fields cannot be reassigned, so threads can share it.  To change a post, replace it
    with a new one.

    To add a field, add one line after content.  The field must be a str with a default,
    which is used for posts that were saved before the field existed:

        author: str = ""

    If you rename or remove a field, do the same in the file: unknown fields are errors.
    """

    id: int
    title: str
    content: str

    # Computed on first access, then kept as an ordinary attribute, beside the fields.
    # (frozen=True only prevents assignments like post.title = "New".)
    @cached_property
    def as_dict(self) -> MappingProxyType[str, Any]:
        """The values by name: {"id": 1, "title": "Hello", "content": "World"}.

        It is read as post.as_dict, without ().  A MappingProxyType is a read-only dict,
        so that nobody changes what all threads share.  Where another function needs a
        dict, give it a copy, dict(post.as_dict).
        getattr(post, "title") is post.title.  FIELDS is defined below this class.
        """
        return MappingProxyType({name: getattr(self, name) for name in FIELDS})

    @cached_property
    def json_line(self) -> bytes:
        """The post's line in the file: its values as JSON, encoded in UTF-8.

        A str holds characters; files and networks hold bytes, which Python shows as
        b"...".  encode() turns characters into bytes, and decode() turns them back.
        UTF-8 is the usual way to do so: ö becomes two bytes, C3 and B6 in hex digits.
        """
        return json.dumps(dict(self.as_dict), ensure_ascii=False).encode()

    @cached_property
    def etag(self) -> str:
        """The name of this version of the post, for the ETag header (see part 2).

        It is a hash of the line, in quotation marks.  A hash is a short text computed
        from bytes; in practice, different bytes never have the same hash.  (If you add
        something to the body of a response, such as a link, add it to what is hashed.)
        """
        return quote_etag(generate_etag(self.json_line))


# fields() returns the fields of a dataclass as objects that have a name.
# So FIELDS is ["id", "title", "content"].  The id must be the first field.
FIELDS = [each.name for each in fields(Post)]
TEXT_FIELDS = FIELDS[1:]
# The fields that have a default: {"author": ""} with the line in the docstring.  Python
# keeps the default of a field as an attribute of the class.
DEFAULTS = {name: getattr(Post, name) for name in FIELDS if hasattr(Post, name)}


# How a post gets from a request to the file:
#
#     read_texts()   bytes -> the fields that are sent, {"title": "New"}
#     class Draft    -> with the other values, {"id": 1, "title": "New", "content": ""}
#     make_post()    -> Post(1, "New", "")
#     json_line      -> bytes
#
# What is checked on the way, and what is checked when the file is read:
#
#                                             POST   PUT   PATCH   file
#     check_field()     names and types        x      x      x      x
#     check_rules()     your own rules         x      x      x
#     add_defaults()    no field is missing    x      x             x
#
# (For a PATCH, no field can be missing, since the old post has them all.)
#
# read_texts() calls check_field() and check_rules().  make_post() calls check_field()
# and add_defaults(), for posts from the file, too, and for those that other code gives
# to the store.


def check_rules(texts: dict[str, str]) -> None:
    """Raise BadPost if the fields that a client sends break a rule.

    This is the place for rules of your own.  The argument holds the fields that the
    client sends and no others, so it may be just {"title": "New"}:

        if len(texts.get("title", "")) > 200:
            raise BadPost("title must have at most 200 characters")

    The rules here do not apply to the file, so that a new rule does not make older
    posts unreadable, nor to the defaults of fields that are not sent.  (But a client
    that sends back a whole post sends its old values and defaults, too.)

    (For a rule that needs the whole post, or other posts, see "A rule or a method of
    your own" in part 4.)
    """
    if "title" in texts and not texts["title"].strip():
        raise BadPost("title must not be blank")


def check_field(name: str, value: Any) -> None:
    """Raise BadPost if a post has no such field, or if the value has the wrong type.

    ({name!a} inserts ascii(name): the name in quotes, with odd characters escaped.)
    """
    if name not in FIELDS:
        raise BadPost(f"unknown field: {name!a} (a post has {', '.join(FIELDS)})")
    if name == "id":
        # type() rather than isinstance(), for which True is an int, too.
        if type(value) is not int or not 1 <= value <= MAX_ID:
            raise BadPost(f"id must be a whole number from 1 to {MAX_ID}")
    else:
        check_text(name, value)


def check_text(name: str, value: Any) -> None:
    r"""Raise BadPost if the value is not a string, or cannot be encoded as UTF-8.

    JSON may spell an emoji as two escapes of four digits, "\ud83d\ude00".  One of them
    alone is only half a character.  json.loads() accepts it, but UTF-8 has no bytes for
    it.

    ("raise ... from error" keeps the original exception, as __cause__ of the new one.
    The r before a docstring lets its backslashes stand for themselves.)
    """
    if not isinstance(value, str):
        raise BadPost(f"{name} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadPost(f"{name} contains half a character: {error}") from error


def add_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values, with defaults for missing fields.

    | merges two dicts; for a name in both, the right-hand value wins.  Raise BadPost if
    a field without a default is missing, such as the title.
    """
    complete = DEFAULTS | values
    for name in TEXT_FIELDS:
        if name not in complete:
            raise BadPost(f"{name} is required and must be a string")
    return complete


def make_post(values: dict[str, Any]) -> Post:
    """Return a Post with these values, by field name; raise BadPost if one is wrong.

    The id is checked even if it is missing: get() then returns None.  Post(**values)
    passes each item of the dict as a keyword argument: Post(id=1, title="Hello", ...).
    """
    check_field("id", values.get("id"))
    for name, value in values.items():
        check_field(name, value)
    return Post(**add_defaults(values))


# --- Part 2: routes -------------------------------------------------------------------
#
# A function with a route is called a view.  @app.get("/posts") is a short form of
# @app.route("/posts", methods=["GET"]), and a view may have several routes.
#
# With Flask-SQLAlchemy, the views would find and change posts as on the left.  Here
# they do so as on the right:
#
#     Post.query.all()                      get_store().select(...)
#     Post.query.get_or_404(1)              get_store().find(1)
#     db.session.add(post)                  get_store().add(...)
#     post.title = "New"                    get_store().change(1, {"title": "New"})
#     db.session.delete(post)               get_store().remove(1)
#     db.session.commit()                   (included in the three above)
#
# get_store() returns the object that reads and saves the file; see part 4.  The views
# also use a few functions from part 3:
#
#     read_texts()        the fields that the request sends, such as {"title": "New"}
#     read_texts(1)       the same for post 1: if an id is sent as well, it must be 1
#     read_query()        what the query string of a list asks for
#     read_login()        the user's name and password
#     read_if_match()     which version of the post is to be changed
#     add_etag(...)       adds the ETag to a response; makes it a 304 if the client has
#                         this version already (see below)
#     jsonify_posts(...)  like jsonify(), for many posts; adds their ETag and total, too
#
#     abort(400, "...")   ends the request with this status code and message
#
# The status codes of the responses:
#
#     200  OK                                   405  not a method of this URL
#     201  created                              412  the post has changed
#     304  not modified: use your own copy      413  the body is too large
#     400  invalid fields, query or host        415  not a type of body that is read
#     401  log in first                         500  a bug
#     403  from an untrusted web page           503  the file cannot be read or saved,
#     404  no such post or URL                       or it is not sure that it is saved
#
# If something goes wrong, for example if a post is missing, these functions call
# abort() themselves, or raise an exception that part 3 turns into an error response.
# So the views contain little more than the success case.


# What an ETag is for.  It names one version of a post: when the post changes, its ETag
# does, too.  A client sends it back to make a request conditional: to get the post
# only if it has changed (If-None-Match), or to change it only if it has not (If-Match);
# see section 13 of RFC 9110, the standard of HTTP:
#
#     GET /posts/1                           200, with the header  ETag: "5f3a"
#     GET /posts/1    If-None-Match: "5f3a"  304 Not Modified, without a body
#     PATCH /posts/1  If-Match: "5f3a"       200, with the header  ETag: "c41d"
#     PATCH /posts/1  If-Match: "5f3a"       412 Precondition Failed
#
# The last request comes from a second client that had read the same version.  Without
# If-Match, it would have overwritten a change that it had never seen.  A list of posts
# has an ETag as well.
#
# After a 503, or without any response, a client can repeat a GET, PUT or DELETE.  These
# are idempotent: to do them twice has the same effect as once.  (If the first one has
# worked, the second may get a 404 or a 412.)  A repeated POST may create a second post,
# so the client should look first.


@app.get("/posts/<int:post_id>")
def get_post(post_id):
    """Return a post.

    ** passes each item of a dict as a keyword argument.  Here it calls
    jsonify(id=1, title="Hello", ...), which responds with {"id":1,"title":"Hello",...}.
    """
    post = get_store().find(post_id)
    return add_etag(jsonify(**post.as_dict), post.etag)


@app.get("/posts/all")
@app.get("/posts/")
@app.get("/posts")
def get_all():
    """Return all posts, or those that the query string selects.

    For example:

        /posts?title=Hello                   whose title is Hello
        /posts?title_like=hell               whose title contains hell, Hell, HELL, ...
        /posts?q=hell&_sort=id&_order=desc   with hell in any text, highest id first
        /posts?_page=2&_limit=10             the second page, with ten posts per page

    read_query() returns what the query string asks for.  select() returns the selected
    posts, and the total: how many posts match on all pages together.
    """
    posts, total = get_store().select(read_query())
    return jsonify_posts(posts, total)


@app.post("/posts/")
@app.post("/posts")
def create_post():
    """Create a post.

    A view may return a tuple of response, status code and headers.  201 means
    "Created", and the Location header holds the URL of the new post, "/posts/4", which
    url_for() builds from the name of its view.  (The ETag is set without add_etag(), as
    the response to a write is never a 304.)
    """
    post = get_store().add(read_texts())
    response = jsonify(success="Successfully added.", **post.as_dict)
    location = url_for("get_post", post_id=post.id)
    return response, 201, {"Location": location, "ETag": post.etag}


@app.put("/posts/<int:post_id>")
def update_all(post_id):
    """Replace all fields of a post.

    change() keeps the fields that it is not given.  So add_defaults() first adds those
    that were not sent, with their defaults.  It raises BadPost, which becomes a 400, if
    one has no default, such as the title.
    """
    texts = add_defaults(read_texts(post_id))
    post = get_store().change(post_id, texts, read_if_match())
    response = jsonify(success="Successfully updated", **post.as_dict)
    return response, 200, {"ETag": post.etag}


@app.patch("/posts/<int:post_id>")
def update_some(post_id):
    """Change some fields of a post."""
    texts = read_texts(post_id)
    if not texts:
        abort(400, f"you must pass {' or '.join(TEXT_FIELDS)} as parameter")
    post = get_store().change(post_id, texts, read_if_match())
    response = jsonify(success="Successfully updated", **post.as_dict)
    return response, 200, {"ETag": post.etag}


@app.delete("/posts/<int:post_id>")
def delete_post(post_id):
    """Delete a post."""
    post = get_store().remove(post_id, read_if_match())
    return jsonify(success="successfully deleted", **post.as_dict)


# How to log in, with a password that is set before the server is started.  (Single
# quotes keep the shell from replacing what follows "$".)
#
#     $ flask --app posts_api hash-password
#     Password:
#     scrypt:32768:8:1$3wCq...$5e0c...
#     $ export FLASK_USERS='{"ann": "scrypt:32768:8:1$3wCq...$5e0c..."}'
#     $ python -c 'import secrets; print(secrets.token_hex())'
#     5f2c...
#     $ export FLASK_SECRET_KEY='5f2c...'
#     $ python posts_api.py
#
#     $ curl http://127.0.0.1:5000/login -d user=ann -d password=s3cret
#     {"token":"ImFubiI.Zx..."}
#     $ curl -X DELETE http://127.0.0.1:5000/posts/1 \
#         -H 'Authorization: Bearer ImFubiI.Zx...'
#
# A password hash is computed from a password, but not the other way round, so whoever
# reads the setting does not learn the password.  Its three parts are the method
# (scrypt, with numbers that make it slow on purpose), a random text (the salt, so that
# equal passwords have different hashes) and the result.
#
# For an unknown user, the password is checked against the following hash, which matches
# no password.  That takes as long as for a known user (with the same method), so the
# response time does not reveal which users exist.
NO_PASSWORD_HASH = "scrypt:32768:8:1$salt$no password has this hash"


def token_serializer() -> URLSafeTimedSerializer:
    """Return a serializer, which turns a value into a signed text, and back.

    dumps() puts the user's name and the time in the text and signs it: it adds a code
    that can be computed only with SECRET_KEY, which only the server knows.  loads()
    undoes that, or raises BadData if the code is wrong or the text is too old.  What is
    called salt here is not that of a password hash, but a label: a text that was signed
    with the same key under another label, for another purpose, is no valid token.
    """
    return URLSafeTimedSerializer(app.config["SECRET_KEY"], salt="login")


@app.post("/login")
def login():
    """Return a token for a user's name and password.

    A stateful server keeps a record (a session) of who has logged in.  This one is
    stateless: it keeps no such record.  The client keeps the token, and sends it with
    each write ("Bearer" as in "the bearer of this token is Ann").

    Anyone can read a token, but only a server that has the key can make one, and all
    servers that have it accept the token.  It is valid for TOKEN_MAX_AGE seconds, even
    if the password is changed in the meantime.
    """
    user, password = read_login()
    # For an unknown user, get() returns the hash that matches no password.
    password_hash = app.config["USERS"].get(user, NO_PASSWORD_HASH)
    if not check_password_hash(password_hash, password):
        abort(401, "wrong user or password")
    return jsonify(token=token_serializer().dumps(user))


@app.get("/")
def list_routes():
    """List the routes.

    app.url_map is Flask's table of all routes, which it calls rules.  One of those of
    get_all(), for example, has

        rule.rule        "/posts/all"
        rule.methods     {"GET", "HEAD", "OPTIONS"}
        rule.endpoint    "get_all", the name of the view;
                         app.view_functions["get_all"] is the view itself

    HEAD (a GET without the body) and OPTIONS (see add_cors_headers) are added by Flask.
    The description of a route is the first line of the docstring of its view, here
    "Return all posts, or those that the query string selects."
    """
    routes = {}
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        docstring = view.__doc__ or ""  # a view may have none
        first_line = docstring.strip().split("\n")[0]
        for method in sorted(rule.methods):
            if method not in ("HEAD", "OPTIONS"):
                routes[f"{method} {rule.rule}"] = first_line
    return jsonify(routes)


# A route of your own is another function like these.  The first line of its docstring
# is listed by list_routes().  A route that changes something must not be a GET, since
# check_write() in part 3 lets each GET pass, from whatever web page.


# --- Part 3: requests -----------------------------------------------------------------
#
# How one request passes through this module, and the errors that can end it early:
#
#     PATCH /posts/1, with the body {"title": "New"}
#        |
#     step                   errors           what it does
#     Flask itself                            looks for the view
#     load_user()                             sets g.user, the name in the token
#     check_write()          401, 403         requires a token, and a trusted web page
#     Flask itself           400, 404, 405    found no view for this host, URL, method
#     update_some(1)         400              the view, which calls the next four
#        read_texts(1)       400, 413, 415    returns {"title": "New"}
#        read_if_match()                      returns None, as there is no If-Match
#        change(1, ...)      404, 412, 503    the store changes the post, returns it
#        jsonify(...)                         returns the response
#     add_cors_headers()                      adds headers for web browsers
#        |
#     200 {"success": "Successfully updated", "id": 1, "title": "New", ...}
#
# Flask calls the functions marked before_request before the view, in the order of their
# definition, and those marked after_request after it.  An exception that is raised by
# the view, or by a function that is called before it, is passed to the function marked
# errorhandler for its class, or for the nearest base class.  That returns the error
# response, which then passes through add_cors_headers() like any other.  A function
# marked before_request that returns nothing lets the request go on.  request and g look
# like global variables, but in each thread they stand for its own request.  Werkzeug is
# the library under Flask that parses requests and builds responses.
#
# This is what request offers here:
#
#     query_string          what follows "?" in the URL, as bytes: b"title=New"
#     args                  the same, parsed
#     get_data()            the body, as bytes
#     content_length        its length, if the client announces it
#     mimetype, is_json     what the body is, according to the Content-Type header
#     form, files           the fields of an HTML form, parsed, and its files
#     headers               all headers
#     authorization         the Authorization header, parsed
#     origin                the Origin header, or None
#     method                "PATCH"
#     endpoint              the name of the view, "update_some"
#     routing_exception     an error, if Flask has found no view
#
# These functions read the fields of a post from a request:
#
#     read_texts()
#        read_args()                 the query string, checked by check_escaped()
#        read_body()                 the body, checked by check_length()
#           parse_json()             if it is JSON; calls make_object()
#           read_form()              if it is a form
#        read_single_values()        a dict; for a form and the query string


def read_texts(post_id: int | None = None) -> dict[str, str]:
    """Return the fields of a post that the request sends, such as {"title": "New"}.

    They may be in the query string, in the body, or in both, in which case the body
    takes precedence.  post_id is the id in the URL, or None for a new post (the type
    int | None means an int or None).  An id may be sent only if it equals post_id.
    """
    texts = read_single_values(read_args()) | read_body()
    texts.pop("success", None)  # part of our responses, which some clients send back
    if "id" in texts:
        sent_id = str(texts.pop("id"))  # 1 in JSON, but "1" in a form or a URL
        if post_id is None or sent_id != str(post_id):
            abort(400, "id is assigned by the server and cannot be changed")
    for name, text in texts.items():
        check_field(name, text)
    check_rules(texts)
    return texts


def read_args() -> MultiDict[str, str]:
    """Return the query string as a MultiDict, which maps each name to a list of values.

    "title=A%26B&title=C" maps title to ["A&B", "C"].  "%" and two hex digits, an
    escape, stand for one byte: %26 for "&".  Werkzeug would silently turn bytes that
    are not UTF-8 into other characters, so they are checked first.
    """
    check_escaped(request.query_string)
    return request.args


def read_single_values(values: MultiDict[str, str]) -> dict[str, Any]:
    """Return a dict of the values; abort if a name has several, so that none is lost.

    lists() yields each name with its values; to_dict() takes the first value of each.
    """
    for name, given in values.lists():
        if len(given) > 1:
            abort(400, f"{name} is given more than once")
    return values.to_dict()


def read_login() -> tuple[str, str]:
    """Return the name and the password that a request to /login sends."""
    values = read_body()
    user, password = values.get("user"), values.get("password")
    if not isinstance(user, str) or not isinstance(password, str):
        abort(401, "user and password are required and must be strings")
    # check_password_hash() cannot encode half a character; this responds with a 400.
    check_text("password", password)
    return user, password


def read_body() -> dict[str, Any]:
    """Return the values in the request body, by name.

    The Content-Type header says what the body is.  request.mimetype is its value
    without additions such as "; charset=utf-8".

        application/json, or ...+json        a JSON object     {"title": "New"}
        application/x-www-form-urlencoded    an HTML form      title=New&content=A%26B
        multipart/form-data                  an HTML form as well, in which each field
                                             has some lines of its own
        (no body)                            nothing, {}
        anything else                        415 Unsupported Media Type
    """
    # A body can be read only once, but get_data() keeps a copy for request.form.
    data = request.get_data()
    check_length(data)
    if not data:
        return {}
    if request.is_json:  # according to its Content-Type
        return parse_json(data)
    forms = ("application/x-www-form-urlencoded", "multipart/form-data")
    if request.mimetype in forms:
        return read_form(data)
    abort(415, "send a form, or JSON with Content-Type: application/json")


def read_form(data: bytes) -> dict[str, Any]:
    """Return the values in an HTML form, by name.

    Werkzeug decodes the bytes, as request.form.  As in read_args(), they are checked
    before.
    """
    if request.mimetype == "multipart/form-data":
        if request.files:
            abort(415, "send the form without files")
        decode_utf8(data)  # a check; in this type of form, there are no escapes
    else:
        # The most common mistake: curl -d '{"title": "New"}' labels JSON as a form.
        if data.lstrip().startswith((b"{", b"[")):  # with one of the two
            abort(415, "to send JSON, add the header Content-Type: application/json")
        check_escaped(data)
    if not request.form:
        abort(400, "the form is empty or broken")
    return read_single_values(request.form)


def check_length(data: bytes) -> None:
    """Abort if the body is, or may be, incomplete.

    A client either announces the length of the body in the Content-Length header, or
    sends the body in chunks, pieces without a total.  If MAX_CONTENT_LENGTH is 1000:

        announced    arrived
        20           20         right
        20           7          400, since the connection was lost
        2000         (unread)   413, too large, raised by get_data()
        (chunks)     20         right
        (chunks)     1000       413: there may have been more, as Werkzeug silently
                                drops what is beyond the limit
    """
    if request.content_length is None:  # chunked, or no body
        if len(data) >= app.config["MAX_CONTENT_LENGTH"]:
            abort(413)
    elif len(data) < request.content_length:
        abort(400, "the body is shorter than its Content-Length")


def decode_utf8(data: bytes) -> str:
    """Return the text that the bytes stand for; raise BadPost if they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        # error.start is the index of the first wrong byte.
        line = data[: error.start].count(b"\n") + 1
        raise BadPost(f"line {line} is not UTF-8: {error}") from error


def check_escaped(data: bytes) -> None:
    """Raise BadPost if a query string or a form, with or without escapes, is not UTF-8.

    In UTF-8, ö is the two bytes C3 and B6 (in hex).  A client may send either these
    bytes as they are, or two escapes.  Werkzeug decodes the bytes and the escapes
    apart, so a mixture is wrong, too:

        C3 B6      right        C3     wrong (1)        C3 %B6    wrong (1)
        %C3%B6     right        %C3    wrong (2)        %C3 B6    wrong (1)

    So there are two checks: (1) of the bytes as they are sent, in which "%" is a
    character like any other, and (2) of what they are after unquote_to_bytes() has
    replaced each escape by its byte.
    """
    decode_utf8(data)  # (1)
    decode_utf8(unquote_to_bytes(data))  # (2)


def parse_json(data: bytes) -> dict[str, Any]:
    """Return the object that a JSON text contains; raise BadPost if it is not valid.

    The file is parsed with this function, too.  object_pairs_hook names a function that
    json.loads() calls for each {...}, with its pairs of name and value.
    """
    # Some editors begin a file with these three bytes (in hex), the byte order mark.
    text = decode_utf8(data.removeprefix(b"\xef\xbb\xbf"))
    try:
        value = json.loads(text, object_pairs_hook=make_object)
    except RecursionError as error:
        # json.loads() calls itself for each "[" inside another; Python limits that.
        raise BadPost("invalid JSON: it is nested too deeply") from error
    except ValueError as error:  # from json.loads() or make_object()
        raise BadPost(f"invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadPost("the JSON must be an object")
    return value


def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dict of these pairs; raise ValueError if a name occurs twice.

    By itself, json.loads() would keep the last of two values that have the same key,
    and lose the other one.  (ascii() is what !a calls; 60 characters of it will do.)
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"the key {name!a} occurs twice in {ascii(values)[:60]}")
        values[name] = value
    return values


def read_if_match() -> list[str] | None:
    """Return the ETags in the If-Match header, or None if any version will do.

    That is so if there is no such header, or if it is "*".
    """
    header = request.headers.get("If-Match", "*").strip()
    if header == "*":
        return None
    return split_etags(header)


def split_etags(header: str) -> list[str]:
    """Return the ETags in a header: '"5f3a", "c41d"' becomes ['"5f3a"', '"c41d"'].

    They keep their quotation marks, as in Post.etag.  Empty items, as in '"a",,"b"',
    are skipped; one that is malformed makes the whole list empty.
    """
    etags = [etag.strip() for etag in header.split(",") if etag.strip()]
    if all(is_etag(etag) for etag in etags):
        return etags
    return []


def is_etag(text: str) -> bool:
    """Return whether a text has the form of an ETag: "5f3a", or W/"5f3a"."""
    quoted = text.removeprefix("W/")
    return quoted.count('"') == 2 and quoted[0] == quoted[-1] == '"'


def add_etag(response, etag):
    """Add an ETag, and turn the response into a 304 if the client has that version.

    For a 304, Werkzeug removes the body.  If-None-Match is either "*", for any version,
    or a list of ETags.  They may be marked as weak (the same content, perhaps in other
    bytes): a proxy, a server between the client and this one, that compresses a
    response turns its "5f3a" into W/"5f3a".
    """
    response.headers["ETag"] = etag
    header = request.headers.get("If-None-Match")
    if header is not None:
        etags = split_etags(header)
        if header == "*" or etag in etags or f"W/{etag}" in etags:
            response.status_code = 304
    return response


def jsonify_posts(posts, total):
    """Return a response with the JSON of these posts, [{"id": 1, ...}, ...].

    posts is an object of the class Posts (see part 4).  The next line could also be

        response = jsonify([dict(post.as_dict) for post in posts.by_id.values()])

    But that would make the JSON again for each request.  posts.json_array is the JSON
    as bytes; that of all posts is kept until the file changes.  Response() makes a
    response of bytes, and mimetype says in its Content-Type header that they are JSON.

    With the header X-Total-Count, a client can show "page 2 of 7".
    """
    response = Response(posts.json_array, mimetype="application/json")
    response.headers["X-Total-Count"] = total
    return add_etag(response, posts.etag)


# Who may write.  Any page that you visit can make your browser send requests to this
# server.  There are two attacks of this kind, and two headers against them, which the
# browser adds and the page cannot change:
#
# (1) A page of evil.example sends a form that creates a post (cross-site request
# forgery).  The Origin header says where the page is from: http://evil.example.
# check_write() rejects a write from an untrusted host.  Programs like curl send no
# Origin.
#
# (2) The owner of evil.example makes that name lead to 127.0.0.1, by changing its
# address in the DNS, the directory of host names (DNS rebinding).  The browser then
# treats this server as part of evil.example, and lets its pages read every response.
# The Host header says under which name the browser has found the server.  Flask itself
# rejects a host that is not in TRUSTED_HOSTS.
#
#     a write from                 Origin                   Host              response
#     curl                         (none)                   127.0.0.1:5000    201, 200
#     a page of localhost:3000     http://localhost:3000    127.0.0.1:5000    201, 200
#     (1) a form of evil.example   http://evil.example      127.0.0.1:5000    403
#     (2) a page of evil.example   http://evil.example      evil.example      400


@app.before_request
def load_user():
    """Set g.user to the user whose token the request carries, or to None.

    The token is in the Authorization header, "Bearer <token>", which Werkzeug splits
    into type (in lower case) and token.  g is an object of Flask's, on which a request
    can keep its data.  Any view can use g.user; check_write() does, so it must be
    defined after this function.
    """
    g.user = None
    users = app.config["USERS"]
    if not users or not request.authorization or request.authorization.type != "bearer":
        return
    # The token is None if the header has another form: Bearer name=value.
    token = request.authorization.token or ""
    try:
        user = token_serializer().loads(token, max_age=app.config["TOKEN_MAX_AGE"])
    except BadData:  # it was not signed with our key, or is too old
        return
    if user in users:
        g.user = user


@app.before_request
def check_write():
    """Reject a write from a web page of an untrusted host, or from an unknown user."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return  # these methods change nothing
    if request.routing_exception is not None:
        # Flask has found no view, and raises this error next (400, 404 or 405; see the
        # picture above).  A 401 would hide it.
        return
    if request.origin is not None and not is_origin_trusted():
        abort(403, f"the origin {request.origin} is not in TRUSTED_HOSTS")
    if app.config["USERS"] and g.user is None and request.endpoint != "login":
        abort(401, "a write needs a valid token from /login")


@app.after_request
def add_cors_headers(response):
    """Let web pages of trusted hosts read the response.

    check_write() decides who may write, and the headers added here decide which pages
    may read.  An origin is a scheme, a host and a port: http://localhost:3000.  A
    browser hides a response from a page of another origin, unless the response allows
    that origin.  This is called CORS, cross-origin resource sharing.  Before a request
    that no plain form could send, such as a PATCH, the browser asks whether it is
    allowed, with a preflight request, to which Flask responds:

        OPTIONS /posts/1    Origin: http://localhost:3000
        200                 Access-Control-Allow-Origin: http://localhost:3000
                            Access-Control-Allow-Methods: GET, POST, PUT, PATCH, DELETE

    Allow-Headers lists the headers that a request from a page may have, and
    Expose-Headers those that a script in the page may read.
    """
    headers = response.headers
    if request.origin is not None and is_origin_trusted():
        allowed = "Authorization, Content-Type, If-Match, If-None-Match"
        exposed = "ETag, Location, X-Total-Count, WWW-Authenticate"
        headers["Access-Control-Allow-Origin"] = request.origin
        headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE"
        headers["Access-Control-Allow-Headers"] = allowed
        headers["Access-Control-Expose-Headers"] = exposed
    # A cache keeps responses, to use them again.  Without Vary: Origin, it could keep
    # the response to a page of one origin, and give it to one of another origin, from
    # which the browser would hide it.  (getlist() returns what the view has set.)
    vary = headers.getlist("Vary") + ["Origin"]
    headers["Vary"] = ", ".join(vary)
    return response


def is_origin_trusted() -> bool:
    """Return whether the request comes from a web page of a trusted host.

    The host in "http://localhost:5173" is what follows "://".  (partition("://")
    returns what is before that, "://" itself, and what is after it.)  host_is_trusted()
    ignores the port.
    Without an Origin, and for the origin "null" (of a page that was opened from a file,
    for example), there is no host to trust.
    """
    origin = request.origin or ""
    return host_is_trusted(origin.partition("://")[2], app.config["TRUSTED_HOSTS"])


# Errors.  abort(404, "...") raises an HTTPException with that status code.  BadPost and
# StoreError are raised by code that does not know the status code: for example, a value
# of the wrong type is a 400 in a request, and a 503 in the file.  Any other exception
# is a bug.  Flask logs it and turns it into a 500, which is an HTTPException, too.


@app.errorhandler(HTTPException)
def handle_http_error(error):
    """Return an error raised by abort() or Flask as JSON, not as HTML.

    get_response() returns the response that Flask would send, with the headers that
    belong to the error, such as Allow (the methods of the URL) for 405.  Only its body
    (data, in bytes) is replaced; description is the message.  WWW-Authenticate tells
    the client how to authenticate: with a bearer token.
    """
    response = error.get_response()
    response.data = jsonify(error=error.description).data
    response.mimetype = "application/json"
    if error.code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


@app.errorhandler(BadPost)
def handle_bad_post(error):
    """Respond to invalid values with 400 Bad Request."""
    return jsonify(error=str(error)), 400


@app.errorhandler(StoreError)
def handle_store_error(error):
    """Log a failure of the store and respond with 503 Service Unavailable."""
    app.logger.error(error)
    return jsonify(error=str(error)), 503


# Lists: how their query string is read and applied.  You can skip this section, and
# continue with part 4.


@dataclass
class Search:
    """A search for posts: one of these fields must contain one of these texts."""

    names: list[str]  # names of fields
    texts: list[str]


@dataclass
class Query:
    """What a request for a list asks for.  The store evaluates it.

    For example, these are parts of a query string, and what they become:

        title=A&title=B             filters     {"title": {"A", "B"}}
        q=x                         searches    [Search(["title", "content"], ["x"]),
        title_like=y&title_like=z                Search(["title"], ["y", "z"])]
        _sort=title&_order=desc     sort        "title"
                                    descending  True
        _page=2                     start, end  10, 20, as in a slice: found[10:20]

    All of these must be true; the values of one are alternatives: the title must be A
    or B; the title or the content must contain x; and the title must contain y or z.
    (default_factory=dict gives each Query a new dict.  @dataclass refuses a plain {},
    which all of them would share.)
    """

    filters: dict[str, set] = field(default_factory=dict)
    searches: list[Search] = field(default_factory=list)
    sort: str | None = None
    descending: bool = False
    start: int = 0
    end: int = MAX_ID  # stands for "no limit"


# The fields that a parameter searches: {"q": ["title", "content"], "title_like": ...}
SEARCHES = {"q": TEXT_FIELDS} | {f"{name}_like": [name] for name in TEXT_FIELDS}
NUMBERS = ["_start", "_end", "_limit", "_page"]
# All parameters.  (The star inserts the items of a list, or the keys of a dict.)
PARAMETERS = [*FIELDS, *SEARCHES, "_sort", "_order", *NUMBERS]


def read_query() -> Query:
    """Return what the query string asks for; abort if it is invalid.

    The loop reads what may be given more than once, and rejects what is unknown or must
    not be repeated.  It passes over _sort, _order and the numbers, which are read below
    it.
    """
    query = Query()
    if not request.query_string:
        return query
    args = read_args()
    for name, values in args.lists():
        if name == "id":
            query.filters["id"] = {read_number(name, value) for value in values}
        elif name in TEXT_FIELDS:
            query.filters[name] = set(values)
        elif name in SEARCHES:
            query.searches.append(Search(SEARCHES[name], values))
        elif name not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            abort(400, f"unknown query parameter: {name} (the known ones are {known})")
        elif len(values) > 1:
            abort(400, f"{name} is given more than once")
    query.sort, query.descending = read_order(args)
    query.start, query.end = read_slice(args)
    return query


def read_order(args: MultiDict[str, str]) -> tuple[str | None, bool]:
    """Return the field to sort by, if any, and whether the order is descending."""
    sort = args.get("_sort")
    if sort is not None and sort not in FIELDS:
        abort(400, f"_sort must be one of {', '.join(FIELDS)}, not {sort}")
    order = args.get("_order", "asc").lower()
    if order not in ("asc", "desc"):
        abort(400, f"_order must be asc or desc, not {order}")
    return sort, order == "desc"


def read_slice(args: MultiDict[str, str]) -> tuple[int, int]:
    """Return the start and the end of the slice that the parameters describe.

    _page=2              10, 20    a page has ten posts, unless _limit says otherwise
    _limit=3             0, 3      without a _page, it is page 1
    _start=5&_limit=3    5, 8      _start overrides _page
    _start=5&_end=7      5, 7      _end overrides _limit
    _start=5&_end=3      5, 5      no posts

    The results are at most MAX_ID, since a store that keeps the posts in a database
    (see get_store) could not use larger ones.
    """
    numbers = {name: read_number(name, args[name]) for name in NUMBERS if name in args}
    page = numbers.get("_page", 1)
    default_limit = 10 if "_page" in numbers else MAX_ID
    limit = numbers.get("_limit", default_limit)
    start = numbers.get("_start", (page - 1) * limit)
    end = numbers.get("_end", start + limit)
    start = min(start, MAX_ID)
    end = min(end, MAX_ID)
    return start, max(start, end)


def read_number(name: str, text: str) -> int:
    """Return the whole number that a query parameter holds; abort if it holds none.

    isdecimal() alone would also be true of digits of other scripts, such as "٣".  A
    number of up to 18 digits is not too large for a database, either.
    """
    least = 1 if name == "_page" else 0
    is_number = text.isascii() and text.isdecimal() and len(text) <= 18
    if not is_number or int(text) < least:
        abort(400, f"{name} must be an integer from {least} up, of at most 18 digits")
    return int(text)


def matches(post: Post, query: Query) -> bool:
    """Return whether a post passes all filters and searches of a query."""
    for name, wanted in query.filters.items():
        if getattr(post, name) not in wanted:
            return False
    for search in query.searches:
        if not contains_any(post, search):
            return False
    return True


def contains_any(post: Post, search: Search) -> bool:
    """Return whether one of the fields contains one of the texts, ignoring case."""
    for name in search.names:
        value = getattr(post, name).lower()
        for text in search.texts:
            if text.lower() in value:
                return True
    return False


# --- Part 4: the store ----------------------------------------------------------------
#
# In the simplest case, this is how a post is changed:
#
#     text = Path("data/posts.json").read_text("utf-8")
#     document = json.loads(text)
#     document["posts"][0]["title"] = "New"
#     Path("data/posts.json").write_text(json.dumps(document), "utf-8")
#
# But what if two programs do so at once?
#
#     A reads posts 1, 2    B reads posts 1, 2    A saves 1, 2, 3    B saves 1, 2, 3
#
# A's post 3 is lost.  With a lock, B has to wait, and then reads what A has saved:
#
#     A locks, reads 1, 2, saves 1, 2, 3    B locks, reads 1, 2, 3, saves 1, 2, 3, 4
#
# With SQLAlchemy, the database takes care of that, and of more.  Here, this part does:
#
#     what can go wrong                         what prevents it
#     two threads save at once                  PostStore._save_lock
#     two processes save at once                lock_folder()
#     a crash while the file is written         a temporary file, which is then renamed
#     a power failure                           os.fsync(), sync_folder()
#     somebody edits the file                   stamps, and a check in replace_file()
#     a reader sees half of a change            class Posts, class Draft
#     others may read the new file              open_private(), copy_permissions()
#     many wait for a slow disk                 PostStore._waiting, a queue
#
# Each save writes the whole file, which suits some thousands of posts; for more, use a
# database.  A draft plays the role of db.session, saving it plays that of
# db.session.commit(), and the JSON file is the database:
#
#     {"next_id": 3, "posts": [
#     {"id": 1, "title": "Hello", "content": "World"},
#     {"id": 2, "title": "Again", "content": ""}
#     ]}
#
# next_id is the id that the next new post will get.  It is saved as well, so that no id
# is reused, not even after the newest post is deleted.
#
# The terms used in this part:
#
#     snapshot   the posts as they are in one version of the file (class Posts)
#     stamp      what tells two versions of the file apart (read_stamp)
#     draft      a copy of a snapshot, to be changed and saved (class Draft)
#     write      a change that waits to be saved (class Write)
#     batch      writes that are saved together
#     lock       what only one can have at a time, while the others wait for it
#     sync       to wait until the bytes are on the disk
#     OSError    what open() and the functions of the module os raise if they fail
#     path       the name of a file or a folder as an object of the class Path:
#                path.name is its last part, path.parent the folder that it is in
#
# Several processes may serve the file:
#
#     process 1                              process 2
#        a thread for each request              a thread for each request
#        a PostStore, which they share          a PostStore, which they share
#             |                                      |
#             +-------- the lock of the folder ------+
#                                 |
#                              the file
#
# The objects of one process, while post 1 is changed.  Post 2 is the same object twice:
#
#     get_store()         the PostStore
#        ._save_lock      which one thread at a time can have
#        ._waiting        [Write, Write], a queue of changes
#        ._latest         a Posts, the snapshot that all readers use
#           .stamp        that of the file
#           .next_id      3
#           .by_id        {1: Post(1, "Hello", "World"), 2: Post(2, "Again", "")}
#     the Draft
#        .next_id         3
#        ._by_id          {1: Post(1, "New", "World"),   2: Post(2, "Again", "")}
#
# A name that begins with "_" is used only inside its class.  The pieces come first; the
# class PostStore, which the views use, puts them together at the end.
#
#     file --read--> snapshot --copy--> draft --save--> the next snapshot and the file
#
# A draft is saved in four steps, so that a crash at any moment leaves an intact file:
#
#     step                                        a crash then leaves  readers then see
#     1  lock the folder; read the file if it     the old file         the old posts
#        has changed
#     2  change a draft; write it to a            the old file, and    the old posts
#        temporary file, and sync that            perhaps the
#                                                 temporary one
#     3  rename the temporary file over the file  the old or the new   the new posts
#     4  sync the folder                          the old or the new   the new posts
#
#     Only then, respond                          the new file         the new posts
#
# Step 3 is the commit: the operating system renames a file completely or not at all.
#
# A single change is saved like this:
#
#     with lock_folder(path.parent) as descriptor:       # step 1
#         old = self.read()
#         draft = Draft(old)                             # step 2
#         post = draft.change(1, {"title": "New"})
#         new = draft.snapshot()
#         replace_file(path, old, new)                   # steps 2 and 3
#         sync_folder(descriptor, path)                  # step 4
#     return post

ById = dict[int, Post]  # posts by id
Texts = dict[str, Any]  # values by field name, such as {"title": "New"}
Tags = list[str] | None  # ETags; None stands for any
Stamp = tuple[int, int, int]  # see read_stamp()


@dataclass
class Posts:
    """A snapshot of the posts, or of those that select() has selected.

    Nobody changes it once others can see it, so threads can share it.
    """

    by_id: ById
    next_id: int = 1
    stamp: Stamp | None = None  # None if there is no file, or for a selection

    @cached_property
    def lines(self) -> dict[int, bytes]:
        """The lines of the posts, by id, so that a draft can replace one of them."""
        return {post.id: post.json_line for post in self.by_id.values()}

    @cached_property
    def json_lines(self) -> bytes:
        """The lines in the file, with a comma at the end of each but the last."""
        return b",\n".join(self.lines.values())

    @cached_property
    def json_array(self) -> bytes:
        """The posts as a JSON array, for the response to GET /posts/all."""
        return b"".join([b"[\n", self.json_lines, b"\n]\n"])

    @cached_property
    def etag(self) -> str:
        """The ETag of the list, a hash of its lines."""
        return quote_etag(generate_etag(self.json_lines))


class Draft:
    """A copy of a snapshot, which one thread changes and then saves.

    The copy has its own dicts, but the posts in them are the same objects.  To change a
    post, a new one is put in its place, so the snapshot stays as it is.

    The lines of the posts are copied, too, since it takes longer to collect those of
    many posts again.  To keep both in step, change them only with _put() and remove().

    Each method validates first and changes the draft last, so one that raises an
    exception leaves the draft unchanged.
    """

    def __init__(self, posts: Posts) -> None:
        self._by_id = dict(posts.by_id)
        self._lines = dict(posts.lines)
        self.next_id = posts.next_id

    def snapshot(self) -> Posts:
        """Return a snapshot with the changes; do not change the draft afterwards."""
        posts = Posts(self._by_id, self.next_id)
        # Set the attribute in which this cached_property keeps its value.  It would
        # collect the lines again, post by post.
        posts.lines = self._lines
        return posts

    def add(self, texts: Texts) -> Post:
        """Add a post with the next id and return it.

        Raise BadPost if a value is invalid, StoreError if no id is left.
        """
        if self.next_id > MAX_ID:
            raise StoreError(f"cannot add a post: all ids up to {MAX_ID} are used")
        post = self._put(self.next_id, {"id": self.next_id} | texts)
        self.next_id += 1
        return post

    def change(self, post_id: int, texts: Texts, if_match: Tags = None) -> Post:
        """Change a post and return it; raise BadPost, or abort like find_post().

        | makes a new dict: that of the old post, with the texts instead of its own.
        """
        old = find_post(self._by_id, post_id, if_match)
        return self._put(post_id, old.as_dict | texts)

    def remove(self, post_id: int, if_match: Tags = None) -> Post:
        """Remove a post and return it; abort like find_post()."""
        post = find_post(self._by_id, post_id, if_match)
        del self._lines[post_id]
        del self._by_id[post_id]
        return post

    def _put(self, post_id: int, values: dict[str, Any]) -> Post:
        """Make a post from the values and put it in its place; raise BadPost."""
        post = make_post(values)
        if post.id != post_id:
            raise BadPost("id is assigned by the store and cannot be changed")
        self._lines[post_id] = post.json_line
        self._by_id[post_id] = post
        return post


def find_post(by_id: ById, post_id: int, if_match: Tags = None) -> Post:
    """Return a post; abort with 404 if it is missing, 412 if its ETag is not listed.

    This is the only place where the store raises HTTP errors.
    """
    post = by_id.get(post_id)
    if post is None:
        abort(404, f"not found id {post_id}")
    if if_match is not None and post.etag not in if_match:
        abort(412, f"id {post_id} has changed since")
    return post


def parse_file(data: bytes, known: Posts) -> Posts:
    """Return the snapshot that the file contains; raise BadPost if it is invalid.

    known is the previous snapshot.  Posts that have not changed are taken from there:
    they have already been validated, and their lines and ETags computed.  If next_id
    has been lowered by hand, it is raised again, to what this process has seen, or to
    one more than the highest id in the file.
    """
    document = parse_json(data)
    next_id = document.get("next_id", 1)
    items = document.get("posts")
    unknown = set(document) - {"next_id", "posts"}  # the other keys
    if unknown or not isinstance(items, list):
        raise BadPost('it must have the form {"next_id": 1, "posts": []}')
    if type(next_id) is not int or next_id > MAX_ID + 1:
        raise BadPost(f"next_id must be a whole number up to {MAX_ID + 1}")
    by_id: ById = {}
    for number, values in enumerate(items, 1):
        try:
            post = parse_item(values, known.by_id)
        except BadPost as error:  # add which post it is
            raise BadPost(f"post {number}: {error}") from error
        if post.id in by_id:
            raise BadPost(f"post {number}: the id {post.id} occurs twice")
        by_id[post.id] = post
    highest_id = max(by_id, default=0)  # the largest key, or 0 if there is none
    return Posts(by_id, max(next_id, known.next_id, highest_id + 1))


def parse_item(values: Any, known: ById) -> Post:
    """Return the post that an item of the file describes; raise BadPost if invalid."""
    if not isinstance(values, dict):
        raise BadPost("it must be a JSON object")
    post_id = values.get("id")
    # True and 1.0 are equal to 1, and would find post 1, but are no ids.
    if type(post_id) is int:
        post = known.get(post_id)
        if post is not None and post.as_dict == values:
            return post
    return make_post(values)


# The file on the disk.  The operating system knows a file by a number, the inode
# number, under which it keeps the bytes and what else it knows: the time of the last
# change; the owner and the group (a set of accounts); the permissions, that is, what
# the owner, the group and all others may do with the file.  A folder is a list of
# names, each with an inode number:
#
#     before the rename    posts.json         inode 7, the old version
#                          .posts.json.tmp    inode 8, the new version
#
#     after it             posts.json         inode 8, the new version
#
# Inode 7 is then deleted, and its number is free for another file.
#
# A program that opens a file or a folder gets a descriptor, a number that stands for
# what it has opened.  That stays the same inode, whatever happens to the names.
#
# flock(descriptor, LOCK_EX) waits until nobody else has the lock of that inode, locks
# it, and flock(descriptor, LOCK_UN) unlocks it.  Closing the descriptor unlocks it as
# well, unless a copy of the process (made with os.fork) still has it open.  So we
# always unlock before closing.
#
# The folder is locked, not the file, which gets another inode with each save: B, which
# has waited for inode 7, and C, which locks inode 8, could both save.  (An editor takes
# no lock, so it is not kept out.)


def read_stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file, a tuple that practically always changes with it.

    The stamp holds the inode number, the time of the last modification (mtime, here in
    nanoseconds), and the size.  os.stat() returns them, and st_mode, which holds the
    kind of the file and its permissions.

    Return None if there is no such file.  Raise OSError if there is no such folder, or
    if S_ISREG() says that it is not a regular file, but a folder or a pipe: opening a
    pipe, which connects two programs, would wait until the other program opens it.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        # If it is a symbolic link, the folder is that of the file that it points to.
        folder = Path(os.path.realpath(path)).parent
        if not folder.is_dir():
            raise OSError(f"there is no folder {folder}") from error
        return None
    if not S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    return status.st_ino, status.st_mtime_ns, status.st_size


def open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting, even if it is a pipe, and return a descriptor.

    This is an opener, a function that open() calls to open the file, with the path and
    with flags, a number that stands for its mode.  (Windows does not have O_NONBLOCK.)
    """
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_file(path: Path) -> bytes:
    """Return the bytes of a file; raise OSError if it is not a regular file.

    It was one when read_stamp() looked, but another one may have its name by now.
    """
    with open(path, "rb", opener=open_at_once) as file:
        if not S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        return file.read()


@contextmanager
def lock_folder(folder: Path) -> Iterator[int | None]:
    """Lock a folder while a with block runs, and give the block its descriptor.

    A function with a yield runs in two pieces, before and after the yield.  With
    @contextmanager, they surround the block of a with statement:

        @contextmanager                  with around() as value:
        def around():                        print("second", value)
            print("first")
            yield 2                      prints: first
            print("third")                       second 2
                                                 third

    If the block raises an exception, it appears at the yield.  Then the lines under
    finally run, and the exception goes on to the caller.  (Iterator[int | None] is the
    type of a function that yields an int or None.)
    """
    if fcntl is None:  # on Windows, where only one process may serve the file
        yield None  # lock nothing
        return
    descriptor = os.open(folder, os.O_RDONLY)  # for reading only
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # If that fails, there is nothing to unlock, only something to close.
        try:
            yield descriptor  # here, the block runs
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def replace_file(path: Path, old: Posts, new: Posts) -> None:
    """Write the new snapshot to a temporary file, then rename it: steps 2 and 3.

    Set new.stamp to the stamp that the file then has.  If anything fails (BaseException
    also covers Ctrl-C), delete the temporary file, and raise the same exception again.
    """
    temp = path.with_name(f".{path.name}.tmp")  # .posts.json.tmp in the same folder
    # unlink() deletes a file, here what a killed process may have left.
    temp.unlink(missing_ok=True)
    try:
        # Owner, permissions and time; None if there is no file yet.
        old_status = os.stat(path) if old.stamp else None
        write_file(temp, new, old_status)
        # A rename keeps inode number, time and size, so the file will have this stamp.
        new.stamp = read_stamp(temp)
        # Is the file still the one that was read?  (An edit after this check is lost.)
        if read_stamp(path) != old.stamp:
            raise OSError("it was edited in the meantime; try again")
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    if old.stamp is None:
        app.logger.warning("created %s, which did not exist", path)


def open_private(path: str, flags: int) -> int:
    """Open a new file that only its owner may read and write, and return a descriptor.

    This is an opener like open_at_once().  It only adds the permissions.
    0o600 is an octal number (base 8), one digit each for what the owner, the group and
    all others may do.  6 means to read and write, 0 nothing.
    """
    return os.open(path, flags, mode=0o600)


def write_file(temp: Path, posts: Posts, old: os.stat_result | None) -> None:
    """Write a new file, with the permissions of the old one, and sync it.

    old is what os.stat() knows of the old file.  If it is None, because there is none,
    the new file gets default permissions.

        1. Create the file.  open() with "xb" fails if it exists.
        2. Write the bytes.  (% inserts a number in place of %d.)
        3. Make it like the old file.
        4. Sync it, that is, wait until the bytes are on the disk:

               write() --> Python --flush()--> operating system --fsync()--> disk
    """
    # The old file may be secret, so nobody else may read the new one until it has the
    # permissions of the old one.  (Without an opener, open() sets the default ones.)
    opener = open_private if old else None
    with open(temp, "xb", opener=opener) as file:  # 1
        file.write(b'{"next_id": %d, "posts": [\n' % posts.next_id)  # 2
        file.writelines([posts.json_lines, b"\n]}\n"])
        file.flush()
        descriptor = file.fileno()  # that of this file
        if old and fcntl:  # 3, but not on Windows
            copy_permissions(old, descriptor)
            set_later_time(old, descriptor)
        os.fsync(descriptor)  # 4


def sync_folder(descriptor: int | None, path: Path) -> None:
    """Sync the folder: step 4.

    A folder holds the names of its files.  Until it is synced, a power failure may undo
    the rename.
    """
    if descriptor is None:  # on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        message = f"{path} is replaced, but not known to be on disk: {error}"
        raise StoreError(message) from error


# Owner, permissions and time of the file.  You can skip this section, and continue with
# "Saving".


def copy_permissions(old: os.stat_result, descriptor: int) -> None:
    """Give a new file the owner, the group and the permissions of the old one.

    Otherwise, people who could read the old file might be locked out, or others let in.
    For example (r stands for reading, w for writing):

                               the owner      its group       all others
        the old file           ann    rw-     team    r--     ---
        the new file           ann    rw-     staff   ---     ---
        after fchown()         ann    rw-     team    ---     ---
        after fchmod()         ann    rw-     team    r--     ---

    In the other order, staff could read the file for a moment.  Both functions take the
    descriptor of the open file (hence the f), since its name might have been given to
    another file in the meantime.  fchown() takes the owner and the group as numbers,
    uid and gid.  If the system does not permit it, the save fails.
    """
    new = os.fstat(descriptor)  # like os.stat(), for the open file
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except PermissionError as error:
            raise OSError("its owner and group cannot be kept") from error
    os.fchmod(descriptor, S_IMODE(old.st_mode))  # only the permissions in st_mode


def set_later_time(old: os.stat_result, descriptor: int) -> None:
    """Give a new file a later time than the old one has.

    A process reads the file again only if its stamp is not the one that it remembers
    (see PostStore.read).  So a stamp must not come back, or another process, which
    remembers it, would go on serving the old posts.  But an inode number may come back,
    as shown above, and so may a size.  Even a time may, since the clock for files ticks
    only every few milliseconds:

        before          inode 7, 12:00:00.004, 90 bytes
        first save      inode 8, 12:00:00.004, 90 bytes     inode 7 is free again
        second save     inode 7, 12:00:00.004, 90 bytes     the stamp of the first line

    So each save sets a later time than that of the file before it, if only by 1 ns (a
    billionth of a second).
    """
    later = max(time.time_ns(), old.st_mtime_ns + 1)
    os.utime(descriptor, ns=(later, later))  # the times of access and of modification


# Saving.  One change at a time could be saved as shown at the top of this part, by one
# thread at a time: lock, save, unlock.  But a save mostly waits for the disk, and all
# other threads would have to wait for their turn.
#
# Instead, each thread puts its write (an addition, a change or a removal) in a queue.
# Then it waits for the lock.  The thread that gets the lock saves all writes that are
# in the queue, those of other threads as well, as one batch.  This can double the
# number of writes per second:
#
#     thread A  |=== saves A ===|
#     thread B      waits ......|=== saves B and C ===|
#     thread C         waits .........................| finds that C is finished


@dataclass
class Write:
    """A write that waits to be saved: a method of Draft, its arguments, its outcome.

    The method is to be called later, on a draft that does not exist yet.  So it is kept
    without an object, as Draft.change, and gets the draft as its first argument, self:

        write = Write(Draft.change, (1, {"title": "New"}))
        write.method(draft, *write.args)     # calls draft.change(1, {"title": "New"})

    *args passes each item of a tuple as an argument.  The thread that calls the method
    may be that of another request, which has its own request and g.

    This is what may become of it:

        it is saved                      saved is True, and result() returns the post
        it fails by itself (404, ...)    error is that error, and result() raises it
        the save fails                   error is a StoreError, and result() raises it
        the save is cut short, for       neither; result() raises a StoreError
        example by a bug

    saved becomes True only after the last step.  So whatever goes wrong in between, an
    unsaved write is never mistaken for a saved one.  finished becomes True in each of
    these cases: there is nothing left to do.

    (The type Callable[..., Post] means any function that returns a Post.)
    """

    method: Callable[..., Post]
    args: tuple
    post: Any = None  # what the method has returned
    error: Exception | None = None
    saved: bool = False
    finished: bool = False

    def result(self, path: Path) -> Post:
        """Return the post if the write is saved; otherwise raise an error.

        path is that of the file.  It appears in one of the errors.
        """
        if self.error is not None:
            raise self.error
        if not self.saved:
            raise StoreError(f"{path}: it is unknown whether the post was saved")
        return self.post


def apply_writes(writes: list[Write], draft: Draft) -> list[Write]:
    """Call the methods of the writes, and return those writes that did not fail.

    A write that fails does not affect the others.  Its error, of whatever class, is
    kept, to be raised later in the thread of its request.  (The comment "noqa" silences
    the linter, a program that warns about code such as a broad except.)
    """
    done = []
    for write in writes:
        try:
            write.post = write.method(draft, *write.args)
            done.append(write)
        except Exception as error:  # noqa: BLE001
            write.error = error
    return done


def fail_writes(writes: list[Write], message: str) -> None:
    """Give an error to the writes that do not have one of their own, such as a 404.

    Those that have one keep it: it was true of the draft, even if that is not saved.
    For example, Ann deletes post 1, and Bob, who wants to change it, gets a 404.  If
    the file cannot be saved, post 1 still exists, and Bob can repeat his request.
    """
    for write in writes:
        if write.error is None:
            write.error = StoreError(message)


# A rule or a method of your own in class Draft.  A rule for several fields of a post
# belongs in _put(), which has all its values.  One that depends on other posts belongs
# in add() and change(), which find these in self._by_id.  Please note:
#
#     - Validate first and change the draft last.  Otherwise, a change that was made
#       before an exception would be saved with the next write of the batch.
#     - Do not use request or g.  They may be those of another request (see Write).
#     - Do not add, change or remove posts of the store: it would wait for itself.


# How it all works together.
#
# Readers do not wait.  They compare the stamp of the file with that of the latest
# snapshot in memory, and parse the file again only if it has changed:
#
#     a slow reader                      a writer                   other readers
#     takes _latest, snapshot 1                                     take snapshot 1
#     is paused                          saves snapshot 2
#                                        _latest is snapshot 2      take snapshot 2
#     responds with snapshot 1,
#     which nobody has changed
#
# This is what happens inside find(1):
#
#     read()                   has the file another stamp than _latest?  then parse it;
#                              the result is the new _latest                  503
#     find_post()              by_id[1]                                       404
#
# Writers wait twice: for the _save_lock of their store, which only one thread of the
# process can have, and for the lock of the folder, which only one process can have.
# This is what happens inside change(1, {"title": "New"}), and the errors that can end
# it early:
#
#     _commit()                queues a Write, waits for _save_lock, then calls
#        _save_waiting()       takes the queue; stores errors in the writes
#           _save()
#              lock_folder()   step 1: waits for other processes
#              read()          reads Post(1, "Hello", "World")                 503
#              apply_writes()  step 2: Draft.change() replaces it by           404, 412
#                              Post(1, "New", "World")
#              replace_file()  steps 2 and 3: saves its new line               503
#              sync_folder()   step 4                                          503
#     and returns the post, or raises the error


class PostStore:
    """The posts in a JSON file, which many threads and processes may share.

    The views call only find(), select(), add(), change() and remove().  So a class that
    has these five methods, with the same results and errors, can take its place.  They
    return a Post, but select() returns a Posts and a number.  The errors are those of
    find_post() and make_post(), and StoreError.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._latest = Posts({})  # the latest snapshot
        self._waiting: list[Write] = []  # the queue
        self._save_lock = threading.Lock()  # one thread at a time saves the queue

    def find(self, post_id: int) -> Post:
        """Return a post; abort with 404 if there is none."""
        return find_post(self.read().by_id, post_id)

    def select(self, query: Query) -> tuple[Posts, int]:
        """Return the posts that a query asks for, and how many matched in all."""
        posts = self.read()
        if query == Query():  # with the defaults, it asks for everything
            return posts, len(posts.by_id)
        found = [post for post in posts.by_id.values() if matches(post, query)]
        if query.sort is not None:
            # attrgetter("title") is a function that returns the title of a post.
            found.sort(key=attrgetter(query.sort), reverse=query.descending)
        # A dict keeps the order in which its items are inserted.
        selected = {post.id: post for post in found[query.start : query.end]}
        return Posts(selected), len(found)

    def add(self, texts: Texts) -> Post:
        """Add a post with the next id and return it; see Draft.add()."""
        return self._commit(Draft.add, texts)

    def change(self, post_id: int, texts: Texts, if_match: Tags = None) -> Post:
        """Change fields of a post and return it; see Draft.change()."""
        return self._commit(Draft.change, post_id, texts, if_match)

    def remove(self, post_id: int, if_match: Tags = None) -> Post:
        """Remove a post and return it; see Draft.remove()."""
        return self._commit(Draft.remove, post_id, if_match)

    def read(self) -> Posts:
        """Return the latest snapshot; parse the file only if its stamp has changed.

        The stamp must be read before the bytes, since the file may change in between:

            harmless:                wrong:

            1. read stamp 1          1. read bytes 1
            2. the file changes      2. the file changes
            3. read bytes 2          3. read stamp 2

        On the left, we have posts 2 with stamp 1.  The next call finds stamp 2, and
        reads the file again.  On the right, we have posts 1 with stamp 2.  The next
        call takes these for the latest, and so do all others.

        A file that is missing from the start counts as empty, with the stamp None.  One
        that vanishes later may have been moved away by mistake.  Then its stamp differs
        from the latest one, and read_file() raises an error.
        """
        latest = self._latest
        try:
            stamp = read_stamp(self.path)
            if stamp == latest.stamp:
                return latest
            posts = parse_file(read_file(self.path), latest)
        except (OSError, BadPost) as error:
            raise StoreError(f"cannot read {self.path}: {error}") from error
        posts.stamp = stamp
        # Keep it for the next calls, unless another thread has kept one, which may be
        # newer.  (This only saves time.  With an older one, the next call would find
        # that the stamp is not that of the file, and parse the file again.)
        if self._latest is latest:
            self._latest = posts
        return posts

    def _commit(self, method: Callable[..., Post], *args: Any) -> Post:
        """Call a method of Draft, save the draft, and return the post.

        *args collects the arguments for the method in a tuple.

        Without the queue, a thread would wait for the lock, save its write, and unlock.
        With it, the thread that gets the lock saves all writes in the queue.  So it may
        find that its own write has been saved by another one.  For example, thread A
        has the lock:

            thread B                        thread C                      queue
            queues its write                                              [B]
            waits for the lock              queues its write              [B, C]
                                            waits for the lock
            gets the lock from A
            its write is not finished
            takes both from the queue                                     []
            saves both
            now, both are finished
            unlocks                         gets the lock
            returns its post                its write is finished
                                            unlocks, returns its post
        """
        write = Write(method, args)
        # append() needs no lock: for Python, it is a single step.
        self._waiting.append(write)
        with self._save_lock:  # one thread at a time; the others wait here
            if not write.finished:  # only a thread that has the lock sets this
                self._save_waiting()
        return write.result(self.path)

    def _save_waiting(self) -> None:
        """Save all writes that are in the queue, and mark them as finished.

        An error is stored in the writes and not raised here, since it concerns several
        threads.  Each of them raises it, in Write.result().
        """
        batch = []
        # Take one after the other, as other threads may still append to the list.
        while self._waiting:
            batch.append(self._waiting.pop(0))
        try:
            self._save(batch)
        except StoreError as error:
            fail_writes(batch, str(error))
        except OSError as error:
            fail_writes(batch, f"cannot save {self.path}: {error}")
        finally:
            # Also after any other exception, a bug.  Then these writes are neither
            # saved nor failed, so result() says that it is unknown.
            for write in batch:
                write.finished = True

    def _save(self, batch: list[Write]) -> None:
        """Save these writes together, in four steps; raise StoreError or OSError.

        Readers see the new snapshot as soon as the file has been renamed.  If no write
        is left to save, since each has failed with a 404 or the like, the file stays as
        it is.
        """
        # If it is a symbolic link, which points to another file, replace that one.
        path = Path(os.path.realpath(self.path))
        with lock_folder(path.parent) as descriptor:  # step 1
            old = self.read()
            draft = Draft(old)  # step 2
            done = apply_writes(batch, draft)
            if not done:
                return  # this also leaves the with block, and so unlocks
            new = draft.snapshot()
            replace_file(path, old, new)  # steps 2 and 3
            self._latest = new
            sync_folder(descriptor, path)  # step 4
        for write in done:  # only here, after all four steps
            write.saved = True


stores: dict[str, PostStore] = {}


def get_store() -> PostStore:
    """Return the store of the file that app.config["POSTS_FILE"] currently names.

    Each file has one store, made when it is first used.  To keep the posts elsewhere,
    in a database, let this function return another store (the same one at each call).
    """
    path = os.path.abspath(app.config["POSTS_FILE"])
    if path not in stores:
        # Two threads may get here at the same time; setdefault() keeps the first store.
        stores.setdefault(path, PostStore(path))
    return stores[path]


# --- Settings and commands ------------------------------------------------------------


@app.cli.command("hash-password")
def hash_password():
    """Ask for a password, or read it from a pipe, and print its hash for USERS.

    The command is: flask --app posts_api hash-password.  (click is the library behind
    the commands of Flask.)
    """
    if sys.stdin.isatty():  # a keyboard rather than a pipe
        # err=True prints the prompt on standard error, a second output of the program.
        # "> file" does not redirect that, so the file gets nothing but the hash.
        password = click.prompt("Password", hide_input=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        # Print this message, and end the program.
        raise click.ClickException("the password is empty")
    click.echo(generate_password_hash(password))


def check_settings() -> None:
    """Raise RuntimeError if a setting is wrong, naming the setting.

    An empty FLASK_USERS is an error; it does not open the API to everyone.
    """
    config = app.config
    if not is_list_of_names(config["TRUSTED_HOSTS"]):
        raise RuntimeError('TRUSTED_HOSTS must be a list such as ["localhost"]')
    if not is_path(config["POSTS_FILE"]):
        raise RuntimeError("POSTS_FILE must be the path of a file")
    for name in ("TOKEN_MAX_AGE", "MAX_CONTENT_LENGTH"):
        if type(config[name]) is not int or config[name] < 1:
            raise RuntimeError(f"{name} must be a positive whole number")
    if config["USERS"] or "FLASK_USERS" in os.environ:
        if not is_object_of_hashes(config["USERS"]):
            raise RuntimeError(
                "USERS must be an object of names and password hashes; to make a hash, "
                "unset FLASK_USERS and run: flask --app posts_api hash-password"
            )
        if not app.secret_key:
            raise RuntimeError("SECRET_KEY must be set, because USERS is")


def is_list_of_names(value: Any) -> bool:
    """Return whether a setting is a non-empty list of non-empty strings."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(name, str) and name for name in value)


def is_path(value: Any) -> bool:
    """Return whether a setting is a non-empty str or a Path that can name a file."""
    if not isinstance(value, (str, Path)) or value == "":
        return False
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # half a character
        return False


def is_object_of_hashes(value: Any) -> bool:
    """Return whether a setting is a non-empty dict of usable password hashes.

    These are of the form method$salt$result, see NO_PASSWORD_HASH.  If the method does
    not exist, or its numbers are wrong, check_password_hash() raises an error.
    """
    if not isinstance(value, dict) or not value:
        return False
    for name, password_hash in value.items():
        if not isinstance(password_hash, str) or password_hash.count("$") != 2:
            return False
        try:
            name.encode()  # raises an error for half a character
            check_password_hash(password_hash, "")
        except (OverflowError, TypeError, ValueError):
            return False
    return True


def check_fields() -> None:
    """Raise TypeError if the module cannot handle a field that was added to Post.

    get_type_hints() returns {"id": int, "title": str, "content": str}.  Names that
    begin with "_" might be those of query parameters.  Others in the list "taken" have
    a meaning in requests, in Post, or in Python (self).
    """
    taken = ["self", "success", "as_dict", "json_line", "etag", *SEARCHES]
    kinds = get_type_hints(Post)
    for name in TEXT_FIELDS:
        if name in taken or name.startswith("_"):
            raise TypeError(f"Post.{name} must have another name: this one is taken")
        default = DEFAULTS.get(name, "")  # "" is as good as any if there is none
        if kinds[name] is not str or not isinstance(default, str):
            raise TypeError(f"Post.{name} and its default must be a str")


check_settings()
check_fields()

if __name__ == "__main__":
    # argparse reads the options in the command line, such as --port 8000.
    parser = argparse.ArgumentParser(description="Serve the posts.")
    # This is the development server of Flask; README.md shows others.  For requests
    # from other machines, pass --host 0.0.0.0, add the host name to TRUSTED_HOSTS, and
    # set USERS, or everyone on the network may write.  Without HTTPS, which a proxy can
    # add, everyone there can also read passwords and tokens.
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default=5000, type=int)
    options = parser.parse_args()
    # The settings were read above; to load the file .env now would not change them.
    app.run(options.host, options.port, debug=False, load_dotenv=False)
