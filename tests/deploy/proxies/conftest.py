"""The three proxies, each for real and before the real service, shared by a file's tests."""

from collections.abc import Iterator

import pytest

from tests.deploy.nginx import Nginx
from tests.deploy.proxies.caddy import Caddy
from tests.deploy.proxies.haproxy import HAProxy
from tests.deploy.proxies.proxy import Proxy
from tests.deploy.proxies.service import Socket
from tests.missing import needs

Kind = type[Proxy]

NGINX = pytest.param(Nginx, id="nginx", marks=needs("nginx"))
CADDY = pytest.param(Caddy, id="caddy", marks=needs("caddy"))
HAPROXY = pytest.param(HAProxy, id="haproxy", marks=needs("haproxy"))


@pytest.fixture(scope="module")
def socket() -> Iterator[Socket]:
    with Socket() as socket, socket.service():
        yield socket


@pytest.fixture(scope="module", params=[NGINX, CADDY, HAPROXY])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def plain(kind: Kind, socket: Socket) -> Iterator[Proxy]:
    """The configuration as it is shipped."""
    with kind(kind.shipped(), sock=socket.path) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def secure(kind: Kind, socket: Socket) -> Iterator[Proxy]:
    """The configuration with TLS switched on."""
    with kind(kind.shipped(tls=True), sock=socket.path) as proxy:
        yield proxy
