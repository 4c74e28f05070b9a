"""An xDS server on grpcio and the published types (xds-protos): a control plane that is not ours.

usage: ads_server.py [PORT]     (prints the address that it listens on; then one JSON object for each thing it sees)

It behaves as it should, unless it is told otherwise. Commands come over standard input, one JSON object per line:

  {"do": "set", "type": T, "version": V, "resources": [R...]}   what there is of a type from now on; goes to all streams
  {"do": "raw", "type": T, "version": V, "nonce": N, "resources": [R...], "removed": [NAME...]}
                                 sends exactly this, whatever was asked for; "type" may be a type URL of anything
  {"do": "hold", "type": T}      answers nothing of the type until it is "set" again
  {"do": "close", "code": C}     ends the streams with a gRPC status, after what is on its way
  {"do": "stop"}, {"do": "start"}    the server goes away, and comes back where it was, knowing only what is set then

T is one of cds, eds, lds, rds, sds. R is a resource in JSON with its "@type", or, to say more of it, {"name": …,
"version": …, "ttl": "1s", "aliases": […], "resource": {…}}, which state of the world sends in its wrapper; without
"resource" it is a heartbeat.

What it sees: {"saw": "open", "method": …}, {"saw": "request", "type": …, "first": …, and the fields of the request},
{"saw": "end", "method": …}. Every command is answered by {"saw": "done"}.
"""

import asyncio
import itertools
import json
import sys

import grpc
from google.protobuf import any_pb2, json_format

# What resources and what is in them are made of: to be known by its name, a type must be loaded.
from envoy.config.cluster.v3 import cluster_pb2  # noqa: F401
from envoy.config.endpoint.v3 import endpoint_pb2  # noqa: F401
from envoy.config.listener.v3 import listener_pb2  # noqa: F401
from envoy.config.route.v3 import route_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2  # noqa: F401
from envoy.service.cluster.v3 import cds_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from envoy.service.endpoint.v3 import eds_pb2_grpc
from envoy.service.listener.v3 import lds_pb2_grpc
from envoy.service.route.v3 import rds_pb2_grpc
from envoy.service.secret.v3 import sds_pb2_grpc

TYPES = {
    "cds": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "eds": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "lds": "type.googleapis.com/envoy.config.listener.v3.Listener",
    "rds": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "sds": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
}
SHORT = {url: short for short, url in TYPES.items()}
WILDCARD = {"cds", "lds"}

nonces = itertools.count(1)
# By type: what there is, as (version, {name: discovery_pb2.Resource}).
world = {}
streams = set()


def say(**event):
    print(json.dumps(event), flush=True)


def read(resource, version):
    """A resource in its wrapper."""
    if "@type" in resource:
        body = json_format.ParseDict(resource, any_pb2.Any())
        name = resource.get("name") or resource.get("cluster_name")
        return discovery_pb2.Resource(name=name, version=version, resource=body)
    fields = {name: value for name, value in resource.items() if value is not None}
    wrapped = json_format.ParseDict(fields, discovery_pb2.Resource())
    wrapped.version = wrapped.version or version
    return wrapped


def bare(wrapped):
    """A resource as state of the world sends it: in its wrapper only if that says something."""
    if wrapped.HasField("ttl") or wrapped.aliases or not wrapped.HasField("resource"):
        wrapper = any_pb2.Any()
        wrapper.Pack(wrapped)
        return wrapper
    return wrapped.resource


class Stream:
    """What one stream asked for, and what it was told."""

    def __init__(self, only):
        self.only = only
        self.out = asyncio.Queue()
        self.names = {}
        self.nonce = {}
        streams.add(self)

    def asked(self, kind):
        """Which names; None for all."""
        names = self.names.get(kind, set())
        return None if "*" in names or (kind in WILDCARD and not names) else names

    def there(self, kind):
        _, resources = world[kind]
        asked = self.asked(kind)
        return {name: resource for name, resource in resources.items() if asked is None or name in asked}


class Sotw(Stream):
    Request = discovery_pb2.DiscoveryRequest

    def take(self, kind, request):
        first = kind not in self.names
        if not first and request.response_nonce != self.nonce.get(kind, ""):
            return
        changed = first or set(request.resource_names) != self.names[kind]
        self.names[kind] = set(request.resource_names)
        if changed:
            self.tell(kind)

    def tell(self, kind):
        if kind in self.names and kind in world:
            version, _ = world[kind]
            self.send(TYPES[kind], version, None, self.there(kind).values(), [])

    def send(self, url, version, nonce, resources, _removed):
        nonce = str(next(nonces)) if nonce is None else nonce
        self.nonce[SHORT.get(url)] = nonce
        bodies = [bare(resource) for resource in resources]
        self.out.put_nowait(
            discovery_pb2.DiscoveryResponse(type_url=url, version_info=version, nonce=nonce, resources=bodies)
        )


