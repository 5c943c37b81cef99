"""How files come into the model hub of the tests: asked for, uploaded, verified, committed."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from helpers.hub_routes import Call, checked, checked_path, parsed, route, without_token
from helpers.hub_store import Answer, Blob, Refused, Repo, as_json, card_problems

if TYPE_CHECKING:
    from helpers.hub_server import Hub

LFS_SUFFIXES = (".safetensors", ".bin", ".onnx", ".npy", ".npz", ".parquet", ".pt", ".pkl", ".model", ".gz", ".zip")


def within_quota(hub: "Hub", repo: Repo, size: int) -> None:
    if hub.quota_bytes is not None and size > hub.quota_bytes:
        kind = "Private" if repo.private else "Public"
        raise Refused(403, f"{kind} repository storage limit reached, please upgrade your plan to increase it.")


@route("POST", "/api/models/{repo}/preupload/{revision}")
def preupload(call: Call, revision: str) -> Answer:
    commit = call.writable(by_pull_request="create_pr" in call.query).find(revision)
    files = []
    for asked in call.json({"files": list})["files"]:
        file = checked(asked, {"path": str, "sample": str, "size": int}, "file")
        path = checked_path(file["path"])
        if len(base64.b64decode(file["sample"])) != min(file["size"], 512):
            raise Refused(400, f"{path}: the sample is not its first 512 bytes")
        mode = "lfs" if call.hub.is_lfs(path, file["size"]) else "regular"
        old = commit.files.get(path)
        known = {"oid": old.sha256 if old.is_lfs else old.oid} if old else {}
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
    return as_json({"files": files})


@route("POST", "/{repo}\\.git/info/lfs/objects/batch")
def lfs_batch(call: Call) -> Answer:
    asked = call.json({"operation": str, "transfers": list, "objects": list, "hash_algo": str, "ref?": dict})
    if (asked["operation"], asked["hash_algo"]) != ("upload", "sha256"):
        raise Refused(400, f"cannot {asked['operation']} with {asked['hash_algo']}")
    # Without a ref it is for a pull request.
    repo = call.writable(by_pull_request="ref" not in asked)
    if "ref" in asked:
        repo.find(asked["ref"].get("name", ""))
    objects = [checked(one, {"oid": str, "size": int}, "object") for one in asked["objects"]]
    new = [one for one in objects if one["oid"] not in repo.objects]
    within_quota(call.hub, repo, repo.stored_bytes() + sum(one["size"] for one in new))
    answers = []
    for one in objects:
        if not re.fullmatch("[0-9a-f]{64}", one["oid"]) or one["size"] < 1:
            answers.append(one | {"error": {"code": 422, "message": "invalid oid or size"}})
        else:
            answers.append(one if one not in new else one | {"actions": _upload_actions(call, repo, asked, **one)})
    is_multipart = any("chunk_size" in one.get("actions", {}).get("upload", {}).get("header", {}) for one in answers)
    return as_json({"transfer": "multipart" if is_multipart else "basic", "objects": answers})


def _upload_actions(call: Call, repo: Repo, asked: dict[str, Any], oid: str, size: int) -> dict[str, Any]:
    hub, part = call.hub, call.hub.part_size
    place = f"/storage/{repo.id}/{oid}?size={size}"
    upload: dict[str, Any] = {"href": hub.storage_url + hub.signed("PUT", place), "header": {}}
    if part is not None and size > part and "multipart" in asked["transfers"]:
        place += f"&part_size={part}"
        numbers = range(1, -(-size // part) + 1)
        parts = {f"{n:05}": hub.storage_url + hub.signed("PUT", f"{place}&part={n}") for n in numbers}
        done = hub.url + hub.signed("POST", place.replace("/storage/", "/api/complete_multipart/", 1))
        upload = {"href": done, "header": {"chunk_size": str(part), **parts}}
    return {"upload": upload, "verify": {"href": f"{hub.url}/{repo.id}.git/info/lfs/objects/verify", "header": {}}}


@route("PUT", "/storage/{repo}/{oid}")
def put_object(call: Call, oid: str) -> Answer:
    repo, size = call.signed(), int(call.query["size"])
    without_token(call)
    if "part" not in call.query:
        return _keep(repo, oid, size, call.body)
    number, part_size = int(call.query["part"]), int(call.query["part_size"])
    if len(call.body) != min(part_size, size - (number - 1) * part_size):
        raise Refused(400, f"part {number} has {len(call.body)} bytes")
    repo.parts[oid, number] = call.body
    return Answer(200, headers={"ETag": _part_etag(call.body)})


def _part_etag(part: bytes) -> str:
    return f'"{hashlib.md5(part).hexdigest()}"'


@route("POST", "/api/complete_multipart/{repo}/{oid}")
def complete_multipart(call: Call, oid: str) -> Answer:
    repo, size = call.signed(), int(call.query["size"])
    asked = call.json({"oid": str, "parts": list})
    numbers = range(1, -(-size // int(call.query["part_size"])) + 1)
    parts = [repo.parts.get((oid, number)) for number in numbers]
    known = [{"partNumber": n, "etag": part and _part_etag(part)} for n, part in zip(numbers, parts, strict=True)]
    if asked["oid"] != oid or None in parts or asked["parts"] != known:
        raise Refused(400, "InvalidPart: the parts are not those that were uploaded")
    answer = _keep(repo, oid, size, b"".join(parts))
    repo.parts = {key: part for key, part in repo.parts.items() if key[0] != oid}
    return answer


def _keep(repo: Repo, oid: str, size: int, content: bytes) -> Answer:
    if len(content) != size:
        raise Refused(400, f"expected {size} bytes, found {len(content)}")
    if hashlib.sha256(content).hexdigest() != oid:
        raise Refused(400, "BadDigest: the content does not hash to its oid")
    repo.objects[oid] = content
    return as_json({})


@route("POST", "/{repo}\\.git/info/lfs/objects/verify")
def lfs_verify(call: Call) -> Answer:
    # Whoever may open a pull request uploads its files first.
    repo, asked = call.writable(by_pull_request=True), call.json({"oid": str, "size": int})
    if asked["oid"] not in repo.objects:
        raise Refused(404, f"no object {asked['oid']}")
    if len(repo.objects[asked["oid"]]) != asked["size"]:
        raise Refused(422, f"the object has {len(repo.objects[asked['oid']])} bytes")
    return as_json({})


OPERATIONS = {
    "header": {"summary": str, "description?": str, "parentCommit?": str},
    "file": {"path": str, "content": str, "encoding": str},
    "lfsFile": {"path": str, "algo": str, "oid": str, "size?": int},
    "deletedFile": {"path": str},
    "deletedFolder": {"path": str},
}


@route("POST", "/api/models/{repo}/commit/{revision}")
def commit(call: Call, revision: str) -> Answer:
    is_pull_request = "create_pr" in call.query
    repo = call.writable(by_pull_request=is_pull_request)
    if call.headers.get("Content-Type") != "application/x-ndjson":
        raise Refused(400, "a commit is application/x-ndjson")
    header, operations = _read_operations(call.body)
    base = repo.find(revision)
    if revision not in repo.refs:
        raise Refused(400, f"{revision} is not a branch")
    if "parentCommit" in header:
        parent = repo.find(header["parentCommit"])
        if is_pull_request:
            base = parent
        elif parent.id != base.id:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(base.files)
    for key, value in operations:
        _apply(call.hub, repo, files, key, value)
    _check_tree(files)
    within_quota(call.hub, repo, repo.stored_bytes(files))
    address, pull_request = f"{call.hub.url}/{repo.id}", {}
    if is_pull_request:
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
        revision, pull_request = f"refs/pr/{number}", {"pullRequestUrl": f"{address}/discussions/{number}"}
    oid = repo.add(revision, base, files)
    return as_json({"success": True, "commitOid": oid, "commitUrl": f"{address}/commit/{oid}", **pull_request})


def _read_operations(body: bytes) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    operations = []
    for line in body.splitlines():
        item = checked(parsed(line), {"key": str, "value": dict}, "commit")
        if item["key"] not in OPERATIONS:
            raise Refused(400, f"commit: unknown operation {item['key']!r}")
        operations.append((item["key"], checked(item["value"], OPERATIONS[item["key"]], item["key"])))
    if [key for key, _ in operations].count("header") != 1 or operations[0][0] != "header" or len(operations) == 1:
        raise Refused(400, "commit: expected one header, first, and then operations")
    paths = [value["path"] for _, value in operations[1:]]
    if twice := {path for path in paths if paths.count(path) > 1}:
        raise Refused(400, f"commit: named twice: {sorted(twice)}")
    return operations[0][1], operations[1:]


def _apply(hub: "Hub", repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    """Do one operation of a commit on ``files``."""
    path = checked_path(value["path"].rstrip("/") if key == "deletedFolder" else value["path"])
    if key.startswith("deleted"):
        gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(f"{path}/"))]
        if not gone:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del files[name]
    elif key == "file":
        try:
            content = base64.b64decode(value["content"], validate=True)
        except binascii.Error as error:
            raise Refused(400, f"{path}: no base64: {error}") from None
        if value["encoding"] != "base64" or len(content) > hub.regular_limit:
            limit = f"larger than {hub.regular_limit} bytes, or encoded in another way than base64"
            raise Refused(400, f"Your push was rejected because it contains files {limit}: {path}")
        files[path] = Blob(content, is_lfs=False)
    else:
        content = repo.objects.get(value["oid"], b"")
        if value["algo"] != "sha256" or not content or value.get("size", len(content)) != len(content):
            message = "an LFS pointer pointed to a file that does not exist, or has another size"
            raise Refused(400, f"Your push was rejected because {message}: {path}")
        files[path] = Blob(content, is_lfs=True)


def _check_tree(files: Mapping[str, Blob]) -> None:
    if both := [path for path in files if any(other.startswith(f"{path}/") for other in files)]:
        raise Refused(400, f"both a file and a folder: {both}")
    card = files.get("README.md")
    if errors := card_problems(card.content.decode("utf-8", "replace"))[0] if card else []:
        raise Refused(400, f"Your push was rejected: invalid metadata in README.md: {'; '.join(errors)}")
