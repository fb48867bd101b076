"""From a registry to the bytes of an answer, in the format that the asker prefers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class Exposition:
    """What is answered to who asks for the metrics.

    Args:
        registry: what is collected for it.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def answer(self, accept: str = "") -> tuple[bytes, str]:
        """The body and its content type.

        Args:
            accept: the asker's Accept header; Prometheus's own asks for OpenMetrics.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
