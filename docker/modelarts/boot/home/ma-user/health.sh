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
