"""
Links to files of a catalog, and forms to upload them by: for browsers, and whoever has no keys of their own.

Each is for one file, or for one folder of one run, and says no more than that.
"""

from __future__ import annotations

import base64
import math
import re
from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

from asyncstore._core.access import Guarded
from asyncstore.catalog._metadata import DIGEST_KEY
from asyncstore.catalog._packed._meta import PackedMeta
from asyncstore.catalog._packed._names import upload_start
from asyncstore.catalog._paths import Place, refusals, reserved
from asyncstore.catalog._patterns import Matcher
from asyncstore.catalog._planning._find import find
from asyncstore.errors import ConfigurationError, InvalidValueError, NotFoundError, UnsafePathError
from asyncstore.names import has_control
from asyncstore.objects.presigned import ANY_TYPE, PresignedPost, PresignedUrl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from asyncstore.catalog._moving._lane import Lane
    from asyncstore.objects._s3._presign import Presigner

__all__ = ["Presigning"]

DEFAULT_LIFETIME = timedelta(hours=1)

LONGEST_S = 7 * 24 * 3600
"""Longest life of a signature of version 4."""

UPLOAD_LIMIT_BYTES = 5 * 1024**3
"""Largest object that one request makes."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOKEN = r"[A-Za-z0-9!#&^_.+-]+"
_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}(?:; ?[!-+\--~][ !-+\--~]*)?")
_TYPES = re.compile(rf"{_TOKEN}/(?:{_TOKEN}|\*)|\*/\*")
_QUOTED = re.compile(r"[^ !#-\[\]-~]|[%]")
"""What cannot stand between the quotes of a header, or is not read by all browsers alike."""


class Presigning(Guarded):
    """
    The part of a catalog that signs for others.

    Names are those that :meth:`Catalog.list` gives, ``<compute data folder>/<relative path>``.

    ``expires`` is how long the link or form is good for, as a ``timedelta`` or in seconds; an hour by default, seven
    days at most. None outlives the credentials that signed it, as far as these say when they end: where those of a role
    end sooner, the role is assumed anew for as long as it takes, if it may be. What is not to be had is told by
    ``expires_at`` and ``shortened`` of the result.

    Whoever has a link or a form can use it, any number of times: keep it as you keep a password.
    """

    _lane: Lane
    _prefix: str

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the files are kept."""

    async def presign_get(
        self,
        name: str,
        run_id: str,
        *,
        expires: timedelta | float = DEFAULT_LIFETIME,
        download_name: str = "",
        content_type: str = "",
    ) -> PresignedUrl:
        """
        Return a link by which a file of a run can be downloaded; it asks the storage whether the file is there.

        Args:
            name: the file.
            run_id: the run.
            expires: how long the link is good for.
            download_name: what a browser is to save the file as; without it the browser may show the file instead.
            content_type: what the answer says that it is; default: what the object says.

        Raises:
            NotFoundError: the run has no such file.
            ConfigurationError: the catalog is in no bucket, or the file is packed with others in one object, so that
                nothing less than all of them could be shared.
            UnsafePathError: no file can be called so.
            InvalidValueError: ``expires``, ``download_name`` or ``content_type`` cannot be.
        """
        self._check_readable()
        place = Place.of(self._prefix, run_id)
        key = _key(place, name)
        query = {"response-content-disposition": _disposition(download_name)} if download_name else {}
        if content_type:
            query["response-content-type"] = _checked_type(content_type)
        wanted_s = _seconds(expires)
        presigner, lifetime_s = await self._presigner(wanted_s)
        found = (await find(self._lane, place, Matcher.of("**"), [name], "needed")).get(name)
        where = f"{self._lane.store.location}/{key}"
        if found is None:
            raise NotFoundError(f"run {run_id!r} has no file {name!r}: there is no {where}")
        if isinstance(found, PackedMeta):
            raise ConfigurationError(
                f"file {name!r} of run {run_id!r} has no object of its own to be shared, it is packed with others in "
                f"{found.pack}: put it again by a catalog of layout 'plain'"
            )
        url = presigner.signed_url("GET", key, lifetime_s, query=query)
        return self._link("GET", url, where, presigner, lifetime_s, wanted_s)

    async def presign_put(
        self,
        name: str,
        run_id: str,
        *,
        expires: timedelta | float = DEFAULT_LIFETIME,
        content_type: str = "",
        sha256: str = "",
        size_bytes: int | None = None,
    ) -> PresignedUrl:
        """
        Return a link by which a file of a run can be uploaded; no request is made.

        It is good for that one name, and replaces what is there. The upload has to send the link's ``headers``: what
        the configuration says of encryption, storage class, tags and metadata, and what is given here.

        Args:
            name: the file.
            run_id: the run.
            expires: how long the link is good for.
            content_type: the only one that the upload may say.
            sha256: of the only contents that may be uploaded, in hex. It becomes the digest that the catalog knows;
                without it the catalog reads the file to know it.
            size_bytes: the only size that the upload may have; 5 GiB at most in any case.

        Raises:
            ConfigurationError: the catalog is in no bucket.
            UnsafePathError: no file can be called so.
            InvalidValueError: one of the other values cannot be.
        """
        self._check_writable()
        place = Place.of(self._prefix, run_id)
        key = _key(place, name)
        wanted_s = _seconds(expires)
        headers = {"content-type": _checked_type(content_type)} if content_type else {}
        if sha256:
            if not _DIGEST.fullmatch(sha256):
                raise InvalidValueError("sha256 must be 64 hexadecimal digits in lower case")
            headers["x-amz-checksum-sha256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
            headers[f"x-amz-meta-{DIGEST_KEY}"] = sha256
        length = {} if size_bytes is None else {"content-length": str(_checked_size("size_bytes", size_bytes))}
        presigner, lifetime_s = await self._presigner(wanted_s)
        headers |= presigner.written
        url = presigner.signed_url("PUT", key, lifetime_s, headers=headers | length)
        where = f"{self._lane.store.location}/{key}"
        return self._link("PUT", url, where, presigner, lifetime_s, wanted_s, headers)

    async def presign_post(
        self,
        prefix: str,
        run_id: str,
        *,
        max_size: int,
        content_types: Iterable[str] = (),
        expires: timedelta | float = DEFAULT_LIFETIME,
        min_size: int = 0,
        name: str = "",
    ) -> PresignedPost:
        """
        Return a form by which a browser can upload files into a folder of a run; no request is made.

        Its policy holds the bucket, the only name or what all names begin with, the sizes, the content type, and all
        that the configuration says of encryption, storage class, tags and metadata.

        Without ``name`` a file is called as on the uploader's disk, after ``upload-<16 random digits>-``, which is
        the form's own (:attr:`PresignedPost.location` ends in it): so the uploader replaces nothing that others have
        put, and reaches nothing of asyncstore's own. What lies in packs below such a name is not looked at.

        S3 lets the uploader choose all that follows, slashes included. Who means harm can choose some names that cannot
        be files, and until another tool has deleted these, the catalog refuses to list, get or delete the run: give
        strangers a run of their own, or a form for one name.

        Args:
            prefix: the folder, as ``data/uploads``; files beside it that begin so are not meant. Empty for the run.
            run_id: the run.
            max_size: most bytes of a file, up to 5 GiB.
            content_types: what a file may be: ``text/csv``, ``image/*``; anything if there are none. S3's policies know
                no "or", so there is a form for each.
            expires: how long the form is good for.
            min_size: fewest bytes of a file.
            name: the only file that may be uploaded, relative to the folder, exactly so; it is replaced if it is there.

        Raises:
            ConfigurationError: the catalog is in no bucket.
            UnsafePathError: no folder or file can be called so.
            InvalidValueError: one of the other values cannot be.
        """
        self._check_writable()
        place = Place.of(self._prefix, run_id)
        wanted_s = _seconds(expires)
        if _checked_size("min_size", min_size) > _checked_size("max_size", max_size):
            raise InvalidValueError(f"min_size {min_size} is above max_size {max_size}")
        folder = f"{prefix.removesuffix('/')}/" if prefix else ""
        start = place.key(f"{folder}{upload_start()}")
        # Of a file's name, a form has to allow a letter at least.
        key = _key(place, f"{folder}{name}" if name else f"{place.name_of(start)}x")
        if "$" in key:
            raise UnsafePathError(f"{key!r} cannot be uploaded by a form, which would take the '$' for a variable")
        types = [content_types] if isinstance(content_types, str) else list(content_types)
        presigner, lifetime_s = await self._presigner(wanted_s)
        about_key = ["eq", "$key", key] if name else ["starts-with", "$key", start]
        about_size = ["content-length-range", min_size, max_size]
        forms = {
            pattern: presigner.form(
                key if name else f"{start}${{filename}}",
                lifetime_s,
                conditions=[about_key, about_size, _about_type(pattern)],
                fields={"Content-Type": _example_of(pattern), "success_action_status": "201"},
            )
            for pattern in dict.fromkeys(map(_checked_pattern, types or [ANY_TYPE]))
        }
        return PresignedPost(
            presigner.url,
            f"{self._lane.store.location}/{key if name else start}",
            presigner.now + timedelta(seconds=lifetime_s),
            lifetime_s < wanted_s,
            forms,
        )

    async def _presigner(self, lifetime_s: int) -> tuple[Presigner, int]:
        """
        Return what signs now, and for how long at most what it signs is good for, up to ``lifetime_s``.

        Raises:
            ConfigurationError: the catalog is in no bucket.
        """
        raise ConfigurationError(
            f"{self.location or 'a catalog that keeps nothing'} is in no bucket, so there are no links to what it has: "
            "that takes a catalog of type 's3'"
        )

    def _link(
        self,
        method: Literal["GET", "PUT"],
        url: str,
        where: str,
        presigner: Presigner,
        lifetime_s: int,
        wanted_s: int,
        headers: dict[str, str] | None = None,
    ) -> PresignedUrl:
        ends = presigner.now + timedelta(seconds=lifetime_s)
        return PresignedUrl(method, url, where, ends, lifetime_s < wanted_s, headers or {})


def _key(place: Place, name: str) -> str:
    """
    Return the key of a file.

    Raises:
        UnsafePathError: no file can be called so.
    """
    reason = refusals([name], place).get(name, "")
    if not reason and reserved(name):
        reason = "is asyncstore's own"
    if reason:
        raise UnsafePathError(f"{name!r} {reason}")
    return place.key(name)


def _seconds(expires: timedelta | float) -> int:
    """
    Return how long something is to be good for, in whole seconds.

    Raises:
        InvalidValueError: nothing can be.
    """
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if not math.isfinite(seconds) or not 1 <= seconds <= LONGEST_S:
        raise InvalidValueError(f"expires must be 1 second at least and 7 days ({LONGEST_S:,} s) at most")
    return int(seconds)


def _checked_size(what: str, size_bytes: int) -> int:
    if not 0 <= size_bytes <= UPLOAD_LIMIT_BYTES:
        raise InvalidValueError(f"{what} must be bytes, and 5 GiB ({UPLOAD_LIMIT_BYTES:,}) at most")
    return size_bytes


def _checked_type(content_type: str) -> str:
    if not _TYPE.fullmatch(content_type):
        raise InvalidValueError(f"{content_type!r} is no content type: write text/csv, say")
    return content_type


def _checked_pattern(content_type: str) -> str:
    if not _TYPES.fullmatch(content_type):
        raise InvalidValueError(f"{content_type!r} is no pattern of content types: write text/csv, or image/*, say")
    return content_type


def _about_type(pattern: str) -> list[str]:
    if pattern == ANY_TYPE:
        return ["starts-with", "$Content-Type", ""]
    if pattern.endswith("/*"):
        return ["starts-with", "$Content-Type", pattern[:-1]]
    return ["eq", "$Content-Type", pattern]


def _example_of(pattern: str) -> str:
    """Return a content type that a pattern allows: S3 wants the field, whatever it may hold."""
    kind, _, rest = pattern.partition("/")
    if rest != "*":
        return pattern
    return "application/octet-stream" if kind == "*" else f"{kind}/x-unknown"


def _disposition(name: str) -> str:
    """
    Return the header that makes browsers save what they get, under a name in any script.

    Raises:
        InvalidValueError: no file can be called so.
    """
    try:
        coded = quote(name, safe="")
    except UnicodeEncodeError:
        coded = ""
    if not coded or has_control(name) or "/" in name or "\\" in name:
        raise InvalidValueError(f"download_name {name!r} cannot be the name of a file")
    return f"attachment; filename=\"{_QUOTED.sub('_', name)}\"; filename*=UTF-8''{coded}"
