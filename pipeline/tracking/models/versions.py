"""Registered models in plain values, and which version is served, from a store's tables. Does not import MLflow."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import and_, select

from pipeline.tracking.bulk import Bulk, columns_of
from pipeline.tracking.location import local_path

ALIASES = columns_of("registered_model_aliases", "workspace", "name", "alias", "version")
VERSIONS = columns_of("model_versions", "workspace", "name", "version", "run_id", "source")


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: the number of each alias's version, and its tags."""

    aliases: Mapping[str, int]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Version:
    """A version of a registered model: its number, the run that it was made of, its tags, and where its files lie."""

    number: int
    run_id: str
    tags: Mapping[str, str]
    source: str

    @property
    def is_here(self) -> bool:
        """Tell whether its files are where they should be, if that is on this machine."""
        folder = local_path(self.source)
        return folder is None or folder.exists()


def served(bulk: Bulk, name: str, alias: str) -> Version | None:
    """Read the version that an alias names, without its tags; None if none is, or if models are kept elsewhere."""
    if os.environ.get("MLFLOW_REGISTRY_URI"):
        return None
    one, of = ALIASES.c, VERSIONS.c
    same = and_(*(one[key] == of[key] for key in ("workspace", "name", "version")))
    statement = select(of.version, of.run_id, of.source).select_from(VERSIONS).join(ALIASES, same)
    found = bulk.select(statement.where(one.workspace == "default", one.name == name, one.alias == alias))
    return Version(found[0][0], found[0][1] or "", {}, found[0][2] or "") if found else None
