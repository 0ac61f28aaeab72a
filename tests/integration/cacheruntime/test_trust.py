"""Trust between real processes: who shows no certificate or token, or another's, gets nothing and breaks nothing."""

import errno
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api import byteplane as bp
from api.byteplane import Op
from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc, worker_pb2, worker_pb2_grpc
from api.training_v1alpha1 import CheckpointSpec
from api.trust.channels import open_blocking_channel
from api.trust.files import TrustFiles
from api.trust.identity import METADATA_SERVER, Identity, Role
from api.trust.tokens import Claims, SigningKey, key_id_in, sign
from cacheruntime.controller.services import Metadata, Workers
from jobcontroller.shell.checkpoint_client import CheckpointClient
from tests.builders.cache_cluster import ADMIN, CacheCluster, LocalClient, WorkerRefused, wait_for

N1, N2 = Identity(Role.WORKER, "n1"), Identity(Role.WORKER, "n2")
NODE1 = Identity(Role.NODE, "n1")
JOBS = Identity(Role.JOB_CONTROLLER, "main")
CACHE = Identity(Role.CACHE_CONTROLLER, "main")
BODY = os.urandom(300_000)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheCluster]:
    made = CacheCluster(tmp_path_factory.mktemp("trust"), is_trusting=True)
    try:
        made.add_workers("n1", "n2")
        made.put_origin({"a.bin": BODY, "b.bin": BODY[::-1]})
        made.sync(writable=True)
        made.sync("u-2", namespace="team-b")
        yield made
    finally:
        made.stop()


@pytest.fixture
def client(cluster: CacheCluster) -> Iterator[LocalClient]:
    made = cluster.workers["n1"].client()
    yield made
    made.close()


def opened(uid: str, cluster: CacheCluster) -> bp.Open:
    entry = cluster.entries(uid)["a.bin"]
    return bp.Open(uid=uid, path=entry.path, etag=entry.etag, size_bytes=entry.size_bytes)


def claims(uid: str = "u-1", audience: Identity = NODE1, *, from_now: int = 0, lifetime: int = 600) -> Claims:
    now = int(time.time()) + from_now
    return Claims(
        key_id="",
        uid=uid,
        namespace="default",
        name=uid,
        may_write=True,
        audience=audience.uri,
        issued_at_seconds=now,
        expires_at_seconds=now + lifetime,
    )


def service_key(cluster: CacheCluster) -> SigningKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    (path,) = cluster.authority.token_keys.glob("*.pem")
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return SigningKey.of(key)


def refused(cluster: CacheCluster, reason: str, what: Callable[[], object]) -> WorkerRefused:
    """The refusal, which is one sentence and is counted."""
    before = cluster.workers["n1"].metric("refused_total", reason=reason)
    with pytest.raises(WorkerRefused) as caught:
        what()
    assert cluster.workers["n1"].metric("refused_total", reason=reason) == before + 1
    return caught.value


def test_with_a_token_a_dataset_is_read_and_written(cluster: CacheCluster, client: LocalClient) -> None:
    assert client.authorize(cluster.token("n1", write=True)) == bp.Authorized(uid="u-1", may_write=True)
    data, _ = client.read("u-1", cluster.entries()["a.bin"])
    assert data == BODY
    client.write("u-1", "written.bin", b"some bytes")
    assert (cluster.origin / "written.bin").read_bytes() == b"some bytes"
    found, _, _ = client.call(Op.FIND_DATASET, bp.FindDataset(namespace="default", name="u-1"), bp.DatasetFound)
    assert found.uid == "u-1"


