"""The control plane sovereign, which is polled over REST, with resources from files.

usage: sovereign_server.py DIRECTORY     (prints the address that it listens on; then one line for each answer)

DIRECTORY has clusters.json, endpoints.json, listeners.json and routes.json, each a list of resources without "@type",
and is looked at for every request. Each answer is printed as "PATH STATUS VERSION-OF-THE-CLIENT".
"""

import json
import os
import socket
import sys

directory = sys.argv[1]
KINDS = ["clusters", "endpoints", "listeners", "routes"]
TEMPLATE = """import json

def call(discovery_request, **_):
    with open({path!r}) as file:
        yield from json.load(file)
"""

templates = []
for kind in KINDS:
    path = os.path.join(directory, f"{kind}.py")
    with open(path, "w") as file:
        file.write(TEMPLATE.format(path=os.path.join(directory, f"{kind}.json")))
    templates.append({"type": kind, "spec": {"protocol": "python", "path": path}})
config = os.path.join(directory, "sovereign.json")
with open(config, "w") as file:
    json.dump(
        {
            "templates": {"default": templates},
            "logging": {"access_logs": {"enabled": False}},
            # Without sources of instances there is nothing to match.
            "matching": {"enabled": False},
        },
        file,
    )
os.environ["SOVEREIGN_CONFIG"] = f"file+json://{config}"
# It takes the arguments for its own.
sys.argv = sys.argv[:1]

import uvicorn  # noqa: E402
from sovereign.app import app  # noqa: E402

listener = socket.socket()
listener.bind(("127.0.0.1", 0))


class Printing:
    """Says what was answered."""

    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.inner(scope, receive, send)

        async def note(message):
            if message["type"] == "http.response.start":
                headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
                version = headers.get("x-sovereign-client-version", "")
                print(scope["path"], message["status"], version, flush=True)
            await send(message)

        await self.inner(scope, receive, note)


print("%s:%d" % listener.getsockname(), flush=True)
uvicorn.Server(uvicorn.Config(Printing(app), log_level="error")).run(sockets=[listener])
