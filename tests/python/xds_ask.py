"""Opens an incremental ADS stream, asks for all clusters and says what came of it.

usage: xds_ask.py ADDRESS NODE_ID [TOKEN [CA_FILE]]     (an empty token is none; with a CA file TLS is spoken)

Prints `CODE: details` of the refusal, or `OK: names`.
"""

import queue
import sys

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2


def main():
    address, node_id, token, ca_file = (sys.argv[1:] + ["", ""])[:4]
    if ca_file:
        with open(ca_file, "rb") as file:
            channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()))
    else:
        channel = grpc.insecure_channel(address)
    requests = queue.Queue()
    requests.put(
        discovery_pb2.DeltaDiscoveryRequest(
            node=base_pb2.Node(id=node_id), type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"
        )
    )
    metadata = [("authorization", f"Bearer {token}")] if token else []
    stream = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(
        iter(requests.get, None), metadata=metadata, timeout=20
    )
    try:
        response = next(stream)
        print("OK:", " ".join(sorted(resource.name for resource in response.resources)))
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}")
    finally:
        requests.put(None)
        stream.cancel()


main()
