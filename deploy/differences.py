"""How what is found can differ from what is wanted, as types. `problem` says what, `remedy` what applying did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.access.kafka import EVERYBODY, Acl
from deploy.indices import TemplateDefinition
from deploy.wanted import COMPATIBILITY, SubjectDefinition, TopicDefinition
from schemas.released import ReleasedSchema


@dataclass(frozen=True, slots=True)
class MissingTopic:
    topic: TopicDefinition
    replication: int

    @property
    def problem(self) -> str:
        return f"topic {self.topic.name} is missing"

    @property
    def remedy(self) -> str:
        return f"created with {self.topic.partitions} partitions, replication {self.replication}"


@dataclass(frozen=True, slots=True)
class TopicConfigDiffers:
    topic: str
    name: str
    found: str | None
    wanted: str

    @property
    def problem(self) -> str:
        return f"topic {self.topic}: {self.name} is {self.found}, wanted {self.wanted}"

    @property
    def remedy(self) -> str:
        return "set"


@dataclass(frozen=True, slots=True)
class MissingSubject:
    subject: SubjectDefinition

    @property
    def problem(self) -> str:
        return f"subject {self.subject.name} is missing"

    @property
    def remedy(self) -> str:
        versions = ", ".join(f"v{schema.version}" for schema in self.subject.versions)
        return f"registered {versions} with compatibility {COMPATIBILITY}"


@dataclass(frozen=True, slots=True)
class MissingSchema:
    subject: str
    schema: ReleasedSchema

    @property
    def problem(self) -> str:
        return f"subject {self.subject}: v{self.schema.version} of {self.schema.name} is missing"

    @property
    def remedy(self) -> str:
        return "registered"


@dataclass(frozen=True, slots=True)
class CompatibilityDiffers:
    subject: str
    found: str | None

    @property
    def problem(self) -> str:
        return f"subject {self.subject}: compatibility is {self.found or 'not set'}, wanted {COMPATIBILITY}"

    @property
    def remedy(self) -> str:
        return "set"


@dataclass(frozen=True, slots=True)
class ReplicationDiffers:
    """Reported and left: moving replicas loads the brokers, so when and where to is the operator's decision."""

    topic: str
    found: int
    wanted: int

    @property
    def problem(self) -> str:
        return (
            f"topic {self.topic}: replication is {self.found}, wanted {self.wanted} "
            "(left as it is: use kafka-reassign-partitions, then apply again)"
        )


@dataclass(frozen=True, slots=True)
class PartitionCountDiffers:
    """Refused: no count but the one at creation is right for what is in the topics."""

    topic: str
    found: int
    wanted: int
    accounts_live_here: bool

    @property
    def problem(self) -> str:
        why = (
            "accounts would move to other partitions, away from their history"
            if self.accounts_live_here
            else "its keys would move to other partitions, and lose their order"
        )
        return (
            f"topic {self.topic} has {self.found} partitions, wanted {self.wanted}; "
            f"the count cannot change, since {why}"
        )


@dataclass(frozen=True, slots=True)
class IncompatibleSchema:
    """Refused: the subject holds versions that this one does not go together with."""

    subject: str
    schema: ReleasedSchema

    @property
    def problem(self) -> str:
        return (
            f"subject {self.subject}: v{self.schema.version} of {self.schema.name} is not {COMPATIBILITY} compatible "
            "with the versions that are registered. Either they are not Daybook's, or this one was edited after its "
            "release"
        )


@dataclass(frozen=True, slots=True)
class MissingTemplate:
    template: TemplateDefinition

    @property
    def problem(self) -> str:
        return f"index template {self.template.name} is missing"

    @property
    def remedy(self) -> str:
        return f"put for {self.template.pattern}"


@dataclass(frozen=True, slots=True)
class TemplateDiffers:
    """`differing` names the parts; `settings` are those found, which stay."""

    template: TemplateDefinition
    differing: tuple[str, ...]
    settings: Mapping[str, str]

    @property
    def problem(self) -> str:
        return f"index template {self.template.name} differs in {', '.join(self.differing)}"

    @property
    def remedy(self) -> str:
        return "put as wanted"


@dataclass(frozen=True, slots=True)
class IndexLacksField:
    """The index is of an older Daybook. `mapping` is the whole field's, of which perhaps a sub-field is lacking."""

    index: str
    field: str
    mapping: Mapping[str, Any]

    @property
    def problem(self) -> str:
        return f"index {self.index} lacks field {self.field}"

    @property
    def remedy(self) -> str:
        return "added; documents that are there already get it by `daybook rebuild search`"


@dataclass(frozen=True, slots=True)
class IndexFieldDiffers:
    """Reported and left: a field's mapping cannot change, but a new index is made with the template's."""

    index: str
    field: str
    found: Mapping[str, Any]
    wanted: Mapping[str, Any]

    @property
    def problem(self) -> str:
        return (
            f"index {self.index}: field {self.field} is {_mapping(self.found)}, wanted {_mapping(self.wanted)} "
            "(left as it is: `daybook rebuild search` makes a new index)"
        )


@dataclass(frozen=True, slots=True)
class MissingCredential:
    principal: str

    @property
    def problem(self) -> str:
        return f"principal {self.principal} has no credential in Kafka"

    @property
    def remedy(self) -> str:
        return "made"


@dataclass(frozen=True, slots=True)
class WrongCredential:
    """Kafka tells nobody a password; so this is known by logging in with the one that is wanted."""

    principal: str

    @property
    def problem(self) -> str:
        return f"principal {self.principal} has another password in Kafka"

    @property
    def remedy(self) -> str:
        return "changed"


@dataclass(frozen=True, slots=True)
class MissingRights:
    principal: str
    acls: tuple[Acl, ...]

    @property
    def problem(self) -> str:
        return f"principal {self.principal} lacks rights in Kafka: {_listed(self.acls)}"

    @property
    def remedy(self) -> str:
        return "given"


@dataclass(frozen=True, slots=True)
class UnwantedRights:
    """Of a principal of ours, or of everybody, on what this ledger has."""

    principal: str
    acls: tuple[Acl, ...]

    @property
    def problem(self) -> str:
        who = "everybody" if self.principal == EVERYBODY else f"principal {self.principal}"
        return f"{who} has rights in Kafka that it should not have: {_listed(self.acls)}"

    @property
    def remedy(self) -> str:
        return "taken away"


@dataclass(frozen=True, slots=True)
class DenyingAcl:
    """Reported and left: somebody keeps a principal out on purpose."""

    principal: str
    acl: Acl

    @property
    def problem(self) -> str:
        return (
            f"principal {self.principal} is denied in Kafka: {self.acl} (left as it is: whoever denied it knows why; "
            "kafka-acls takes it away)"
        )


def _listed(acls: tuple[Acl, ...]) -> str:
    return ", ".join(str(acl) for acl in acls)


def _mapping(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(mapping.items(), key=lambda item: item[0] != "type"))


AccessDiffers = MissingCredential | WrongCredential | MissingRights | UnwantedRights
SubjectDiffers = MissingSubject | MissingSchema | CompatibilityDiffers
Applicable = (
    MissingTopic
    | TopicConfigDiffers
    | SubjectDiffers
    | MissingTemplate
    | TemplateDiffers
    | IndexLacksField
    | AccessDiffers
)
Left = ReplicationDiffers | IndexFieldDiffers | DenyingAcl
Refusal = PartitionCountDiffers | IncompatibleSchema
Difference = Applicable | Left | Refusal
