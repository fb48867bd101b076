"""deploy/uninstall: takes all back that deploy/install made, and nothing else."""

from tests.deploy.box import Box
from tests.deploy.crowd import crowd
from tests.deploy.scripts import deploy, difference, tree


def test_uninstalling_leaves_the_settings_and_purging_nothing(
    installed: Box, nothing: list[str]
) -> None:
    box = installed
    before = tree(box)
    deploy(box, "uninstall", "--dry-run")
    assert tree(box) == before
    with crowd(box, sockets=5) as clients:
        deploy(box, "uninstall")
    assert clients.report.closes == {"1001": 5}
    left = [each.split()[0] for each in difference(nothing, tree(box))]
    assert left == ["/etc/echo", "/etc/echo/echo.env"]
    assert box.run("systemctl", "list-units", "--all", "--no-legend", "echo*").stdout == ""
    assert box.state("nginx") == "active"
    assert box.run("sh", "-c", "ls /run/echo.sock", check=False).returncode != 0

    deploy(box, "uninstall", "--purge")
    assert difference(nothing, tree(box)) == []
