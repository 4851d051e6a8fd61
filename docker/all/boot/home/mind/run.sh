#!/bin/sh
# How ModelArts starts this image. By exec, servekit takes the place of the shell: it is process 1, SIGTERM reaches it,
# and it goes on serving for the 60 seconds that the platform asks for.
if [ -z "${SERVEKIT_PLATFORM:-}" ] && [ -z "${PSC_MODEL_PORT:-}" ]; then
    export SERVEKIT_PLATFORM=modelarts
fi
exec servekit run "$@"
