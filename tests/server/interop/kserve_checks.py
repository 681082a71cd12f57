"""The real kserve client against the server: run by an interpreter that has kserve, as
``python kserve_checks.py URL MODEL``. The model doubles numbers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

failed = 0


def check(name: str, good: bool, told: Any = "") -> None:
    global failed
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} kserve {name} {'' if good else repr(told)}")


def request(name: str, *inputs: InferInput, **more: Any) -> InferRequest:
    return InferRequest(model_name=name, infer_inputs=list(inputs), **more)


def tensor(values: Any, kind: str, *, binary: bool) -> InferInput:
    array = np.asarray(values)
    made = InferInput(name="x", shape=list(array.shape), datatype=kind)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


async def v1(url: str, name: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    check("v1 is_server_live", await client.is_server_live(url) is True)
    check("v1 is_model_ready", await client.is_model_ready(url, name) is True)
    answer = await client.infer(url, {"instances": [1, 2.5]}, model_name=name)
    check("v1 infer", answer == {"predictions": [2, 5.0]}, answer)
    try:
        await client.infer(url, {"instances": [1]}, model_name="absent")
        check("v1 absent model", False)
    except httpx.HTTPStatusError as error:
        check("v1 absent model", error.response.status_code == 404, error)
    await client.close()


async def v2(url: str, name: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    check("v2 is_server_live", await client.is_server_live(url) is True)
    check("v2 is_server_ready", await client.is_server_ready(url) is True)
    check("v2 is_model_ready", await client.is_model_ready(url, name) is True)
    check("v2 absent is not ready", await client.is_model_ready(url, "absent") is False)
    doubled: Callable[[InferResponse], Any] = lambda got: got.outputs[0].as_numpy().tolist()
    kinds = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT8": np.int8,
             "UINT8": np.uint8, "INT32": np.int32, "FP16": np.float16}  # fmt: skip
    for kind, dtype in kinds.items():
        # The client itself sends FP16 as binary data only.
        for binary in (True,) if kind == "FP16" else (False, True):
            sent = tensor(np.array([1, 2, 3], dtype), kind, binary=binary)
            got = await client.infer(url, request(name, sent), model_name=name)
            check(f"v2 infer {kind} binary={binary}", doubled(got) == [2, 4, 6], got)
    wanted = RequestedOutput("output", parameters={"binary_data": True})
    sent = tensor(np.array([1.5], np.float32), "FP32", binary=True)
    asked = request(name, sent, request_outputs=[wanted], request_id="r-9")
    got = await client.infer(url, asked, model_name=name)
    check("v2 infer binary out", doubled(got) == [3.0], got)
    check("v2 infer id", got.id == "r-9", got.id)
    check("v2 infer model", got.model_name == name, got)
    echo = {"echo": True}
    for binary in (False, True):
        texts = InferInput(name="x", shape=[2], datatype="BYTES")
        texts.set_data_from_numpy(np.array([b"a", "é".encode()], object), binary_data=binary)
        got = await client.infer(url, request(name, texts, parameters=echo), model_name=name)
        out: InferOutput = got.outputs[0]
        told = [t.decode() if isinstance(t, bytes) else t for t in out.as_numpy().tolist()]
        check(f"v2 infer BYTES binary={binary}", told == ["a", "é"], told)
    matrix = tensor(np.arange(6, dtype=np.float32).reshape(2, 3), "FP32", binary=True)
    got = await client.infer(url, request(name, matrix, parameters=echo), model_name=name)
    check("v2 infer a matrix", doubled(got) == [[0, 1, 2], [3, 4, 5]], got)
    await client.close()


async def main(url: str, name: str) -> int:
    await v1(url, name)
    await v2(url, name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:3])))
