"""
Signatures that others use: in the query of a URL, and over the policy of a form. Pure.

The rules are those of "Authenticating Requests: Using Query Parameters" and "Authenticating Requests in Browser-Based
Uploads Using POST" in the S3 API reference. botocore signs; only its functions that log nothing are called.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit
from xml.sax.saxutils import escape

from botocore.auth import S3SigV4PostAuth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncstore.aws.credentials import Credentials

__all__ = ["Presigner", "xml_tags"]

ALGORITHM = "AWS4-HMAC-SHA256"
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Presigner:
    """
    Signs for one bucket, at one moment.

    Args:
        url: what the URLs of the bucket's objects begin with, up to the slash before the key.
        bucket: its name.
        region: its region.
        keys: what signs; with temporary ones, their token is part of what is given away.
        now: the moment, in UTC.
        written: what a write has to say, as headers.
        tags: those of them that are tags, by name.
    """

    url: str
    bucket: str
    region: str
    keys: Credentials
    now: datetime
    written: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def signed_url(
        self,
        method: str,
        key: str,
        lifetime_s: int,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """
        Return a URL that carries its own signature.

        Args:
            method: the only one that it is good for.
            key: the object's.
            lifetime_s: how long it is good for, from 1 to 604,800.
            query: further parameters, which are signed, too.
            headers: what has to be sent with it, under names in lower case.
        """
        signer = S3SigV4QueryAuth(self._botocore_keys, "s3", self.region, expires=lifetime_s)
        path = f"{quote(urlsplit(self.url).path, safe='/~%')}/{quote(key, safe='/~')}"
        request = self._request(method, urlsplit(self.url)._replace(path=path).geturl(), headers or {})
        asked = {
            **(query or {}),
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": signer.scope(request),
            "X-Amz-Date": request.context["timestamp"],
            "X-Amz-Expires": str(lifetime_s),
            "X-Amz-SignedHeaders": signer.signed_headers(signer.headers_to_sign(request)),
        }
        if self.keys.token:
            asked["X-Amz-Security-Token"] = self.keys.token
        request.url += "?" + urlencode(sorted(asked.items()), quote_via=quote, safe="-_.~")
        to_sign = signer.string_to_sign(request, signer.canonical_request(request))
        return f"{request.url}&X-Amz-Signature={signer.signature(to_sign, request)}"

    def form(
        self,
        key: str,
        lifetime_s: int,
        *,
        conditions: Sequence[Sequence[Any]],
        fields: Mapping[str, str],
    ) -> dict[str, str]:
        """
        Return the fields of a form that carries its own policy and signature.

        Args:
            key: the field of that name; it may hold ``${filename}``.
            lifetime_s: how long it is good for, in seconds.
            conditions: what the policy says of the key, the size and whatever else is the uploader's choice.
            fields: further fields, each to be sent exactly so, unless one of the conditions is about it.
        """
        signer = S3SigV4PostAuth(self._botocore_keys, "s3", self.region)
        request = self._request("POST", self.url, {})
        exact = {**fields, **self._write_fields(), "x-amz-algorithm": ALGORITHM}
        exact |= {"x-amz-credential": signer.scope(request), "x-amz-date": request.context["timestamp"]}
        if self.keys.token:
            exact["x-amz-security-token"] = self.keys.token
        chosen = {str(condition[1]).removeprefix("$") for condition in conditions}
        policy = {
            "expiration": f"{self.now + timedelta(seconds=lifetime_s):%Y-%m-%dT%H:%M:%SZ}",
            "conditions": [
                {"bucket": self.bucket},
                *map(list, conditions),
                *({name: value} for name, value in exact.items() if name not in chosen),
            ],
        }
        coded = base64.b64encode(json.dumps(policy).encode()).decode()
        return {"key": key, **exact, "policy": coded, "x-amz-signature": signer.signature(coded, request)}

    def _write_fields(self) -> dict[str, str]:
        fields = {name: value for name, value in self.written.items() if name != "x-amz-tagging"}
        return fields | ({"tagging": xml_tags(self.tags)} if self.tags else {})

    def _request(self, method: str, url: str, headers: Mapping[str, str]) -> AWSRequest:
        request = AWSRequest(method, url, dict(headers))
        request.context["timestamp"] = self.now.strftime(_STAMP)
        return request

    @property
    def _botocore_keys(self) -> ReadOnlyCredentials:
        return ReadOnlyCredentials(self.keys.access_key_id, self.keys.secret_access_key, self.keys.token)


def xml_tags(tags: Mapping[str, str]) -> str:
    """Return tags as a form says them."""
    listed = "".join(
        f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>" for name, value in tags.items()
    )
    return f"<Tagging><TagSet>{listed}</TagSet></Tagging>"
