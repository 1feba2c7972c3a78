//! One test binary: it links once, and its parts share the fixtures.
//!
//! Tests go through the front door: requests to a running service, a receiver that records what arrives, a clock that
//! only moves when told. Nothing sleeps. Everything about the database runs on SQLite and on PostgreSQL.

mod analytics;
mod api;
mod backtests;
mod backup;
mod bench;
mod canary;
mod chaos;
mod cli;
mod clickhouse;
mod clickhouse_ingest;
mod conditions;
mod config_file;
mod conformance;
mod crash;
mod doctor;
mod egress;
mod flow;
mod hostile;
mod inbox;
mod interop;
mod lab;
mod life;
mod listen;
mod lists;
mod looks;
mod nab;
mod nodes;
mod noticing;
mod operation;
mod phases;
mod plans;
mod plausible;
mod put_off;
mod resends;
mod rooms;
mod rotate_key;
mod sending;
mod ssrf;
mod steps;
mod store;
mod stream;
mod supply;
mod support;
mod triggers;
mod url_check;