def test_without_a_token_every_request_is_refused(cluster: CacheCluster, client: LocalClient) -> None:
    wanted = opened("u-1", cluster)
    read = bp.Read(uid="u-1", path="a.bin", etag=wanted.etag, size_bytes=len(BODY), offset_bytes=0, length_bytes=10)
    requests: list[tuple[Op, bp.Struct]] = [
        (Op.OPEN, wanted),
        (Op.READ, read),
        (Op.LOOKUP, bp.Lookup(uid="u-1", path="a.bin")),
        (Op.LIST, bp.List(uid="u-1", path="")),
        (Op.FIND_DATASET, bp.FindDataset(namespace="default", name="u-1")),
        (Op.CREATE, bp.Create(uid="u-1", path="x")),
        (Op.REMOVE, bp.Remove(uid="u-1", path="a.bin")),
        (Op.RENAME, bp.Rename(uid="u-1", source="a.bin", target="c.bin")),
        (Op.MAKE_DIRECTORY, bp.MakeDirectory(uid="u-1", path="d", mode=0o755)),
        (Op.SET_MODE, bp.SetMode(uid="u-1", path="a.bin", mode=0o755)),
    ]
    for op, meta in requests:
        error = refused(cluster, "missing", lambda op=op, meta=meta: client.call(op, meta, bp.Empty))  # type: ignore[misc]
        assert error.errno == errno.ENOKEY and "no token for dataset" in str(error), op
    assert (cluster.origin / "a.bin").exists()


def test_a_token_reaches_its_own_dataset_only(cluster: CacheCluster, client: LocalClient) -> None:
    client.authorize(cluster.token("n1", "u-2"))
    client.read("u-2", cluster.entries("u-2")["a.bin"])
    error = refused(cluster, "missing", lambda: client.call(Op.OPEN, opened("u-1", cluster), bp.Opened))
    assert error.errno == errno.ENOKEY
    # Whether there is a dataset of that name in another namespace is not told either.
    other = bp.FindDataset(namespace="default", name="no-such")
    assert refused(cluster, "missing", lambda: client.call(Op.FIND_DATASET, other, bp.Empty)).errno == errno.ENOKEY


def test_a_reading_token_does_not_write(cluster: CacheCluster, client: LocalClient) -> None:
    client.authorize(cluster.token("n1"))
    error = refused(cluster, "read-only", lambda: client.call(Op.CREATE, bp.Create(uid="u-1", path="x"), bp.Created))
    assert error.errno == errno.EACCES and "for reading" in str(error)
    removed = bp.Remove(uid="u-1", path="a.bin")
    assert refused(cluster, "read-only", lambda: client.call(Op.REMOVE, removed, bp.Mutated)).errno == errno.EACCES


@pytest.mark.parametrize(
    ("reason", "number", "token"),
    [
        ("audience", errno.EKEYREJECTED, lambda c: c.token("n2")),
        ("expired", errno.EKEYEXPIRED, lambda c: sign(claims(from_now=-7200), service_key(c))),
        ("not-yet", errno.EKEYREJECTED, lambda c: sign(claims(from_now=7200), service_key(c))),
        ("unknown-key", errno.EKEYREJECTED, lambda c: sign(claims(), SigningKey.of(Ed25519PrivateKey.generate()))),
        (
            "signature",
            errno.EKEYREJECTED,
            lambda c: sign(
                claims(), SigningKey(service_key(c).key_id, Ed25519PrivateKey.generate())
            ),  # as if by the service's key
        ),
        ("malformed", errno.EKEYREJECTED, lambda c: "hr1.AAAA"),
        ("malformed", errno.EKEYREJECTED, lambda c: "hr1.\N{SNOWMAN}.AAAA"),
        ("malformed", errno.EKEYREJECTED, lambda c: "x" * 500_000),
    ],
)
def test_a_token_that_is_not_good_is_refused(
    cluster: CacheCluster, client: LocalClient, reason: str, number: int, token: Callable[[CacheCluster], str]
) -> None:
    given = token(cluster)
    error = refused(cluster, reason, lambda: client.authorize(given))
    assert error.errno == number
    assert given.rpartition(".")[2] not in str(error)
    # The connection and the worker go on.
    client.authorize(cluster.token("n1"))
    client.read("u-1", cluster.entries()["a.bin"])


