"""`headrace certs`: the authority of a cluster, certificates of its parts, keys and tokens.

Owns options and output; headrace/trust/authority.py does it. docs/SECURITY.md has the order of a rotation."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from api.trust.identity import METADATA_SERVER, Identity, NotAnIdentity, Role, parse_identity
from headrace.errors import HeadraceError, UsageError

certs = typer.Typer(
    help="Certificates, keys and tokens of the parts: make, renew and change them.", no_args_is_help=True
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="folder of the authority; keep it off the nodes")]
ISSUED = "issued"


class Step(StrEnum):
    """Of a change of the authority, in this order, each distributed before the next."""

    BELIEVE = "believe"
    REISSUE = "reissue"
    FORGET = "forget"


class TokenFailed(HeadraceError):
    """The metadata service gives no token."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(certs, name="certs")


@certs.command(
    "issue", epilog="Examples:  headrace certs issue pki metadata cache-controller/main worker/node-1 node/node-1"
)
def issue(
    folder: Folder,
    identities: Annotated[list[str], typer.Argument(metavar="ROLE/NAME...", help="`metadata` needs no name")],
    *,
    days: Annotated[int, typer.Option(min=1, max=3650, help="how long they are good")] = 90,
) -> None:
    """Have certificates in DIR/issued/ROLE/NAME, the authority made if there is none. Good ones are kept."""
    from headrace.trust.authority import TrustAuthority

    wanted = [_identity(text) for text in identities]
    authority = TrustAuthority(folder)
    for identity in wanted:
        into = folder / ISSUED / identity.role / identity.name
        is_new = authority.issue(identity, into, days=days)
        print(f"{identity}: {into} ({'issued' if is_new else 'still good'})")


@certs.command(
    "rotate", epilog="Examples:  headrace certs rotate pki believe   # distribute; then reissue; then forget"
)
def rotate(folder: Folder, step: Annotated[Step, typer.Argument(help="one of the three, in this order")]) -> None:
    """Change the authority under running parts: believe a new one, reissue by it, forget the old one."""
    from headrace.trust.authority import TrustAuthority

    if not (folder / "issuer.crt").exists():
        raise UsageError(f"{folder} has no authority; make one with `headrace certs issue`")
    authority = TrustAuthority(folder)
    if step is Step.BELIEVE:
        authority.add_issuer()
    elif step is Step.FORGET:
        authority.forget_issuers()
    for path in sorted((folder / ISSUED).glob("*/*")):
        if step is Step.REISSUE:
            authority.issue(_identity(f"{path.parent.name}/{path.name}"), path)
        else:
            authority.trust_only(path)
    print(f"{step}: done in {folder / ISSUED}; bring it to every part before the next step")


@certs.command("token-key")
def token_key(
    folder: Folder,
    *,
    forget: Annotated[bool, typer.Option("--forget", help="remove all but the last: their tokens end")] = False,
) -> None:
    """Make another key for tokens, or forget the ones before the last. The metadata service sees it by itself."""
    from headrace.trust.authority import TrustAuthority

    authority = TrustAuthority(folder)
    if forget:
        print(f"{authority.forget_token_keys()} keys removed from {authority.token_keys}")
    else:
        print(authority.add_token_key())


@certs.command("token")
def token(
    dataset: Annotated[str, typer.Argument(metavar="NAMESPACE/DATASET")],
    *,
    trust: Annotated[Path, typer.Option(help="folder with a certificate: an administrator's, or the node's own")],
    metadata: Annotated[str, typer.Option(metavar="HOST:PORT", help="the metadata service")],
    node: Annotated[str, typer.Option(help="node whose worker is shown the token")],
    out: Annotated[Path, typer.Option(help="file for the token; it is replaced")],
    write: Annotated[bool, typer.Option("--write", help="for writing too")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="go on and keep the file fresh")] = False,
) -> None:
    """Put a token for one dataset into a file, for the Python client in a pod (HEADRACE_TOKENS names the folder)."""
    from headrace.cluster.state import write_private

    namespace, _, name = dataset.partition("/")
    if not namespace or not name:
        raise UsageError(f"{dataset!r} is no dataset; write it like team-a/imagenet")
    audience = Identity(Role.NODE, node)
    while True:
        text, lifetime_seconds = _issued(
            metadata, trust, namespace=namespace, name=name, audience=audience, write=write
        )
        write_private(out, text)
        print(f"{out}: good for {lifetime_seconds} s", flush=True)
        if not follow:
            return
        time.sleep(lifetime_seconds / 2)


def _issued(
    address: str, folder: Path, *, namespace: str, name: str, audience: Identity, write: bool
) -> tuple[str, int]:
    import grpc

    from api.gen import metadata_pb2, metadata_pb2_grpc
    from api.trust.channels import open_blocking_channel
    from api.trust.files import TrustError, TrustFiles

    try:
        trust = TrustFiles(folder)
    except TrustError as error:
        raise UsageError(f"--trust: {error}") from error
    request = metadata_pb2.IssueTokenRequest(namespace=namespace, name=name, write=write, audience=audience.uri)
    with open_blocking_channel(address, trust, METADATA_SERVER) as channel:
        try:
            answer = metadata_pb2_grpc.TrustStub(channel).IssueToken(request, timeout=10)
        except grpc.RpcError as error:
            call: Any = error  # it is a grpc.Call too, which the types do not know
            raise TokenFailed(f"no token for {namespace}/{name}: {call.details()}") from error
    return answer.token, answer.lifetime_seconds


def _identity(text: str) -> Identity:
    try:
        return METADATA_SERVER if text == Role.METADATA else parse_identity(f"headrace://{text}")
    except NotAnIdentity as error:
        raise UsageError(str(error)) from None
