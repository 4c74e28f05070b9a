"""A gRPC server that runs in a pod and answers every call with the pod's name. Arguments: port."""

import os
import signal
import sys
import threading
from concurrent import futures

import grpc

NAME = os.environ["POD_NAME"].encode()


class Everything(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: NAME)


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((Everything(),))
    address = f"{os.environ['POD_IP']}:{sys.argv[1]}"
    if server.add_insecure_port(address) == 0:
        sys.exit(f"cannot listen on {address}")
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    server.start()
    print("serving", flush=True)
    told.wait()
    # Connections are told to go, and calls in progress are finished.
    server.stop(10).wait()


main()
