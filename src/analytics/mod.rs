//! Where traffic facts come from: tracked events are understood here, attributed to a visitor, stored, and read again.
//!
//! The embedded store ([`sqlite`]) is a file of its own. Nothing personal is stored: addresses and user agents go into a
//! daily keyed hash and are forgotten. This room does not know webhooks, accounts or HTTP. Start with [`recorder`].

pub mod access_log;
pub mod bots;
pub mod event_body;
pub mod recorder;
pub mod sessions;
pub mod sources;
pub mod sqlite;
pub mod user_agent;
pub mod visitor;
