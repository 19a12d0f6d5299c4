"""Which runs of an experiment are meant, and in which order. Does not import MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.tracking.runs import stored_key


@dataclass(frozen=True)
class Filter:
    """Which runs are meant; empty fields allow any.

    tags: those that they have. status: theirs. id_start, fingerprint_start: with what their id or fingerprint starts,
    in hexadecimal digits. best: the metrics, best first, by which they are ordered, key -> whether more is better;
    those that lack the first one are not meant. earliest: whether they, or else equals, are ordered by their start,
    earliest first; otherwise latest first.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = ""
    id_start: str = ""
    fingerprint_start: str = ""
    best: Mapping[str, bool] = field(default_factory=dict)
    earliest: bool = False

    @property
    def condition(self) -> str:
        """The filter in MLflow's language."""
        parts = [f"attributes.status = '{self.status}'"] if self.status else []
        parts += [f"attributes.run_id LIKE '{self.id_start}%'"] if self.id_start else []
        parts += [f"tags.fingerprint LIKE '{self.fingerprint_start}%'"] if self.fingerprint_start else []
        parts += [f"tags.`{stored_key(key)}` = '{value}'" for key, value in self.tags.items()]
        parts += [f"metrics.`{key}` > -1e308" for key in list(self.best)[:1]]
        return " and ".join(parts)

    @property
    def order(self) -> list[str]:
        """The order in MLflow's language."""
        metrics = [f"metrics.`{key}` {'DESC' if more else 'ASC'}" for key, more in self.best.items()]
        return [*metrics, f"attributes.start_time {'ASC' if self.earliest else 'DESC'}"]
