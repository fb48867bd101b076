"""How much one client may have of a proxy: the same with nginx and HAProxy. Caddy has no limits."""

import pytest
import trio

from tests.deploy.nginx import Nginx
from tests.deploy.proxies.client import ELSEWHERE, HANDSHAKE, ask, dial, echoes
from tests.deploy.proxies.conftest import HAPROXY, NGINX, Kind
from tests.deploy.proxies.haproxy import HAProxy
from tests.deploy.proxies.proxy import Proxy
from tests.deploy.proxies.service import Socket

pytestmark = pytest.mark.parametrize("kind", [NGINX, HAPROXY], indirect=True)

Changes = dict[Kind, list[tuple[str, str]]]

THREE_SOCKETS: Changes = {
    Nginx: [("limit_conn sockets 1000;", "limit_conn sockets 3;")],
    HAProxy: [("sc0_conn_cur gt 1000", "sc0_conn_cur gt 3")],
}

FIVE_DIALS: Changes = {
    Nginx: [("burst=2000", "burst=4"), ("rate=20r/s", "rate=1r/m")],
    HAProxy: [("sc0_gpc0_rate gt 3200", "sc0_gpc0_rate gt 5")],
}


def limited(kind: Kind, socket: Socket, changes: Changes) -> Proxy:
    text = kind.shipped()
    for old, new in changes[kind]:
        assert old in text
        text = text.replace(old, new)
    return kind(text, sock=socket.path)


async def test_who_has_too_many_sockets_gets_429_and_others_do_not(
    kind: Kind, socket: Socket
) -> None:
    with limited(kind, socket, THREE_SOCKETS) as proxy, trio.fail_after(20):
        async with dial(proxy), dial(proxy):
            async with dial(proxy) as third:
                assert await echoes(third)
                assert ask(proxy, "/ws", HANDSHAKE).status == 429
                assert ask(proxy, "/ws", HANDSHAKE, source=ELSEWHERE).status == 101
            # When one has gone, and the proxy knows, there is room for another.
            await proxy.wait_until(lambda: ask(proxy, "/ws", HANDSHAKE).status == 101, "no room")


def test_who_dials_too_often_gets_429_but_may_still_ask_for_pages(
    kind: Kind, socket: Socket
) -> None:
    with limited(kind, socket, FIVE_DIALS) as proxy:
        statuses = [ask(proxy, "/ws", HANDSHAKE).status for _ in range(7)]
        assert statuses == [101] * 5 + [429] * 2
        assert ask(proxy, "/hub/negotiate", method="POST").status == 429
        assert {ask(proxy, "/").status for _ in range(10)} == {200}
        assert ask(proxy, "/ws", HANDSHAKE, source=ELSEWHERE).status == 101
        if isinstance(proxy, Nginx):  # nobody fills the error log with that
            assert "limiting" not in proxy.error_log


def test_a_request_that_is_too_large_is_refused(plain: Proxy) -> None:
    large = ask(plain, "/", [("Content-Length", "2000000")], method="POST")
    assert large.status == 413
