"""Who may call what, and who may have which token."""

import inspect

import pytest

from api.gen import metadata_pb2_grpc as rpc
from api.trust.identity import METADATA_SERVER, Identity, Role
from metadata.core.access import CALLERS, check, check_token
from metadata.core.datasets import Dataset, Mount, Specification
from metadata.errors import Forbidden
from metadata.shell.checkpoint_service import CheckpointService
from metadata.shell.fence_service import FenceService
from metadata.shell.held_service import HeldService
from metadata.shell.namespace_service import NamespaceService
from metadata.shell.residency_service import ResidencyService
from metadata.shell.trust_service import TrustService

SERVICES = (NamespaceService, HeldService, ResidencyService, FenceService, CheckpointService, TrustService)
SERVICERS = (
    rpc.NamespaceServicer,
    rpc.HeldServicer,
    rpc.ResidencyServicer,
    rpc.FencesServicer,
    rpc.CheckpointsServicer,
    rpc.TrustServicer,
)
WHO = {role: Identity(role, "n1") for role in Role}


def test_every_method_has_its_callers_and_is_behind_the_edge() -> None:
    methods = {
        f"{service.__name__}.{name}": getattr(service, name)
        for service, servicer in zip(SERVICES, SERVICERS, strict=True)
        for name, _ in inspect.getmembers(servicer, inspect.isfunction)
    }
    assert methods.keys() == CALLERS.keys()
    for name, method in methods.items():
        assert method.__wrapped__.__qualname__ == name


def test_each_may_do_its_own_and_nothing_else() -> None:
    for method, allowed in CALLERS.items():
        for role, who in WHO.items():
            if role in allowed or role is Role.ADMIN:
                check(method, who, "n1")
            else:
                with pytest.raises(Forbidden, match="may not call"):
                    check(method, who, "n1")
    with pytest.raises(Forbidden):
        check("NamespaceService.NoSuch", WHO[Role.ADMIN], "")
    for method in ("ResidencyService.Register", "ResidencyService.Report"):
        with pytest.raises(Forbidden, match="of itself only"):
            check(method, WHO[Role.WORKER], "n2")
    with pytest.raises(Forbidden, match="of itself only"):
        check("FenceService.Lift", WHO[Role.NODE], "n2")


def dataset(*, writable: bool = True, nodes: tuple[str, ...] = ()) -> Dataset:
    return Dataset(Specification("u", "team", "data", (Mount("file:///x"),), eligible_nodes=nodes, writable=writable))


@pytest.mark.parametrize("role", list(Role))
def test_a_token_is_for_its_bearer(role: Role) -> None:
    me, other = WHO[role], Identity(role, "n2")
    for write in (False, True):
        may = role in {Role.NODE, Role.JOB_CONTROLLER, Role.ADMIN} or (
            role in {Role.WORKER, Role.CACHE_CONTROLLER} and not write
        )
        if may:
            check_token(me, me, dataset(), write=write)
        else:
            with pytest.raises(Forbidden):
                check_token(me, me, dataset(), write=write)
        if may and role is Role.ADMIN:
            check_token(me, Identity(Role.NODE, "n2"), dataset(), write=write)
        else:
            with pytest.raises(Forbidden):
                check_token(me, other, dataset(), write=write)
    with pytest.raises(Forbidden):
        check_token(me, me, dataset(writable=False), write=True)


def test_a_worker_copies_for_its_readers_what_it_may_not_keep() -> None:
    worker = WHO[Role.WORKER]
    check_token(worker, worker, dataset(nodes=("n0",)), write=False)
    with pytest.raises(Forbidden, match="no use for tokens"):
        check_token(METADATA_SERVER, METADATA_SERVER, dataset(), write=False)
