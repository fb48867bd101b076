"""What a scrape says, as Prometheus's own parser reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Scraped:
    """The samples of one scrape."""

    def __init__(self, body: bytes | str) -> None:
        text = body if isinstance(body, str) else body.decode()
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.types: dict[str, str] = {}
        for family in text_string_to_metric_families(text):
            self.types[family.name] = family.type
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.values, f"{key} is there twice"
                self.values[key] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """Of one sample; 0 if it is not there."""
        return self.values.get((name, frozenset(labels.items())), 0)

    def label(self, name: str, label: str) -> str:
        """The value of a label of the only sample of this name."""
        (labels,) = [dict(labels) for each, labels in self.values if each == name]
        return labels[label]

    def __len__(self) -> int:
        return len(self.values)
