"""The peers that run in threads: boto3 with s3transfer, and boto3 with the AWS Common Runtime."""

from __future__ import annotations

import asyncio
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.handlers import add_expect_header
from s3transfer.manager import TransferConfig, TransferManager
from s3transfer.subscribers import BaseSubscriber

from harness.catalog_trees import walk
from harness.catalog_work import PART_BYTES, Figures, Place, read_place, serve_contender
from harness.s3 import CLIENT_OPTIONS
from harness.work import TASKS
from harness.worker import measured

if TYPE_CHECKING:
    from collections.abc import Mapping


class KnownSize(BaseSubscriber):  # type: ignore[misc]
    """Tells s3transfer what the listing has told, which saves it a request."""

    def __init__(self, size: int, etag: str) -> None:
        self._size = size
        self._etag = etag

    def on_queued(self, future: Any, **_: object) -> None:
        """Take note of the size before the transfer begins."""
        future.meta.provide_transfer_size(self._size)
        future.meta.provide_object_etag(self._etag)


class Threads:
    """
    A transfer manager.

    Args:
        client: of boto3, for listings.
        manager: moves files.
        bucket: its name.
        tells_sizes: whether the manager listens to what it is told of a file.
    """

    def __init__(self, client: Any, manager: Any, bucket: str, *, tells_sizes: bool) -> None:
        self._client = client
        self._manager = manager
        self._bucket = bucket
        self._tells_sizes = tells_sizes

    async def up(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Put a folder."""
        with measured() as figures:
            names = list(walk(Path(folder)))
            futures = [self._manager.upload(f"{folder}/{name}", self._bucket, f"{key}/{name}") for name in names]
            _finish(futures)
        return figures

    async def down(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Get a folder."""
        with measured() as figures:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{key}/")
            found = [item for page in pages for item in page.get("Contents", ())]
            paths = [f"{folder}/{item['Key'][len(key) + 1 :]}" for item in found]
            for parent in {os.path.dirname(path) for path in paths}:
                os.makedirs(parent, exist_ok=True)
            futures = [self._download(item, path) for item, path in zip(found, paths, strict=True)]
            _finish(futures)
        return figures

    def _download(self, item: dict[str, Any], path: str) -> Any:
        known = [KnownSize(item["Size"], item["ETag"])] if self._tells_sizes else []
        return self._manager.download(self._bucket, item["Key"], path, subscribers=known)


def _finish(futures: list[Any]) -> None:
    for future in futures:
        future.result()
        # The runtime gives a result before the file has its final name; its manager waits so when it ends.
        wait = getattr(future._coordinator, "wait_until_on_done_callbacks_complete", None)
        if wait is not None:
            wait()


def open_threads(place: Place) -> Threads:
    """Return the contender that is named."""
    session = boto3.Session(region_name=place.region)
    config = Config(**CLIENT_OPTIONS, max_pool_connections=TASKS)
    client = session.client("s3", endpoint_url=place.endpoint_url, config=config)
    client.meta.events.unregister("before-call.s3", add_expect_header)
    if place.kind == "boto3":
        transfers = TransferConfig(
            max_request_concurrency=TASKS,
            max_submission_concurrency=TASKS,
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
        )
        return Threads(client, TransferManager(client, transfers), place.bucket, tells_sizes=True)
    return Threads(client, _crt_manager(place, config), place.bucket, tells_sizes=False)


def _crt_manager(place: Place, config: Config) -> Any:
    crt = importlib.import_module("s3transfer.crt")
    session = importlib.import_module("botocore.session").get_session()
    credentials = crt.BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider()
    options = {"region_name": place.region, "endpoint_url": place.endpoint_url, "config": config}
    client = crt.create_s3_crt_client(place.region, credentials, use_ssl=False, part_size=PART_BYTES)
    return crt.CRTTransferManager(client, crt.BotocoreCRTRequestSerializer(session, options))


if __name__ == "__main__":
    asyncio.run(serve_contender(open_threads(read_place("catalog_threads"))))
