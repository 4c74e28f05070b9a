"""A gRPC server whose methods take and give plain bytes, so that no generated code is needed.

usage: grpc_server.py NAME [CERTIFICATE KEY]     (prints the address that it listens on)
"""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

name = sys.argv[1]
# How calls of Wait ended, by what their requests called them.
endings = {}
stopping = threading.Event()


def unary(request, context):
    context.send_initial_metadata((("x-server", name),))
    return request


def sum_up(requests, context):
    sizes = [len(request) for request in requests]
    return f"{len(sizes)} {sum(sizes)}".encode()


def sum_up_slowly(requests, context):
    """Reads one message, nothing for as long as the request says, and then the rest."""
    time.sleep(float(next(requests)))
    return sum_up(requests, context)


def produce(request, context):
    count, size = map(int, request.split())
    message = bytes(size)
    for _ in range(count):
        yield message


def echo(requests, context):
    context.send_initial_metadata((("x-server", name),))
    for request in requests:
        yield request


def fail(request, context):
    """Fails before anything was sent: the status comes with the headers."""
    code, details = request.decode().split(" ", 1)
    context.set_trailing_metadata((("grpc-status-details-bin", b"\x00\x01rich\xff"), ("x-why", "asked for")))
    context.abort(getattr(grpc.StatusCode, code), details)


def fail_after(request, context):
    """Fails after some messages: the status comes in real trailers."""
    count, code = request.decode().split()
    for _ in range(int(count)):
        yield b"message"
    fail(f"{code} after {count}".encode(), context)


def watch(request, context):
    """Notes that a call waits, and how that ends; what it gives is set when the call is over."""
    label, over = request.decode(), threading.Event()
    # Without a deadline it is some hundred years.
    in_time = (context.time_remaining() or 1e9) < 1e6

    def end():
        if endings[label] == "waiting":
            endings[label] = f"cancelled, deadline {in_time}"
        over.set()

    endings[label] = "waiting"
    if not context.add_callback(end):
        end()
    return over


def wait(request, context):
    """Waits for the end of the call, at most 30 s."""
    if not watch(request, context).wait(30):
        endings[request.decode()] = "not cancelled"
    return b"late"


def wait_streaming(request, context):
    # Watched before the first message: a client that goes away after it may be quicker than the next step here.
    over = watch(request, context)
    yield b"first"
    if not over.wait(30):
        endings[request.decode()] = "not cancelled"
    yield b"late"


def ending(request, context):
    return endings.get(request.decode(), "unknown").encode()


def metadata(request, context):
    """Gives back what came with `x-` both before and after the answer."""
    given = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
    context.send_initial_metadata(given)
    context.set_trailing_metadata(given)
    return b""


def die(request, context):
    yield b"last words"
    # So that they are on their way.
    time.sleep(0.2)
    os._exit(1)


def leave(request, context):
    """Ends the server in order: GOAWAY, and calls in flight finish."""
    stopping.set()
    return b"bye"


methods = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Sum": grpc.stream_unary_rpc_method_handler(sum_up),
    "SumSlowly": grpc.stream_unary_rpc_method_handler(sum_up_slowly),
    "Produce": grpc.unary_stream_rpc_method_handler(produce),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailAfter": grpc.unary_stream_rpc_method_handler(fail_after),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
    "WaitStreaming": grpc.unary_stream_rpc_method_handler(wait_streaming),
    "Ending": grpc.unary_unary_rpc_method_handler(ending),
    "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
    "Die": grpc.unary_stream_rpc_method_handler(die),
    "Leave": grpc.unary_unary_rpc_method_handler(leave),
}
server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=100),
    handlers=[grpc.method_handlers_generic_handler("weft.Test", methods)],
    options=[
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_metadata_size", 64 * 1024),
        ("grpc.absolute_max_metadata_size", 64 * 1024),
        ("grpc.http2.min_ping_interval_without_data_ms", 100),
        ("grpc.so_reuseport", 0),
    ],
)
if len(sys.argv) > 2:
    certificate, key = (open(path, "rb").read() for path in sys.argv[2:4])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
else:
    port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"127.0.0.1:{port}", flush=True)
stopping.wait()
server.stop(grace=10).wait()