def test_a_grant_ends_with_its_token(cluster: CacheCluster, client: LocalClient) -> None:
    """30 s is what clocks may differ: the token that is shown has 1 s left of them."""
    client.authorize(sign(claims(from_now=-630, lifetime=601), service_key(cluster)))
    wanted = opened("u-1", cluster)
    read = bp.Read(uid="u-1", path="a.bin", etag=wanted.etag, size_bytes=len(BODY), offset_bytes=0, length_bytes=10)

    def is_over() -> bool:
        try:
            client.call(Op.READ, read, bp.ReadReply)
        except WorkerRefused as error:
            assert error.errno == errno.EKEYEXPIRED
            return True
        return False

    wait_for("the end of the token", is_over, 5)


def test_workers_copy_from_each_other_under_tls(cluster: CacheCluster) -> None:
    cluster.put_origin({f"copied/{number}": BODY for number in range(8)})
    cluster.sync(writable=True)
    before = cluster.metric("peer_served_bytes_total"), cluster.metric("origin_read_bytes_total")
    for node in ("n1", "n2"):
        reader = cluster.workers[node].client()
        reader.authorize(cluster.token(node))
        entries = cluster.entries()
        for number in range(8):
            assert reader.read("u-1", entries[f"copied/{number}"])[0] == BODY
        reader.close()
    served = cluster.metric("peer_served_bytes_total") - before[0]
    assert served >= 8 * len(BODY), "every file's block has one home, so one of the two asked the other"
    assert cluster.metric("origin_read_bytes_total") - before[1] == 8 * len(BODY)


def test_the_byte_plane_speaks_to_workers_only(cluster: CacheCluster) -> None:
    host, _, port = cluster.live()["n1"].data_endpoint.rpartition(":")
    hello = bp.encode(Op.HELLO, 1, bp.Hello(client="worker", node="n2"))

    def first_bytes(sock: socket.socket) -> bytes:
        sock.settimeout(10)
        try:
            sock.sendall(hello)
            return sock.recv(4096)
        except OSError:
            return b""

    handshakes = cluster.workers["n1"].metric("refused_total", reason="handshake")
    with socket.create_connection((host, int(port))) as plain:
        answer = first_bytes(plain)
        assert b"HR" not in answer[:2] and b"n1" not in answer
    # A certificate of another authority, which says that it is the worker of n2.
    from headrace.trust.authority import TrustAuthority

    stranger = TrustAuthority(cluster.folder / "stranger")
    stranger.issue(N2, cluster.folder / "stranger-n2")
    stranger_context = TrustFiles(cluster.folder / "stranger-n2").client_context()
    stranger_context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((host, int(port))) as raw, pytest.raises(OSError, match=r".*"):  # noqa: SIM117
        with stranger_context.wrap_socket(raw) as tls:
            tls.sendall(hello)
            if not tls.recv(4096):
                raise OSError("hung up")
    wait_for(
        "both refusals", lambda: cluster.workers["n1"].metric("refused_total", reason="handshake") >= handshakes + 2
    )
    # A node's own certificate is of our authority, and has no business here.
    before = cluster.workers["n1"].metric("refused_total", reason="role")
    with (
        socket.create_connection((host, int(port))) as raw,
        cluster.trust(NODE1).client_context().wrap_socket(raw) as tls,
    ):
        tls.sendall(bp.encode(Op.AUTHORIZE, 1, bp.Authorize(token=cluster.token("n1"))))
        header = bp.decode_header(tls.recv(bp.HEADER.size))
        assert header.status == errno.EACCES
    assert cluster.workers["n1"].metric("refused_total", reason="role") == before + 1


def call_worker(
    cluster: CacheCluster, who: Identity, call: Callable[[worker_pb2_grpc.WorkerControlStub], object]
) -> grpc.StatusCode | None:
    endpoint = cluster.live()["n1"].control_endpoint
    with open_blocking_channel(endpoint, cluster.trust(who), N1) as channel:
        return status_of(lambda: call(worker_pb2_grpc.WorkerControlStub(channel)))


def status_of(attempt: Callable[[], object]) -> grpc.StatusCode | None:
    try:
        attempt()
    except grpc.RpcError as error:
        call: Any = error  # it is a grpc.Call too, which the types do not know
        assert call.details()
        code: grpc.StatusCode = call.code()
        return code
    return None


