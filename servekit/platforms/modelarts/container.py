"""What ModelArts demands of an image.

Source: Huawei Cloud, "Custom Image Specifications for Creating an AI Application", "Specifications for Custom Images
Used for Importing Models" and, for the user and `/home/mind`, its pages on custom engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servekit.containers import Container, Product

# The first is where batch services look, the second is where custom engines do.
BOOT_PATHS = ("/home/run.sh", "/home/mind/run.sh")
BOOT = """\
#!/bin/sh
# How ModelArts starts this image. By exec, servekit takes the place of the shell: it is process 1, SIGTERM reaches it,
# and it goes on serving for the 60 seconds that the platform asks for.
if [ -z "${SERVEKIT_PLATFORM:-}" ] && [ -z "${PSC_MODEL_PORT:-}" ]; then
    export SERVEKIT_PLATFORM=modelarts
fi
exec servekit run "$@"
"""

HEALTH_PATH = "/home/ma-user/health.sh"
# -I: nothing is imported from the working directory, or from where PYTHON variables say.
# http.client knows nothing of proxies, which a probe must not go through.
HEALTH = """\
#!/bin/sh
# For health checks of the kind EXEC: ends with 0 when GET /health answers 200. On the port that the server has from
# SERVEKIT_PORT, else 8080. A config.json with another health.url needs it as an argument: health.sh /alive
exec python3 -I -c '
import http.client, os, sys

host = os.environ.get("SERVEKIT_HOST", "").strip()
if host in ("", "0.0.0.0", "::"):
    host = "127.0.0.1"
try:
    connection = http.client.HTTPConnection(host, int(os.environ.get("SERVEKIT_PORT") or 8080), timeout=5)
    connection.request("GET", sys.argv[1])
    status = connection.getresponse().status
except (OSError, ValueError, http.client.HTTPException) as error:
    sys.exit(f"health: {error!r}")
sys.exit(0 if status == 200 else f"health: status {status}")
' "${1:-/health}"
"""

# Whoever has the uid 1000 in the base image becomes ma-user, and whatever group has the gid 100 (Debian's `users`)
# becomes ma-group; an account of these names with another number goes. The files are edited, since small base images
# have no useradd and usermod. Without a password, nobody logs in.
SETUP = (
    r"sed -i -e '/^ma-group:[^:]*:100:/!{/^ma-group:/d;}' -e 's/^[^:]*\(:[^:]*:100:\)/ma-group\1/' /etc/group",
    r"grep -q '^ma-group:' /etc/group || echo 'ma-group:x:100:' >>/etc/group",
    r"sed -i -e '/^ma-user:[^:]*:1000:/!{/^ma-user:/d;}'"
    r" -e 's|^[^:]*:[^:]*:1000:[^:]*:\([^:]*\):[^:]*:|ma-user:*:1000:100:\1:/home/ma-user:|' /etc/passwd",
    r"grep -q '^ma-user:' /etc/passwd || echo 'ma-user:*:1000:100::/home/ma-user:/bin/sh' >>/etc/passwd",
    "mkdir -p /home/ma-user /tmp",
    # What is in it stays as it is: the vendor's own images keep gigabytes there.
    "chown 1000:100 /home/ma-user",
    "chmod u+rwx,go+rx /home/ma-user",
    "chmod 1777 /tmp",
)


def container(product: Product) -> Container:
    """The image starts from /home/run.sh, as ma-user; what it writes at run time goes to /tmp or its home."""
    # No server needs them.
    from servekit.containers import BootFile, Container
    from servekit.platforms.modelarts.config_out import config

    boot = BootFile(BOOT.encode(), executable=True)
    return Container(
        command=("sh", BOOT_PATHS[0]),
        environment={"SERVEKIT_PLATFORM": "modelarts"},
        user="1000:100",
        # Image specification, "Image dependencies": what batch services need beside Python.
        packages=("default-jre-headless", "zip") if product.batch else (),
        setup=SETUP,
        files=dict.fromkeys(BOOT_PATHS, boot) | {HEALTH_PATH: BootFile(HEALTH.encode(), executable=True)},
        manifests={"config.json": config(product)},
    )
