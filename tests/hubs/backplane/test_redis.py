"""The backplane on a real engine: how it gets in, and what it does on the wire."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme

from echo.hubs.backplane import BackplaneError
from echo.hubs.backplane.engine import parse_url
from echo.hubs.backplane.redis import RedisBackplane
from tests.hubs.backplane.engines import (
    Ear,
    Engine,
    eager,
    needs_engine,
    running,
    until,
)
from tests.hubs.backplane.relay import relay
from tests.servers import free_port

pytestmark = needs_engine


# URLs


@pytest.mark.parametrize(
    ("url", "endpoints", "user", "password", "prefix"),
    [
        ("redis://", ["localhost:6379"], None, None, ""),
        ("redis://host", ["host:6379"], None, None, ""),
        ("redis://host:1/0", ["host:1"], None, None, ""),
        ("valkey://:se%40cret@[::1]:2?prefix=a.", ["[::1]:2"], None, "se@cret", "a."),
        ("redis://me:word@a,b:2", ["a:6379", "b:2"], "me", "word", ""),
        ("unix:///run/a%20b.sock?prefix=x", ["/run/a b.sock"], None, None, "x"),
        ("unix://:word@/run/a.sock", ["/run/a.sock"], None, "word", ""),
    ],
)
def test_a_url_names_the_engine(
    url: str, endpoints: list[str], user: str | None, password: str | None, prefix: str
) -> None:
    engine, options = parse_url(url)
    assert [str(each) for each in engine.endpoints] == endpoints
    assert (engine.username, engine.password) == (user, password)
    assert engine.tls is None
    assert options.prefix == prefix
    assert "word" not in repr(engine)
    assert "word" not in repr(RedisBackplane(url))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://:hush@host", "begins with redis://, rediss:// or unix://, not 'http'"),
        ("localhost:6379", "begins with redis://, rediss:// or unix://, not 'localhost'"),
        ("redis://:hush@host:port", "a host or port that makes no sense"),
        ("redis://:hush/hush@host", "in a password, / is written %2F"),
        ("redis://:hush#hush@host", "# is %23"),
        ("redis://hush℀@host", "makes no sense"),
        ("redis://:hu?hush@host", "? is written %3F"),
        ("redis://host?hush=hush", "knows ?prefix=, ?sharded=on, ?ca=, ?cert= and ?key=, no other"),
        ("redis://host:99999", "a host or port that makes no sense"),
        ("redis://host?sharded=maybe", "sharded"),
        ("rediss://host?ca=/none.pem", "cannot use /none.pem for TLS"),
        ("unix://run/socket", "unix:///path/to/socket"),
        ("unix://", "unix:///path/to/socket"),
        ("unix:///run/socket?sharded=on", "a cluster has no unix socket"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        RedisBackplane(url)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["connect_timeout", "answer_timeout", "retry_most", "queue_size"])
def test_wrong_options_are_refused(name: str) -> None:
    for value in (0, -1, float("nan"), "1"):
        with pytest.raises(ValueError, match=f"^{name} must be "):
            eager(**{name: value})


# Getting in


async def test_it_connects_by_port_and_by_unix_socket(shared_engine: Engine) -> None:
    async with running(shared_engine.url) as a, running(shared_engine.unix_url) as b:
        ear = Ear(b)
        await ear.hear("both")
        assert await a.publish_counted("both", b"1") == 1
        await ear.until_heard(1)


async def test_the_next_address_is_tried_if_one_does_not_answer(
    shared_engine: Engine,
) -> None:
    url = f"redis://127.0.0.1:{free_port()},127.0.0.1:{shared_engine.port}"
    async with running(url, connected=False) as backplane:
        await until(lambda: backplane.connected)


async def test_a_prefix_keeps_hubs_apart(shared_engine: Engine) -> None:
    async with running(shared_engine.url + "?prefix=a.") as a, running(shared_engine.url) as b:
        ears = [Ear(a), Ear(b)]
        for ear in ears:
            await ear.hear("apart")
        assert shared_engine.do("PUBLISH", "a.apart", b"1") == 1
        assert await b.publish_counted("apart", b"2") == 1
        await ears[0].until_heard(1)
        await ears[1].until_heard(1)
        assert ears[0].heard == [("apart", b"1")]
        assert ears[1].heard == [("apart", b"2")]


async def test_names_and_contents_may_be_anything(shared_engine: Engine) -> None:
    async with running(shared_engine.url) as backplane:
        ear = Ear(backplane)
        channels = ["", " ", "*", "h?llo", "a\r\nb", "\0", "größe", "\ud800", "x" * 100_000]
        await ear.hear(*channels)
        for channel in channels:
            assert await backplane.publish_counted(channel, channel.encode(errors="replace")) == 1
        data = bytes(range(256)) * 8000
        backplane.publish("", data)
        await ear.until_heard(len(channels) + 1)
        assert [channel for channel, _ in ear.heard] == [*channels, ""]
        assert ear.heard[-1][1] == data


async def test_a_password_lets_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Engine(tmp_path, "--requirepass", "se@cret", credentials=":se%40cret@") as engine:
        async with running(engine.url) as backplane:
            assert await backplane.publish_counted("a", b"") == 0
        async with running(engine.unix_url.replace(":se", "default:se")) as backplane:
            assert await backplane.publish_counted("a", b"") == 0
        for credentials, why in ((":wrong@", "WRONGPASS"), ("", "give it in the URL")):
            url = f"redis://{credentials}127.0.0.1:{engine.port}"
            async with running(url, connected=False) as backplane:
                assert backplane.away is not None
                assert why in backplane.away
                assert f"127.0.0.1:{engine.port}" in backplane.away
        assert "cret" not in caplog.text
        assert "wrong@" not in caplog.text


async def test_tls_with_a_certificate_that_is_trusted(
    shared_engine: Engine, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, well in (("127.0.0.1", True), ("other.example", False)):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(context)
        async with relay(shared_engine.socket, context) as between:
            url = between.url.replace("redis:", "rediss:")
            async with running(f"{url}?ca={tmp_path / 'ca.pem'}", connected=well) as backplane:
                if well:
                    ear = Ear(backplane)
                    await ear.hear("tls")
                    data = b"x" * 1_000_000
                    assert await backplane.publish_counted("tls", data) == 1
                    await ear.until_heard(1)
                    assert ear.heard == [("tls", data)]
                else:
                    assert backplane.away is not None
                    assert "its certificate is refused: IP address mismatch" in backplane.away
            async with running(url, connected=False) as backplane:
                assert backplane.away is not None
                assert "its certificate is refused: unable to get local issuer" in backplane.away


async def test_tls_that_asks_for_our_certificate(shared_engine: Engine, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours = authority.issue_cert("node.example")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with relay(shared_engine.socket, context) as between:
        url = f"{between.url.replace('redis:', 'rediss:')}?ca={tmp_path / 'ca.pem'}"
        async with running(f"{url}&cert={tmp_path / 'ours.pem'}"):
            pass
        async with running(url, connected=False) as backplane:
            assert not backplane.connected


async def test_what_is_no_engine_is_said_to_be_none() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        port = listeners[0].socket.getsockname()[1]
        async with running(f"redis://127.0.0.1:{port}", connected=False) as backplane:
            assert backplane.away is not None
            assert "this is no Redis or Valkey" in backplane.away
        nursery.cancel_scope.cancel()


async def _say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_who_accepts_and_says_nothing_counts_as_away() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, _say_nothing, 0)
        port = listeners[0].socket.getsockname()[1]
        options = eager(connect_timeout=0.1)
        async with running(f"redis://127.0.0.1:{port}", options, connected=False) as backplane:
            assert backplane.away == f"127.0.0.1:{port}: no connection within 0.1 s"
        nursery.cancel_scope.cancel()


async def test_what_the_engine_refuses_is_told(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.do("ACL", "SETUSER", "default", "resetchannels", "&may:*")
    async with running(engine.url) as backplane:
        ear = Ear(backplane)
        await ear.hear("may:a")
        backplane.publish("not", b"")
        with pytest.raises(BackplaneError, match="The engine did not publish the message: NOPERM"):
            await backplane.publish_counted("not", b"")
        assert await backplane.publish_counted("may:a", b"") == 1
        assert backplane.metrics.lost == {"refused": 2}
        assert caplog.text.count("NOPERM") == 1
        await ear.hear("not")
        await until(lambda: not backplane.connected)
        assert "the engine refuses a subscription: NOPERM" in str(backplane.away)
        ear.backplane.unsubscribe(["not"])
        await until(lambda: backplane.connected)


async def test_the_last_words_of_a_node_are_heard(shared_engine: Engine) -> None:
    async with running(shared_engine.url) as listener:
        ear = Ear(listener)
        await ear.hear("last")
        async with running(shared_engine.url) as backplane:
            for number in range(1000):
                backplane.publish("last", b"%d" % number)
        await ear.until_heard(1000)
        assert [data for _, data in ear.heard] == [b"%d" % number for number in range(1000)]


async def test_it_runs_once(shared_engine: Engine) -> None:
    async with running(shared_engine.url) as backplane:
        with pytest.raises(RuntimeError, match="a backplane runs once"):
            await backplane.run()
        assert backplane.connected


async def test_a_flood_leaves_others_their_turn(shared_engine: Engine) -> None:
    """What one read brings takes 0.4 s here; others need not wait that long."""
    turns, left = 0, 400

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    def work(channel: str, data: bytes) -> None:
        nonlocal left
        ended = trio.current_time() + 0.001
        while trio.current_time() < ended:
            pass
        left -= 1

    async with running(shared_engine.url) as sender, running(shared_engine.url) as backplane:
        backplane.subscribe(["flood"], work)
        await backplane.subscribed(["flood"])
        for _ in range(left):
            sender.publish("flood", b"x")
        await until(lambda: left < 400)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            await until(lambda: left == 0)
            nursery.cancel_scope.cancel()
        assert turns > 40


async def test_many_channels_are_subscribed_anew(engine: Engine) -> None:
    async with running(engine.url) as backplane:
        ear = Ear(backplane)
        channels = [f"many:{number}" for number in range(5000)]
        await ear.hear(*channels)
        assert len(engine.do("PUBSUB", "CHANNELS", "many:*")) == 5000
        backplane.unsubscribe(channels[:2000])
        await ear.hear("end")
        assert len(engine.do("PUBSUB", "CHANNELS", "many:*")) == 3000
        engine.do("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: backplane.metrics.outages == 1 and backplane.connected)
        assert len(engine.do("PUBSUB", "CHANNELS", "many:*")) == 3000


async def test_how_long_the_engine_takes_is_measured(shared_engine: Engine) -> None:
    async with running(shared_engine.url) as backplane:
        for _ in range(3):
            await backplane.publish_counted("timed", b"1234")
        metrics = backplane.metrics
        assert (metrics.published, metrics.published_bytes, metrics.answers) == (3, 12, 3)
        assert 0 < metrics.answer_seconds < 30