def own_token(cluster: CacheCluster, who: Identity, uid: str = "u-1", *, write: bool = False) -> list[tuple[str, str]]:
    with open_blocking_channel(cluster.address, cluster.trust(who), METADATA_SERVER) as channel:
        request = pb.IssueTokenRequest(uid=uid, write=write)
        token = metadata_pb2_grpc.TrustStub(channel).IssueToken(request, timeout=10).token
    return [("authorization", f"Bearer {token}")]


def test_a_tree_is_removed_by_the_job_controller_with_a_writing_token_only(cluster: CacheCluster) -> None:
    cluster.put_origin({"ckpt/step-1/model": b"x", "ckpt/step-1/COMPLETE": b""})
    cluster.sync(writable=True)
    wanted = worker_pb2.RemoveTreeRequest(uid="u-1", path="ckpt/step-1", first="COMPLETE")
    denied, unknown = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED

    def attempt(who: Identity, bearer: list[tuple[str, str]]) -> grpc.StatusCode | None:
        return call_worker(cluster, who, lambda stub: stub.RemoveTree(wanted, timeout=10, metadata=tuple(bearer)))

    node_token = [("authorization", f"Bearer {cluster.token('n1', write=True)}")]
    for who in (NODE1, N2, CACHE):
        assert attempt(who, node_token) is denied, who
    assert attempt(JOBS, []) is denied
    assert attempt(JOBS, own_token(cluster, JOBS)) is denied
    assert attempt(JOBS, own_token(cluster, JOBS, "u-2")) is denied
    assert attempt(JOBS, node_token) is unknown
    assert attempt(JOBS, [("authorization", "Bearer nonsense")]) is unknown
    assert (cluster.origin / "ckpt/step-1/model").exists()
    with grpc.insecure_channel(cluster.live()["n1"].control_endpoint) as channel:
        stub = worker_pb2_grpc.WorkerControlStub(channel)
        assert status_of(lambda: stub.RemoveTree(wanted, timeout=2)) is not None
    assert (cluster.origin / "ckpt/step-1/model").exists()
    assert attempt(JOBS, own_token(cluster, JOBS, write=True)) is None
    assert not (cluster.origin / "ckpt/step-1/model").exists()


def test_loads_and_eviction_are_the_cache_controllers(cluster: CacheCluster) -> None:
    start = worker_pb2.StartLoadRequest(load_id="trust-1", uid="u-2")
    evict = worker_pb2.EvictRequest(uid="u-2")
    for who in (NODE1, JOBS, N2):
        assert call_worker(cluster, who, lambda stub: stub.StartLoad(start, timeout=10)) is not None
        assert call_worker(cluster, who, lambda stub: stub.Evict(evict, timeout=10)) is not None
    bearer = own_token(cluster, CACHE, "u-2")
    assert call_worker(cluster, CACHE, lambda stub: stub.StartLoad(start, timeout=10, metadata=tuple(bearer))) is None
    get = worker_pb2.LoadRequest(load_id="trust-1")
    assert call_worker(cluster, CACHE, lambda stub: stub.GetLoad(get, timeout=10, metadata=tuple(bearer))) is None
    assert call_worker(cluster, JOBS, lambda stub: stub.CancelLoad(get, timeout=10, metadata=tuple(bearer))) is not None
    assert call_worker(cluster, CACHE, lambda stub: stub.Evict(evict, timeout=10, metadata=tuple(bearer))) is None


