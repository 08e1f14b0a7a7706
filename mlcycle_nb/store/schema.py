"""The tables, as SQLAlchemy sees them; migrations bring a database to this shape."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

metadata = MetaData()

records = Table(
    "records",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("id", String(200), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("phase", String(32), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("lock_key", String(200)),
    Column("version", Integer, nullable=False),
    Column("document", Text, nullable=False),
    Column("created_at", String(27), nullable=False),
    UniqueConstraint("kind", "lock_key", name="one_holder_of_a_lock_key"),
    Index("records_by_name", "kind", "name", "created_at"),
    Index("records_active", "active", "kind"),
)

observations = Table(
    "observations",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("id", String(200), primary_key=True),
    Column("document", Text, nullable=False),
)

measurements = Table(
    "measurements",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("owner", String(200), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("time", String(27), nullable=False),
    Column("document", Text, nullable=False),
    Index("measurements_by_owner", "owner", "kind", "sequence"),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("key_id", String(32), nullable=False),
    Column("signature", String(128), nullable=False),
)

lease = Table(
    "lease",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("heartbeat", String(27), nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
