"""Partitions of AWS: which one a region is in, and what the names of its servers end in."""

from __future__ import annotations

__all__ = ["dns_suffix_of", "partition_of"]

_PARTITIONS = (
    ("cn-", "aws-cn"),
    ("us-gov-", "aws-us-gov"),
    ("us-isob-", "aws-iso-b"),
    ("us-isof-", "aws-iso-f"),
    ("eu-isoe-", "aws-iso-e"),
    ("us-iso-", "aws-iso"),
    ("eusc-", "aws-eusc"),
)
_SUFFIXES = {
    "aws-cn": "amazonaws.com.cn",
    "aws-iso": "c2s.ic.gov",
    "aws-iso-b": "sc2s.sgov.gov",
    "aws-iso-e": "cloud.adc-e.uk",
    "aws-iso-f": "csp.hci.ic.gov",
    "aws-eusc": "amazonaws.eu",
}


def partition_of(region: str) -> str:
    """Return the partition that a region is in, as ARNs say it; ``aws`` for what is not known."""
    return next((partition for start, partition in _PARTITIONS if region.startswith(start)), "aws")


def dns_suffix_of(region: str) -> str:
    """Return what the names of a region's servers end in, without the dot before it."""
    return _SUFFIXES.get(partition_of(region), "amazonaws.com")