async def test_the_controllers_show_what_is_theirs(cluster: CacheCluster) -> None:
    cluster.put_origin({"ckpt/step-2/model": b"x", "ckpt/step-2/COMPLETE": b""})
    cluster.sync(writable=True)
    metadata = Metadata(cluster.address, 10, cluster.trust(CACHE))
    workers = Workers(10, cluster.trust(CACHE), metadata.tokens)
    checkpoints = CheckpointClient(cluster.address, 10, cluster.trust(JOBS))
    spec = CheckpointSpec(dataset="u-1", path="ckpt")
    try:
        alive = await metadata.workers()
        loads = await workers.start_load(alive, worker_pb2.StartLoadRequest(load_id="trust-2", uid="u-2"))
        assert len(loads) == 2
        await workers.evict(alive, "u-2")
        await workers.evict(alive, "of a dataset that is forgotten already")
        assert [one.step for one in await checkpoints.newest_first("default", spec)] == [2]
        await checkpoints.remove("default", spec, "ckpt/step-2", spec.marker)
        assert not (cluster.origin / "ckpt/step-2/model").exists()
    finally:
        await workers.close()
        await metadata.close()
        await checkpoints.close()


def ask_metadata(
    cluster: CacheCluster, who: Identity, call: Callable[[grpc.Channel], object]
) -> grpc.StatusCode | None:
    with open_blocking_channel(cluster.address, cluster.trust(who), METADATA_SERVER) as channel:
        return status_of(lambda: call(channel))


def test_a_worker_tells_of_itself_only(cluster: CacheCluster) -> None:
    forged = pb.RegisterRequest(node="n2", epoch=1 << 62, data_endpoint="127.0.0.1:1", control_endpoint="127.0.0.1:1")
    report = pb.BlockReport(node="n2", epoch=cluster.live()["n2"].epoch, sequence=1, full=True)
    denied = grpc.StatusCode.PERMISSION_DENIED
    before = cluster.live()["n2"]
    for who in (N1, NODE1, Identity(Role.NODE, "n2"), JOBS):
        register = lambda c: metadata_pb2_grpc.ResidencyStub(c).Register(forged, timeout=10)  # noqa: E731
        assert ask_metadata(cluster, who, register) is denied, who
        tell = lambda c: metadata_pb2_grpc.ResidencyStub(c).Report(report, timeout=10)  # noqa: E731
        assert ask_metadata(cluster, who, tell) is denied, who
    assert cluster.live()["n2"].data_endpoint == before.data_endpoint


def test_a_node_changes_no_dataset_and_gets_no_others_token(cluster: CacheCluster) -> None:
    denied = grpc.StatusCode.PERMISSION_DENIED
    put = pb.PutFileRequest(request_id="r", uid="u-1", path="forged", size_bytes=1, etag="e")
    sync = pb.SyncRequest(uid="u-1", namespace="default", name="u-1", mounts=[pb.Mount(mount_point="file:///etc")])
    assert ask_metadata(cluster, NODE1, lambda c: metadata_pb2_grpc.NamespaceStub(c).PutFile(put)) is denied
    assert ask_metadata(cluster, NODE1, lambda c: metadata_pb2_grpc.NamespaceStub(c).Sync(sync)) is denied
    remove = pb.DatasetRequest(uid="u-1")
    assert ask_metadata(cluster, N1, lambda c: metadata_pb2_grpc.NamespaceStub(c).RemoveDataset(remove)) is denied
    for who, wanted in (
        (NODE1, pb.IssueTokenRequest(uid="u-1", audience="headrace://node/n2")),
        (NODE1, pb.IssueTokenRequest(uid="u-1", audience="headrace://job-controller/main")),
        (NODE1, pb.IssueTokenRequest(uid="u-2", write=True)),  # read-only
        (N1, pb.IssueTokenRequest(uid="u-1", write=True)),
        (CACHE, pb.IssueTokenRequest(uid="u-1", write=True)),
    ):
        issue = lambda c, wanted=wanted: metadata_pb2_grpc.TrustStub(c).IssueToken(wanted, timeout=10)  # noqa: E731
        assert ask_metadata(cluster, who, issue) is denied, wanted
    with grpc.insecure_channel(cluster.address) as channel:
        listed = lambda: metadata_pb2_grpc.NamespaceStub(channel).ListDatasets(pb.ListDatasetsRequest(), timeout=2)  # noqa: E731
        assert status_of(listed) is not None


