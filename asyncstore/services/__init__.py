"""From configuration to open services, and from there to recorded runs."""

from __future__ import annotations

from asyncstore.services._checking import Checker, ServiceCheck
from asyncstore.services._making import (
    make_catalog,
    make_run_log_store,
    make_secrets,
    make_tables,
    tables_as_sql,
)
from asyncstore.services._services import Services, open_services
from asyncstore.services.configuration import (
    Configuration,
    ServiceConfiguration,
    StoreConfiguration,
    read_configuration,
)

__all__ = [
    "Checker",
    "Configuration",
    "ServiceCheck",
    "ServiceConfiguration",
    "Services",
    "StoreConfiguration",
    "make_catalog",
    "make_run_log_store",
    "make_secrets",
    "make_tables",
    "open_services",
    "read_configuration",
    "tables_as_sql",
]