class Delta(Stream):
    Request = discovery_pb2.DeltaDiscoveryRequest

    def __init__(self, only):
        super().__init__(only)
        # By type, what the client has: {name: version}.
        self.has = {}

    def take(self, kind, request):
        first = kind not in self.names
        names = self.names.setdefault(kind, set())
        has = self.has.setdefault(kind, dict(request.initial_resource_versions))
        names |= set(request.resource_names_subscribe)
        names -= set(request.resource_names_unsubscribe)
        for name in request.resource_names_unsubscribe:
            has.pop(name, None)
        if first or request.resource_names_subscribe:
            self.tell(kind, request.resource_names_subscribe)

    def tell(self, kind, again=()):
        """What differs from what the client has; what is named `again` goes in any case, as the protocol has it."""
        if kind not in self.names or kind not in world:
            return
        version, _ = world[kind]
        has, there = self.has[kind], self.there(kind)
        changed = [r for name, r in there.items() if has.get(name) != r.version or name in again]
        removed = [name for name in {*has, *again} - {"*"} if name not in there]
        self.has[kind] = {name: resource.version for name, resource in there.items()}
        self.send(TYPES[kind], version, None, changed, removed)

    def send(self, url, version, nonce, resources, removed):
        nonce = str(next(nonces)) if nonce is None else nonce
        response = discovery_pb2.DeltaDiscoveryResponse(
            type_url=url, system_version_info=version, nonce=nonce, resources=resources, removed_resources=removed
        )
        self.out.put_nowait(response)


def handler(kind, method, only):
    async def serve(_, requests, context):
        stream = kind(only)
        say(saw="open", method=method)

        async def listen():
            first = True
            async for request in requests:
                url = request.type_url or TYPES.get(only, "")
                short = SHORT.get(url)
                fields = json_format.MessageToDict(request, preserving_proto_field_name=True)
                fields.pop("type_url", None)
                say(**{"saw": "request", "method": method, "type": short or url, "first": first, **fields})
                first = False
                if short and only in (None, short):
                    stream.take(short, request)

        listening = asyncio.ensure_future(listen())
        listening.add_done_callback(lambda _: stream.out.put_nowait(None))
        try:
            while (response := await stream.out.get()) not in (None, grpc.StatusCode.OK):
                if isinstance(response, grpc.StatusCode):
                    await context.abort(response, "as I was told")
                yield response
        finally:
            listening.cancel()
            streams.discard(stream)
            say(saw="end", method=method)

    return serve


def servicer(base, only, names):
    """The methods of one service; `only` is its type."""
    methods = {name: handler(kind, name, only) for name, kind in names.items()}

    return type(base.__name__, (base,), methods)()


def build(port):
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
    ads = {"StreamAggregatedResources": Sotw, "DeltaAggregatedResources": Delta}
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(
        servicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer, None, ads), server
    )
    for module, service, kind, what in [
        (cds_pb2_grpc, "ClusterDiscoveryService", "cds", "Clusters"),
        (eds_pb2_grpc, "EndpointDiscoveryService", "eds", "Endpoints"),
        (lds_pb2_grpc, "ListenerDiscoveryService", "lds", "Listeners"),
        (rds_pb2_grpc, "RouteDiscoveryService", "rds", "Routes"),
        (sds_pb2_grpc, "SecretDiscoveryService", "sds", "Secrets"),
    ]:
        names = {f"Stream{what}": Sotw, f"Delta{what}": Delta}
        add = getattr(module, f"add_{service}Servicer_to_server")
        add(servicer(getattr(module, f"{service}Servicer"), kind, names), server)
    return server, server.add_insecure_port(f"127.0.0.1:{port}")


async def obey(command, server, port):
    """Does one thing that it is told; gives the server that there is then."""
    what, kind = command["do"], command.get("type")
    version = command.get("version", "")
    if what == "set":
        resources = [read(resource, version) for resource in command["resources"]]
        world[kind] = (version, {resource.name: resource for resource in resources})
        for stream in list(streams):
            stream.tell(kind)
    elif what == "raw":
        resources = [read(resource, version) for resource in command["resources"]]
        url = TYPES.get(kind, kind)
        for stream in list(streams):
            stream.send(url, version, command.get("nonce"), resources, command.get("removed", []))
    elif what == "hold":
        world.pop(kind, None)
    elif what == "close":
        for stream in list(streams):
            stream.out.put_nowait(getattr(grpc.StatusCode, command["code"]))
    elif what == "stop":
        world.clear()
        await server.stop(None)
        server = None
    elif what == "start":
        server, _ = build(port)
        await server.start()
    else:
        raise ValueError(f"{what} is nothing that I do")
    say(saw="done")
    return server


async def main():
    server, port = build(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 28)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        server = await obey(json.loads(line), server, port)
    if server:
        await server.stop(None)


asyncio.run(main())