def test_no_path_leaves_its_dataset(cluster: CacheCluster, client: LocalClient, tmp_path: Path) -> None:
    (cluster.folder / "outside").write_text("not of any dataset")
    (cluster.origin / "link").symlink_to(cluster.folder / "outside")
    client.authorize(cluster.token("n1", write=True))
    for path in ("../outside", "/etc/passwd", "a/../../outside", "./a.bin", "a//b", "\0"):
        wanted = bp.Open(uid="u-1", path=path, etag="e", size_bytes=18)
        with pytest.raises(WorkerRefused) as caught:
            client.call(Op.OPEN, wanted, bp.Opened)
        assert caught.value.errno == errno.EINVAL, path
        with pytest.raises(WorkerRefused):
            client.call(Op.CREATE, bp.Create(uid="u-1", path=path), bp.Created)
        with pytest.raises(WorkerRefused):
            client.call(Op.REMOVE, bp.Remove(uid="u-1", path=path), bp.Mutated)
        with pytest.raises(WorkerRefused):
            client.call(Op.RENAME, bp.Rename(uid="u-1", source="a.bin", target=path), bp.Mutated)
    # Even who knows the very version of what the link leads to.
    status = (cluster.folder / "outside").stat()
    etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    with pytest.raises(WorkerRefused) as caught:
        client.read("u-1", pb.Entry(path="link", etag=etag, size_bytes=status.st_size))
    assert caught.value.errno == errno.EINVAL and "is not a path inside" in str(caught.value)
    assert (cluster.origin / "a.bin").read_bytes() == BODY


def test_no_secret_is_in_logs_arguments_or_metrics(cluster: CacheCluster, client: LocalClient) -> None:
    token = cluster.token("n1", write=True)
    client.authorize(token)
    with pytest.raises(WorkerRefused):
        client.authorize(token[:-4] + "AAAA")
    secrets = [token, token.split(".")[1], token.split(".")[2]]
    for path in [*cluster.authority.token_keys.glob("*.pem"), *cluster.folder.glob("trust/*/*/tls.key")]:
        secrets += [line for line in path.read_text().splitlines() if line and "-----" not in line]
    assert len(secrets) > 10
    processes = [cluster.metadata, *(worker.process for worker in cluster.workers.values())]
    seen = [log.read_text() for log in (cluster.folder / "metadata.log", *cluster.folder.glob("n*/log"))]
    assert '"request_failed"' in seen[1] + seen[2], "what a refusal says is there to be looked through"
    for process in processes:
        assert process is not None
        seen.append(Path(f"/proc/{process.pid}/cmdline").read_text())
        seen.append(Path(f"/proc/{process.pid}/environ").read_text())
    import urllib.request

    for worker in cluster.workers.values():
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.metrics_port}/metrics", timeout=10) as answer:
            seen.append(answer.read().decode())
    for secret in secrets:
        assert not any(secret in text for text in seen)
    assert not [line for line in seen[0].splitlines() if "Traceback" in line]


def test_a_new_key_signs_and_an_old_one_is_forgotten(tmp_path: Path) -> None:
    cluster = CacheCluster(
        tmp_path, is_trusting=True, metadata_environment={"HEADRACE_METADATA_TOKEN_KEY_SETTLE_SECONDS": "0"}
    )
    try:
        worker = cluster.add_worker("n1")
        cluster.put_origin({"a.bin": BODY})
        cluster.sync()
        entry = cluster.entries()["a.bin"]
        old = cluster.token("n1")
        before = worker.client()
        before.authorize(old)
        before.read("u-1", entry)
        cluster.authority.add_token_key()

        def fresh_token() -> str | None:
            token = cluster.token("n1")
            return token if key_id_in(token) != key_id_in(old) else None

        fresh = wait_for("a token of the new key", fresh_token)
        after = worker.client()
        after.authorize(fresh)
        after.read("u-1", entry)
        before.read("u-1", entry)
        assert cluster.authority.forget_token_keys() == 1
        # A token of a key nobody knows makes the worker ask for the keys there are.
        unknown = sign(claims(), SigningKey.of(Ed25519PrivateKey.generate()))

        def is_forgotten() -> bool:
            with pytest.raises(WorkerRefused):
                after.authorize(unknown)
            try:
                before.read("u-1", entry)
            except WorkerRefused as error:
                assert error.errno == errno.EKEYREJECTED
                return True
            return False

        wait_for("the end of the old key", is_forgotten, 10)
        after.read("u-1", entry)
        before.close()
        after.close()
    finally:
        cluster.stop()


