"""gRPC service Trust: tokens for datasets, and the keys to check them with. Who may have one is core/access.py's."""

import time

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from api.trust.channels import caller_of
from api.trust.identity import NotAnIdentity, parse_identity
from api.trust.tokens import Claims, sign
from metadata.core import access
from metadata.errors import InvalidRequest, Unavailable
from metadata.shell import edge, metrics
from metadata.shell.catalog import Catalog, find_dataset
from metadata.shell.edge import Context
from metadata.shell.signing_keys import SigningKeys


class TrustService(metadata_pb2_grpc.TrustServicer):
    """Signs; without keys (trust is off) it says so."""

    def __init__(self, catalog: Catalog, keys: SigningKeys | None, lifetime_seconds: int) -> None:
        self._database = catalog.database
        self._keys = keys
        self._lifetime_seconds = lifetime_seconds

    @edge.unary
    async def IssueToken(self, request: pb.IssueTokenRequest, context: Context) -> pb.IssuedToken:
        keys = self._with_keys()
        caller = caller_of(context)
        assert caller is not None, "with keys there are certificates"
        try:
            audience = parse_identity(request.audience) if request.audience else caller
        except NotAnIdentity as error:
            raise InvalidRequest(f"audience: {error}.") from None
        wanted = pb.DatasetRequest(uid=request.uid, namespace=request.namespace, name=request.name)
        dataset = await self._database.read(lambda reader: find_dataset(reader, wanted))
        access.check_token(caller, audience, dataset, write=request.write)
        lifetime = min(request.lifetime_seconds or self._lifetime_seconds, self._lifetime_seconds)
        now = int(time.time())
        claims = Claims(
            key_id="",
            uid=dataset.uid,
            namespace=dataset.specification.namespace,
            name=dataset.specification.name,
            may_write=request.write,
            audience=audience.uri,
            issued_at_seconds=now,
            expires_at_seconds=now + lifetime,
        )
        metrics.TOKENS.labels(audience.role.value).inc()
        return pb.IssuedToken(token=sign(claims, keys.signer()), uid=dataset.uid, lifetime_seconds=lifetime)

    @edge.unary
    async def TokenKeys(self, request: pb.TokenKeysRequest, context: Context) -> pb.TokenKeysResponse:
        return pb.TokenKeysResponse(keys=self._with_keys().public())

    def _with_keys(self) -> SigningKeys:
        if self._keys is None:
            raise Unavailable("this service signs no tokens; start it with trust and token_keys.")
        return self._keys
