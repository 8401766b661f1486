"""The metrics of all replicas in one text, each sample with the label `replica`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, str]):
        self.texts = texts

    def collect(self) -> Iterator[Any]:
        families: dict[str, Metric] = {}
        for replica, text in self.texts.items():
            for family in text_string_to_metric_families(text):
                own = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    own.add_sample(sample.name, {"replica": replica, **sample.labels}, sample.value)
        yield from families.values()


def merged(texts: Mapping[str, str]) -> bytes:
    """One text for Prometheus from those of the replicas, by name."""
    return generate_latest(_Merged(texts))  # type: ignore[arg-type]