def shown_serial(address: str, trust: TrustFiles) -> int:
    """The serial number of the certificate a server shows in a handshake of this moment."""
    host, _, port = address.rpartition(":")
    context = trust.client_context()
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, int(port)), timeout=10) as raw, context.wrap_socket(raw) as tls:
        raw_certificate = tls.getpeercert(binary_form=True)
    assert raw_certificate is not None
    return x509.load_der_x509_certificate(raw_certificate).serial_number


def serial_of(folder: Path) -> int:
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes()).serial_number


def test_authority_and_certificates_change_under_a_reader(tmp_path: Path) -> None:
    cluster = CacheCluster(tmp_path, is_trusting=True)
    try:
        cluster.add_workers("n1", "n2")
        everybody = {who: cluster.trust_folder(who) for who in (METADATA_SERVER, N1, N2, ADMIN)}
        stop, errors, reads = threading.Event(), list[Exception](), [0]

        def read_on() -> None:
            """New files all the time, by both workers: each is looked up, fetched or copied, and read."""
            try:
                while not stop.is_set():
                    reads[0] += 1
                    cluster.put_origin({f"{reads[0]}.bin": BODY})
                    cluster.sync()
                    for node in ("n1", "n2"):
                        client = cluster.workers[node].client()
                        client.authorize(cluster.token(node))
                        assert client.read("u-1", cluster.entries()[f"{reads[0]}.bin"])[0] == BODY
                        client.close()
            except Exception as error:  # noqa: BLE001  # the test tells
                errors.append(error)

        def change(number: int, what: Callable[[Identity, Path], object]) -> None:
            """One step for everybody; returns when all processes took it and a few reads went by."""
            for who, folder in everybody.items():
                what(who, folder)
            assert cluster.admin is not None
            for log in (tmp_path / "metadata.log", tmp_path / "n1/log", tmp_path / "n2/log"):

                def has_taken_it(log: Path = log) -> bool:
                    # A server looks when somebody connects, once a second at most; all workers may have done so before.
                    shown_serial(cluster.address, TrustFiles(everybody[ADMIN]))
                    return numbers(log.read_text()) >= number

                wait_for(f"change {number} in {log}", has_taken_it)
            goal = reads[0] + 3
            wait_for("reads", lambda: reads[0] >= goal or errors)

        reader = threading.Thread(target=read_on)
        reader.start()
        before = {who: serial_of(folder) for who, folder in everybody.items()}
        cluster.authority.add_issuer()
        change(2, lambda who, folder: cluster.authority.trust_only(folder))
        change(3, cluster.authority.issue)
        cluster.authority.forget_issuers()
        change(4, lambda who, folder: cluster.authority.trust_only(folder))
        stop.set()
        reader.join(60)
        assert not errors, errors[0]
        assert cluster.metric("peer_served_bytes_total") > 0
        fresh = TrustFiles(everybody[ADMIN])
        servers = {METADATA_SERVER: cluster.address}
        for node, worker in cluster.live().items():
            servers[Identity(Role.WORKER, node)] = worker.data_endpoint
            assert shown_serial(worker.control_endpoint, fresh) == serial_of(everybody[Identity(Role.WORKER, node)])
        for who, address in servers.items():
            assert shown_serial(address, fresh) == serial_of(everybody[who]) != before[who]
    finally:
        cluster.stop()


def numbers(log: str) -> int:
    """The last change of certificates a log tells of."""
    found = [json.loads(line) for line in log.splitlines() if '"certificates_changed"' in line]
    return max((line["number"] for line in found), default=1)
