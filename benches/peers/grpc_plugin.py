"""Peer: the plugin as a gRPC server on a unix socket, `sync` (threads) or `aio` (asyncio).

usage: grpc_plugin.py sync|aio SOCKET HOST_SOCKET; prints `ready` when it serves.
"""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import bench_pb2 as pb
import bench_pb2_grpc as rpc
import grpc

from handler import compact, total, work, work_on

kind, address, host_address = sys.argv[1:]
# As large as it takes; the default is 4 MiB.
options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# tonic resets streams whose authority is a path.
host_options = [*options, ("grpc.default_authority", "localhost")]


def answer(batch):
    return pb.Batch(messages=[pb.Message(body=compact(work_on(json.loads(it.body))).encode()) for it in batch.messages])


def table(chunk):
    from tables import work_on_stream

    return pb.Chunk(data=work_on_stream(chunk.data))


class Sync(rpc.ProcessorServicer):
    def __init__(self, host):
        self.host = host

    def Process(self, batch, context):
        return answer(batch)

    def Stream(self, batches, context):
        # The host's call returns when the first message of ours does.
        yield pb.Batch()
        for batch in batches:
            yield answer(batch)

    def Nested(self, batch, context):
        record = json.loads(batch.messages[0].body)
        result = work(record)
        result["value"] = int(self.host.PlusOne(pb.Number(value=record["value"])).value)
        return pb.Batch(messages=[pb.Message(body=compact(result).encode())])

    def Calls(self, number, context):
        value = 0
        for _ in range(int(number.value)):
            value = self.host.PlusOne(pb.Number(value=value)).value
        return pb.Number(value=value)

    def Nest(self, number, context):
        below = self.host.Nest(pb.Number(value=number.value - 1)).value + 1 if number.value else 0
        return pb.Number(value=below)

    def Total(self, chunk, context):
        return pb.Number(value=total(chunk.data))

    def TotalOfChunks(self, chunks, context):
        return pb.Number(value=sum(total(chunk.data) for chunk in chunks))

    def Table(self, chunk, context):
        return table(chunk)


class Aio(rpc.ProcessorServicer):
    def __init__(self, host):
        self.host = host

    async def Process(self, batch, context):
        return answer(batch)

    async def Stream(self, batches, context):
        yield pb.Batch()
        async for batch in batches:
            yield answer(batch)

    async def Nested(self, batch, context):
        record = json.loads(batch.messages[0].body)
        result = work(record)
        result["value"] = int((await self.host.PlusOne(pb.Number(value=record["value"]))).value)
        return pb.Batch(messages=[pb.Message(body=compact(result).encode())])

    async def Calls(self, number, context):
        value = 0
        for _ in range(int(number.value)):
            value = (await self.host.PlusOne(pb.Number(value=value))).value
        return pb.Number(value=value)

    async def Nest(self, number, context):
        below = (await self.host.Nest(pb.Number(value=number.value - 1))).value + 1 if number.value else 0
        return pb.Number(value=below)

    async def Total(self, chunk, context):
        return pb.Number(value=total(chunk.data))

    async def TotalOfChunks(self, chunks, context):
        return pb.Number(value=sum([total(chunk.data) async for chunk in chunks]))

    async def Table(self, chunk, context):
        return table(chunk)


def serve_sync():
    host = rpc.HostStub(grpc.insecure_channel(f"unix:{host_address}", host_options))
    # Calls nest 50 deep, each in a thread; they are made when they are needed.
    server = grpc.server(ThreadPoolExecutor(max_workers=128), options=options)
    rpc.add_ProcessorServicer_to_server(Sync(host), server)
    server.add_insecure_port(f"unix:{address}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


async def serve_aio():
    host = rpc.HostStub(grpc.aio.insecure_channel(f"unix:{host_address}", host_options))
    server = grpc.aio.server(options=options)
    rpc.add_ProcessorServicer_to_server(Aio(host), server)
    server.add_insecure_port(f"unix:{address}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if kind == "sync":
    serve_sync()
else:
    asyncio.run(serve_aio())
