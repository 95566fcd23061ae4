"""Who may what in Kafka as found, compared with what is wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from deploy.access.kafka import EVERYBODY, Acl
from deploy.access.principals import SCRAM_PRINCIPALS
from deploy.differences import DenyingAcl, MissingCredential, MissingRights, UnwantedRights, WrongCredential


def compared_rights(
    wanted: frozenset[Acl], found: Iterable[Acl]
) -> Iterator[MissingRights | UnwantedRights | DenyingAcl]:
    """How the rights found differ from those wanted, for each principal.

    Only what concerns this ledger is looked at: rights to other names may be another ledger's. Those of principals that
    are none of Daybook's are left alone, too.
    """
    there = frozenset(found)
    ours = [acl for acl in there if acl.principal in (*SCRAM_PRINCIPALS, EVERYBODY) and _concerns(acl, wanted)]
    for principal in (*SCRAM_PRINCIPALS, EVERYBODY):
        if missing := sorted(acl for acl in wanted - there if acl.principal == principal):
            yield MissingRights(principal, tuple(missing))
        mine = sorted(acl for acl in ours if acl.principal == principal)
        if unwanted := [acl for acl in mine if acl.allows and acl not in wanted]:
            yield UnwantedRights(principal, tuple(unwanted))
        yield from (DenyingAcl(principal, acl) for acl in mine if not acl.allows)


def _concerns(acl: Acl, wanted: frozenset[Acl]) -> bool:
    """Whether it is for a resource of this ledger, or for all of a kind."""
    if acl.resource == "cluster" or acl.name == EVERYBODY:
        return True
    return any(
        acl.resource == one.resource
        and (
            acl.name == one.name
            or (acl.is_prefix and one.name.startswith(acl.name))
            or (one.is_prefix and acl.name.startswith(one.name))
        )
        for one in wanted
    )


def compared_credentials(
    passwords: Mapping[str, str], known: Collection[str], refused: Collection[str]
) -> Iterator[MissingCredential | WrongCredential]:
    """How the credentials differ. `known` have one; `refused` are those of them whose password does not log in."""
    for principal in SCRAM_PRINCIPALS:
        if principal not in passwords:
            continue
        if principal not in known:
            yield MissingCredential(principal)
        elif principal in refused:
            yield WrongCredential(principal)
